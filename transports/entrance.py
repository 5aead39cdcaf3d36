"""Where tasks enter: admission by the tenant, the way to their shards, and the edge's own count of what was accepted.

A task with a dedupe key goes to the shard its key hashes to; the others of a batch go together to one shard: the one
the request id hashes to, so that a repetition meets the memory of the first time, or each in turn without one. The
count is the edge's third of the ledger: it takes from the answers alone what was accepted, so it says what clients were
promised, whatever the shards believe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..actors.addresses import shard_address, tenant_address
from ..actors.messages import AdmitTasks, SubmitTasks, TaskRefusal, TasksSubmitted
from ..runtime.bus import Bus, Refusal
from ..runtime.clock import Clock
from ..runtime.errors import DeadlineError, FoliotError, NoSuchActorError
from ..runtime.hashing import slot_of
from ..runtime.ids import time_of_ms
from ..runtime.rng import Rng
from .admission import EdgeLimits, check_batch, check_tasks

_MOVING_MS: Final = 50  # between two tries while a shard moves
_REMEMBERED: Final = 8_192  # request ids already counted; a client repeats within seconds


Misfit = Callable[[str, bytes], str | None]
"""Says what is wrong with a payload for the handler of that name, or None."""


@dataclass
class EdgeCount:
    """Of one tenant and queue, since the gateway began. `unsettled`: sent to a shard, outcome not known (yet)."""

    accepted: int = 0
    unsettled: int = 0


class Entrance:
    """The submitting half of a gateway."""

    def __init__(
        self, bus: Bus, clock: Clock, rng: Rng,
        *, shards: int, limits: EdgeLimits, since_ms: int, misfit: Misfit | None = None, is_shared: bool = False,
    ) -> None:  # fmt: skip
        """`is_shared`: there are other gateways, so a request may come to several of them."""
        self.counts: dict[tuple[str, str], EdgeCount] = {}
        self._bus = bus
        self._clock = clock
        self._shards = shards
        self._addresses = [shard_address(shard) for shard in range(shards)]
        self._limits = limits
        self._misfit = misfit
        self._is_shared = is_shared
        self._turn = rng.below(shards)
        self._since_ms = since_ms
        self._counted: dict[tuple[str, str], None] = {}  # tenants and their request ids, oldest first

    async def submit(self, request: SubmitTasks, *, timeout_ms: int) -> TasksSubmitted | Refusal:
        """Check, ask the tenant, send on. Raises: UsageError, DeadlineError with nothing done."""
        limits = self._limits
        check_batch(request, limits)
        counts, refused, is_keyed = check_tasks(request, now_ms=self._clock.now_ms(), limits=limits)
        if self._misfit is not None and not request.checked:
            refused = self._refuse_misfits(request, counts, refused, self._misfit)
        good = len(request.tasks) - len(refused)
        if not good:
            return TasksSubmitted(ids=[0] * len(refused), refused=refused)
        admitted = await self._bus.request(tenant_address(request.tenant), AdmitTasks(good), timeout_ms=timeout_ms)
        if isinstance(admitted, Refusal):
            return admitted
        if not refused and (self._shards == 1 or not is_keyed):
            shard = self._free_shard(request)
            part = request
            if request.request_id and self._shards > 1:  # named alike whether a batch is split or not
                request_id = f"{request.request_id}/{shard}"
                part = SubmitTasks(request.tenant, request.templates, request.tasks, request_id)
            answer = await self._send(shard, part, counts, timeout_ms=timeout_ms)
            if isinstance(answer, BaseException):
                raise answer
            return answer
        return await self._split(request, refused, timeout_ms=timeout_ms)

    @staticmethod
    def _refuse_misfits(
        request: SubmitTasks, counts: list[int], refused: list[TaskRefusal], misfit: Misfit
    ) -> list[TaskRefusal]:
        """Return the refusals, those of payloads that do not fit their handler's signature among them."""
        skip = {refusal.position for refusal in refused}
        found = list(refused)
        for position, spec in enumerate(request.tasks):
            if position in skip:
                continue
            problem = misfit(request.templates[spec.template].handler, spec.payload)
            if problem is not None:
                found.append(TaskRefusal(position, "payload", problem))
                counts[spec.template] -= 1
        found.sort(key=lambda refusal: refusal.position)
        return found

    def _free_shard(self, request: SubmitTasks) -> int:
        if request.request_id:
            return slot_of(request.request_id, self._shards)
        self._turn = (self._turn + 1) % self._shards
        return self._turn

    async def _split(self, request: SubmitTasks, refused: list[TaskRefusal], *, timeout_ms: int) -> TasksSubmitted | Refusal:
        """Send each shard its part and put the answers together by position."""
        skip = {refusal.position for refusal in refused}
        free = self._free_shard(request)
        parts: dict[int, list[int]] = {}
        tenant, shards = request.tenant, self._shards
        for position, spec in enumerate(request.tasks):
            if position in skip:
                continue
            shard = slot_of(f"{tenant}/{spec.dedupe_key}", shards) if spec.dedupe_key else free
            parts.setdefault(shard, []).append(position)
        sends = []
        for shard, positions in parts.items():
            tasks = [request.tasks[position] for position in positions]
            counts = [0] * len(request.templates)
            for spec in tasks:
                counts[spec.template] += 1
            request_id = f"{request.request_id}/{shard}" if request.request_id else ""
            part = SubmitTasks(tenant, request.templates, tasks, request_id)
            sends.append(self._send(shard, part, counts, timeout_ms=timeout_ms))
        answers = await asyncio.gather(*sends)
        if len(answers) == 1 and not refused:
            if isinstance(answers[0], BaseException):
                raise answers[0]
            return answers[0]
        return _merged(len(request.tasks), list(parts.values()), answers, refused)

    async def _send(
        self, shard: int, part: SubmitTasks, counts: list[int], *, timeout_ms: int
    ) -> TasksSubmitted | Refusal | FoliotError:
        """Send one shard its part, and count. Errors are returned, so that the other parts are waited for."""
        entries = [self._entry(part.tenant, template.queue) for template in part.templates]
        for entry, count in zip(entries, counts, strict=True):
            entry.unsettled += count
        try:
            answer = await self._ask(self._addresses[shard], part, timeout_ms=timeout_ms)
        except DeadlineError as error:
            return error  # the outcome is unknown: it stays unsettled
        except FoliotError as error:
            answer = Refusal.of(error)
        if self._is_shared and isinstance(answer, TasksSubmitted) and self._is_anothers(part, answer):
            return answer  # it stays unsettled here
        for entry, count in zip(entries, counts, strict=True):
            entry.unsettled -= count
        if isinstance(answer, Refusal):
            return answer
        assert isinstance(answer, TasksSubmitted), f"{type(answer).__name__} answered SubmitTasks"
        if self._is_first(part, answer):
            for position in (*answer.existing, *(refusal.position for refusal in answer.refused)):
                counts[part.tasks[position].template] -= 1
            for entry, count in zip(entries, counts, strict=True):
                entry.accepted += count
        return answer

    async def _ask(self, to: str, part: SubmitTasks, *, timeout_ms: int) -> Any:
        """Return the shard's answer. While the shard moves, two nodes may get the request, and one that has it no longer
        says so although the other has it; so a request that may be repeated is, until somebody who has the shard answers.

        Raises: DeadlineError.
        """
        left_ms = timeout_ms
        while True:
            started_ns = self._clock.mono_ns()
            answer = await self._bus.request(to, part, timeout_ms=left_ms)
            if not (isinstance(answer, Refusal) and answer.code == NoSuchActorError.code and part.request_id):
                return answer
            await asyncio.sleep(_MOVING_MS / 1000)
            left_ms -= (self._clock.mono_ns() - started_ns) // 1_000_000
            if left_ms <= 0:
                raise DeadlineError(f"{type(part).__name__} to {to}", timeout_ms)

    def _entry(self, tenant: str, queue: str) -> EdgeCount:
        entry = self.counts.get((tenant, queue))
        if entry is None:
            entry = self.counts[tenant, queue] = EdgeCount()
        return entry

    def _is_anothers(self, part: SubmitTasks, answer: TasksSubmitted) -> bool:
        """Tell whether it cannot be told which gateway let the tasks in first."""
        return answer.repeated and (part.tenant, part.request_id) not in self._counted

    def _is_first(self, part: SubmitTasks, answer: TasksSubmitted) -> bool:
        """Tell whether the answer's tasks are still to be counted: not if a repetition was answered as the first time,
        by this gateway or by one that lived before it."""
        if not part.request_id:
            return True
        request = (part.tenant, part.request_id)
        if request in self._counted:
            return False
        self._counted[request] = None
        if len(self._counted) > _REMEMBERED:
            del self._counted[next(iter(self._counted))]
        existing = set(answer.existing)
        fresh = next((task_id for at, task_id in enumerate(answer.ids) if task_id and at not in existing), 0)
        return not fresh or time_of_ms(fresh) >= self._since_ms


