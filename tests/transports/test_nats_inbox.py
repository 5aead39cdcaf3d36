"""One-way submissions over a real server: each entry is applied once and in order, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from foliot.actors.addresses import tenant_address
from foliot.actors.cast import makers
from foliot.actors.messages import (
    ConfigureTenant,
    InboxTaken,
    ReadTenant,
    SubmitTasks,
    TakeInbox,
    TaskSpec,
    Template,
    TenantConfig,
)
from foliot.actors.shard import ShardConfig
from foliot.runtime.bus import Refusal
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import FoliotError
from foliot.runtime.hashing import slot_of
from foliot.runtime.ids import shard_of
from foliot.runtime.node import Node, NodeConfig
from foliot.runtime.rng import Rng
from foliot.sdk.servers import LocalNats
from foliot.stores.hosting import poison_in, shards_on
from foliot.stores.port import TaskFilter
from foliot.stores.sqlite import SqliteConfig, SqliteStore, open_sqlite
from foliot.transports.admission import EdgeLimits
from foliot.transports.entrance import EdgeCount
from foliot.transports.memory import MemoryBus
from foliot.transports.nats.config import NatsConfig
from foliot.transports.nats.inboxes import InboxConfig, Inboxes
from foliot.transports.nats.incoming import incoming
from foliot.transports.nats.link import NatsLink
from foliot.transports.nats.mail import STREAM, Decode, MailConfig, MailSender, decode_submit
from foliot.transports.nats.port import ConsumerConfig, Entry, StreamFullError
from foliot.transports.nats.streams import NatsStreams
from structlog.testing import capture_logs

SHARDS = 2


class Bus(MemoryBus):
    """Refuses what is asked of shards as the test says, and notes the order of what they took."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: Callable[[Any], Refusal | None] = lambda message: None
        self.taken: list[tuple[str, int, list[int]]] = []  # (shard, epoch, positions)

    async def request(self, to: str, message: Any, *, timeout_ms: int) -> Any:
        refusal = self.refuses(message)
        if refusal is not None:
            return refusal
        answer = await super().request(to, message, timeout_ms=timeout_ms)
        if isinstance(message, TakeInbox) and isinstance(answer, InboxTaken):
            self.taken.append((to, message.epoch, [entry.position for entry in message.entries]))
        return answer


class Place:
    """A node with its store, and a broker. Each test has its own, since it is mistreated."""

    def __init__(self, nats: LocalNats, store: SqliteStore) -> None:
        self.nats = nats
        self.store = store
        self.clock = SystemClock()
        self.rng = Rng(11)
        self.mail = MailConfig(SHARDS, max_waiting=40, max_bytes=1 << 24)
        self.counts: dict[tuple[str, str], EdgeCount] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.aside: list[tuple[str, bytes, str]] = []

    async def open_link(self, name: str) -> NatsLink:
        config = NatsConfig(self.nats.url, name=name, reconnect_max_ms=200)
        return await NatsLink.open(config, clock=self.clock, rng=self.rng.stream(name))

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin something that ends with the test."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.append(task)
        return task

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        self.bus = Bus()
        self.node = Node(
            NodeConfig(name="n1", slots=SHARDS), bus=self.bus, clock=self.clock, rng=self.rng.stream("node"),
            kinds=makers(SHARDS), poison=poison_in(self.store, self.clock),
        )  # fmt: skip
        self.link = await self.open_link("node")
        stack.push_async_callback(self.link.close)
        self.streams = NatsStreams(self.link, clock=self.clock)
        started = asyncio.Event()
        self.start(self.node.run(shards_on(self.store, ShardConfig(SHARDS), node="n1"), started=started.set))
        await started.wait()
        await self.streams.ensure(self.mail.stream)
        self.sender = MailSender(self.streams, config=self.mail, rng=self.rng.stream("sender"))

    def read(self, *, hosted: Callable[[], Any] | None = None, decode: Decode = decode_submit) -> Inboxes:
        """Begin to read the inboxes."""
        inboxes = Inboxes(
            self.streams, bus=self.bus, hosted=hosted or (lambda: self.node.hosted), set_aside=self._keep,
            clock=self.clock, config=InboxConfig(self.mail, look_ms=20, pause_ms=20, pause_max_ms=200), counts=self.counts,
            decode=decode,
        )  # fmt: skip
        self.reading = self.start(inboxes.run())
        return inboxes

    async def _keep(self, address: str, message: bytes, error: str, at_ms: int) -> None:
        self.aside.append((address, message, error))

    def send_all(self, batches: list[SubmitTasks]) -> asyncio.Task[None]:
        """Send batches, each until the broker has it."""

        async def send() -> None:
            for submit in batches:
                while True:
                    try:
                        await self.sender.send(submit)
                        break
                    except FoliotError:
                        await asyncio.sleep(0.05)

        return self.start(send())

    async def handlers(self) -> list[str]:
        """Return the handlers of the tasks accepted, in the order of their ids, shard by shard."""
        rows, kinds = await self.store.list(TaskFilter(limit=10_000))
        rows.sort(key=lambda row: (shard_of(row.id), row.id))
        return [kinds[row.template_id].template.handler for row in rows]

    async def until_accepted(self, count: int, *, within_s: float = 20) -> list[str]:
        """Wait until that many tasks were accepted."""
        with anyio.fail_after(within_s):
            while len(found := await self.handlers()) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return found

    async def until_empty(self) -> dict[str, Any]:
        """Wait until the stream holds nothing any more, which is when all is acknowledged."""
        found: dict[str, Any] = {"messages": 1}
        with anyio.fail_after(20):
            while found["messages"]:
                await asyncio.sleep(0.02)
                with contextlib.suppress(FoliotError):
                    found = (await self.streams._api(f"STREAM.INFO.{STREAM}"))["state"]
        return found


