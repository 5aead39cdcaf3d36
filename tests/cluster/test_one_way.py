"""What goes through the broker's streams in a real cluster of processes: one-way submissions and the event feed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import pytest_asyncio
from foliot import Client, UsageError
from foliot.sdk.client_events import TaskEvent
from foliot.sdk.cluster.local import LocalCluster, LocalOptions
from foliot.transports.nats.config import NatsConfig
from foliot.transports.nats.link import NatsLink

from .cluster_app import double, whoami
from .waiting import GENEROUS_S, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE = Path(__file__).parent
SLOTS = 8
LIFE = ["", "queued", "running", "completed"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[LocalCluster]:
    options = LocalOptions(
        nodes=2, workers=1, slots=SLOTS, drain_grace_ms=3_000, env={"PYTHONPATH": str(HERE)},
        node_arguments=["--heartbeat", "2s", "--events"],
        worker_arguments=["--app", "cluster_app:app", "--concurrency", "256", "--processes", "0", "--heartbeat", "2s"],
    )  # fmt: skip
    async with LocalCluster(options) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(cluster: LocalCluster, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """A client of a tenant of its own; its ledger balances at the end."""
    tenant = "".join(char if char.isalnum() else "-" for char in request.node.name)[:60]
    async with Client(cluster.address, tenant=tenant, connect_timeout=30) as client:
        yield client

        verified = await client.verify()
        assert verified.balanced, [difference.text for difference in verified.differences]


async def completed(client: Client, count: int) -> list[Any]:
    """Return the payloads of the tenant's tasks once so many have completed, and no other is there."""

    async def all_there() -> list[Any]:
        infos = [info async for info in client.list()]
        return infos if len(infos) >= count and all(info.state == "completed" for info in infos) else []

    infos = await until(all_there)
    return [info.payload["number"] for info in await client.get_many([info.id for info in infos])]


async def test_one_way_tasks_are_accepted_once_each_while_a_node_drains_and_another_is_killed(
    client: Client, cluster: LocalCluster
) -> None:
    is_over = False

    async def submit() -> int:
        number = 0
        while not is_over:
            await asyncio.gather(*[client.submit_one_way(double, number + at) for at in range(5)])
            number += 5
            await asyncio.sleep(0.05)
        return number

    submitting = asyncio.create_task(submit())
    await asyncio.sleep(0.5)
    for node, end in ((cluster.nodes[0], cluster.nodes[0].terminate), (cluster.nodes[1], cluster.nodes[1].kill)):
        starts = node.starts
        end()
        await until_started(cluster, client, node, starts)
    is_over = True
    count = await submitting

    assert sorted(await completed(client, count)) == list(range(count))


async def until_started(cluster: LocalCluster, client: Client, node: Any, starts: int) -> None:
    """Wait until a node is back and all shards are hosted."""

    async def is_whole() -> bool:
        listed = await client.members()
        hosted = sorted(shard for member in listed.members for shard in member.shards)
        return node.starts > starts and len(listed.members) == 2 and hosted == list(range(SLOTS))

    await until(is_whole)


async def test_very_many_are_handed_over_in_bulk_and_by_text_with_their_handlers_queue(client: Client) -> None:
    done = await client.submit_many_one_way(client.spec(double, number) for number in range(2_000))
    assert (done.submitted, done.accepted, done.refused_count) == (2_000, 2_000, 0)
    assert sorted(await completed(client, 2_000)) == list(range(2_000))

    async def known() -> bool:
        return "clustered.whoami" in {each.template.handler for each in (await client.hello()).handlers}

    await until(known)
    await client.submit_one_way("clustered.whoami")

    async def found() -> bool:
        return [info.queue async for info in client.list(handler="clustered.whoami")] == ["whoami"]

    await until(found)


async def test_a_dedupe_key_holds_one_way_too_and_what_is_too_large_is_refused_alone(client: Client) -> None:
    small, large = client.spec(double, 1), client.spec("clustered.double", number="x" * 700_000)
    done = await client.submit_many_one_way([small, large, small], batch=3)
    assert (done.accepted, done.refused_count, done.refused[0].position) == (2, 1, 1)
    for _ in range(3):
        await client.submit_one_way(double, 7, dedupe_key="seven")
    assert sorted(await completed(client, 3)) == [1, 1, 7]


