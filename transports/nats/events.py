"""The event feed: what became of tasks, told by their shards once it is durable, kept in a stream for a day.

One message a turn and tenant, or several where a turn is large, to `<prefix>.v1.<tenant>.events.<shard>`: whoever may listen
there hears it live, and `read_events` hears what was told before. What holds: nothing is told that is not durable; the
numbers of one shard's messages to one tenant are consecutive within an epoch, so a reader sees where some are missing; a
message is stored once. Telling never holds up a shard: what finds the queue full, or cannot be stored, is counted and then
missing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from ...actors.addresses import check_name
from ...actors.rows import ShardChanges
from ...actors.states import State
from ...runtime.clock import Clock
from ...runtime.errors import FoliotError, UnavailableError, UsageError
from ...runtime.ids import from_text, to_text
from ...runtime.rng import Rng
from .errors import ApiError
from .mail import stream_name
from .port import ConsumerConfig, Entry, JetStream, NotStoredError, StreamConfig

log = structlog.get_logger("foliot.transports.nats")

STREAM: Final = "FOLIOT_EVENTS"
VERSION: Final = 1
_LABELS: Final = {0: "", **{int(state): state.label for state in State}}
_KEYS_MAX: Final = 4_096  # shards and epochs a reader remembers


@dataclass(frozen=True)
class FeedConfig:
    """The stream of events, and the bounds of one process's part in it."""

    prefix: str = "foliot"
    replicas: int = 1
    max_age_ms: int = 86_400_000
    max_bytes: int = 1 << 30
    message_events: int = 512  # to one message
    queue_max: int = 4_096  # messages that wait to be stored ...
    queue_bytes: int = 16 << 20  # ... and their bytes
    window: int = 16  # messages under way at once
    pause_ms: int = 100  # between two tries while nothing can be stored, doubling ...
    pause_max_ms: int = 5_000  # ... up to this

    @property
    def name(self) -> str:
        """What the stream is called: of each prefix there is another."""
        return stream_name(self.prefix, STREAM)

    @property
    def stream(self) -> StreamConfig:
        """Return the stream."""
        return StreamConfig(
            self.name, (f"{self.prefix}.v1.*.events.*",), max_consumers=1_000, replicas=self.replicas,
            max_bytes=self.max_bytes, max_age_ms=self.max_age_ms, max_entry_bytes=64 * 1024, dedupe_ms=120_000,
            compression="s2",
        )  # fmt: skip


