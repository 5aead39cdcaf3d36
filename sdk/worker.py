"""The worker: a session that asks queues for work, runs it, and reports to the shards.

It is no actor but the process's own end of one: it listens at its session's address and answers in batches. What holds:
credits never exceed the free slots; a lease is reported or handed back; a session that was declared dead starts again
under another name, since nothing it holds counts any more.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import structlog

from ..actors.addresses import queue_address, session_address, worker_address
from ..actors.messages import (
    Body,
    CancelAttempts,
    Heartbeat,
    HeldLeases,
    Kind,
    Progress,
    ReportProgress,
    RunTasks,
    SessionEnded,
    TellHeld,
    WorkerCredits,
    WorkerLeft,
)
from ..actors.node_messages import Probe
from ..runtime.blocking import Blocking, SystemThreads
from ..runtime.bus import Bus, Envelope
from ..runtime.clock import Clock, Timer
from ..runtime.errors import UsageError
from ..runtime.hashing import slot_of
from ..runtime.membership import SLOTS, SlotClaimed
from ..runtime.rng import Rng
from . import capture
from .app import Foliot
from .attempt import OUTCOME_KINDS, Attempt, Route
from .credits import ACTIVE_MS as QUEUE_ACTIVE_MS
from .credits import QueueLine, hold_ms, share
from .handler import Handler
from .options import InvalidOptionError, count_option, name_option
from .processes import ProcessConfig
from .pulse import HeartbeatSender, LoopSender, Pulse, ThreadPulse
from .reports import BATCH, Reports
from .runner import Runner, RunnerConfig, ThreadsOf

log = structlog.get_logger("foliot.worker")

FLUSH_MS: Final = 2
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")
_QUIET_BEATS: Final = 3  # heartbeats that tell a shard it is owed nothing, after the last lease of it


class NoQueuesError(UsageError):
    """A worker without anything to serve."""

    code = "no_queues"

    def __init__(self, apps: Sequence[str]) -> None:
        super().__init__(f"apps {', '.join(apps) or '(none)'} have no handlers, expected at least one or queues=[...]")


@dataclass(frozen=True)
class WorkerConfig:
    """The bounds of a worker. Spans in milliseconds."""

    concurrency: int = 256  # slots
    threads: int = 32
    processes: ProcessConfig = field(default_factory=lambda: ProcessConfig(limit=os.cpu_count() or 1))
    heartbeat_interval_ms: int = 10_000
    drain_grace_ms: int = 30_000
    stop_grace_ms: int = 5_000  # after the drain's grace: for what was cancelled to end
    report_grace_ms: int = 10_000  # after that: for the last outcomes to be answered
    halt_report_ms: int = 500  # the same where the worker is stopped without a drain
    hold_ms: int = 5_000  # a lease that could not start for this long is handed back
    commands: int = 32  # shell commands at once
    unanswered_max: int = 65_536  # outcomes; beyond it no more work is asked for
    seen_max: int = 65_536  # attempts remembered to recognise one that comes twice
    routes_max: int = 4_096  # kinds of tasks
    output_interval_ms: int = 1_000
    progress_interval_ms: int = 250

    def __post_init__(self) -> None:
        for name in ("concurrency", "threads", "commands", "unanswered_max", "seen_max", "routes_max"):
            count_option(name, getattr(self, name), 1, 10_000_000, "worker")
        count_option("heartbeat_interval_ms", self.heartbeat_interval_ms, 1, 10**10, "worker")
        for name in ("drain_grace_ms", "stop_grace_ms", "report_grace_ms", "halt_report_ms", "hold_ms"):
            count_option(name, getattr(self, name), 0, 10**12, "worker")
        count_option("processes", self.processes.limit, 1, 10_000, "worker")


class Worker:
    """Runs the handlers of one or more apps. `run()` lives until it is cancelled or `drain()` has finished."""

    def __init__(
        self,
        apps: Foliot | Iterable[Foliot],
        *,
        bus: Bus,
        clock: Clock,
        rng: Rng,
        name: str = "",
        session: str = "",
        queues: Sequence[tuple[str, str]] | None = None,
        shards: int = 1,
        concurrency: int = 256,
        threads: int = 32,
        processes: int | ProcessConfig | None = None,
        labels: Mapping[str, str] | None = None,
        heartbeat_interval_ms: int = 10_000,
        drain_grace_ms: int = 30_000,
        config: WorkerConfig | None = None,
        blocking: Blocking | None = None,
        pulse: Pulse | None = None,
        heartbeats: HeartbeatSender | None = None,
        threads_of: ThreadsOf | None = None,
        commands: int = 32,
        host: str | None = None,
        pid: int | None = None,
    ) -> None:
        """`queues`: (pool, queue) pairs, by default all the apps name. `shards`: how many there are. `session`: its
        address, by default the name and some random digits. `config` replaces the single options. `pulse`, `heartbeats`:
        where heartbeats come from and how they leave, by default a thread, over `bus`. `threads_of`: what runs plain
        functions, by default threads. `commands`: shell commands at once. `host`, `pid`: what people see, by default
        this process's own.
        Raises: InvalidOptionError, NoQueuesError, DuplicateHandlerError.
        """
        if not isinstance(processes, ProcessConfig):
            processes = ProcessConfig(limit=processes or os.cpu_count() or 1)
        self.config = config or WorkerConfig(
            concurrency=concurrency,
            threads=threads,
            processes=processes,
            heartbeat_interval_ms=heartbeat_interval_ms,
            drain_grace_ms=drain_grace_ms,
            commands=commands,
        )
        self.apps = [apps] if isinstance(apps, Foliot) else list(apps)
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self.labels = {str(key): str(value) for key, value in (labels or {}).items()}
        self.draining = False
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._blocking = blocking or SystemThreads()
        self._pulse = pulse or ThreadPulse(self._blocking)
        self._sender = heartbeats
        self._threads_of = threads_of
        self._shards = shards
        self._handlers = _handlers_of(self.apps)
        self._lines = self._lines_of(queues)
        self._by_address = {line.address: line for line in self._lines}
        self._base_session = session or f"{_NO_NAME.sub('-', self.name)[:48]}-{rng.bits(40):010x}"
        self._sessions = 0
        self.session = self._base_session
        self._host = socket.gethostname() if host is None else host
        self._pid = os.getpid() if pid is None else pid
        self._started_ms = clock.now_ms()
        self._routes: dict[tuple[str, int], Route] = {}
        self._counts: dict[tuple[str, str], list[int]] = {}  # by tenant and queue, since routes are forgotten while they run
        self._seen: dict[int, int] = {}  # task id → highest attempt that came, in two generations
        self._seen_before: dict[int, int] = {}
        self._recent: dict[int, int] = {}  # shard → heartbeats that still mention it
        self._reports = Reports(bus, clock, rng, self._answered)
        self._runner: Runner | None = None
        self._out = 0  # outcomes since the last flush
        self._flush_soon = False
        self._flush_timer: Timer | None = None
        self._flushed_ns = 0
        self._held_back = False  # no work is asked for, since too many outcomes are unanswered
        self._tick: Timer | None = None
        self._output: dict[Attempt, None] = {}  # with output that was not sent
        self._output_timer: Timer | None = None
        self._told: dict[Attempt, None] = {}  # with progress that was not sent
        self._told_timer: Timer | None = None
        self._over = asyncio.Event()
        self._answer = asyncio.Event()
        self._drained = False
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled, or until a drain is over. When it returns nothing runs any more, abandoned threads
        excepted."""
        self._begin()
        try:
            await self._over.wait()
        finally:
            with anyio.CancelScope(shield=True):
                if not self._drained:
                    await self._drain(0, self.config.halt_report_ms)
                await self._end()
            self._over.set()  # whoever waits in drain() need not any more

    async def drain(self, grace_ms: int | None = None) -> None:
        """Finish within the grace: ask for nothing more, hand back what has not started, wait for the rest, interrupt
        what is left, say goodbye. `run()` then returns. Harmless when repeated; the first grace holds."""
        if self._runner is None:
            self._over.set()
            return
        if not self.draining:
            grace_ms = self.config.drain_grace_ms if grace_ms is None else grace_ms
            try:
                await self._drain(grace_ms, self.config.report_grace_ms)
                self._drained = True
            finally:  # a drain that was cancelled itself ends the worker at once
                self._over.set()
        await self._over.wait()

    def _begin(self) -> None:
        assert self._runner is None, "a worker runs once"
        loop = self._loop = asyncio.get_running_loop()
        config = self.config
        self._runner = Runner(
            RunnerConfig(config.concurrency, config.threads, config.processes, config.hold_ms, config.commands),
            clock=self._clock,
            loop=loop,
            blocking=self._blocking,
            ended=self._outcome_added,
            progress_told=self._progress_told,
            output_waits=self._output_waits,
            threads_of=self._threads_of,
        )
        capture.install()
        self._sender = self._sender or LoopSender(self._bus, loop)
        self._bus.bind(SLOTS, self)
        self._begin_session()
        self._pulse.start(config.heartbeat_interval_ms, self._beat)
        log.info("worker_started", worker=self.name, session=self.session, slots=config.concurrency,
                 queues=[line.address for line in self._lines])  # fmt: skip

    def _begin_session(self) -> None:
        self._sessions += 1
        if self._sessions > 1:
            self.session = f"{self._base_session}-{self._sessions}"
        self._started_ms = self._clock.now_ms()
        self._reports.begin_session(self.session)
        self._recent.clear()
        self._bus.bind(session_address(self.session), self)
        self._say(self.heartbeat())  # registers the session, so it goes first
        for line in self._lines:
            line.begin_session()
        self._send_credits(refresh=True)

    async def _drain(self, grace_ms: int, report_grace_ms: int) -> None:
        runner = self._require()
        self.draining = True
        log.info("worker_draining", worker=self.name, running=len(runner.running), grace_ms=grace_ms)
        self._send_credits()
        self._say(self.heartbeat())
        runner.return_waiting()
        await self._wait_empty(runner, grace_ms)
        if runner.running:
            runner.stop_all("draining", "the worker is going away")
            await self._wait_empty(runner, self.config.stop_grace_ms)
            runner.force_all()
            # Only child processes are left, and they are being killed.
            await self._wait_empty(runner, self.config.stop_grace_ms)
        self._flush()
        await self._wait_answers(report_grace_ms)
        if not self._reports.idle:
            log.warning("outcomes_unanswered", worker=self.name, outcomes=self._reports.pending)
        self._say(WorkerLeft(self.session))

    async def _end(self) -> None:
        self._pulse.stop()
        self._bus.unbind(session_address(self.session))
        self._bus.unbind(SLOTS, self)
        for timer in (self._flush_timer, self._tick, self._output_timer, self._told_timer):
            if timer is not None:
                timer.cancel()
        self._reports.close()
        await self._require().close()
        capture.uninstall()
        log.info("worker_stopped", worker=self.name, session=self.session, done=self._require().done)

    async def _wait_empty(self, runner: Runner, span_ms: int) -> None:
        if not runner.running:
            return
        timer = self._clock.call_at_ms(self._clock.now_ms() + span_ms, runner.empty.set)
        await runner.empty.wait()
        timer.cancel()
        if runner.running:
            runner.empty.clear()

    async def _wait_answers(self, span_ms: int) -> None:
        over = False

        def stop() -> None:
            nonlocal over
            over = True
            self._answer.set()

        timer = self._clock.call_at_ms(self._clock.now_ms() + span_ms, stop)
        while not over and not self._reports.idle:
            self._answer.clear()
            await self._answer.wait()
        timer.cancel()

    # -- what comes in -------------------------------------------------------------------------------------------------

    def deliver(self, envelope: Envelope) -> None:
        """Take a message for the session."""
        message = envelope.message
        if type(message) is RunTasks:
            self._run_tasks(message)
        elif envelope.request:
            self._reports.take(envelope.request, message)
        elif isinstance(message, CancelAttempts):
            self._cancel(message)
        elif isinstance(message, SessionEnded):
            self._session_ended(message)
        elif isinstance(message, SlotClaimed):
            self._actors_moved(message.slot)
        elif isinstance(message, TellHeld):
            self._recent[message.shard] = _QUIET_BEATS
        elif not isinstance(message, Probe):
            log.warning("unexpected_message", message=type(message).__name__, sender=envelope.sender)

    def _run_tasks(self, message: RunTasks) -> None:
        runner = self._require()
        capture.ensure()
        now_ms = self._clock.now_ms()
        routes = [self._route(kind) for kind in message.kinds]
        seen, before = self._seen, self._seen_before
        fresh: list[tuple[Route, Body]] = []
        woken = False
        for body in message.bodies:
            number = body.id
            if seen.get(number, 0) >= body.attempt or before.get(number, 0) >= body.attempt:
                continue  # it came before
            seen[number] = body.attempt
            route = routes[body.kind]
            line = route.line
            if line is not None:
                line.seen += route.cost
                line.free -= route.cost
                if line.active_until_ms <= now_ms:
                    woken = True
                line.active_until_ms = now_ms + QUEUE_ACTIVE_MS
            fresh.append((route, body))
        if len(seen) >= self.config.seen_max:
            self._seen_before, self._seen = seen, {}
        self._recent[message.shard] = _QUIET_BEATS
        runner.take(fresh, self._reports.lane(message.shard), draining=self.draining)
        if woken and len(self._lines) > 1:
            self._soon()  # a queue that was idle gets a larger share

    def _cancel(self, message: CancelAttempts) -> None:
        runner = self._require()
        reason = message.reason if message.reason in ("cancelled", "lease_lost", "timed_out") else "cancelled"
        for number, attempt in zip(message.ids, message.attempts, strict=True):
            running = runner.running.get(number)
            if running is not None and running.body.attempt == attempt:
                runner.stop(running, reason, f"the scheduler asked for it: {reason}")

    def _session_ended(self, message: SessionEnded) -> None:
        """Declared dead, or forgotten: nothing this session holds counts any more, so begin another."""
        if message.session != self.session or self.draining:
            return
        log.error("session_ended", worker=self.name, session=self.session, reason=message.reason)
        self._bus.unbind(session_address(self.session))
        runner = self._require()
        self._out = 0
        runner.stop_all("lease_lost", f"the session ended: {message.reason}")
        self._begin_session()

    def _actors_moved(self, slot: int) -> None:
        """The actors of a slot began anew somewhere: tell those that must know of this session."""
        if self.draining or self._over.is_set():
            return
        if slot_of(worker_address(self.session), self._shards) == slot:
            self._say(self.heartbeat())
        lines = [line for line in self._lines if slot_of(line.address, self._shards) == slot]
        if lines:
            for line in lines:
                line.sent = -1
            self._send_credits()

    def _route(self, kind: Kind) -> Route:
        key = (kind.tenant, kind.template_id)
        route = self._routes.get(key)
        if route is None:
            if len(self._routes) >= self.config.routes_max:
                self._routes.clear()
            template = kind.template
            line = self._by_address.get(queue_address(template.pool, template.queue))
            counts = self._counts.setdefault((kind.tenant, template.queue), [0] * OUTCOME_KINDS)
            route = self._routes[key] = Route(kind, self._handlers.get(template.handler), line, counts)
        return route

    # -- what goes out -------------------------------------------------------------------------------------------------

    def _outcome_added(self) -> None:
        """Flush at once when nothing else is going on, else in batches."""
        self._out += 1
        if self._out >= BATCH:
            self._flush()
        elif not self._flush_soon:
            self._soon()

    def _soon(self) -> None:
        if not self._flush_soon and self._loop is not None:
            self._flush_soon = True
            self._loop.call_soon(self._maybe_flush)

    def _maybe_flush(self) -> None:
        """Flush unless it was done just now; then let what still comes in gather, for 2 ms at most."""
        if not self._flush_soon:  # flushed meanwhile
            return
        since_ns = self._clock.mono_ns() - self._flushed_ns
        if not self._require().running or since_ns >= FLUSH_MS * 1_000_000:
            self._flush()
        elif self._flush_timer is None:
            self._flush_timer = self._clock.call_at_ms(self._clock.now_ms() + FLUSH_MS, self._flush)

    def _flush(self) -> None:
        """Send outcomes, with what belongs to them, and the credits they set free."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._flush_soon = False
        self._out = 0
        self._flushed_ns = self._clock.mono_ns()
        self._reports.flush()
        self._send_credits()

    def _answered(self) -> None:
        self._answer.set()
        if self._held_back and self._reports.pending <= self.config.unanswered_max // 2:
            self._send_credits()

    def _send_credits(self, *, refresh: bool = False) -> None:
        runner = self._require()
        lines = self._lines
        now_ms = self._clock.now_ms()
        free = runner.config.slots - runner.used
        self._held_back = self._reports.pending >= self.config.unanswered_max
        if self.draining or self._held_back:
            free = 0
        share(free, lines, [runner.room(line.needs, line.cost) for line in lines], now_ms, slots=runner.config.slots)
        address = session_address(self.session)
        for line in lines:
            limit = line.free + line.seen
            if refresh or limit != line.sent:
                line.sent = limit
                message = WorkerCredits(self.session, self.labels, line.free, line.seen, refresh)
                self._bus.send(Envelope(line.address, message, address))
        if len(lines) > 1 and self._tick is None and free > 0:
            span_ms = hold_ms(free, lines, now_ms)
            if span_ms:
                self._tick = self._clock.call_at_ms(now_ms + span_ms, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        self._send_credits()

    # -- signs of life -------------------------------------------------------------------------------------------------

    def heartbeat(self) -> Heartbeat:
        """Return how the worker stands. From any thread."""
        runner = self._require()
        return Heartbeat(
            session=self.session,
            worker=self.name,
            pid=self._pid,
            host=self._host,
            labels=self.labels,
            queues=[line.address for line in self._lines],
            slots=runner.config.slots,
            running=len(runner.running),
            done=runner.done,
            interval_ms=self.config.heartbeat_interval_ms,
            started_ms=self._started_ms,
            draining=self.draining,
        )

    def _beat(self) -> None:
        """On the pulse's thread: the heartbeat leaves from here, what needs the loop follows when the loop can."""
        assert self._sender is not None
        self._sender.send(self.heartbeat())
        self._require().on_loop(self._renew)

    def renew(self) -> None:
        """Say at once what the next heartbeat would: the way to the others was interrupted, and what was said is lost. On
        the loop; harmless while the worker does not run."""
        if self._runner is not None and not self._over.is_set():
            self._recent = dict.fromkeys(range(self._shards), _QUIET_BEATS)  # any of them may have leased in vain
            self._say(self.heartbeat())
            self._renew()

    def _say(self, message: Heartbeat | WorkerLeft) -> None:
        """Tell the actor that watches the session; on the loop."""
        self._bus.send(Envelope(worker_address(self.session), message, session_address(self.session)))

    def _renew(self) -> None:
        """Tell queues and shards what this session has, so that whatever was lost on the way is repaired."""
        if self._over.is_set():
            return
        runner = self._require()
        held: dict[int, tuple[list[int], list[int]]] = {shard: ([], []) for shard in self._recent}
        for attempt in runner.running.values():
            self._recent[attempt.lane.shard] = _QUIET_BEATS
            ids, attempts = held.setdefault(attempt.lane.shard, ([], []))
            ids.append(attempt.body.id)
            attempts.append(attempt.body.attempt)
        for shard, outcome in self._reports.unreported():
            ids, attempts = held.setdefault(shard, ([], []))
            ids.append(outcome.id)
            attempts.append(outcome.attempt)
        address = session_address(self.session)
        for shard, (ids, attempts) in held.items():
            message = HeldLeases(self.session, ids, attempts)
            self._bus.send(Envelope(self._reports.lane(shard).address, message, address))
        self._recent = {shard: left - 1 for shard, left in self._recent.items() if left > 1}
        self._send_credits(refresh=True)

    # -- output and progress -------------------------------------------------------------------------------------------

    def _output_waits(self, attempt: Attempt, full: bool) -> None:
        self._output[attempt] = None
        if full:
            self._send_output()
        elif self._output_timer is None:
            self._output_timer = self._clock.call_at_ms(
                self._clock.now_ms() + self.config.output_interval_ms, self._send_output
            )

    def _send_output(self) -> None:
        if self._output_timer is not None:
            self._output_timer.cancel()
            self._output_timer = None
        waiting, self._output = self._output, {}
        for attempt in waiting:
            self._require().take_output(attempt)
        self._reports.flush_output()

    def _progress_told(self, attempt: Attempt) -> None:
        self._told[attempt] = None
        if self._told_timer is None:
            self._told_timer = self._clock.call_at_ms(
                self._clock.now_ms() + self.config.progress_interval_ms, self._send_progress
            )

    def _send_progress(self) -> None:
        self._told_timer = None
        waiting, self._told = self._told, {}
        by_lane: dict[str, list[Progress]] = {}
        for attempt in waiting:
            progress = attempt.progress
            if progress is None or self._require().running.get(attempt.body.id) is not attempt:
                continue  # it ended, and its last progress went with the outcome
            if progress.checkpoint is attempt.sent_checkpoint:
                progress = Progress(progress.id, progress.attempt, progress.permille, progress.note)
            else:
                attempt.sent_checkpoint = progress.checkpoint
            by_lane.setdefault(attempt.lane.address, []).append(progress)
        for address, items in by_lane.items():
            for start in range(0, len(items), BATCH):
                message = ReportProgress(self.session, items[start : start + BATCH])
                self._bus.send(Envelope(address, message, session_address(self.session)))

    # -- figures -------------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> dict[tuple[str, str, int], int]:
        """How many attempts ended here, by (tenant, queue, OutcomeKind as number)."""
        return {
            (tenant, queue, kind): count
            for (tenant, queue), counts in self._counts.items()
            for kind, count in enumerate(counts, start=1)
            if count
        }

    @property
    def running(self) -> int:
        """Leases held now."""
        return len(self._runner.running) if self._runner is not None else 0

    def _require(self) -> Runner:
        assert self._runner is not None
        return self._runner

    def _lines_of(self, queues: Sequence[tuple[str, str]] | None) -> list[QueueLine]:
        pairs = list(queues) if queues is not None else [pair for app in self.apps for pair in app.queues()]
        if not pairs:
            raise NoQueuesError([app.name for app in self.apps])
        lines: list[QueueLine] = []
        for pool, queue in dict.fromkeys(pairs):
            name_option("pool", pool, "worker")
            name_option("queue", queue, "worker")
            served = [
                handler
                for handler in self._handlers.values()
                if (handler.template.pool, handler.template.queue) == (pool, queue)
            ]
            needs = frozenset(handler.mode for handler in served) or frozenset({"async"})
            cost = max((handler.template.cost for handler in served), default=1)
            lines.append(QueueLine(queue_address(pool, queue), needs, cost))
        return lines


def _handlers_of(apps: Sequence[Foliot]) -> dict[str, Handler[..., Any]]:
    handlers: dict[str, Handler[..., Any]] = {}
    for app in apps:
        for name, handler in app.handlers.items():
            if name in handlers:
                raise InvalidOptionError("apps", name, "apps whose handlers have different names", where="worker")
            handlers[name] = handler
    return handlers
