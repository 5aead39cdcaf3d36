"""One suite over the JetStream of simulated runs and over a real server: what the model does, the server does.

Each check is told where it runs by a `Place`, and asks of the port only what product code asks. What only the model can do,
losing power, comes last.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import FoliotError
from foliot.runtime.hashing import slot_of
from foliot.runtime.rng import Rng
from foliot.sdk.servers import LocalNats
from foliot.simulations.broker_history import BrokerLost
from foliot.simulations.case import BrokerTrouble, BrokerWipe, Case, Crash, Fault, Options, Submit, Work
from foliot.simulations.database import empty_database
from foliot.simulations.history import Observation, Oracle
from foliot.simulations.jetstream import SimJetStream
from foliot.simulations.jetstream_server import JetStreamServer
from foliot.simulations.process import Process
from foliot.simulations.run import run
from foliot.simulations.trace import Trace
from foliot.simulations.world import World
from foliot.transports.nats.config import NatsConfig
from foliot.transports.nats.errors import ApiError, NoRespondersError
from foliot.transports.nats.link import NatsLink
from foliot.transports.nats.mail import MailConfig
from foliot.transports.nats.port import (
    ConsumerConfig,
    Consumption,
    Entry,
    JetStream,
    NotStoredError,
    StreamConfig,
    StreamFullError,
)
from foliot.transports.nats.streams import NatsStreams

WORK = StreamConfig("WORK", ("work.*",), max_consumers=4, retention="workqueue", discard="new", dedupe_ms=200)
FEED = StreamConfig("FEED", ("feed.*",), max_consumers=4, max_entries=5)
READER = ConsumerConfig("one", "work.a", batch=4)


class Place:
    """Where a check runs. `mine`, `other`: two connections; the rest is what can befall a server."""

    mine: JetStream
    other: JetStream
    kill: Callable[[], Awaitable[None]]
    delete_stream: Callable[[str], Awaitable[None]]

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something holds, not for ever."""
        for _ in range(800):
            if is_so():
                return
            await asyncio.sleep(0.02)
        raise AssertionError("it never came to hold")

    async def again(self, action: Callable[[], Awaitable[Any]]) -> Any:
        """Do something, again while the server is not back."""
        for _ in range(100):
            with contextlib.suppress(FoliotError):
                return await action()
            await asyncio.sleep(0.05)
        return await action()


class Reader:
    """What one consumption brought, and why it ended."""

    def __init__(self, jetstream: JetStream) -> None:
        self.jetstream = jetstream
        self.entries: list[Entry] = []
        self.ended: list[str] = []
        self.consumption: Consumption

    @classmethod
    async def of(cls, jetstream: JetStream, config: ConsumerConfig, stream: str = "WORK") -> Reader:
        reader = cls(jetstream)
        reader.consumption = await jetstream.consume(stream, config, reader.entries.append, reader.ended.append)
        return reader

    @property
    def data(self) -> list[bytes]:
        return [entry.data for entry in self.entries]

    def done(self, *entries: Entry) -> None:
        for entry in entries:
            self.jetstream.ack(entry)
            self.consumption.release(entry)


async def fill(place: Place, count: int, subject: str = "work.a") -> None:
    for number in range(count):
        await place.mine.publish(subject, b"%d" % number)


Check = Callable[[Place], Awaitable[None]]
Over = Callable[[Check], None]

# -- the two places -------------------------------------------------------------------------------------------------------


class ModelPlace(Place):
    def __init__(self, world: World, server: JetStreamServer) -> None:
        self.world = world
        self.server = server
        self.process = Process(world, "n1", 1, world.add_machine("n1"))
        self.mine = SimJetStream(self.process)
        self.other = SimJetStream(Process(world, "n2", 1, world.add_machine("n2")))
        self.seen: list[Observation] = []

    async def kill(self) -> None:
        self.server.crash("kill", 300_000_000)

    async def delete_stream(self, name: str) -> None:
        self.server.wipe("stream")

    def lost(self) -> list[int]:
        """Return the positions of what a fault took."""
        return [position for seen in self.seen if isinstance(seen, BrokerLost) for position, _ in seen.entries]