class EventsMessage(msgspec.Struct, frozen=True, gc=False):
    """As it is on the wire: a msgpack map. An event is [task id, state before or "", state, attempt]."""

    v: int
    shard: int
    epoch: int
    number: int
    at_ms: int
    events: list[tuple[str, str, str, int]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(EventsMessage).decode


class EventFeed:
    """The telling end, one for each process that hosts shards. `lost`: messages that are missing in the stream."""

    def __init__(self, jetstream: JetStream, *, clock: Clock, config: FeedConfig | None = None) -> None:
        self.lost = 0
        self._jetstream = jetstream
        self._clock = clock
        self._config = config or FeedConfig()
        self._numbers: dict[int, tuple[int, dict[str, int]]] = {}  # by shard: its epoch, and the last number by tenant
        self._queue: deque[tuple[str, bytes, str]] = deque()  # subject, message, its id
        self._queued_bytes = 0
        self._wake: asyncio.Event = asyncio.Event()
        self._emptied: asyncio.Event = asyncio.Event()

    def tell(self, changes: ShardChanges) -> None:
        """Take what a durable turn tells. Plain, so that a shard never waits here."""
        by_tenant: dict[str, list[tuple[str, str, str, int]]] = {}
        for task_id, tenant, before, after, attempt in changes.events:
            event = (to_text(task_id), _LABELS[before], _LABELS[after], attempt)
            by_tenant.setdefault(tenant, []).append(event)
        at_ms, size = self._clock.now_ms(), self._config.message_events
        for tenant, events in by_tenant.items():
            for start in range(0, len(events), size):
                self._put(changes.shard, changes.epoch, tenant, at_ms, events[start : start + size])

    def _put(self, shard: int, epoch: int, tenant: str, at_ms: int, events: list[tuple[str, str, str, int]]) -> None:
        known = self._numbers.get(shard)
        if known is None or known[0] != epoch:
            known = self._numbers[shard] = (epoch, {})
        number = known[1][tenant] = known[1].get(tenant, 0) + 1
        data = _encode(EventsMessage(VERSION, shard, epoch, number, at_ms, events))
        config = self._config
        if len(self._queue) >= config.queue_max or self._queued_bytes + len(data) > config.queue_bytes:
            self.lost += 1
            return
        subject = f"{config.prefix}.v1.{tenant}.events.{shard}"
        self._queue.append((subject, data, f"{tenant}.{shard}.{epoch}.{number}"))
        self._queued_bytes += len(data)
        self._wake.set()

    async def run(self) -> None:
        """Store what is told, in order, until cancelled. The stream is there even before the first event."""
        config = self._config
        pause_ms, is_ensured = config.pause_ms, False
        while True:
            if is_ensured and not self._queue:
                self._wake.clear()
                await self._wake.wait()
            try:
                if not is_ensured:
                    await self._jetstream.ensure(config.stream)
                    is_ensured = True
                stored = await self._store()
            except FoliotError as error:
                log.warning("events_wait", queued=len(self._queue), lost=self.lost, code=error.code, error=str(error))
                is_ensured = False
                await asyncio.sleep(pause_ms / 1000)
                pause_ms = min(pause_ms * 2, config.pause_max_ms)
            else:
                if stored:
                    pause_ms = config.pause_ms

    async def _store(self) -> int:
        """Store the first messages, as many as may be under way at once; returns how many went. Where one fails, those
        behind it are sent again after it, under their ids, so that the order stays. Raises: UnavailableError."""
        window = [self._queue[index] for index in range(min(self._config.window, len(self._queue)))]
        results = await asyncio.gather(
            *[self._jetstream.publish(subject, data, message_id=name) for subject, data, name in window],
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, (NotStoredError, UsageError)):
                self.lost += 1
                log.error("event_not_stored", error=str(result))
            elif isinstance(result, BaseException):
                raise result
            self._queued_bytes -= len(self._queue.popleft()[1])
        if not self._queue:
            self._emptied.set()
        return len(results)

    async def emptied(self) -> None:
        """Return once all that was told is stored, or counted as lost; `run` has to go on meanwhile."""
        self._emptied.clear()
        if self._queue:
            await self._emptied.wait()


class TaskEvent(msgspec.Struct, frozen=True, gc=False):
    """What became of a task. `before`: empty for a new one. `position`: of the message in the stream, to go on after it."""

    position: int
    at_ms: int
    task_id: int
    before: str
    after: str
    attempt: int


class EventsMissed(msgspec.Struct, frozen=True, gc=False):
    """Messages of a shard that are not in the stream. `count`: how many; 0: unknown, since the stream itself was lost."""

    shard: int
    count: int


async def read_events(
    jetstream: JetStream, tenant: str, *, rng: Rng, since_ms: int = 0, after: int = 0, config: FeedConfig | None = None
) -> AsyncIterator[TaskEvent | EventsMissed]:
    """Yield a tenant's events, those that are stored and then those that come: from an instant on, or after a position.

    Raises: InvalidNameError, JetStreamMissingError. While the servers cannot be reached it waits.
    """
    config = config or FeedConfig()
    check_name("tenant", tenant)
    numbers: dict[tuple[int, int], int] = {}  # by (shard, epoch): the last seen
    shards: dict[int, int] = {}  # those heard: in which epoch first
    life, pause_ms = "", config.pause_ms
    while True:
        reading = _Reading()
        name = f"events-{rng.bits(80):020x}"
        try:
            now = await jetstream.ensure(config.stream)
            if life and now != life:
                after = 0
                yield EventsMissed(-1, 0)
            life = now
            wanted = ConsumerConfig(
                name, f"{config.prefix}.v1.{tenant}.events.*", acknowledges=False, since_ms=0 if after else since_ms,
                after=after, inactive_ms=60_000, replicas=1,
            )  # fmt: skip
            consumption = await jetstream.consume(config.name, wanted, reading.take, reading.end)
        except (UnavailableError, ApiError) as error:  # the latter if the stream went away just now
            log.info("event_reader_waits", tenant=tenant, code=error.code, error=str(error))
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 2, config.pause_max_ms)
            continue
        try:
            while (entry := await reading.next()) is not None:
                pause_ms = config.pause_ms
                consumption.release(entry)
                after = entry.position
                try:
                    message = _decode(entry.data)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    log.warning("event_malformed", tenant=tenant, position=entry.position)
                    continue
                missed = missed_before((message.shard, message.epoch), message.number, numbers, shards)
                if missed is None:
                    continue
                if missed:
                    yield EventsMissed(message.shard, missed)
                for text, before, state, attempt in message.events:
                    yield TaskEvent(entry.position, message.at_ms, from_text(text), before, state, attempt)
        finally:
            consumption.close()
        await asyncio.sleep(pause_ms / 1000)


def missed_before(
    key: tuple[int, int], number: int, numbers: dict[tuple[int, int], int], shards: dict[int, int]
) -> int | None:  # fmt: skip
    """Return how many messages are missing before this one, None if it was seen; `key`: its shard and epoch; `shards`: the
    epoch in which each was heard first. Nothing can be said of what was before that, whose last messages may come late, nor
    of the end of an epoch."""
    shard, epoch = key
    last = numbers.pop(key, None)
    if last is None:
        last = 0 if epoch > shards.setdefault(shard, epoch) else number - 1
    numbers[key] = max(last, number)
    if len(numbers) > _KEYS_MAX:
        del numbers[next(iter(numbers))]
    return None if number <= last else number - last - 1


class _Reading:
    """Entries on their way from a consumer to whoever reads."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._wake: asyncio.Event = asyncio.Event()
        self._is_over = False

    def take(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._wake.set()

    def end(self, reason: str) -> None:
        log.info("event_reader_ended", reason=reason)
        self._is_over = True
        self._wake.set()

    async def next(self) -> Entry | None:
        """Return the next entry, or None at the end."""
        while not self._entries:
            if self._is_over:
                return None
            self._wake.clear()
            await self._wake.wait()
        return self._entries.popleft()