def batch(handler: str, count: int = 1, *, tenant: str = "acme", request_id: str = "", key: str = "") -> SubmitTasks:
    return SubmitTasks(tenant, [Template(handler)], [TaskSpec(0, b"p", dedupe_key=key)] * count, request_id)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with contextlib.AsyncExitStack() as stack:
        nats = await stack.enter_async_context(LocalNats())
        store = await open_sqlite(
            tmp_path / "foliot.db", clock=SystemClock(), shards=SHARDS, config=SqliteConfig(synchronous="off")
        )
        stack.push_async_callback(store.close)
        place = Place(nats, store)
        await place.open(stack)
        yield place
        for task in place.tasks:
            task.cancel()
        await asyncio.gather(*place.tasks, return_exceptions=True)


def in_order(found: list[str]) -> bool:
    """Tell whether handlers that are numbered come in order within each shard, whose tasks follow each other."""
    falls = [at for at in range(1, len(found)) if found[at] < found[at - 1]]
    return len(falls) < SHARDS


async def test_what_is_sent_one_way_is_accepted_in_order_counted_and_acknowledged(place: Place) -> None:
    inboxes = place.read()
    for number in range(50):
        await place.sender.send(batch(f"h{number:03}", 2, request_id=f"r{number}"))

    found = await place.until_accepted(100)

    await place.until_empty()
    assert Counter(found) == Counter([f"h{number:03}" for number in range(50)] * 2)
    assert in_order(found)
    assert (inboxes.tally.accepted, inboxes.tally.dropped) == (100, {})
    assert place.counts == {("acme", "default"): EdgeCount(accepted=100, unsettled=0)}


async def test_a_broker_killed_before_anything_was_read_loses_nothing(place: Place) -> None:
    for number in range(30):
        await place.sender.send(batch(f"h{number:03}"))
    place.nats.kill()
    await place.nats.restart()
    place.read()

    found = await place.until_accepted(30)

    await place.until_empty()
    assert sorted(found) == [f"h{number:03}" for number in range(30)]
    assert in_order(found)


async def test_a_broker_killed_while_all_is_under_way_neither_loses_nor_doubles(place: Place) -> None:
    batches = [batch(f"h{number:03}", request_id=f"r{number}") for number in range(300)]
    place.read()
    sending = place.send_all(batches)
    for count in (60, 150):
        await place.until_accepted(count)
        place.nats.kill()
        await place.nats.restart()
    await sending

    await place.until_accepted(300)

    await place.until_empty()
    assert Counter(await place.handlers()) == Counter([f"h{number:03}" for number in range(300)])


