"""Sending very many things: a stream cut into requests, several of them under way, in bounded memory.

A part that was not answered, or that was refused because the scheduler is busy or away, is sent again, until nothing was
taken for as long as the caller has patience. What holds: every item is counted once, as taken or as refused for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final, Generic, TypeVar

from ..actors.messages import TaskRefusal
from ..runtime.bus import Refusal
from ..runtime.clock import Clock
from ..runtime.errors import FoliotError, UnavailableError
from ..transports.local import NotRunningError
from ..transports.repeats import RETRYABLE
from .errors import BulkStoppedError, error_of, error_of_task
from .options import InvalidOptionError, count_option

BATCH_BYTES: Final = 1 << 20  # payload bytes in one message
_REFUSED_KEPT: Final = 1_000
_BACKOFF_MS: Final = 25
_BACKOFF_MAX_MS: Final = 5_000

Item = TypeVar("Item")


class Bulk(Generic[Item]):
    """One bulk call under way. A subclass says how a part is sent and what an answer to it means.

    `refused_count` counts all that were refused, `refused` keeps the first thousand, by position in the whole."""

    name: str  # of the argument, for the error
    expected: str

    def __init__(self, clock: Clock, progress: Callable[[int], object] | None, patience_ms: int) -> None:
        self.refused_count = 0
        self.refused: list[TaskRefusal] = []
        self.decided = 0  # taken or refused
        self._clock = clock
        self._progress = progress
        self._patience_ms = patience_ms
        self._moved_ns = clock.mono_ns()  # when anything was last decided
        self._unknown = 0  # sent and not decided

    def size_of(self, item: Item) -> int:
        """Return about how many bytes the item takes in a message."""
        raise NotImplementedError

    def sender(self) -> Callable[[list[Item]], Awaitable[Any]]:
        """Return what sends one part, and sends it again: same part, same request. It returns an answer with `refused`, or a
        Refusal, and raises UnavailableError, UsageError."""
        raise NotImplementedError

    def take(self, answer: Any, positions: list[int], start: int, size: int) -> None:
        """Count what an answer took. `positions`: of its items in a part of `size` that begins at `start` of the whole."""
        raise NotImplementedError

    def taken(self) -> int:
        """Return how many were taken."""
        raise NotImplementedError

    async def send_all(self, items: Iterable[Item] | AsyncIterable[Item], batch: int, in_flight: int) -> None:
        """Raises: BulkStoppedError; InvalidOptionError."""
        if not isinstance(items, Iterable | AsyncIterable):
            raise InvalidOptionError(self.name, type(items), self.expected)
        count_option("batch", batch, 1, 1_000)
        count_option("in_flight", in_flight, 1, 32)
        room = asyncio.Semaphore(in_flight)
        position = 0
        try:
            async with asyncio.TaskGroup() as group:
                async for part in self._parts(items, batch):
                    await room.acquire()
                    task = group.create_task(self._send(part, position))
                    task.add_done_callback(lambda _: room.release())
                    position += len(part)
        except BaseExceptionGroup as errors:
            first, others = errors.split(FoliotError)
            if others is not None or first is None:
                raise (others or errors).exceptions[0] from errors
            cause = first.exceptions[0]
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            assert isinstance(cause, FoliotError)
            raise BulkStoppedError(self.taken(), self._unknown, cause) from cause
        self.refused.sort(key=lambda refusal: refusal.position)

    async def _parts(self, items: Iterable[Item] | AsyncIterable[Item], most: int) -> AsyncIterator[list[Item]]:
        """Cut a stream into parts, by count and by bytes."""
        part: list[Item] = []
        room = BATCH_BYTES
        async for item in items if isinstance(items, AsyncIterable) else _each(items):
            part.append(item)
            room -= self.size_of(item)
            if len(part) >= most or room <= 0:
                yield part
                part, room = [], BATCH_BYTES
        if part:
            yield part

    async def _send(self, items: list[Item], start: int) -> None:
        """Send a part until every item of it was taken or refused for good."""
        positions = list(range(len(items)))
        backoff_ms = _BACKOFF_MS
        send = self.sender()
        self._unknown += len(items)
        while positions:
            retry_after_ms = 0
            try:
                answer = await send([items[at] for at in positions])
            except NotRunningError:
                raise
            except UnavailableError as error:  # its outcome is unknown
                self._check_patience(error)
                retry_after_ms = error.retry_after_ms
            else:
                positions, retry_after_ms = self._count(answer, positions, start, len(items))
            if positions:
                await asyncio.sleep(max(backoff_ms, min(retry_after_ms, _BACKOFF_MAX_MS)) / 1000)
                backoff_ms = min(backoff_ms * 2, _BACKOFF_MAX_MS)

    def _count(self, answer: Any, positions: list[int], start: int, size: int) -> tuple[list[int], int]:
        """Return the positions to send again, and after how long."""
        if isinstance(answer, Refusal):
            if answer.retry_after_ms >= 0:
                self._check_patience(error_of(answer))
                return positions, answer.retry_after_ms
            for at in positions:
                self._refuse(TaskRefusal(start + at, answer.code, answer.text))
            self._decide(len(positions))
            return [], 0
        again: list[int] = []
        waits: TaskRefusal | None = None
        for refusal in answer.refused:
            at = positions[refusal.position]
            if refusal.code in RETRYABLE:
                again.append(at)
                waits = waits or refusal
            else:
                self._refuse(TaskRefusal(start + at, refusal.code, refusal.text, refusal.existing_id))
        self.take(answer, positions, start, size)
        self._decide(len(positions) - len(again))
        if waits is not None:
            self._check_patience(error_of_task(waits))
        return again, 0

    def _refuse(self, refusal: TaskRefusal) -> None:
        self.refused_count += 1
        if len(self.refused) < _REFUSED_KEPT:
            self.refused.append(refusal)

    def _decide(self, count: int) -> None:
        if not count:
            return
        self._unknown -= count
        self.decided += count
        self._moved_ns = self._clock.mono_ns()
        if self._progress is not None:
            self._progress(self.decided)

    def _check_patience(self, error: FoliotError) -> None:
        """Raises: `error` if nothing was taken for too long."""
        if (self._clock.mono_ns() - self._moved_ns) // 1_000_000 > self._patience_ms:
            raise error


async def _each(items: Iterable[Item]) -> AsyncIterator[Item]:
    for item in items:
        yield item
