"""A real cluster of processes: two nodes and two workers over a NATS server and a PostgreSQL server, and what it survives.

One cluster serves all tests in turn, so each leaves it whole: two nodes, two workers, a balanced ledger.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from foliot import Client
from foliot.runtime.errors import FoliotError
from foliot.sdk.cluster.local import LocalCluster, LocalOptions

from .cluster_app import double, nap, whoami
from .waiting import GENEROUS_S, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE = Path(__file__).parent
SLOTS = 16


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[LocalCluster]:
    options = LocalOptions(
        nodes=2, workers=2, slots=SLOTS, drain_grace_ms=3_000, env={"PYTHONPATH": str(HERE)},
        node_arguments=["--heartbeat", "2s"],
        worker_arguments=["--app", "cluster_app:app", "--concurrency", "64", "--processes", "0", "--heartbeat", "2s"],
    )  # fmt: skip
    async with LocalCluster(options) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(cluster: LocalCluster) -> AsyncIterator[Client]:
    async with Client(cluster.address, connect_timeout=30) as client:
        await whole(client)
        yield client
        await whole(client)
        verified = await client.verify()
        assert verified.balanced, [difference.text for difference in verified.differences]


async def whole(client: Client) -> None:
    """Wait until two nodes host all shards and two workers are there."""

    async def is_whole() -> bool:
        listed = await client.members()
        hosted = sorted(shard for member in listed.members for shard in member.shards)
        workers = [read for read in await client.workers() if read.state == "alive"]
        return len(listed.members) == 2 and hosted == list(range(SLOTS)) and len(workers) >= 2

    await until(is_whole)


@asynccontextmanager
async def traffic(client: Client) -> AsyncIterator[list[Any]]:
    """Submit all the time; at the end every task that was accepted has completed."""
    tasks: list[Any] = []
    is_over = False

    async def submit() -> None:
        number = 0
        while not is_over:
            number += 1
            try:
                tasks.append((number, await client.submit(double, number)))
            except FoliotError:
                await asyncio.sleep(0.1)  # not accepted, so not owed
            await asyncio.sleep(0.002)

    submitting = asyncio.create_task(submit())
    try:
        yield tasks
    finally:
        is_over = True
        await submitting
    assert tasks
    async with asyncio.timeout(GENEROUS_S):
        results = await asyncio.gather(*[task.result() for _, task in tasks])
    assert results == [2 * number for number, _ in tasks]


async def more(tasks: list[Any]) -> None:
    """Wait until submissions are accepted again, and one of them has completed."""
    count = len(tasks)

    async def accepted() -> bool:
        return len(tasks) > count

    await until(accepted)
    await asyncio.wait_for(tasks[-1][1].result(), GENEROUS_S)


async def test_tasks_complete_on_all_workers_and_both_nodes_share_the_shards(client: Client) -> None:
    tasks = [await client.submit(double, number) for number in range(50)]
    assert [await task.result(GENEROUS_S) for task in tasks] == [2 * number for number in range(50)]

    async def both_worked() -> bool:
        tasks = await asyncio.gather(*[client.submit(whoami) for _ in range(200)])  # more than one worker takes
        return len({await task.result(GENEROUS_S) for task in tasks}) == 2

    await until(both_worked)
    shares = [len(member.shards) for member in (await client.members()).members]
    assert min(shares) > 0


async def test_a_task_named_by_text_gets_the_queue_of_its_handler(client: Client) -> None:
    async def known() -> bool:
        return "clustered.whoami" in {each.template.handler for each in (await client.hello()).handlers}

    await until(known)
    task = await client.submit("clustered.whoami")
    assert isinstance(await task.result(GENEROUS_S), int)
    assert (await task.info()).queue == "whoami"


async def test_views_are_of_the_whole_cluster(client: Client, cluster: LocalCluster) -> None:
    await (await client.submit(whoami)).result(GENEROUS_S)

    assert {"default", "whoami"} <= {view.config.queue for view in await client.queues() if view.is_live}
    assert {"worker-1", "worker-2"} <= {read.heartbeat.worker for read in await client.workers()}
    status = await foliot(cluster, "cluster", "status", "--json")
    assert (status["nodes"], status["up"], status["shards_without_node"]) == (2, 2, [])


async def test_a_drained_node_hands_over_and_ends_in_order_and_no_task_is_lost(
    client: Client, cluster: LocalCluster
) -> None:
    node = cluster.nodes[0]
    starts = node.starts
    async with traffic(client) as tasks:
        await more(tasks)
        assert (await foliot(cluster, "cluster", "drain", node.name, "--json"))["name"] == node.name

        async def started_again() -> bool:
            return node.starts > starts

        await until(started_again)
        assert node.codes[-1] == 0
        await more(tasks)


async def test_shards_of_a_killed_node_work_again(client: Client, cluster: LocalCluster) -> None:
    async with traffic(client) as tasks:
        await more(tasks)
        cluster.nodes[1].kill()
        await more(tasks)
        await whole(client)
        await more(tasks)


async def test_tasks_of_a_killed_worker_run_on_another(client: Client, cluster: LocalCluster) -> None:
    naps = await asyncio.gather(*[client.submit(nap, 3) for _ in range(100)])  # more than one worker takes

    async def running() -> bool:
        return all([await task.status() == "running" for task in naps])

    await until(running)
    killed = cluster.workers[0].pid
    cluster.workers[0].kill()

    pids = {await task.result(GENEROUS_S) for task in naps}
    assert killed not in pids


async def test_traffic_goes_on_after_a_restart_of_the_broker(client: Client, cluster: LocalCluster) -> None:
    async with traffic(client) as tasks:
        await more(tasks)
        cluster.nats.kill()
        await asyncio.sleep(1)
        await cluster.nats.start()
        await more(tasks)


async def test_traffic_goes_on_after_a_restart_of_the_database(client: Client, cluster: LocalCluster) -> None:
    async with traffic(client) as tasks:
        await more(tasks)
        cluster.postgres.kill()
        await asyncio.sleep(1)
        await cluster.postgres.start()
        await more(tasks)


async def foliot(cluster: LocalCluster, *words: str) -> Any:
    """Return the JSON that a command prints."""
    command = [sys.executable, "-c", "from foliot.sdk.cli import main; main()", *words]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, timeout=60, env=cluster.full_environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
