"""A node's end of reading the event feed: pages of what is kept of a tenant's events, for whoever can ask a question.

Streams belong to Foliot's own processes, and no tenant reaches them; so a node reads in a tenant's name, by a consumer that
lives for one page. A cursor names a position and the life of the stream, so what it stood for is never taken for
something else.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import msgspec
import structlog

from ...runtime.clock import Clock
from ...runtime.errors import UnavailableError, UsageError
from ...runtime.rng import Rng
from ..admission import InvalidOptionError
from . import protocol as p
from .errors import ApiError
from .events import EventsMessage, FeedConfig
from .port import ConsumerConfig, Consumption, Entry, JetStream

log = structlog.get_logger("foliot.transports.nats")

WAIT_MAX_MS: Final = 30_000
_READERS_MAX: Final = 256
_QUIET_MS: Final = 20  # after some entries, so long without another
_BEGIN_MS: Final = 500  # what a consumer that was just made may take to bring its first entry
_INACTIVE_MS: Final = 60_000
_BATCH: Final = 128

_decode = msgspec.msgpack.Decoder(EventsMessage).decode


class NoEventsError(UsageError):
    """There is no feed."""

    code = "no_events"

    def __init__(self) -> None:
        super().__init__(
            "this cluster tells no events; start its nodes with 'foliot node --events', "
            "or all of it with 'foliot up --cluster N --events'"
        )


class FeedBusyError(UnavailableError):
    """As many read the feed as may."""

    code = "overloaded"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the event feed cannot be read now: {reason}; retry in 1000 ms", retry_after_ms=1_000)
        self.reason = reason


class Streams(JetStream, Protocol):
    """JetStream, and what can be asked of a stream that may not be there."""

    async def find(self, stream: str) -> tuple[str, int]:
        """Return which life of a stream this is, and the last position in it; an empty life if there is no such stream."""
        ...

    async def is_at_end(self, stream: str, consumer: str, number: int) -> bool:
        """Tell whether nothing comes behind the entry of that number."""
        ...


class FeedDesk:
    """Reads pages for tenants."""

    def __init__(self, streams: Streams, *, clock: Clock, rng: Rng, config: FeedConfig | None = None) -> None:
        self._streams = streams
        self._clock = clock
        self._rng = rng
        self._config = config or FeedConfig()
        self._readers = 0

    async def read(self, tenant: str, ask: p.Feed) -> p.FeedPage:
        """Return the next page. `tenant`: a name that was checked. Raises: NoEventsError, FeedBusyError, InvalidOptionError,
        UnavailableError."""
        if self._readers >= _READERS_MAX:
            raise FeedBusyError(f"{self._readers} readers wait at this node")
        self._readers += 1
        try:
            return await self._read(tenant, ask)
        except ApiError as error:  # such as a stream that went away just now, or one that has all the consumers it may
            raise FeedBusyError(str(error)) from error
        finally:
            self._readers -= 1

    async def _read(self, tenant: str, ask: p.Feed) -> p.FeedPage:
        position, life_before = _of_cursor(ask.cursor)
        life, last = await self._streams.find(self._config.name)
        if not life:
            raise NoEventsError
        is_lost = bool(ask.cursor) and life != life_before
        if is_lost:
            position = 0
        elif not ask.cursor and ask.since_ms < 0:
            position = last
        wanted = ConsumerConfig(
            f"page-{self._rng.bits(80):020x}", f"{self._config.prefix}.v1.{tenant}.events.*", acknowledges=False,
            since_ms=0 if ask.cursor else max(ask.since_ms, 0), after=position, inactive_ms=_INACTIVE_MS, replicas=1,
            batch=_BATCH,
        )  # fmt: skip
        page = _Page(ask.limit)
        consumption = await self._streams.consume(self._config.name, wanted, page.take, page.end)
        try:
            at_end = await self._fill(page, consumption, wanted.name, ask)
        finally:
            consumption.close()
            await self._streams.forget(self._config.name, wanted.name)
        found = page.messages(tenant)
        if page.position:
            start, position = page.first - 1, page.position
        else:
            start = position = position if ask.cursor else last
        return p.FeedPage(
            messages=found, start=f"{start}@{life}", cursor=f"{position}@{life}", at_end=at_end, lost=is_lost
        )  # fmt: skip

    async def _fill(self, page: _Page, consumption: Consumption, consumer: str, ask: p.Feed) -> bool:
        """Wait for entries; returns whether these were all. The page alone bounds them, so each makes room for another."""
        wait_ms = min(ask.wait_ms, WAIT_MAX_MS)
        started_ns = self._clock.mono_ns()
        await page.more(max(wait_ms, _QUIET_MS))
        while not page.is_full:
            page.release(consumption)
            if await page.more(_QUIET_MS):
                continue
            if await self._streams.is_at_end(self._config.name, consumer, page.number):
                return not page.is_full
            waited_ms = (self._clock.mono_ns() - started_ns) // 1_000_000
            if waited_ms > wait_ms + _BEGIN_MS:  # entries are on their way, and late
                break
        return False


class _Page:
    """Entries on their way to one page. `first`: the position of the first; `number`, `position`: of the last."""

    def __init__(self, limit: int) -> None:
        self.number = 0
        self.first = 0
        self.position = 0
        self._limit = limit
        self._size = 0
        self._entries: list[Entry] = []
        self._released = 0
        self._wake: asyncio.Event = asyncio.Event()
        self._is_over = False

    @property
    def is_full(self) -> bool:
        return self._size >= self._limit or self._is_over

    def take(self, entry: Entry) -> None:
        """Take an entry while there is room; those behind it come again with the next page."""
        if not self.is_full:
            self._entries.append(entry)
            self._size += max(_events_in(entry), 1)
            self.number, self.position = entry.number, entry.position
            self.first = self.first or entry.position
        self._wake.set()

    def end(self, reason: str) -> None:
        self._is_over = True
        self._wake.set()

    def release(self, consumption: Consumption) -> None:
        """Have others come in the place of those that came."""
        fresh, self._released = self._entries[self._released :], len(self._entries)
        for entry in fresh:
            consumption.release(entry)

    async def more(self, wait_ms: int) -> bool:
        """Wait for an entry; returns whether one came."""
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def messages(self, tenant: str) -> list[p.Events]:
        """Return what came; what cannot be read is left out."""
        found = []
        for entry in self._entries:
            message = _message_of(entry)
            if message is None:
                log.warning("event_malformed", tenant=tenant, position=entry.position)
                continue
            found.append(
                p.Events(
                    v=message.v, shard=message.shard, epoch=message.epoch, number=message.number, at_ms=message.at_ms,
                    events=message.events,
                )
            )  # fmt: skip
        return found


def _message_of(entry: Entry) -> EventsMessage | None:
    try:
        return _decode(entry.data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _events_in(entry: Entry) -> int:
    message = _message_of(entry)
    return len(message.events) if message is not None else 0


def _of_cursor(cursor: str) -> tuple[int, str]:
    """Return the position and the stream's life that a cursor names. Raises: InvalidOptionError."""
    if not cursor:
        return 0, ""
    position, mark, life = cursor.partition("@")
    if not (mark and position.isascii() and position.isdigit() and len(position) < 20):
        raise InvalidOptionError("cursor", cursor[:80], "one that an answer had")
    return int(position), life