class _Recorder(Oracle):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Observation] = []

    def see(self, seen: Observation) -> None:
        self.seen.append(seen)


def on_model(check: Callable[[ModelPlace], Awaitable[None]], *, seed: int = 1) -> None:
    """Run a check against the model, on simulated time."""
    recorder = _Recorder()
    world = World(seed, Options(slots=1), Trace(), image=empty_database(1, start_ms=0), watchers=[recorder])
    server = world.broker = JetStreamServer(world, is_lazy=True)
    place = ModelPlace(world, server)
    place.seen = recorder.seen
    try:
        world.loop.run_task(world.loop.spawn(place.process.lane, check(place), name="check"), until_ns=600 * 10**9)  # type: ignore[arg-type]
    finally:
        world.close()


class ServerPlace(Place):
    def __init__(self, nats: LocalNats, mine: NatsStreams, other: NatsStreams) -> None:
        self.nats = nats
        self.mine = self.streams = mine
        self.other = other

    async def kill(self) -> None:
        self.nats.kill()
        await self.nats.restart()

    async def delete_stream(self, name: str) -> None:
        await self.streams._api(f"STREAM.DELETE.{name}")


@contextlib.asynccontextmanager
async def server_place() -> AsyncIterator[ServerPlace]:
    clock, rng = SystemClock(), Rng(7)
    async with contextlib.AsyncExitStack() as stack:
        nats = await stack.enter_async_context(LocalNats())
        streams: list[NatsStreams] = []
        for name in ("mine", "other"):
            config = NatsConfig(nats.url, name=name, reconnect_max_ms=200)
            link = await NatsLink.open(config, clock=clock, rng=rng.stream(name))
            stack.push_async_callback(link.close)
            streams.append(NatsStreams(link, clock=clock))
        yield ServerPlace(nats, *streams)


def on_server(check: Check) -> None:
    """Run a check against a real server of its own."""

    async def place_and_check() -> None:
        async with server_place() as place, asyncio.timeout(120):
            await check(place)

    asyncio.run(place_and_check())


@pytest.fixture(params=[on_model, on_server], ids=["model", "server"])
def over(request: pytest.FixtureRequest) -> Over:
    where: Over = request.param
    return where


# -- the suite ------------------------------------------------------------------------------------------------------------


def test_entries_come_in_order_numbered_and_under_the_subject_they_are_stored_as(over: Over) -> None:
    mail = MailConfig(4, max_waiting=100)

    async def check(place: Place) -> None:
        await place.mine.ensure(mail.stream)
        positions = [await place.mine.publish(f"foliot.v1.acme.in.{word}", b"%d" % word) for word in range(20)]
        shard = slot_of("0", 4)
        mine = [word for word in range(20) if slot_of(str(word), 4) == shard]

        reader = await Reader.of(place.mine, ConsumerConfig("s", mail.filter_of(shard)), mail.stream.name)
        await place.until(lambda: len(reader.entries) == len(mine))

        assert positions == list(range(1, 21))
        assert reader.data == [b"%d" % word for word in mine]
        assert [entry.number for entry in reader.entries] == list(range(1, len(mine) + 1))
        assert [entry.position for entry in reader.entries] == [word + 1 for word in mine]
        assert {entry.subject for entry in reader.entries} == {f"foliot.in.{shard}.acme"}
        stamps = [entry.stamp for entry in reader.entries]
        assert stamps == sorted(stamps)
        assert stamps[0] > 10**18 or isinstance(place, ModelPlace)

    over(check)


