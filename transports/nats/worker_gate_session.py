"""One session of a worker of any language, as the node that registered it holds it.

The session's end of the bus: bodies come in as messages of shards and go out as pushes, in the worker's own format; credits,
signs of life and outcomes come in as requests and go out as messages of actors. What holds: a worker gets tasks of its own
tenant only; what cannot be handed over is reported as failed, and what is lost on the way is missing in the next heartbeats,
so the shard queues it again; an outcome is repeated until its shard took it, or its worker is told that nobody knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
from msgspec import Raw

from ...actors.addresses import queue_address, session_address, shard_address, worker_address
from ...actors.messages import (
    CancelAttempts,
    Heartbeat,
    HeldLeases,
    Outcome,
    OutcomeKind,
    OutcomesTaken,
    ReportOutcomes,
    RunTasks,
    SessionEnded,
    TaskError,
    TellHeld,
    WorkerCredits,
    WorkerLeft,
)
from ...runtime.bus import Bus, Envelope
from ...runtime.clock import Clock
from ...runtime.errors import DeadlineError, FoliotError, NotFoundError, UnavailableError
from ...runtime.hashing import slot_of
from ...runtime.ids import shard_of, to_text
from . import protocol as p
from .protocol_codec import Format, is_document
from .protocol_views import body_of, outcome_of

log = structlog.get_logger("foliot.transports.nats")

HEARTBEAT_MS: Final = 10_000
QUIET_BEATS: Final = 3  # heartbeats that tell a shard it is owed nothing, after the last lease of it


@dataclass(frozen=True)
class GateLimits:
    """The bounds of the sessions on one node."""

    max_sessions: int = 4_096
    max_of_tenant: int = 2_048
    max_queues_of_tenant: int = 1_024  # different ones, in all its sessions here
    max_reports: int = 64  # requests with outcomes under way, of one session
    max_unanswered: int = 65_536  # outcomes in them
    silent_ms: int = 60_000  # a worker not heard of for so long is forgotten here; its actor has ended it by then
    sweep_ms: int = 5_000
    report_ms: int = 1_000  # the first wait for a shard to take outcomes, doubling ...
    report_max_ms: int = 10_000  # ... up to this
    report_patience_ms: int = 25_000  # then the worker is told to repeat them
    open_pools: tuple[str, ...] = ()  # pools that workers of every tenant may serve; they still get only their own tasks


class SessionUnknownError(NotFoundError):
    """No such session here: it ended, or belongs to another node or tenant."""

    code = "session_unknown"

    def __init__(self, session: str) -> None:
        super().__init__(f"worker session {session[:120]!r} is not held by this node, expected one to be registered first")
        self.session = session


class ReportsFullError(UnavailableError):
    """The session has as many reports under way as it may have."""

    code = "overloaded"

    def __init__(self, session: str, reports: int, outcomes: int) -> None:
        super().__init__(
            f"session {session!r} has {reports} reports with {outcomes} outcomes under way, its bound; retry in 200 ms",
            retry_after_ms=200,
        )
        self.session = session


class Session:
    """`push`: sends bytes to the worker, and says whether they were taken. `ended`: called once, when it is over."""

    def __init__(
        self, tenant: str, name: str, form: Format, ask: p.Register, *, bus: Bus, clock: Clock, slots: int,
        limits: GateLimits, push: Callable[[Session, bytes], bool], encode: Callable[[Any], bytes],
        max_push: Callable[[], int], ended: Callable[[Session], None],
    ) -> None:  # fmt: skip
        """`slots`: of the cluster."""
        self.tenant = tenant
        self.name = name
        self.form: Format = form
        self.heard_ns = clock.mono_ns()
        self.is_over = False
        self._ask = ask
        self._bus = bus
        self._clock = clock
        self._slots = slots
        self._limits = limits
        self._push = push
        self._encode = encode
        self._max_push = max_push
        self._ended = ended
        self._address = session_address(name)
        self._worker = worker_address(name)
        self._started_ms = clock.now_ms()
        self.queues = [queue_address(at.pool or tenant, at.queue) for at in ask.queues]
        self._credits: dict[str, tuple[int, int]] = {}  # (free, seen) as last told, by queue
        self._recent: dict[int, int] = {}  # shard → heartbeats that still mention it
        self._reports = 0
        self._reporting: dict[int, list[Outcome]] = {}  # by number, what no shard has taken yet
        self._report_number = 0
        self._own: dict[asyncio.Task[None], None] = {}  # outcomes that are told in the worker's place
        self._alive = self._heartbeat(p.Beat(session=name))

    def begin(self) -> None:
        """Be found by shards, and registered as alive."""
        self._bus.bind(self._address, self)
        self._say_alive()

    def serves(self, queue: p.QueueCredit) -> bool:
        return queue_address(queue.pool or self.tenant, queue.queue) in self.queues

    # -- what the worker says ------------------------------------------------------------------------------------------

    def take_credits(self, queues: list[p.QueueCredit], *, refresh: bool) -> None:
        """Tell the queues what may come, as far as the session serves them."""
        self.heard_ns = self._clock.mono_ns()
        for told in queues:
            if self.serves(told):
                address = queue_address(told.pool or self.tenant, told.queue)
                self._credits[address] = (told.free, told.seen)
                self._tell_queue(address, refresh=refresh)

    def take_beat(self, beat: p.Beat, held: dict[int, int]) -> None:
        """`held`: attempts by task, as the worker lists them."""
        alive = self._alive
        if (len(beat.held), beat.done, beat.draining) != (alive.running, alive.done, alive.draining):
            self._alive = self._heartbeat(beat)
        self._say_alive()
        if held or self._recent or self._reporting:
            self._tell_shards(held)
        self.take_credits(beat.queues, refresh=True)

    def _tell_shards(self, held: dict[int, int]) -> None:
        """Tell each shard what the worker holds of it, and those that lately had something with it that it holds nothing."""
        by_shard: dict[int, dict[int, int]] = {shard: {} for shard in self._recent}
        for task_id, attempt in held.items():
            shard = shard_of(task_id)
            self._recent[shard] = QUIET_BEATS
            by_shard.setdefault(shard, {})[task_id] = attempt
        for outcomes in self._reporting.values():
            for outcome in outcomes:
                by_shard.setdefault(shard_of(outcome.id), {})[outcome.id] = outcome.attempt
        for shard, attempts in by_shard.items():
            if shard < self._slots:
                self._send(shard_address(shard), HeldLeases(self.name, list(attempts), list(attempts.values())))
        self._recent = {shard: left - 1 for shard, left in self._recent.items() if left > 1}

    async def report(self, told: list[p.OutcomeIn]) -> list[int]:
        """Have the shards take outcomes. Returns: positions that are stale.

        Raises: DeadlineError if a shard did not answer in time, ReportsFullError, InvalidIdError, DocumentError.
        """
        self.heard_ns = self._clock.mono_ns()
        under_way = sum(len(outcomes) for outcomes in self._reporting.values())
        limits = self._limits
        if self._reports >= limits.max_reports or under_way + len(told) > limits.max_unanswered:
            raise ReportsFullError(self.name, self._reports, under_way)
        now_ms = self._clock.now_ms()
        outcomes = [outcome_of(each, self.form, now_ms) for each in told]
        self._reports += 1
        try:
            return await self._report(outcomes)
        finally:
            self._reports -= 1

    async def _report(self, outcomes: list[Outcome]) -> list[int]:
        positions: dict[int, list[int]] = {}
        stale: list[int] = []
        for position, outcome in enumerate(outcomes):
            shard = shard_of(outcome.id)
            if 0 <= shard < self._slots:
                positions.setdefault(shard, []).append(position)
            else:
                stale.append(position)
        parts = [
            self._report_to(shard, [outcomes[at] for at in where], where) for shard, where in positions.items()
        ]  # fmt: skip
        for found in await asyncio.gather(*parts):
            stale += found
        return sorted(stale)

    async def _report_to(self, shard: int, outcomes: list[Outcome], where: list[int]) -> list[int]:
        """Repeat a report until the shard took it. What it took twice is stale the second time, so after a repetition
        nothing is called stale."""
        limits = self._limits
        self._report_number += 1
        number = self._report_number
        self._reporting[number] = outcomes
        message = ReportOutcomes(self.name, outcomes)
        wait_ms, left_ms = limits.report_ms, limits.report_patience_ms
        tries = 0
        try:
            while left_ms > 0 and not self.is_over:
                started_ns = self._clock.mono_ns()
                tries += 1
                try:
                    answer = await self._bus.request(shard_address(shard), message, timeout_ms=min(wait_ms, left_ms))
                except FoliotError:
                    answer = None
                if isinstance(answer, OutcomesTaken):
                    return [] if tries > 1 else [where[at] for at in answer.stale]
                passed_ms = (self._clock.mono_ns() - started_ns) // 1_000_000
                pause_ms = max(min(wait_ms, left_ms) - passed_ms, 0) if answer is not None else 0
                await asyncio.sleep(pause_ms / 1000)  # a refusal comes at once
                left_ms -= max(passed_ms + pause_ms, 1)
                wait_ms = min(wait_ms * 2, limits.report_max_ms)
            raise DeadlineError(f"a report to shard {shard}", limits.report_patience_ms)
        finally:
            self._reporting.pop(number, None)

    def leave(self) -> None:
        """The worker goes and holds nothing."""
        self._send(self._worker, WorkerLeft(self.name))
        self.close()

    # -- what shards say -----------------------------------------------------------------------------------------------

    def deliver(self, envelope: Envelope) -> None:
        """Take a message for the session."""
        message = envelope.message
        if isinstance(message, RunTasks):
            self._run(message)
        elif isinstance(message, CancelAttempts):
            attempts = [
                p.Held(id=to_text(id), attempt=attempt)
                for id, attempt in zip(message.ids, message.attempts, strict=False)
            ]  # fmt: skip
            self._tell(p.Push(kind="cancel", attempts=attempts, reason=message.reason))
        elif isinstance(message, TellHeld):
            self._recent[message.shard] = QUIET_BEATS
        elif isinstance(message, SessionEnded) and message.session == self.name:
            self._tell(p.Push(kind="ended", reason=message.reason))
            self.close()

    def slot_moved(self, slot: int) -> None:
        """The actors of a slot began anew somewhere: tell those that must know of this session."""
        if slot_of(self._worker, self._slots) == slot:
            self._say_alive()
        for address in self._credits:
            if slot_of(address, self._slots) == slot:
                self._tell_queue(address, refresh=True)

    def _run(self, message: RunTasks) -> None:
        self._recent[message.shard] = QUIET_BEATS
        bound = self._max_push() - 256  # for the frame around the bodies
        refused: list[Outcome] = []
        batch: list[Raw] = []
        size = 0
        for body in message.bodies:
            kind = message.kinds[body.kind]
            if kind.tenant != self.tenant:
                text = f"a worker of tenant {self.tenant!r} gets no tasks of other tenants, expected workers of its own"
                refused.append(self._failed(body.id, body.attempt, "ForeignTenantError", text))
                continue
            if not is_document(body.payload or b"\x80"):
                text = "the payload is no msgpack document, which workers of any language need"
                refused.append(self._failed(body.id, body.attempt, "PayloadError", text))
                continue
            data = self._encode(body_of(body, kind, self.form))
            if len(data) > bound:
                text = f"the task has {len(data)} bytes as the worker reads it, expected at most {bound}"
                refused.append(self._failed(body.id, body.attempt, "PayloadTooLargeError", text))
                continue
            if batch and size + len(data) + 1 > bound:
                self._tell_run(batch)
                batch, size = [], 0
            batch.append(Raw(data))
            size += len(data) + 1
        if batch:
            self._tell_run(batch)
        if refused:
            task = asyncio.get_running_loop().create_task(self._report_own(refused))
            self._own[task] = None
            task.add_done_callback(lambda done: self._own.pop(done, None))

    def _failed(self, id: int, attempt: int, kind: str, text: str) -> Outcome:
        now_ms = self._clock.now_ms()
        error = TaskError(kind, text)
        return Outcome(id, attempt, int(OutcomeKind.FAILED), now_ms, now_ms, error=error, fatal=True)

    async def _report_own(self, outcomes: list[Outcome]) -> None:
        try:
            await self._report(outcomes)
        except FoliotError as error:  # missing in heartbeats then, so the shard queues them again
            log.warning("outcomes_unanswered", session=self.name, outcomes=len(outcomes), error=str(error))

    def _tell_run(self, bodies: list[Raw]) -> None:
        self._push(self, self._encode({"kind": "run", "tasks": bodies}))

    def _tell(self, push: p.Push) -> None:
        self._push(self, self._encode(push))

    # -- what actors hear ----------------------------------------------------------------------------------------------

    def _say_alive(self) -> None:
        self._send(self._worker, self._alive)

    def _heartbeat(self, beat: p.Beat) -> Heartbeat:
        """Return the beat as its worker actor hears it."""
        ask = self._ask
        return Heartbeat(
            self.name, ask.name or self.name, ask.pid, ask.host, dict(ask.labels), self.queues, ask.slots, len(beat.held),
            beat.done, HEARTBEAT_MS, self._started_ms, beat.draining,
        )  # fmt: skip

    def _tell_queue(self, address: str, *, refresh: bool) -> None:
        free, seen = self._credits[address]
        self._send(address, WorkerCredits(self.name, dict(self._ask.labels), free, seen, refresh))

    def _send(self, to: str, message: msgspec.Struct) -> None:
        self._bus.send(Envelope(to, message, self._address))

    # -- its end -------------------------------------------------------------------------------------------------------

    def move(self) -> None:
        """This node goes: the worker may go on with the session at another one."""
        self._tell(p.Push(kind="moved", reason="this node stops"))
        self.close()

    def close(self) -> None:
        """Be found no more; the actors hear nothing of it."""
        if self.is_over:
            return
        self.is_over = True
        self._bus.unbind(self._address, self)
        for task in list(self._own):
            task.cancel()
        self._ended(self)