def _merged(
    count: int,
    parts: Sequence[list[int]],
    answers: Sequence[TasksSubmitted | Refusal | FoliotError],
    refused: list[TaskRefusal],
) -> TasksSubmitted | Refusal:
    """Return one answer by the positions of the whole batch; a part that was refused is refused task by task, unless
    nothing was done at all."""
    refusals = [answer if isinstance(answer, Refusal) else Refusal.of(answer) for answer in answers
                if not isinstance(answer, TasksSubmitted)]  # fmt: skip
    is_unknown = any(isinstance(answer, FoliotError) for answer in answers)
    if len(refusals) == len(answers) and not refused and not is_unknown:
        return refusals[0]
    ids = [0] * count
    existing: list[int] = []
    out = list(refused)
    for positions, answer in zip(parts, answers, strict=True):
        if not isinstance(answer, TasksSubmitted):
            refusal: Any = answer if isinstance(answer, Refusal) else Refusal.of(answer)
            out += [TaskRefusal(position, refusal.code, refusal.text) for position in positions]
            continue
        for position, task_id in zip(positions, answer.ids, strict=True):
            ids[position] = task_id
        existing += [positions[at] for at in answer.existing]
        out += [TaskRefusal(positions[at.position], at.code, at.text, at.existing_id) for at in answer.refused]
    existing.sort()
    out.sort(key=lambda refusal: refusal.position)
    return TasksSubmitted(ids=ids, existing=existing, refused=out)