def test_an_id_is_stored_once_within_its_window_and_again_after_it(over: Over) -> None:
    async def check(place: Place) -> None:
        await place.mine.ensure(WORK)
        first = await place.mine.publish("work.a", b"x", message_id="m")
        same = await place.mine.publish("work.a", b"x", message_id="m")
        await asyncio.sleep(1.0)
        later = await place.mine.publish("work.a", b"x", message_id="m")

        assert (first, same, later) == (1, 1, 2)

    over(check)


def test_what_is_not_acknowledged_in_time_comes_again_with_the_next_numbers(over: Over) -> None:
    async def check(place: Place) -> None:
        await place.mine.ensure(WORK)
        await fill(place, 3)
        reader = await Reader.of(place.mine, replace(READER, ack_wait_ms=1_000))
        await place.until(lambda: len(reader.entries) == 3)
        reader.done(reader.entries[1])

        await place.until(lambda: len(reader.entries) >= 5)

        assert reader.data[:5] == [b"0", b"1", b"2", b"0", b"2"]
        assert [entry.number for entry in reader.entries[:5]] == [1, 2, 3, 4, 5]
        assert [entry.position for entry in reader.entries[:5]] == [1, 2, 3, 1, 3]
        assert reader.ended == []

    over(check)


def test_taking_over_ends_the_reader_before_and_brings_what_it_left_in_order(over: Over) -> None:
    async def check(place: Place) -> None:
        await place.mine.ensure(WORK)
        await fill(place, 6)
        before = await Reader.of(place.other, READER)
        await place.until(lambda: len(before.entries) == 6)
        before.done(before.entries[0], before.entries[3])
        await asyncio.sleep(0.2)
        with pytest.raises(ApiError, match="filtered consumer not unique on workqueue stream") as refused:
            await Reader.of(place.mine, replace(READER, name="two"))
        await place.mine.forget("WORK", "one")
        after = await Reader.of(place.mine, replace(READER, name="two"))

        await place.until(lambda: len(after.entries) == 4 and bool(before.ended))
        before.done(before.entries[1])  # too late, and ignored
        await asyncio.sleep(0.2)

        assert refused.value.err_code == 10100
        assert before.ended == ["409 consumer deleted"]
        assert after.data == [b"1", b"2", b"4", b"5"]
        assert [entry.number for entry in after.entries] == [1, 2, 3, 4]
        assert await place.mine.consumers("WORK") == ["two"]
        await place.mine.forget("WORK", "two")
        third = await Reader.of(place.mine, replace(READER, name="three"))
        await place.until(lambda: len(third.entries) == 4)
        assert third.data == [b"1", b"2", b"4", b"5"]

    over(check)


def test_a_full_subject_refuses_until_something_is_acknowledged_and_others_go_on(over: Over) -> None:
    async def check(place: Place) -> None:
        await place.mine.ensure(replace(WORK, max_per_subject=2, max_entry_bytes=100))
        await fill(place, 2)
        with pytest.raises(StreamFullError, match=r"maximum messages per subject exceeded \(10077\)"):
            await place.mine.publish("work.a", b"x")
        await place.mine.publish("work.b", b"x")
        with pytest.raises(NotStoredError, match=r"message size exceeds maximum allowed \(10054\)"):
            await place.mine.publish("work.b", b"x" * 101)
        reader = await Reader.of(place.mine, READER)
        await place.until(lambda: len(reader.entries) == 2)
        reader.done(*reader.entries)

        assert await place.again(lambda: place.mine.publish("work.a", b"x")) == 4

    over(check)


def test_a_stream_that_is_full_altogether_refuses_or_drops_its_oldest_as_it_is_set(over: Over) -> None:
    async def check(place: Place) -> None:
        await place.mine.ensure(replace(WORK, max_entries=3))
        await place.mine.ensure(FEED)
        await fill(place, 3)
        with pytest.raises(StreamFullError, match=r"maximum messages exceeded \(10077\)"):
            await place.mine.publish("work.b", b"x")
        await fill(place, 8, "feed.a")

        reader = await Reader.of(place.mine, ConsumerConfig("f", "feed.*", acknowledges=False), "FEED")
        late = await Reader.of(place.mine, ConsumerConfig("g", "feed.*", acknowledges=False, after=6), "FEED")
        await place.until(lambda: len(reader.entries) == 5 and len(late.entries) == 2)

        assert reader.data == [b"3", b"4", b"5", b"6", b"7"]
        assert late.data == [b"6", b"7"]

    over(check)


