"""Hearing what becomes of tasks: a tenant's events, those that are kept and those that come, page by page from any node.

What holds: events come in the order their shard told them, each once, and where the feed could not keep up it is said how
much is missing. Events of different shards are in no order. The last moments of a node that was killed may be missing
without a word: what is true of a task is in the store, and its later events say so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from ..runtime.bus import RefusedError
from ..runtime.clock import Clock
from ..runtime.errors import UnavailableError, UsageError
from .client_cluster import Broker
from .durations import Span, instant_of, parse_span

if TYPE_CHECKING:
    from ..transports.nats import protocol as p

log = structlog.get_logger("foliot")

EVENTS_TOLD: Final = "events.told"
"""A node's figure: 1 if it tells events, 0 if not."""
_PAGE: Final = 1_000  # events
_WAIT_MS: Final = 15_000  # a poll waits at most so long at one node, which may die unnoticed
_MARGIN_MS: Final = 10_000
_BACKOFF_MS: Final = 50
_BACKOFF_MAX_MS: Final = 1_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class NoEventsError(UsageError):
    """The cluster tells no events."""

    code = "no_events"


class TaskEvent(msgspec.Struct, frozen=True):
    """What became of a task. `at`: when its shard told it. `before`: its state until then, empty for a new task. `cursor`:
    to go on from here; a few events may then come again."""

    at: datetime
    task_id: str
    before: str
    after: str
    attempt: int
    cursor: str


class EventReader:
    """Reads the feed for one client."""

    def __init__(
        self, broker: Broker, tenant: str, *, clock: Clock, timeout_ms: int,
        silent_nodes: Callable[[], Awaitable[Sequence[str]]],
    ) -> None:  # fmt: skip
        self._silent_nodes = silent_nodes
        self._broker = broker
        self._tenant = tenant
        self._clock = clock
        self._timeout_ms = timeout_ms

    async def read(
        self,
        since: Span | datetime | None = None,
        *,
        cursor: str = "",
        follow: bool = True,
        on_missed: Callable[[int], object] | None = None,
        on_silent: Callable[[Sequence[str]], object] | None = None,
    ) -> AsyncIterator[TaskEvent]:
        """Yield events. Raises: NoEventsError; UnavailableError if no node answered for as long as the client's timeout."""
        from ..transports.nats import protocol as p
        from ..transports.nats.events import missed_before

        since_ms = self._since_ms(since)
        on_missed = on_missed or _log_missed
        silent: Sequence[str] | None = None
        numbers: dict[tuple[int, int], int] = {}
        shards: dict[int, int] = {}
        while True:
            ask = p.Feed(cursor=cursor, since_ms=since_ms, limit=_PAGE, wait_ms=_WAIT_MS if follow else 0)
            page = await self._page(ask)
            if silent is None and (silent := await self._silent_nodes()):
                (on_silent or _log_silent)(silent)
            if page.lost:
                on_missed(-1)
                numbers.clear()
                shards.clear()
            for message in page.messages:
                missed = missed_before((message.shard, message.epoch), message.number, numbers, shards)
                if missed is None:
                    continue
                if missed:
                    on_missed(missed)
                at = _EPOCH + timedelta(milliseconds=message.at_ms)
                is_last = message is page.messages[-1]
                for position, (task_id, before, after, attempt) in enumerate(message.events, 1):
                    resume = page.cursor if is_last and position == len(message.events) else page.start
                    yield TaskEvent(at, task_id, before, after, attempt, resume)
            cursor = page.cursor
            if page.at_end and not follow:
                return

    def _since_ms(self, since: Span | datetime | None) -> int:
        """Return an instant; -1 for this one. Raises: UsageError."""
        if since is None:
            return -1
        if isinstance(since, datetime):
            return max(instant_of(since, what="since"), 0)
        return max(self._clock.now_ms() - parse_span(since, what="since"), 0)

    async def _page(self, ask: p.Feed) -> p.FeedPage:
        """Return a page, from whichever node answers."""
        started_ns, backoff_ms = self._clock.mono_ns(), _BACKOFF_MS
        while True:
            try:
                return await self._ask(ask)
            except UnavailableError as error:
                waited_ms = (self._clock.mono_ns() - started_ns) // 1_000_000 - ask.wait_ms
                if waited_ms >= self._timeout_ms:
                    raise
                self._broker.tell_wait(f"waiting for events: {error}", started_ns)
                await asyncio.sleep(max(backoff_ms, min(error.retry_after_ms, _BACKOFF_MAX_MS)) / 1000)
                backoff_ms = min(backoff_ms * 2, _BACKOFF_MAX_MS)

    async def _ask(self, ask: p.Feed) -> p.FeedPage:
        """Raises: UnavailableError, NoEventsError, InvalidRequestError."""
        from ..transports.nats import protocol as p

        try:
            return await self._broker.ask(
                self._tenant, "feed", ask, p.FeedPage, timeout_ms=self._timeout_ms, answer_ms=ask.wait_ms + _MARGIN_MS
            )
        except RefusedError as error:
            if error.refusal.code == NoEventsError.code:
                raise NoEventsError(error.refusal.text) from None
            raise


def _log_silent(nodes: Sequence[str]) -> None:
    log.warning("events_not_told", nodes=list(nodes), hint="what these nodes do is missing: start them with --events")


def _log_missed(count: int) -> None:
    log.warning("events_missed", messages=count)
