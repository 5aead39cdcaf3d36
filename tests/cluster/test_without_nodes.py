"""What goes on while no node is there, and what is said when one comes that does less than those before."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from foliot import Client, Foliot
from foliot.sdk.client_events import NoEventsError
from foliot.sdk.cluster.holdings import Holdings
from foliot.sdk.cluster.node import ClusterNode
from foliot.sdk.cluster.worker import ClusterWorker, WorkerOptions
from foliot.sdk.servers import LocalNats
from foliot.transports.nats.channel import NatsChannel
from structlog.testing import capture_logs

from .test_node import living, options
from .waiting import until

app = Foliot("apart")


@app.task(queue="elsewhere", max_attempts=7, priority="high")
async def add(left: int, right: int) -> int:
    return left + right


@app.task
async def nothing() -> None:
    pass


async def found(client: Client, count: int) -> list[Any]:
    """Return the tasks once so many have completed."""

    async def all_ended() -> list[Any]:
        infos = [info async for info in client.list(states=["completed"])]
        return infos if len(infos) == count else []

    ended: list[Any] = await until(all_ended)
    return ended


async def test_tasks_named_by_text_are_handed_over_without_nodes_and_get_their_handlers_options(
    nats_server: LocalNats, postgres_dsn: str
) -> None:
    worker = ClusterWorker(app, WorkerOptions(nats_server.url, "w1", prefix="absent", processes=0))
    first = ClusterNode(options(nats_server, postgres_dsn, "n1", "absent"))
    second = ClusterNode(options(nats_server, postgres_dsn, "n2", "absent"))
    client = Client(channel=NatsChannel(nats_server.url, prefix="absent"))
    async with AsyncExitStack() as stack:
        async with living(first):  # which makes the streams
            await stack.enter_async_context(living(worker))

        await client.submit_one_way("apart.add", left=1, right=2)
        await client.submit_one_way("apart.add", left=1, right=2, priority="low", max_attempts=1)
        mixed = [client.spec(nothing), client.spec("apart.add", left=3, right=4), client.spec(nothing)]
        done = await client.submit_many_one_way(mixed)
        assert (done.accepted, done.refused_count) == (3, 0)

        async with living(second):
            infos = await found(client, 5)
            worker.drain()
    await client.close()

    told = sorted((info.handler, info.queue, info.priority, info.max_attempts) for info in infos)
    assert told == [
        ("apart.add", "elsewhere", 2, 7), ("apart.add", "elsewhere", 2, 7), ("apart.add", "elsewhere", 8, 1),
        ("apart.nothing", "default", 5, 3), ("apart.nothing", "default", 5, 3),
    ]  # fmt: skip


async def test_a_node_without_events_says_so_and_a_reader_hears_which(nats_server: LocalNats, postgres_dsn: str) -> None:
    with capture_logs() as lines:
        async with living(ClusterNode(options(nats_server, postgres_dsn, "n1", "quiet", events=True))) as life:
            client = Client(channel=NatsChannel(nats_server.url, prefix="quiet"))
            silent: list[Sequence[str]] = []

            async def is_told() -> bool:
                try:
                    return [_ async for _ in client.events(since="1h", follow=False, on_silent=silent.append)] == []
                except NoEventsError:  # the first node is about to make the stream
                    return False

            await until(is_told)
            assert (silent, life.done()) == ([], False)
        assert not [line for line in lines if line["event"] == "events_not_told"]
        async with living(ClusterNode(options(nats_server, postgres_dsn, "n2", "quiet"))):
            async with living(ClusterNode(options(nats_server, postgres_dsn, "n3", "quiet", events=True))):
                await until(is_told)
        await client.close()
    assert list(silent[-1]) == ["n2"]
    assert len([line for line in lines if line["event"] == "events_not_told"]) == 1


async def test_who_reads_events_where_none_are_told_hears_how_to(nats_server: LocalNats, postgres_dsn: str) -> None:
    async with living(ClusterNode(options(nats_server, postgres_dsn, "n1", "untold"))):
        async with Client(channel=NatsChannel(nats_server.url, prefix="untold")) as client:
            with pytest.raises(NoEventsError, match="start its nodes with 'foliot node --events'"):
                await anext(client.events(since="1h", follow=False))


def test_a_node_says_how_many_shards_it_hosts_once_their_number_rests() -> None:
    hosted: list[int] = []
    holdings = Holdings(lambda: hosted, 4)
    with capture_logs() as lines:
        for shards in ([], [0], [0, 1, 2], [0, 1, 2], [0, 1, 2], [2, 3], [2, 3]):
            hosted[:] = shards
            holdings.look()
    told = [(line["hosted"], line["of"], line["gained"], line["lost"]) for line in lines]
    assert told == [(3, 4, 3, 0), (2, 4, 1, 2)]