def test_without_its_stream_nothing_is_stored_read_or_listed_and_forgetting_is_harmless(over: Over) -> None:
    async def check(place: Place) -> None:
        with pytest.raises(NoRespondersError):
            await place.mine.publish("work.a", b"x")
        for call in (lambda: Reader.of(place.mine, READER), lambda: place.mine.consumers("WORK")):
            with pytest.raises(ApiError) as refused:
                await call()
            assert refused.value.err_code == 10059
        await place.mine.forget("WORK", "one")
        await place.mine.ensure(WORK)
        await place.mine.forget("WORK", "one")
        assert await place.mine.consumers("WORK") == []

    over(check)


def test_a_stream_that_is_deleted_ends_its_readers_and_has_another_life_when_it_is_made_again(over: Over) -> None:
    async def check(place: Place) -> None:
        life = await place.mine.ensure(WORK)
        await fill(place, 3)
        reader = await Reader.of(place.mine, READER)
        await place.until(lambda: len(reader.entries) == 3)
        await place.delete_stream("WORK")
        await place.until(lambda: bool(reader.ended))
        with pytest.raises(NoRespondersError):
            await place.mine.publish("work.a", b"x")

        again = await place.mine.ensure(WORK)

        assert await place.other.ensure(WORK) == again != life
        assert len(reader.ended) == 1
        assert await place.mine.publish("work.a", b"new") == 1

    over(check)


def test_a_server_that_is_killed_keeps_entries_and_consumers_and_ends_every_reader(over: Over) -> None:
    async def check(place: Place) -> None:
        life = await place.mine.ensure(WORK)
        await fill(place, 4)
        reader = await Reader.of(place.mine, READER)
        await place.until(lambda: len(reader.entries) == 4)
        reader.done(reader.entries[0])
        await asyncio.sleep(0.2)

        await place.kill()
        await place.until(lambda: bool(reader.ended))

        assert reader.ended[0].startswith("disconnected")
        assert await place.again(lambda: place.mine.consumers("WORK")) == ["one"]
        assert await place.mine.ensure(WORK) == life
        await place.mine.forget("WORK", "one")
        after = await Reader.of(place.mine, replace(READER, name="two"))
        await place.until(lambda: len(after.entries) == 3)
        assert after.data == [b"1", b"2", b"3"]
        assert await place.mine.publish("work.a", b"x") == 5

    over(check)


def test_consumers_are_bounded_and_a_name_is_not_given_to_another_one(over: Over) -> None:
    async def check(place: Place) -> None:
        await place.mine.ensure(replace(WORK, max_consumers=2))
        await Reader.of(place.mine, READER)
        await Reader.of(place.mine, ConsumerConfig("two", "work.b"))
        with pytest.raises(ApiError) as refused:
            await Reader.of(place.mine, ConsumerConfig("three", "work.c"))
        with pytest.raises(ApiError) as taken:
            await Reader.of(place.mine, ConsumerConfig("two", "work.c"))

        assert (refused.value.err_code, taken.value.err_code) == (10026, 10148)

    over(check)


def test_what_is_not_released_bounds_what_comes(over: Over) -> None:
    async def check(place: Place) -> None:
        await place.mine.ensure(WORK)
        await fill(place, 20)
        reader = await Reader.of(place.mine, READER)
        await place.until(lambda: len(reader.entries) == 8)
        await asyncio.sleep(0.3)
        held = len(reader.entries)
        reader.done(*reader.entries)

        await place.until(lambda: len(reader.entries) == 16)

        assert held == 2 * READER.batch
        assert reader.data == [b"%d" % number for number in range(16)]

    over(check)