async def test_entries_whose_acknowledgement_was_lost_come_again_and_are_passed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    lost: list[Entry] = []
    monkeypatch.setattr(place.streams, "ack", lost.append)
    place.read()
    for number in range(30):
        await place.sender.send(batch(f"h{number:03}"))
    found = await place.until_accepted(30)
    with anyio.fail_after(10):
        while len(lost) < 30:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    monkeypatch.undo()

    place.nats.kill()
    await place.nats.restart()
    await place.until_empty()

    assert len(lost) == 30
    assert await place.handlers() == found


async def test_taking_over_ends_the_reader_before_and_brings_what_it_left_in_order(place: Place) -> None:
    held: list[Entry] = []
    ended: list[str] = []
    other = NatsStreams(await place.open_link("zombie"), clock=place.clock)
    for shard in range(SHARDS):
        config = ConsumerConfig(f"s{shard}-e0-1", place.mail.filter_of(shard))
        await other.consume(STREAM, config, held.append, ended.append)
    for number in range(30):
        await place.sender.send(batch(f"h{number:03}"))
    with anyio.fail_after(10):
        while len(held) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    place.read()
    found = await place.until_accepted(30)

    await place.until_empty()
    assert ended == ["409 consumer deleted"] * SHARDS
    assert sorted(found) == [f"h{number:03}" for number in range(30)]
    assert in_order(found)
    for entry in held:
        other.ack(entry)  # late, and ignored
    await place.sender.send(batch("later"))
    assert "later" in await place.until_accepted(31)
    await other._link.close()


async def test_a_reader_of_an_earlier_epoch_stands_back(place: Place) -> None:
    newer = ConsumerConfig("s0-e9-1", place.mail.filter_of(0))
    held: list[Entry] = []
    await place.streams.consume(STREAM, newer, held.append, lambda reason: None)
    place.read()
    for _ in range(4):
        await place.sender.send(batch("h"))

    await place.until_accepted(2)  # those of the other shard
    await asyncio.sleep(0.3)

    assert len(held) == 2
    assert [name for name in await place.streams.consumers(STREAM) if name.startswith("s0-")] == ["s0-e9-1"]


async def test_a_stream_that_is_deleted_is_made_again_and_its_new_mail_is_not_taken_for_old(place: Place) -> None:
    place.read()
    for number in range(10):
        await place.sender.send(batch(f"a{number}"))
    await place.until_accepted(10)
    await place.until_empty()

    await place.streams._api(f"STREAM.DELETE.{STREAM}")
    sending = place.send_all([batch(f"b{number}", request_id=f"r{number}") for number in range(10)])

    found = await place.until_accepted(20)
    await sending
    assert Counter(found) == Counter([f"{letter}{number}" for letter in "ab" for number in range(10)])
    assert (await place.until_empty())["last_seq"] < 20


async def test_a_full_subject_refuses_one_tenant_and_takes_from_another(place: Place) -> None:
    place.sender._words = [place.sender._words[0]] * SHARDS  # all to one shard
    for _ in range(place.mail.max_waiting):
        await place.sender.send(batch("h"))

    with pytest.raises(StreamFullError, match=r"maximum messages per subject exceeded \(10077\)") as refused:
        await place.sender.send(batch("h"))

    assert refused.value.retry_after_ms == 1_000
    await place.sender.send(batch("other", tenant="globex"))
    place.read()
    assert "other" in await place.until_accepted(place.mail.max_waiting + 1)


