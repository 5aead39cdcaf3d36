"""Putting very many schedules: a stream cut into requests, several of them under way, in bounded memory.

A request that was not answered, or refused because the scheduler is busy or away, is sent again: putting a schedule twice
changes nothing, so nobody needs to know which copy counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Final

import msgspec

from ..actors.messages import TaskRefusal
from ..actors.schedule_messages import SchedulesPut
from ..runtime.bus import Refusal
from ..runtime.clock import Clock
from ..runtime.errors import FoliotError, UnavailableError
from ..transports.local import NotRunningError
from ..transports.repeats import RETRYABLE
from .errors import BulkStoppedError, error_of, error_of_task
from .options import InvalidOptionError, count_option
from .schedule_words import Draft

_BATCH_BYTES: Final = 1 << 20
_REFUSED_KEPT: Final = 1_000
_BACKOFF_MS: Final = 25
_BACKOFF_MAX_MS: Final = 5_000


class PutResult(msgspec.Struct):
    """What became of schedules put in bulk. `refused` holds the first thousand, by position in the whole."""

    done: int = 0
    created: int = 0
    replaced: int = 0
    unchanged: int = 0
    refused_count: int = 0
    refused: list[TaskRefusal] = msgspec.field(default_factory=list)


Send = Callable[[list[Draft]], Awaitable[SchedulesPut | Refusal]]


class BulkPut:
    """One bulk call under way. `send` raises UnavailableError, UsageError."""

    def __init__(self, send: Send, clock: Clock, progress: Callable[[int], object] | None, patience_ms: int) -> None:
        self._send_one = send
        self._clock = clock
        self._progress = progress
        self._patience_ms = patience_ms
        self._result = PutResult()
        self._moved_ns = clock.mono_ns()  # when anything was last taken
        self._unknown = 0

    async def run(self, drafts: Iterable[Draft] | AsyncIterable[Draft], batch: int, in_flight: int) -> PutResult:
        """Raises: BulkStoppedError; InvalidOptionError."""
        if not isinstance(drafts, Iterable | AsyncIterable):
            raise InvalidOptionError("drafts", type(drafts), "an iterable of client.schedules.draft(...)")
        count_option("batch", batch, 1, 1_000)
        count_option("in_flight", in_flight, 1, 32)
        room = asyncio.Semaphore(in_flight)
        position = 0
        try:
            async with asyncio.TaskGroup() as group:
                async for part in _batches(drafts, batch):
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
            result = self._result
            put = result.created + result.replaced + result.unchanged
            raise BulkStoppedError(put, self._unknown, cause) from cause
        self._result.refused.sort(key=lambda refusal: refusal.position)
        return self._result

    async def _send(self, drafts: list[Draft], start: int) -> None:
        """Send a batch until every schedule of it was put or refused for good."""
        positions = list(range(len(drafts)))
        backoff_ms = _BACKOFF_MS
        self._unknown += len(drafts)
        while positions:
            retry_after_ms = 0
            try:
                answer = await self._send_one([drafts[at] for at in positions])
            except NotRunningError:
                raise
            except UnavailableError as error:
                self._check_patience(error)
                retry_after_ms = error.retry_after_ms
            else:
                positions, retry_after_ms = self._take(answer, positions, start)
            if positions:
                await asyncio.sleep(max(backoff_ms, min(retry_after_ms, _BACKOFF_MAX_MS)) / 1000)
                backoff_ms = min(backoff_ms * 2, _BACKOFF_MAX_MS)

    def _take(self, answer: SchedulesPut | Refusal, positions: list[int], start: int) -> tuple[list[int], int]:
        """Count an answer. Returns: the positions to send again, and after how long."""
        result = self._result
        if isinstance(answer, Refusal):
            if answer.retry_after_ms >= 0:
                self._check_patience(error_of(answer))
                return positions, answer.retry_after_ms
            for at in positions:
                self._refuse(TaskRefusal(start + at, answer.code, answer.text))
            self._done(len(positions))
            return [], 0
        words = answer.outcomes
        result.created += words.count("created")
        result.replaced += words.count("replaced")
        result.unchanged += words.count("unchanged")
        again: list[int] = []
        for refusal in answer.refused:
            at = positions[refusal.position]
            if refusal.code in RETRYABLE:
                again.append(at)
            else:
                self._refuse(TaskRefusal(start + at, refusal.code, refusal.text))
        self._done(len(positions) - len(again))
        if again:
            self._check_patience(error_of_task(next(each for each in answer.refused if each.code in RETRYABLE)))
        return again, 0

    def _refuse(self, refusal: TaskRefusal) -> None:
        self._result.refused_count += 1
        if len(self._result.refused) < _REFUSED_KEPT:
            self._result.refused.append(refusal)

    def _done(self, count: int) -> None:
        if not count:
            return
        self._unknown -= count
        self._result.done += count
        self._moved_ns = self._clock.mono_ns()
        if self._progress is not None:
            self._progress(self._result.done)

    def _check_patience(self, error: FoliotError) -> None:
        """Raises: `error` if nothing was taken for too long."""
        if (self._clock.mono_ns() - self._moved_ns) // 1_000_000 > self._patience_ms:
            raise error


async def _batches(drafts: Iterable[Draft] | AsyncIterable[Draft], size: int) -> AsyncIterator[list[Draft]]:
    """Cut a stream into batches, by count and by bytes."""
    cut = _Cut(size)
    if isinstance(drafts, AsyncIterable):
        async for draft in drafts:
            if cut.is_full_with(draft):
                yield cut.taken()
    else:
        for draft in drafts:
            if cut.is_full_with(draft):
                yield cut.taken()
    if rest := cut.taken():
        yield rest


class _Cut:
    """The batch that is being filled."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._batch: list[Draft] = []
        self._room = _BATCH_BYTES

    def is_full_with(self, draft: Draft) -> bool:
        self._batch.append(draft)
        self._room -= len(draft.spec.payload)
        return len(self._batch) >= self._size or self._room <= 0

    def taken(self) -> list[Draft]:
        batch, self._batch, self._room = self._batch, [], _BATCH_BYTES
        return batch