def test_a_reader_that_closed_hears_nothing_more_and_its_consumer_stays(over: Over) -> None:
    async def check(place: Place) -> None:
        await place.mine.ensure(WORK)
        reader = await Reader.of(place.mine, READER)
        reader.consumption.close()
        await asyncio.sleep(0.1)
        await fill(place, 2)
        await asyncio.sleep(0.2)

        assert reader.ended == []
        assert await place.mine.consumers("WORK") == ["one"]
        await place.mine.forget("WORK", "one")
        after = await Reader.of(place.mine, replace(READER, name="two"))
        await place.until(lambda: len(after.entries) == 2)

    over(check)


# -- what only the model does ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(1, 6))
def test_power_takes_the_newest_says_so_and_gives_their_positions_again_with_later_stamps(seed: int) -> None:
    async def check(place: ModelPlace) -> None:
        await place.mine.ensure(WORK)
        place.server._synced = {name: stream.copy() for name, stream in place.server.streams.items()}
        place.server._since.clear()
        for number in range(10):
            await place.mine.publish("work.a", b"%d" % number)
        before = place.world.loop.now_ns
        place.server.crash("power", 10_000_000)
        await asyncio.sleep(1)
        kept = list(place.server.streams["WORK"].entries)

        position = await place.again(lambda: place.mine.publish("work.a", b"new"))

        assert kept + place.lost() == list(range(1, 11))
        assert position == len(kept) + 1
        stamps = [entry.stamp for entry in place.server.streams["WORK"].entries.values()]
        assert stamps == sorted(stamps)
        assert place.world.loop.now_ns > before

    on_model(check, seed=seed)


def test_an_entry_that_is_lost_on_its_way_ends_the_reader_at_the_next() -> None:
    async def check(place: ModelPlace) -> None:
        await place.mine.ensure(WORK)
        reader = await Reader.of(place.mine, READER)
        await asyncio.sleep(0.1)
        place.server.troubles.append(BrokerTrouble(0, 1, undelivered=1_000))
        await fill(place, 1)
        place.server.troubles.clear()
        await fill(place, 1)
        await place.until(lambda: bool(reader.ended))

        assert reader.ended == ["entry 1 of consumer one was lost on its way"]
        assert reader.entries == []

    on_model(check)


def test_an_entry_that_is_stored_and_not_confirmed_is_reported_as_unknown() -> None:
    async def check(place: ModelPlace) -> None:
        await place.mine.ensure(WORK)
        place.server.troubles.append(BrokerTrouble(0, 1, unanswered=1_000))
        with pytest.raises(FoliotError) as unknown:
            await place.mine.publish("work.a", b"x")

        assert unknown.value.code == "deadline"
        assert len(place.server.streams["WORK"].entries) == 1

    on_model(check)


# -- as a part of a run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [BrokerTrouble(0, 8_000, refused=200, unanswered=200, unacknowledged=200, undelivered=200)],
        [Crash(3_000, "broker", "kill", 500), Crash(5_000, "n1", "kill", 500)],
        [BrokerWipe(2_500, "consumers"), BrokerWipe(4_500, "stream")],
    ],
    ids=["nothing", "trouble", "crashes", "wiped"],
)
def test_a_run_accepts_what_its_broker_confirmed_and_repeats_itself(faults: list[Fault]) -> None:
    work: list[Work] = [Submit(300 + 400 * number, f"s{number}", count=6, one_way=True) for number in range(15)]
    options = Options(nodes=2, workers=2, slots=2, duration_ms=10_000, broker=True)
    case = Case(seed=3, options=options, faults=faults, work=work)

    result = run(case)

    assert result.violations == []
    assert result.figures["post.stored"] == 30
    assert result.tasks == 90 or faults[-1:] == [BrokerWipe(4_500, "stream")]
    assert run(case).digest == result.digest
