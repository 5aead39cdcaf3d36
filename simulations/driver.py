"""The client of a generated run: does the work of a case at its times, and tells observers what it was promised.

A submission that is not answered is repeated under its request id a few times, as clients do; what is then still unknown is
observed as unknown. Each entry of the work runs on its own, so one that waits does not hold up the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..actors.messages import (
    CancelTasks,
    Kind,
    QueueConfigured,
    RetryPolicy,
    RetryTasks,
    TasksAnswered,
    TaskSpec,
    TasksSubmitted,
    Template,
    TenantConfigured,
)
from ..actors.table import template_id_of
from ..runtime.bus import Refusal
from ..runtime.errors import UnavailableError
from ..sdk.client_spec import Spec
from ..sdk.client_submit import Submitter
from ..transports import api
from ..transports.repeats import RETRYABLE
from .acts import handler_of
from .broker_client import Poster
from .bus import SimBus
from .case import (
    Backfill,
    Cancel,
    CommandSchedule,
    Purge,
    PutSchedule,
    Retry,
    RollingRestart,
    Scale,
    SetCalendar,
    SetQueue,
    SetTenant,
    Submit,
    Work,
)
from .clerk import Clerk
from .client import SimChannel
from .history import Commanded, Configured, Submitted
from .process import Process

if TYPE_CHECKING:
    from .world import World

_TRIES: Final = 4
_TIMEOUT_MS: Final = 8_000
_BATCH: Final = 200
_INSIST: Final = 40
_SETTINGS: Final = ("concurrency", "paused", "max_waiting", "weight", "rate", "rate_per_ms", "max_pending")


class Driver:
    """One client process's work."""

    def __init__(self, process: Process, bus: SimBus, nodes: list[str]) -> None:
        self._process = process
        self._world: World = process.world
        self._channel = SimChannel(bus, nodes)
        self.clerk = Clerk(process, self._channel, self._world.options.start_ms)
        self._submitters: dict[str, Submitter] = {}
        self._poster = Poster(process) if self._world.broker is not None else None
        self._refs: dict[str, list[int]] = {}
        self._unanswered: dict[str, Callable[[], None]] = {}  # by request id: says that its outcome is unknown
        self._known: dict[str, None] = {}  # refs that were submitted or given up

    async def run(self, work: list[Work], start_ns: int) -> None:
        """Do all of it; returns when the last answer came."""
        loop = self._world.loop
        tasks = []
        for entry in work:
            wait_ns = start_ns + entry.at_ms * 1_000_000 - loop.now_ns
            tasks.append(asyncio.create_task(self._do(entry, max(wait_ns, 0) / 1e9), name=type(entry).__name__))
        for task in tasks:
            await task

    async def _do(self, entry: Work, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        doing: dict[type, Callable[[Any], Awaitable[object]]] = {
            Submit: self._submit, Cancel: self._cancel, Retry: self._retry, SetQueue: self._set_queue,
            SetTenant: self._set_tenant, Scale: self._scale, RollingRestart: self._rolling_restart, Purge: self._purge,
            PutSchedule: self.clerk.put, CommandSchedule: self.clerk.command, SetCalendar: self.clerk.calendar,
            Backfill: self.clerk.backfill,
        }  # fmt: skip
        self._world.count(f"work.{type(entry).__name__}")
        await doing[type(entry)](entry)

    # -- submitting --------------------------------------------------------------------------------------------------

    def _submitter(self, tenant: str) -> Submitter:
        submitter = self._submitters.get(tenant)
        if submitter is None:
            process = self._process
            submitter = self._submitters[tenant] = Submitter(
                self._channel, tenant, clock=process.clock, rng=process.rng.stream(f"client/{tenant}")
            )
        return submitter

    async def _submit(self, entry: Submit) -> None:
        specs = specs_of(entry, self._process.clock.now_ms())
        self._refs.setdefault(entry.ref, [])
        if entry.one_way:
            assert self._poster is not None, "the case has no broker"
            await self._poster.post(entry, specs)
            return
        for start in range(0, len(specs), _BATCH):
            await self._submit_part(entry, specs[start : start + _BATCH])
        self._known[entry.ref] = None

    async def _submit_part(self, entry: Submit, specs: list[Spec]) -> None:
        loop, process = self._world.loop, self._process
        submitter = self._submitter(entry.tenant)
        request_id = submitter.request_id()
        asked_ns = loop.now_ns
        kinds = [Kind(entry.tenant, template_id_of(entry.tenant, spec.template), spec.template) for spec in specs]
        tasks = [TaskSpec(0, spec.payload, spec.due_ms, spec.priority, spec.key, spec.dedupe_key) for spec in specs]

        def tell(outcome: str, ids: list[int], existing: list[bool]) -> None:
            del self._unanswered[request_id]
            self._world.observe(
                Submitted(loop.now_ns, asked_ns, process.name, entry.tenant, outcome, kinds, tasks, ids, existing)
            )

        self._unanswered[request_id] = lambda: tell("unknown", [0] * len(specs), [False] * len(specs))
        process.note("submit", ref=entry.ref, count=len(specs))
        answer: TasksSubmitted | Refusal | None = None
        is_unknown = False  # of an earlier copy: then a refusal says nothing
        for _ in range(_TRIES):
            try:
                answer = await submitter.send(specs, request_id, timeout_ms=_TIMEOUT_MS)
            except UnavailableError:
                answer, is_unknown = None, True
                continue
            if isinstance(answer, Refusal) and answer.retry_after_ms >= 0:
                await asyncio.sleep(max(answer.retry_after_ms, 50) / 1000)
                continue
            break
        ids = [0] * len(specs)
        existing = [False] * len(specs)
        outcome = "unknown" if answer is None or is_unknown else "refused"
        if isinstance(answer, TasksSubmitted):
            outcome = "ok"
            ids = list(answer.ids)
            for position in answer.existing:
                existing[position] = True
            self._refs[entry.ref] += [id for id in ids if id]
            if any(refusal.code == "deadline" or (is_unknown and refusal.code in RETRYABLE) for refusal in answer.refused):
                outcome = "unknown"  # of a part of it
        self._world.count(f"submit.{outcome}")
        process.note("submitted", ref=entry.ref, outcome=outcome, ids=[id for id in ids[:8] if id])
        tell(outcome, ids, existing)

    def give_up(self) -> None:
        """The process has died: nobody will hear what became of its submissions."""
        for tell_unknown in list(self._unanswered.values()):
            tell_unknown()
        if self._poster is not None:
            self._poster.give_up()

    # -- commands ----------------------------------------------------------------------------------------------------

    async def _cancel(self, entry: Cancel) -> None:
        await self._command("cancel", entry.ref, lambda tenant, ids: CancelTasks(tenant, ids, "no longer wanted"))

    async def _retry(self, entry: Retry) -> None:
        await self._command("retry", entry.ref, RetryTasks)

    async def _command(self, name: str, ref: str, make: Callable[[str, list[int]], Any]) -> None:
        loop = self._world.loop
        ids = list(self._refs.get(ref, ()))
        if not ids:
            return
        asked_ns = loop.now_ns
        try:
            answer = await self._channel.request(make(self._tenant_of(ref), ids), timeout_ms=_TIMEOUT_MS)
        except UnavailableError:
            answer = None
        words = answer.outcomes if isinstance(answer, TasksAnswered) else [""] * len(ids)
        if answer is not None and not isinstance(answer, TasksAnswered):
            outcome = "refused"
        else:
            outcome = "unknown" if answer is None else "ok"
        for id, word in zip(ids, words, strict=True):
            of_one = "unknown" if word == "unavailable" else outcome
            self._world.observe(
                Commanded(loop.now_ns, asked_ns, self._process.name, name, id, of_one, word if of_one == "ok" else "")
            )
            self._world.count(f"{name}.{word or of_one}")
        self._process.note("command", what=name, ref=ref, outcome=outcome, words=words[:8])

    def _tenant_of(self, ref: str) -> str:
        return self._world.tenants.get(ref, "acme")

    # -- settings ----------------------------------------------------------------------------------------------------

    async def _set_queue(self, entry: SetQueue) -> None:
        await self._configure(entry)

    async def _set_tenant(self, entry: SetTenant) -> None:
        await self._configure(entry)

    async def insist(self, entry: SetQueue | SetTenant) -> None:
        """Change settings, again and again until they are."""
        for _ in range(_INSIST):
            if await self._configure(entry):
                return
            await asyncio.sleep(0.5)

    async def _configure(self, entry: SetQueue | SetTenant) -> bool:
        loop = self._world.loop
        given = given_of(entry)
        message: Any
        if isinstance(entry, SetQueue):
            what, name, message = "queue", entry.queue, api.SetQueue(queue=entry.queue, pool="default", **given)
        else:
            what, name, message = "tenant", entry.tenant, api.SetTenant(tenant=entry.tenant, **given)
        asked_ns = loop.now_ns
        try:
            answer = await self._channel.request(message, timeout_ms=_TIMEOUT_MS)
            outcome = "ok" if isinstance(answer, QueueConfigured | TenantConfigured) else "refused"
        except UnavailableError:
            outcome = "unknown"
        limits = {field: int(value) for field, value in given.items()}
        self._process.note("configured", what=what, name=name, outcome=outcome, **limits)
        self._world.observe(Configured(loop.now_ns, asked_ns, self._process.name, what, name, outcome, limits))
        return outcome == "ok"

    # -- operating ---------------------------------------------------------------------------------------------------

    async def _scale(self, entry: Scale) -> None:
        if entry.up:
            self._world.start(entry.worker)
        else:
            self._world.stop(entry.worker)

    async def _rolling_restart(self, entry: RollingRestart) -> None:
        for name in [name for name in self._world.programs if name.startswith("n")]:
            self._world.stop(name, down_ns=500_000_000)
            await asyncio.sleep(entry.gap_ms / 1000)

    async def _purge(self, entry: Purge) -> None:
        nodes = self._world.running("n")
        if nodes and nodes[0].janitor is not None:
            self._world.loop.spawn(nodes[0].lane, nodes[0].janitor(entry.older_ms), name="purge")


def given_of(entry: SetQueue | SetTenant) -> dict[str, Any]:
    """Return the settings an entry changes."""
    return {name: getattr(entry, name) for name in _SETTINGS if getattr(entry, name, None) is not None}


def specs_of(entry: Submit, now_ms: int) -> list[Spec]:
    """Return what an entry submits."""
    template = Template(
        handler_of(entry.queue),
        queue=entry.queue,
        cost=entry.cost,
        max_attempts=entry.max_attempts,
        max_interruptions=entry.max_interruptions,
        retry=RetryPolicy(base_ms=entry.retry_base_ms, cap_ms=entry.retry_cap_ms, jitter=entry.jitter),
        timeout_ms=entry.timeout_ms,
        wait_timeout_ms=entry.wait_timeout_ms,
        total_timeout_ms=entry.total_timeout_ms,
        cancel_grace_ms=2_000,
        delivery=entry.delivery,
        require=tuple(entry.require),
        key_limit=entry.key_limit,
        dead_letter=entry.dead_letter,
        dedupe_window_ms=entry.dedupe_window_ms,
        on_conflict=entry.on_conflict,
    )
    filler = b"x" * entry.payload_bytes
    arguments = {"acts": entry.acts, "takes_ms": entry.takes_ms, "effects": entry.effects, "filler": filler}
    payload = msgspec.msgpack.encode(arguments)
    due_ms = now_ms + entry.delay_ms if entry.delay_ms else 0
    specs = []
    for number in range(entry.count):
        dedupe_key = entry.dedupe_key
        if dedupe_key and entry.count > 1:
            dedupe_key = f"{dedupe_key}-{number}"
        specs.append(Spec(template, payload, due_ms, entry.priority, entry.key, dedupe_key))
    return specs
