"""The event feed over a real server: what is durable is told in order, and what is missing shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from foliot.actors import messages as m
from foliot.actors.cast import makers
from foliot.actors.rows import ShardChanges
from foliot.actors.shard import ShardConfig
from foliot.runtime.actor import Turn
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import FoliotError
from foliot.runtime.ids import IdSource, to_text
from foliot.runtime.node import Node, NodeConfig
from foliot.runtime.rng import Rng
from foliot.sdk.servers import LocalNats
from foliot.stores.hosting import poison_in, shards_on
from foliot.stores.sqlite import SqliteConfig, open_sqlite
from foliot.transports.memory import MemoryBus
from foliot.transports.nats.config import NatsConfig
from foliot.transports.nats.events import (
    STREAM,
    EventFeed,
    EventsMessage,
    EventsMissed,
    FeedConfig,
    TaskEvent,
    missed_before,
    read_events,
)
from foliot.transports.nats.link import Delivery, NatsLink
from foliot.transports.nats.streams import NatsStreams

from ..actors.harness_shard import ShardHarness

IDS = IdSource(0, 0).block(1_800_000_000_000, 2_000)


class Place:
    """A broker, a feed, and readers."""

    def __init__(self, nats: LocalNats, link: NatsLink) -> None:
        self.nats = nats
        self.link = link
        self.streams = NatsStreams(link, clock=SystemClock())
        self.config = FeedConfig(max_bytes=1 << 24, pause_ms=20, pause_max_ms=200)
        self.tasks: list[asyncio.Task[Any]] = []

    def feed(self, **settings: Any) -> EventFeed:
        feed = EventFeed(self.streams, clock=SystemClock(), config=replace(self.config, **settings))
        self.tasks.append(asyncio.ensure_future(feed.run()))
        return feed

    async def read(self, count: int, tenant: str = "acme", **where: Any) -> list[TaskEvent | EventsMissed]:
        """Return the first events of a tenant."""
        found: list[TaskEvent | EventsMissed] = []
        events = read_events(self.streams, tenant, rng=Rng.of_the_system(), config=self.config, **where)
        with anyio.fail_after(20):
            while len(found) < count:
                found.append(await anext(events))
        return found


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with LocalNats() as nats:
        config = NatsConfig(nats.url, reconnect_max_ms=200)
        link = await NatsLink.open(config, clock=SystemClock(), rng=Rng.of_the_system())
        place = Place(nats, link)
        yield place
        for task in place.tasks:
            task.cancel()
        await asyncio.gather(*place.tasks, return_exceptions=True)
        await link.close()


def turn(*ids: int, epoch: int = 1, tenant: str = "acme", after: int = 2) -> ShardChanges:
    changes = ShardChanges(0, epoch)
    changes.events = [(task_id, tenant, 0, after, 0) for task_id in ids]
    return changes


def ids_of(found: list[TaskEvent | EventsMissed]) -> list[int]:
    return [event.task_id for event in found if isinstance(event, TaskEvent)]


class ToldShard(ShardHarness):
    """Keeps the changes of all turns."""

    def _turn(self) -> Turn:
        turn = super()._turn()
        if not hasattr(self, "turns"):
            self.turns: list[Turn] = []
        self.turns.append(turn)
        return turn


@pytest.mark.parametrize("is_told", [False, True])
def test_a_shard_tells_every_change_of_state_and_only_if_asked(is_told: bool) -> None:
    shard = ToldShard(ShardConfig(shards=1, tells_events=is_told))

    [one] = shard.submit()
    [body] = shard.lease(one)
    shard.fail(body)
    shard.advance_ms(5_000)
    [body] = shard.lease(one)
    shard.report(body)
    [later] = shard.submit(delay_ms=60_000)
    shard.cancel(later)

    told = [event for turn in shard.turns for event in turn.changes.events]
    assert told == [
        (one, "acme", 0, 2, 0), (one, "acme", 2, 3, 1), (one, "acme", 3, 4, 1), (one, "acme", 4, 2, 1),
        (one, "acme", 2, 3, 2), (one, "acme", 3, 10, 2), (later, "acme", 0, 1, 0), (later, "acme", 1, 12, 0),
    ][: None if is_told else 0]  # fmt: skip


def test_what_comes_late_of_an_epoch_before_the_first_that_was_heard_is_no_gap() -> None:
    numbers: dict[tuple[int, int], int] = {}
    shards: dict[int, int] = {}
    heard = [((7, 2), 5), ((7, 1), 30), ((7, 1), 32), ((7, 2), 6), ((7, 3), 2), ((7, 3), 2), ((8, 1), 9)]

    missed = [missed_before(key, number, numbers, shards) for key, number in heard]

    assert missed == [0, 0, 1, 0, 1, None, 0]


async def test_the_last_events_of_a_process_are_stored_before_it_goes(place: Place) -> None:
    feed = place.feed()
    await feed.emptied()  # there are none
    place.nats.stop_process()
    feed.tell(turn(IDS[0]))

    with anyio.move_on_after(0.2) as gave_up:
        await feed.emptied()
    place.nats.resume()
    with anyio.fail_after(20):
        await feed.emptied()

    assert gave_up.cancelled_caught
    assert ids_of(await place.read(1)) == [IDS[0]]


async def test_events_are_read_back_in_order_and_heard_live(place: Place) -> None:
    live: list[Delivery] = []
    place.link.subscribe("foliot.v1.acme.events.>", live.append)
    feed = place.feed()
    for index in range(30):
        feed.tell(turn(IDS[index], after=2))

    found = await place.read(30)

    assert ids_of(found) == IDS[:30]
    first = found[0]
    assert isinstance(first, TaskEvent)
    assert (first.before, first.after, first.attempt) == ("", "queued", 0)
    assert len(live) == 30
    assert msgspec.msgpack.decode(live[0].data)["number"] == 1
    assert feed.lost == 0


async def test_a_reader_goes_on_after_a_position_or_from_an_instant(place: Place) -> None:
    feed = place.feed()
    for index in range(5):
        feed.tell(turn(IDS[index]))
    [*_, third] = await place.read(3)
    await place.read(5)
    await asyncio.sleep(0.05)
    now_ms = SystemClock().now_ms()
    feed.tell(turn(IDS[5]))

    assert isinstance(third, TaskEvent)
    assert ids_of(await place.read(3, after=third.position)) == IDS[3:6]
    assert ids_of(await place.read(1, since_ms=now_ms)) == [IDS[5]]


async def test_a_tenant_hears_its_own_events_only(place: Place) -> None:
    feed = place.feed()
    both = turn(IDS[0])
    both.events.append((IDS[1], "globex", 0, 2, 0))
    feed.tell(both)
    feed.tell(turn(IDS[2]))

    assert ids_of(await place.read(2)) == [IDS[0], IDS[2]]
    assert ids_of(await place.read(1, "globex")) == [IDS[1]]


async def test_a_large_turn_is_several_messages(place: Place) -> None:
    feed = place.feed()
    feed.tell(turn(*IDS[:1_300]))

    found = await place.read(1_300)

    assert ids_of(found) == IDS[:1_300]
    assert len({event.position for event in found if isinstance(event, TaskEvent)}) == 3


async def test_what_finds_the_queue_full_is_counted_and_shows_as_missing(place: Place) -> None:
    place.nats.kill()
    feed = place.feed(queue_max=4)
    for index in range(10):
        feed.tell(turn(IDS[index]))
    await place.nats.restart()
    waiting = asyncio.ensure_future(place.read(6))
    await asyncio.sleep(1.0)

    feed.tell(turn(IDS[10]))
    found = await waiting

    assert feed.lost == 6
    assert ids_of(found) == [*IDS[:4], IDS[10]]
    assert found[4] == EventsMissed(0, 6)


async def test_a_broker_killed_between_events_loses_and_doubles_none(place: Place) -> None:
    feed = place.feed()
    reading = asyncio.ensure_future(place.read(200))
    for index in range(200):
        feed.tell(turn(IDS[index]))
        if index in (50, 120):
            place.nats.kill()
            await place.nats.restart()
        await asyncio.sleep(0.001)

    found = await reading

    assert ids_of(found) == IDS[:200]
    assert len(found) == 200
    state = (await place.streams._api(f"STREAM.INFO.{STREAM}"))["state"]
    assert state["messages"] == 200


async def test_a_stream_that_is_lost_shows_and_the_feed_goes_on(place: Place) -> None:
    feed = place.feed()
    feed.tell(turn(IDS[0]))
    found: list[Any] = []

    async def read() -> None:
        async for event in read_events(place.streams, "acme", rng=Rng.of_the_system(), config=place.config):
            found.append(event)

    place.tasks.append(asyncio.ensure_future(read()))
    await until(lambda: len(found) == 1)
    await place.streams._api(f"STREAM.DELETE.{STREAM}")
    await until(lambda: EventsMissed(-1, 0) in found)
    for index in range(1, 4):
        feed.tell(turn(IDS[index]))

    await until(lambda: len(ids_of(found)) == 4)
    assert ids_of(found) == IDS[:4]


async def test_a_new_epoch_begins_at_one_and_what_it_lacks_shows(place: Place) -> None:
    for epoch, number in ((1, 1), (1, 2), (2, 1), (2, 1), (2, 4), (3, 3)):
        if epoch == 1 and number == 1:
            await place.streams.ensure(place.config.stream)
        event = (to_text(IDS[epoch * 10 + number]), "", "queued", 0)
        message = EventsMessage(1, 0, epoch, number, 5, [event])
        await place.streams.publish("foliot.v1.acme.events.0", msgspec.msgpack.encode(message))
    await place.streams.publish("foliot.v1.acme.events.0", b"\xc1")
    await place.streams.publish(
        "foliot.v1.acme.events.0", msgspec.msgpack.encode(EventsMessage(1, 0, 3, 4, 5, [(to_text(IDS[99]), "", "dead", 3)]))
    )

    found = await place.read(8)

    missed = [(index, event.count) for index, event in enumerate(found) if isinstance(event, EventsMissed)]
    assert missed == [(3, 2), (5, 2)]
    assert ids_of(found) == [IDS[11], IDS[12], IDS[21], IDS[24], IDS[33], IDS[99]]


async def test_a_node_tells_what_is_durable(place: Place, tmp_path: Path) -> None:
    clock = SystemClock()
    store = await open_sqlite(tmp_path / "foliot.db", clock=clock, shards=1, config=SqliteConfig(synchronous="off"))
    bus = MemoryBus()
    node = Node(
        NodeConfig(name="n1", slots=1), bus=bus, clock=clock, rng=Rng(3), kinds=makers(1), poison=poison_in(store, clock)
    )
    feed = place.feed()
    started = asyncio.Event()
    shards = shards_on(store, ShardConfig(1, tells_events=True), node="n1", told=feed.tell)
    running = asyncio.ensure_future(node.run(shards, started=started.set))
    await started.wait()

    answer = await bus.request(
        "shard.0", m.SubmitTasks("acme", [m.Template("h")], [m.TaskSpec(0, b"p")] * 3), timeout_ms=5_000
    )
    [cancelled] = (await bus.request("shard.0", m.CancelTasks("acme", answer.ids[:1]), timeout_ms=5_000)).outcomes

    found = await place.read(4)
    assert cancelled == "cancelled"
    assert [(event.task_id, event.after) for event in found if isinstance(event, TaskEvent)] == [
        *((task_id, "queued") for task_id in answer.ids), (answer.ids[0], "cancelled"),
    ]  # fmt: skip
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await store.close()


async def test_a_tenant_that_is_no_name_is_refused(place: Place) -> None:
    with pytest.raises(FoliotError, match="tenant '\\*' is not a name"):
        await place.read(1, "*")


async def until(holds: Any) -> None:
    with anyio.fail_after(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