async def test_what_cannot_be_read_is_set_aside_and_blocks_nothing(place: Place) -> None:
    inboxes = place.read()
    word = place.sender._words[1]
    for data in (b"", b"\xc1 no msgpack", b'{"a": 1}', b"[" * 5_000, b"[\"SubmitTasks\", \"acme\", [], []]"):
        await place.streams.publish(f"foliot.v1.acme.in.{word}", data)
    mixed = SubmitTasks("acme", [Template("good")], [TaskSpec(7, b"p"), TaskSpec(0, b"p"), TaskSpec(0, b"p", priority=99)])
    await place.sender.send(mixed)
    await place.sender.send(batch("last"))

    assert sorted(await place.until_accepted(2)) == ["good", "last"]

    await place.until_empty()
    assert [address for address, _, _ in place.aside[:5]] == ["inbox.1"] * 5
    assert "2 of 3 tasks" in place.aside[5][2] or "2 of 3 tasks" in place.aside[-1][2]
    assert inboxes.tally.dropped == {"set_aside": 6}


async def test_hostile_entries_are_dropped_by_the_thousand_and_good_ones_among_them_accepted(place: Place) -> None:
    def decode(entry: Entry) -> SubmitTasks:
        if entry.data == b"bug":
            raise ZeroDivisionError("a decoder's own mistake")
        return decode_submit(entry)

    place.mail = replace(place.mail, max_waiting=5_000)
    await place.streams.ensure(place.mail.stream)
    inboxes = place.read(decode=decode)
    rng, good = Rng(5), msgspec.msgpack.encode(batch("good"))
    hostile = [b"bug"]
    for _ in range(2_000):
        spoilt = bytearray(good)
        for _ in range(rng.below(4) + 1):
            spoilt[rng.below(len(spoilt))] = rng.below(256)
        hostile.append(bytes(spoilt[: rng.below(len(spoilt)) + 1]))
    accepted = [data for data in hostile if fits(data)]
    word = place.sender._words[0]
    for at, data in enumerate(hostile):
        place.link.publish(f"foliot.v1.acme.in.{word}", data)
        if at % 100 == 0:
            await place.sender.send(batch("between"))

    found = await place.until_accepted(21 + len(accepted))

    state = await place.until_empty()
    assert found.count("between") == 21
    assert len(found) == 21 + len(accepted)
    assert state["last_seq"] == len(hostile) + 21
    assert inboxes.tally.dropped["set_aside"] == 100
    assert inboxes.tally.dropped["malformed"] == len(hostile) - len(accepted) - 100


def fits(data: bytes) -> bool:
    """Tell whether an entry can be accepted, by the edge's own rules."""
    try:
        incoming(
            Entry("foliot.in.0.acme", data, 1, 1, 1), 0, SHARDS, decode=decode_submit, now_ms=SystemClock().now_ms(),
            limits=EdgeLimits(),
        )  # fmt: skip
    except FoliotError:
        return False
    return True


async def test_a_tenant_is_who_the_subject_says(place: Place) -> None:
    place.read()
    forged = batch("h", tenant="globex")
    await place.streams.publish("foliot.v1.acme.in.x", msgspec.msgpack.encode(forged))

    await place.until_accepted(1)

    assert list(place.counts) == [("acme", "default")]


async def test_an_entry_that_breaks_its_shard_is_found_and_the_others_are_applied(place: Place) -> None:
    def breaks(message: Any) -> Refusal | None:
        entries = message.entries if isinstance(message, TakeInbox) else []
        broken = any(entry.submit and entry.submit.templates[0].handler == "poison" for entry in entries)
        return Refusal("internal", "TakeInbox could not be handled; it was set aside") if broken else None

    place.bus.refuses = breaks
    place.sender._words = [place.sender._words[0]] * SHARDS
    for number in range(20):
        await place.sender.send(batch("poison" if number == 7 else f"h{number:02}"))

    inboxes = place.read()
    found = await place.until_accepted(19)

    await place.until_empty()
    assert found == [f"h{number:02}" for number in range(20) if number != 7]
    assert inboxes.tally.dropped == {"broken": 1}


async def test_while_the_store_cannot_write_the_reader_waits_and_passes_nothing(place: Place) -> None:
    down = [True]

    def refuses(message: Any) -> Refusal | None:
        return Refusal("store", "no room", retry_after_ms=50) if down[0] and isinstance(message, TakeInbox) else None

    place.bus.refuses = refuses
    place.read()
    for number in range(10):
        await place.sender.send(batch(f"h{number}"))
    await asyncio.sleep(0.3)
    before = await place.handlers()
    down[0] = False

    found = await place.until_accepted(10)

    await place.until_empty()
    assert before == []
    assert sorted(found) == [f"h{number}" for number in range(10)]


