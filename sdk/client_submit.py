"""Submitting: single tasks of one moment travel together, and a million go by in bounded memory.

Calls of `submit` made before the event loop comes round again are sent as one batch, so many callers at once cost
little more than one. Where such a batch is refused as a whole, each task is tried alone, so that nobody pays for a
neighbour.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Final

import msgspec

from ..actors.messages import SubmitTasks, TaskRefusal, TasksSubmitted
from ..runtime.bus import Refusal
from ..runtime.clock import Clock
from ..runtime.errors import FoliotError, UnavailableError
from ..runtime.rng import Rng
from ..transports.local import NotRunningError
from ..transports.repeats import RETRYABLE
from .channel import Channel
from .client_spec import Spec, assemble
from .errors import BulkStoppedError, error_of, error_of_task
from .options import InvalidOptionError, count_option

SUBMIT_TIMEOUT_MS: Final = 30_000
_TOGETHER_MAX: Final = 256  # single tasks in one message
_BATCH: Final = 500  # tasks of a bulk submission in one message ...
_BATCH_BYTES: Final = 1 << 20  # ... or payload bytes of either, whichever comes first
_IN_FLIGHT: Final = 8
_REFUSED_KEPT: Final = 1_000
_BACKOFF_MAX_MS: Final = 5_000


class BulkResult(msgspec.Struct):
    """What became of a bulk submission. `refused` holds the first thousand, by position in the whole.

    `ids`: by position, 0 where refused; empty unless asked for. `existing`: tasks that were there already."""

    submitted: int = 0
    accepted: int = 0
    existing: int = 0
    refused_count: int = 0
    refused: list[TaskRefusal] = msgspec.field(default_factory=list)
    ids: list[int] = msgspec.field(default_factory=list)


class Submitter:
    """Sends tasks for one client."""

    def __init__(self, channel: Channel, tenant: str, *, clock: Clock, rng: Rng) -> None:
        self._channel = channel
        self._tenant = tenant
        self._clock = clock
        self._name = f"{rng.bits(64):016x}"
        self._number = 0
        self._waiting: list[tuple[Spec, asyncio.Future[tuple[int, bool]]]] = []
        self._sending: dict[asyncio.Task[None], None] = {}

    def request_id(self) -> str:
        """Return a name for a request that nobody else uses."""
        self._number += 1
        return f"{self._name}-{self._number:x}"

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._sending or self._waiting:
            await asyncio.gather(*self._sending, asyncio.sleep(0), return_exceptions=True)

    # -- single tasks --------------------------------------------------------------------------------------------------

    async def one(self, spec: Spec) -> tuple[int, bool]:
        """Return the id of the task and whether it was there already. Raises: the typed error of a refusal."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[int, bool]] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append((spec, future))
        return await future

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        start, size = 0, 0
        for at, (spec, _) in enumerate(waiting):
            size += len(spec.payload)
            if at > start and (at - start >= _TOGETHER_MAX or size > _BATCH_BYTES):
                self._begin_sending(waiting[start:at])
                start, size = at, len(spec.payload)
        self._begin_sending(waiting[start:])

    def _begin_sending(self, batch: list[tuple[Spec, asyncio.Future[tuple[int, bool]]]]) -> None:
        task = asyncio.get_running_loop().create_task(self._send_together(batch))
        self._sending[task] = None
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.pop(task, None)

    async def _send_together(self, batch: list[tuple[Spec, asyncio.Future[tuple[int, bool]]]]) -> None:
        batch = [(spec, future) for spec, future in batch if not future.done()]
        if not batch:
            return
        try:
            answer = await self.send([spec for spec, _ in batch], self.request_id() if self._channel.may_repeat else "")
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        if isinstance(answer, Refusal):
            if len(batch) == 1:
                _fail(batch[0][1], error_of(answer))
            else:
                await self._send_apart(batch, answer)
            return
        existing = set(answer.existing)
        refused = {refusal.position: refusal for refusal in answer.refused}
        for position, (_, future) in enumerate(batch):
            if position in refused:
                _fail(future, error_of_task(refused[position]))
            elif not future.done():
                future.set_result((answer.ids[position], position in existing))

    async def _send_apart(self, batch: list[tuple[Spec, asyncio.Future[tuple[int, bool]]]], answer: Refusal) -> None:
        """The batch was refused as a whole: halve it until each refusal hits only whom it means."""
        if answer.retry_after_ms >= 0 and answer.code not in ("rate_limited", "quota_exceeded", "overloaded"):
            for _, future in batch:  # the scheduler is not there: no use in asking again for each
                _fail(future, error_of(answer))
            return
        middle = len(batch) // 2
        await self._send_together(batch[:middle])
        await self._send_together(batch[middle:])

    async def send(
        self, specs: list[Spec], request_id: str, *, timeout_ms: int = SUBMIT_TIMEOUT_MS
    ) -> TasksSubmitted | Refusal:
        """Send one batch. Raises: UnavailableError, UsageError."""
        templates, tasks, checked = assemble(specs)
        message = SubmitTasks(self._tenant, templates, tasks, request_id, checked)
        answer = await self._channel.request(message, timeout_ms=timeout_ms)
        assert isinstance(answer, TasksSubmitted | Refusal), f"{type(answer).__name__} answered SubmitTasks"
        return answer

    # -- very many tasks -----------------------------------------------------------------------------------------------

    async def many(
        self,
        specs: Iterable[Spec] | AsyncIterable[Spec],
        *,
        progress: Callable[[int], object] | None,
        keep_ids: bool,
        batch: int,
        in_flight: int,
        patience_ms: int,
    ) -> BulkResult:
        """Submit all of them, `in_flight` batches at a time. Raises: BulkStoppedError."""
        if not isinstance(specs, Iterable | AsyncIterable):
            raise InvalidOptionError("specs", type(specs), "an iterable of specs, such as (client.spec(...) for ...)")
        count_option("batch", batch, 1, 1_000)
        count_option("in_flight", in_flight, 1, 32)
        return await _Bulk(self, self._clock, progress, keep_ids, patience_ms).run(specs, batch, in_flight)


