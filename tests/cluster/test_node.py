"""A node in this process: its clock, its worker sessions, and what it tells of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from foliot import Client, Foliot
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import ForeignNodeError
from foliot.sdk.cluster.errors import ClockSkewError
from foliot.sdk.cluster.node import ClusterNode, NodeOptions
from foliot.sdk.cluster.presence import PresenceConfig
from foliot.sdk.cluster.skew import SkewConfig
from foliot.sdk.cluster.worker import ClusterWorker, WorkerOptions
from foliot.sdk.options import InvalidOptionError
from foliot.sdk.servers import LocalNats, LocalPostgres

from .waiting import until

app = Foliot("noded")


@app.task(max_attempts=3)
async def wait_for_nothing(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


class MovableClock(SystemClock):
    """The machine's clock, until somebody sets it."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


@asynccontextmanager
async def living(member: ClusterNode | ClusterWorker) -> AsyncIterator[asyncio.Task[None]]:
    """Run a node or a worker; yields its life once it is ready. Leaving drains it."""
    ready = asyncio.Event()
    life = asyncio.create_task(member.run(ready=ready.set))
    getting_ready = asyncio.create_task(ready.wait())
    await asyncio.wait([life, getting_ready], return_when=asyncio.FIRST_COMPLETED)
    getting_ready.cancel()
    if life.done():
        life.result()
    try:
        yield life
    finally:
        member.drain()
        await asyncio.wait([life])


def options(nats: LocalNats, dsn: str, name: str, prefix: str, **others: object) -> NodeOptions:
    return NodeOptions(nats.url, dsn, name, slots=4, prefix=prefix, **others)  # type: ignore[arg-type]


async def test_a_node_whose_clock_is_set_wrong_leaves_and_says_why(nats_server: LocalNats, postgres_dsn: str) -> None:
    clock = MovableClock()
    node = ClusterNode(options(nats_server, postgres_dsn, "n1", "skewed", skew=SkewConfig(interval_ms=100)), clock=clock)
    async with living(node) as life:
        assert sorted(node.node.hosted) == [0, 1, 2, 3]
        clock.ahead_ms = 9_000
        async with asyncio.timeout(30):
            with pytest.raises(ClockSkewError, match="ms ahead of the database's, expected at most 5000 ms"):
                await life
        assert not node.node.hosted


async def test_a_node_whose_clock_is_wrong_at_its_start_does_not_take_part(
    nats_server: LocalNats, postgres_dsn: str
) -> None:
    clock = MovableClock()
    clock.ahead_ms = -60_000
    with pytest.raises(ClockSkewError, match="behind the database's"):
        await ClusterNode(options(nats_server, postgres_dsn, "n1", "late"), clock=clock).run()


async def test_two_nodes_tell_as_one_and_what_one_let_in_counts_after_it_left(
    nats_server: LocalNats, postgres_dsn: str
) -> None:
    first = ClusterNode(options(nats_server, postgres_dsn, "n1", "two"))
    second = ClusterNode(options(nats_server, postgres_dsn, "n2", "two"))
    async with living(first):
        async with living(second):
            for node in (first, second):
                client = Client(channel=node.gateway)
                for _ in range(5):
                    await client.submit(wait_for_nothing, 0, delay="1h")
                verified = await client.verify()
                assert verified.balanced, verified.differences
            [line] = verified.lines
            assert (line.edge, line.stored) == (10, 10)
            listed = await Client(channel=first.gateway).members()
            assert [(member.name, member.state) for member in listed.members] == [("n1", "up"), ("n2", "up")]
            assert sorted(shard for member in listed.members for shard in member.shards) == [0, 1, 2, 3]

        async def hosts_all() -> bool:
            return sorted(first.node.hosted) == [0, 1, 2, 3]

        await until(hosts_all)
        verified = await Client(channel=first.gateway).verify()
        [line] = verified.lines
        assert verified.balanced
        assert (line.edge, line.stored) == (10, 10), "what the second let in was left to the first"


async def test_a_worker_whose_connection_ends_without_goodbye_is_given_up_in_moments(
    nats_server: LocalNats, postgres_dsn: str
) -> None:
    presence = PresenceConfig(interval_ms=100)
    node = ClusterNode(options(nats_server, postgres_dsn, "n1", "gone", presence=presence))
    async with living(node):
        worker = ClusterWorker(app, WorkerOptions(nats_server.url, "w1", prefix="gone", processes=1))
        ready = asyncio.Event()
        life = asyncio.create_task(worker.run(ready=ready.set))
        await ready.wait()
        client = Client(channel=node.gateway)
        task = await client.submit(wait_for_nothing, 600)

        async def runs() -> bool:
            return await task.status() == "running"

        await until(runs)
        session = worker.session
        assert worker.worker is not None
        worker.worker._bus.unbind(f"session.{session}")  # as a killed process: the broker drops what it listened to

        async def is_given_up() -> bool:
            return bool((await task.info()).attempts)

        async with asyncio.timeout(20):  # its silence alone would take half a minute
            await until(is_given_up)
        assert (await task.info()).attempts[0].outcome == "worker_died"
        worker.drain()
        life.cancel()
        await asyncio.wait([life])


async def test_a_node_of_another_database_does_not_take_part(nats_server: LocalNats, postgres_server: LocalPostgres) -> None:
    first, other = [
        ClusterNode(options(nats_server, await postgres_server.database(f"foreign_{name}"), name, "foreign"))
        for name in ("n1", "n2")
    ]
    async with living(first):
        with pytest.raises(ForeignNodeError, match="node 'n2' has another database than node 'n1', which is there already"):
            await other.run()

        assert sorted(first.node.hosted) == [0, 1, 2, 3]
        assert first.peers.members == ["n1"]


def test_spans_of_a_node_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="option 'heartbeat_interval_ms' of 'node' is 0, expected"):
        NodeOptions(name="a", heartbeat_interval_ms=0)
    with pytest.raises(InvalidOptionError, match="option 'retention_ms' of 'node' is 0, expected a whole number from 1"):
        NodeOptions(name="a", retention_ms=0)
