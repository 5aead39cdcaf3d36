"""Submitting: single tasks of one moment travel together, and a million go by in bounded memory.

Calls of `submit` made before the event loop comes round again are sent as one batch, so many callers at once cost
little more than one. Where such a batch is refused as a whole, each task is tried alone, so that nobody pays for a
neighbour.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Final

import msgspec

from ..actors.messages import SubmitTasks, TaskRefusal, TasksSubmitted
from ..runtime.bus import Refusal
from ..runtime.clock import Clock
from ..runtime.errors import FoliotError
from ..runtime.rng import Rng
from .bulk import BATCH_BYTES, Bulk
from .channel import Channel
from .client_spec import Spec, assemble
from .errors import error_of, error_of_task

SUBMIT_TIMEOUT_MS: Final = 30_000
_TOGETHER_MAX: Final = 256  # single tasks in one message, unless they have more bytes than one takes


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
            if at > start and (at - start >= _TOGETHER_MAX or size > BATCH_BYTES):
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
        return await _BulkSubmission(self, self._clock, progress, keep_ids, patience_ms).run(specs, batch, in_flight)


def _fail(future: asyncio.Future[tuple[int, bool]], error: FoliotError) -> None:
    if not future.done():
        future.set_exception(error)


class _BulkSubmission(Bulk[Spec]):
    """One bulk submission under way.

    All repetitions of a part carry one request id: a shard's share is sent again whole or not at all, so a shard that has
    it already answers as the first time."""

    name = "specs"
    expected = "an iterable of specs, such as (client.spec(...) for ...)"

    def __init__(
        self, submitter: Submitter, clock: Clock, progress: Callable[[int], object] | None, keep_ids: bool, patience_ms: int
    ) -> None:  # fmt: skip
        super().__init__(clock, progress, patience_ms)
        self._submitter = submitter
        self._keep_ids = keep_ids
        self._result = BulkResult()
        self._ids: dict[int, list[int]] = {}  # by the position of a part's first task

    async def run(self, specs: Iterable[Spec] | AsyncIterable[Spec], batch: int, in_flight: int) -> BulkResult:
        await self.send_all(specs, batch, in_flight)
        result = self._result
        result.submitted, result.refused_count, result.refused = self.decided, self.refused_count, self.refused
        if self._keep_ids:
            result.ids = [0] * self.decided
            for start, ids in self._ids.items():
                result.ids[start : start + len(ids)] = ids
        return result

    def size_of(self, item: Spec) -> int:
        return len(item.payload)

    def sender(self) -> Callable[[list[Spec]], Awaitable[TasksSubmitted | Refusal]]:
        request_id = self._submitter.request_id()

        async def send(specs: list[Spec]) -> TasksSubmitted | Refusal:
            return await self._submitter.send(specs, request_id)

        return send

    def take(self, answer: TasksSubmitted, positions: list[int], start: int, size: int) -> None:
        self._result.accepted += len(positions) - len(answer.refused) - len(answer.existing)
        self._result.existing += len(answer.existing)
        if self._keep_ids:
            ids = self._ids.setdefault(start, [0] * size)
            for at, task_id in zip(positions, answer.ids, strict=True):
                ids[at] = task_id

    def taken(self) -> int:
        return self._result.accepted