def _fail(future: asyncio.Future[tuple[int, bool]], error: FoliotError) -> None:
    if not future.done():
        future.set_exception(error)


class _Bulk:
    """One bulk submission under way."""

    def __init__(
        self,
        submitter: Submitter,
        clock: Clock,
        progress: Callable[[int], object] | None,
        keep_ids: bool,
        patience_ms: int,
    ) -> None:
        self._submitter = submitter
        self._clock = clock
        self._progress = progress
        self._keep_ids = keep_ids
        self._patience_ms = patience_ms
        self._result = BulkResult()
        self._ids: dict[int, list[int]] = {}  # by the position of a batch's first task
        self._moved_ns = clock.mono_ns()  # when anything was last accepted
        self._unknown = 0

    async def run(self, specs: Iterable[Spec] | AsyncIterable[Spec], batch: int, in_flight: int) -> BulkResult:
        room = asyncio.Semaphore(in_flight)
        position = 0
        try:
            async with asyncio.TaskGroup() as group:
                async for part in _batches(specs, batch):
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
            raise BulkStoppedError(self._result.accepted, self._unknown, cause) from cause
        self._result.refused.sort(key=lambda refusal: refusal.position)
        if self._keep_ids:
            for start in sorted(self._ids):
                self._result.ids += self._ids.pop(start)
        return self._result

    async def _send(self, specs: list[Spec], start: int) -> None:
        """Send a batch until every task of it was accepted or refused for good.

        All repetitions carry one request id: a shard's part is sent again whole or not at all, so a shard that has it
        already answers as the first time."""
        ids = [0] * len(specs) if self._keep_ids else []
        positions = list(range(len(specs)))
        backoff_ms = 25
        request_id = self._submitter.request_id()
        self._unknown += len(specs)
        while positions:
            retry_after_ms = 0
            try:
                answer = await self._submitter.send([specs[at] for at in positions], request_id)
            except NotRunningError:
                raise
            except UnavailableError as error:  # its outcome is unknown: the same request again
                self._check_patience(error)
                retry_after_ms = error.retry_after_ms
            else:
                positions, retry_after_ms = self._take(answer, positions, start, ids)
            if positions:
                await asyncio.sleep(max(backoff_ms, min(retry_after_ms, _BACKOFF_MAX_MS)) / 1000)
                backoff_ms = min(backoff_ms * 2, _BACKOFF_MAX_MS)
        if self._keep_ids:
            self._ids[start] = ids

    def _take(
        self, answer: TasksSubmitted | Refusal, positions: list[int], start: int, ids: list[int]
    ) -> tuple[list[int], int]:
        """Count an answer. Returns: the positions to send again, and after how long."""
        if isinstance(answer, Refusal):
            if answer.retry_after_ms >= 0:
                self._check_patience(error_of(answer))
                return positions, answer.retry_after_ms
            for at in positions:
                self._refuse(TaskRefusal(start + at, answer.code, answer.text))
            self._done(len(positions))
            return [], 0
        again: list[int] = []
        for refusal in answer.refused:
            at = positions[refusal.position]
            if refusal.code in RETRYABLE:
                again.append(at)
            else:
                self._refuse(TaskRefusal(start + at, refusal.code, refusal.text, refusal.existing_id))
        accepted = len(positions) - len(answer.refused) - len(answer.existing)
        self._result.accepted += accepted
        self._result.existing += len(answer.existing)
        if self._keep_ids:
            for at, task_id in zip(positions, answer.ids, strict=True):
                ids[at] = task_id
        self._done(len(positions) - len(again))
        if again:
            self._check_patience(error_of_task(answer.refused[0]))
        return again, 0

    def _refuse(self, refusal: TaskRefusal) -> None:
        self._result.refused_count += 1
        if len(self._result.refused) < _REFUSED_KEPT:
            self._result.refused.append(refusal)

    def _done(self, count: int) -> None:
        if not count:
            return
        self._unknown -= count
        self._result.submitted += count
        self._moved_ns = self._clock.mono_ns()
        if self._progress is not None:
            self._progress(self._result.submitted)

    def _check_patience(self, error: FoliotError) -> None:
        """Raises: `error` if nothing was accepted for too long."""
        if (self._clock.mono_ns() - self._moved_ns) // 1_000_000 > self._patience_ms:
            raise error


async def _batches(specs: Iterable[Spec] | AsyncIterable[Spec], size: int) -> AsyncIterator[list[Spec]]:
    """Cut a stream into batches, by count and by bytes."""
    batch: list[Spec] = []
    room = _BATCH_BYTES
    if isinstance(specs, AsyncIterable):
        async for spec in specs:
            batch.append(spec)
            room -= len(spec.payload)
            if len(batch) >= size or room <= 0:
                yield batch
                batch, room = [], _BATCH_BYTES
    else:
        for spec in specs:
            batch.append(spec)
            room -= len(spec.payload)
            if len(batch) >= size or room <= 0:
                yield batch
                batch, room = [], _BATCH_BYTES
    if batch:
        yield batch