@pytest.mark.parametrize("pack", [msgpack.packb, lambda value: json.dumps(value).encode()], ids=["msgpack", "json"])
async def test_maps_of_the_public_protocol_are_taken_in_for_the_tenant_in_their_subject(
    client: Client, cluster: LocalCluster, pack: Any
) -> None:
    clock, rng = client._clock, client._rng
    link = await NatsLink.open(NatsConfig(cluster.address), clock=clock, rng=rng)
    ask = {"tasks": [{"handler": "clustered.double", "payload": {"number": n}, "pool": "default"} for n in (1, 2)]}
    try:
        for _ in range(2):  # a repetition under the same name adds nothing
            answer = await link.request(
                f"foliot.v1.{client.tenant}.in.anything", pack({**ask, "request_id": "mine"}), timeout_ms=5_000
            )
            assert json.loads(answer.data)["stream"] == "FOLIOT_IN"
        await link.request(f"foliot.v1.{client.tenant}.in.x", pack({"tasks": "none"}), timeout_ms=5_000)  # set aside
    finally:
        await link.close()
    assert sorted(await completed(client, 2)) == [1, 2]


# -- events --------------------------------------------------------------------------------------------------------------


async def taken(events: AsyncIterator[TaskEvent], count: int) -> list[TaskEvent]:
    async with asyncio.timeout(GENEROUS_S):
        return [await anext(events) for _ in range(count)]


async def test_events_tell_the_life_of_every_task_live_and_afterwards(client: Client) -> None:
    live = client.events(since="1m")
    first = asyncio.create_task(taken(live, 3))
    tasks = [await client.submit(double, number) for number in range(20)]
    for task in tasks:
        await task.result(GENEROUS_S)
    heard = await first + await taken(live, 57)

    kept = [event async for event in client.events(since="1h", follow=False)]

    assert len(kept) == 60
    assert Counter(map(changes, kept)) == Counter(map(changes, heard))
    for task in tasks:
        told = [event for event in kept if event.task_id == task.id]
        assert [event.before for event in told] == LIFE[:-1]
        assert [event.after for event in told] == LIFE[1:]
    assert [event async for event in client.events(cursor=kept[-1].cursor, follow=False)] == []
    again = [event async for event in client.events(cursor=kept[30].cursor, follow=False)]
    assert set(map(changes, kept[31:])) <= set(map(changes, again)), "it may tell some again, and misses none"


def changes(event: TaskEvent) -> tuple[str, str, str, int]:
    return event.task_id, event.before, event.after, event.attempt


async def test_a_tenant_reads_its_own_events_only_and_a_cursor_must_be_one(client: Client, cluster: LocalCluster) -> None:
    await (await client.submit(double, 1)).result(GENEROUS_S)
    await taken(client.events(since="1h"), 3)
    async with Client(cluster.address, tenant="nobody-else") as other:
        assert [event async for event in other.events(since="1h", follow=False)] == []
    with pytest.raises(UsageError, match="cursor is 'x', expected one that an answer had"):
        await anext(client.events(cursor="x"))


async def test_the_commands_hand_over_and_print_events(client: Client, cluster: LocalCluster) -> None:
    said = await foliot(cluster, client, "submit", "--one-way", "clustered.double", "-p", "number=4")
    assert said == "handed over\n"
    assert await completed(client, 1) == [4]

    async def told() -> list[Any]:
        lines = (await foliot(cluster, client, "events", "--since", "1h", "--json")).splitlines()
        return [json.loads(line) for line in lines] if len(lines) >= 3 else []

    assert [event["after"] for event in await until(told)] == LIFE[1:]
    lines = (await foliot(cluster, client, "events")).splitlines()
    assert [line.split("  ")[2] for line in lines] == ["- -> queued", "queued -> running", "running -> completed"]


async def foliot(cluster: LocalCluster, client: Client, *words: str) -> str:
    """Return what a command prints."""
    command = [sys.executable, "-c", "from foliot.sdk.cli import main; main()", *words, "--tenant", client.tenant]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, timeout=60, env=cluster.full_environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_scheduler_of_one_process_says_what_it_has_not(tmp_path: Path) -> None:
    client = Client(str(tmp_path / "none.sock"))
    with pytest.raises(UsageError, match="submit_one_way needs a cluster, expected a client of its NATS servers"):
        await client.submit_one_way(whoami)
    with pytest.raises(UsageError, match="events needs a cluster"):
        client.events()
    await client.close()