async def test_tasks_with_a_key_get_to_their_shard_from_any_and_stay_one(place: Place) -> None:
    inboxes = place.read()
    keys = [f"k{number}" for number in range(6)]
    submit = SubmitTasks("acme", [Template("keyed")], [TaskSpec(0, b"p", dedupe_key=key) for key in keys])
    for word in place.sender._words:  # a client that knows nothing of hashes
        await place.streams.publish(f"foliot.v1.acme.in.{word}", msgspec.msgpack.encode(submit))
    await place.sender.send(submit)

    await place.until_accepted(6)

    await place.until_empty()
    assert await place.handlers() == ["keyed"] * 6
    rows, _ = await place.store.list(TaskFilter(limit=100))
    assert {shard_of(row.id) for row in rows} == {0, 1}
    assert inboxes.tally.accepted == 6


async def test_a_batch_that_is_sent_twice_is_accepted_once(place: Place) -> None:
    place.read()
    for _ in range(3):
        await place.sender.send(batch("h", 3, request_id="same"))
    await place.sender.send(batch("last"))

    await place.until_accepted(4)

    await place.until_empty()
    assert sorted(await place.handlers()) == ["h", "h", "h", "last"]


async def test_a_tenant_beyond_its_rate_gets_its_tasks_later_and_one_beyond_its_quota_none(place: Place) -> None:
    for config in (TenantConfig("quick", rate=1, rate_per_ms=3_600_000, burst=1), TenantConfig("full", max_pending=1)):
        home = f"shard.{slot_of(tenant_address(config.tenant), SHARDS)}"
        await place.bus.request(home, ConfigureTenant(config), timeout_ms=2_000)
        await place.bus.request(tenant_address(config.tenant), ReadTenant(), timeout_ms=2_000)
    await asyncio.sleep(0.2)
    inboxes = place.read()
    for count in (1, 2):  # the first of each is admitted
        for tenant in ("quick", "full"):
            for _ in range(count):
                await place.sender.send(batch("h", tenant=tenant))
        await place.until_empty()

    rows, kinds = await place.store.list(TaskFilter(limit=100))

    now_ms = place.clock.now_ms()
    by_tenant = Counter(kinds[row.template_id].tenant for row in rows)
    assert by_tenant == {"quick": 3, "full": 1}
    assert sum(row.due_ms > now_ms for row in rows if kinds[row.template_id].tenant == "quick") == 2
    assert inboxes.tally.dropped == {"postponed": 2, "quota_exceeded": 2}


async def test_a_tenant_beyond_its_quota_does_not_fill_the_log(place: Place) -> None:
    home = f"shard.{slot_of(tenant_address('full'), SHARDS)}"
    await place.bus.request(home, ConfigureTenant(TenantConfig("full", max_pending=1)), timeout_ms=2_000)
    await place.bus.request(tenant_address("full"), ReadTenant(), timeout_ms=2_000)
    inboxes = place.read()
    with capture_logs() as logs:
        for _ in range(40):
            await place.sender.send(batch("h", 2, tenant="full"))
            await place.until_empty()

    assert inboxes.tally.dropped == {"quota_exceeded": 80}
    assert 1 <= [each["event"] for each in logs].count("inbox_tenant_limited") < 40


async def test_a_shard_that_moves_away_is_read_here_no_longer(place: Place) -> None:
    hosted = {0: 1, 1: 1}
    place.read(hosted=lambda: hosted)
    await place.sender.send(batch("a"))
    await place.sender.send(batch("a"))
    await place.until_accepted(2)

    del hosted[0]
    await asyncio.sleep(0.2)
    for _ in range(4):
        await place.sender.send(batch("b"))
    await place.until_accepted(4)
    await asyncio.sleep(0.2)

    assert (await place.handlers()).count("b") == 2
    hosted[0] = 2
    assert (await place.until_accepted(6)).count("b") == 4
