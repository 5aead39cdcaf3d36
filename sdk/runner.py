"""Running attempts: on the event loop, in threads, in child processes; stopping them in time, and saying how they ended.

The runner owns the slots and everything that runs. What holds: every attempt it takes is reported exactly once, unless
its lease is void; a slot is free again only when what ran in it is really over.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from ..actors.messages import Body, LogChunk, Outcome, OutcomeKind, TaskError
from ..runtime.blocking import Blocking
from ..runtime.clock import Clock
from .attempt import Attempt, Route
from .capture import current
from .context import Context
from .deadlines import Bucket, Deadlines
from .executors import ThreadLanes, Threads
from .failure import Failure, describe, is_fatal, with_notes
from .frames import AttemptDone
from .processes import ProcessConfig, ProcessPool
from .reports import Lane
from .trouble import Trouble

log = structlog.get_logger("foliot.worker")

COMPLETED: Final = int(OutcomeKind.COMPLETED)
_SHORT_MS: Final = 50  # attempts shorter than this are worth holding ready behind a busy thread or process
_COMMANDS_S: Final = 5.0  # for commands that were killed to be gone
_NUDGE_MS: Final = 5_000  # a coroutine that ignored its cancellation is cancelled again this often
_KIND_OF_STOP: Final = {
    "cancelled": OutcomeKind.CANCELLED, "timed_out": OutcomeKind.TIMED_OUT, "draining": OutcomeKind.INTERRUPTED,
}  # fmt: skip


@dataclass(frozen=True)
class RunnerConfig:
    """The bounds of one worker's work."""

    slots: int = 256
    threads: int = 32
    processes: ProcessConfig = field(default_factory=ProcessConfig)
    hold_ms: int = 5_000  # a lease that could not start for this long is handed back
    commands: int = 32


ThreadsOf = Callable[[int, Callable[[Attempt], Any], Callable[[Attempt, Any], None]], Threads[Attempt]]
"""Makes what runs plain functions: (limit, work, done), see `executors.ThreadLanes`."""


class TaskTimeoutError(TimeoutError):
    """The attempt took too long, or its handler gave no sign of life. What a retry policy can name."""


class Runner:
    """All attempts of one worker. Lives on one event loop."""

    def __init__(
        self,
        config: RunnerConfig,
        *,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        blocking: Blocking,
        ended: Callable[[], None],
        progress_told: Callable[[Attempt], None],
        output_waits: Callable[[Attempt, bool], None],
        threads_of: ThreadsOf | None = None,
    ) -> None:
        """`ended`: called whenever an outcome was put into its lane or slots became free. `progress_told`,
        `output_waits(attempt, full)`: called on the loop."""
        self.config = config
        self.clock = clock
        self.progress_told = progress_told
        self.output_waits = output_waits
        self._trouble = Trouble()
        self.running: dict[int, Attempt] = {}  # leases by task id: not started, running, and not reported
        self.used = 0  # slots of all leases, given up ones included until they are over
        self.busy = 0  # of these, slots of what has started
        self.done = 0  # attempts that ended
        self.deadlines: Deadlines[Attempt] = Deadlines(clock, self._due)
        self.threads: Threads[Attempt] = (
            threads_of(config.threads, self._work, self._thread_done) if threads_of is not None
            else ThreadLanes(config.threads, blocking, loop, work=self._work, done=self._thread_done)
        )  # fmt: skip
        self.processes = ProcessPool(config.processes, clock, self._process_freed)
        self.empty = asyncio.Event()  # of leases: what was given up does not count
        self.empty.set()
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._ended = ended
        self._waiting: dict[str, deque[Attempt]] = {
            "async": deque(), "thread": deque(), "process": deque(), "command": deque(),
        }  # fmt: skip
        self._commands: dict[Attempt, None] = {}  # those that run shell commands, given up ones included
        self._waiting_count = 0
        self._usual_ms = {"thread": 0.0, "process": 0.0}  # how long attempts take, smoothed
        self._base = contextvars.copy_context()
        self._base.run(current.set, None)

    # -- taking leases -------------------------------------------------------------------------------------------------

    def take(self, bodies: list[tuple[Route, Body]], lane: Lane, *, draining: bool) -> None:
        """Take leases over: start them, let a few wait, hand back the rest."""
        create_task, base, running = self._loop.create_task, self._base, self.running
        slots, waiting = self.config.slots, self._waiting["async"]
        now_ms = self.deadlines.now_ms()
        last: Route | None = None
        bucket: Bucket[Attempt] | None = None
        number = 0
        for route, body in bodies:
            attempt = Attempt(self, route, body, lane)
            before = running.get(body.id)
            if before is not None:  # an earlier attempt at the same task, whose lease must have been void
                self.stop(before, "lease_lost", "a newer attempt was leased")
            if not running:
                self.empty.clear()
            running[body.id] = attempt
            self.used += route.cost
            if route.line is not None:
                route.line.held += route.cost
            if route.mode == "async" and self.busy + route.cost <= slots and not draining and not waiting:
                self.busy += route.cost
                if route.plain_deadline and not body.deadline_ms:
                    if route is not last:
                        last = route
                        number, bucket = self.deadlines.bucket(now_ms, route.timeout_ms) if route.timeout_ms else (0, None)
                    if bucket is not None:
                        bucket[attempt] = number
                        attempt.bucket = bucket
                else:
                    self._watch(attempt, now_ms)
                attempt.task = create_task(self._run(attempt), context=base.copy())
            elif draining:
                self._report(attempt, OutcomeKind.RETURNED)
                self._close(attempt, started=False)
            else:
                self._wait_or_return(attempt, now_ms)
        self._start_waiting()

    def room(self, needs: frozenset[str], cost: int) -> int:
        """Return how many slots a queue could use whose handlers need these executors, by what waits for them."""
        free = self.config.slots - self.used
        if needs == {"async"}:
            return free
        rooms = {"thread": self.threads.free, "process": self.processes.free, "command": self._command_room()}
        limits = {"thread": self.config.threads, "process": self.config.processes.limit}
        total = 0
        for need in sorted(needs - {"async"}):
            room = rooms[need] - len(self._waiting[need])
            if self._usual_ms.get(need, _SHORT_MS) < _SHORT_MS:
                room += limits[need]
            total += max(room, 0)
        if "async" in needs:
            return free if total else 0
        return min(free, total * cost)

    def _wait_or_return(self, attempt: Attempt, now_ms: int) -> None:
        mode = attempt.route.mode
        if mode == "unknown":
            name = attempt.route.template.handler
            text = f"handler {name!r} is unknown to this worker, expected a worker whose app defines it"
            self._report(attempt, OutcomeKind.FAILED, error=TaskError("UnknownTaskError", text))
            self._close(attempt, started=False)
            return
        bound = {"async": self.config.slots // 4 + 1, "thread": self.config.threads * 2,
                 "process": self.config.processes.limit * 2, "command": self.config.commands * 2}[mode]  # fmt: skip
        if len(self._waiting[mode]) >= bound or attempt.route.cost > self.config.slots:
            self._report(attempt, OutcomeKind.RETURNED)
            self._close(attempt, started=False)
            return
        self._waiting[mode].append(attempt)
        self._waiting_count += 1
        attempt.bucket = self.deadlines.add(attempt, now_ms, self.config.hold_ms)

    def _start_waiting(self) -> None:
        if not self._waiting_count:
            return
        for mode, waiting in self._waiting.items():
            while waiting:
                attempt = waiting[0]
                if self.busy + attempt.route.cost > self.config.slots:
                    break
                if (mode == "thread" and self.threads.free <= 0) or (mode == "process" and self.processes.free <= 0):
                    break
                if mode == "command" and self._command_room() <= 0:
                    break
                waiting.popleft()
                self._waiting_count -= 1
                self._forget_deadline(attempt)
                self.busy += attempt.route.cost
                if mode in ("async", "command"):
                    if mode == "command":
                        self._commands[attempt] = None
                    self._watch(attempt, self.deadlines.now_ms())
                    attempt.task = self._loop.create_task(self._run(attempt), context=self._base.copy())
                elif mode == "thread":
                    attempt.started_ms = self.clock.now_ms()
                    self._watch(attempt, self.deadlines.now_ms())
                    self.threads.start(attempt)
                else:
                    self.processes.start(attempt)

    def _command_room(self) -> int:
        return self.config.commands - len(self._commands)

    def _is_waiting(self, attempt: Attempt) -> bool:
        return self._waiting_count > 0 and attempt in self._waiting.get(attempt.route.mode, ())

    # -- on the event loop ---------------------------------------------------------------------------------------------

    async def _run(self, attempt: Attempt) -> None:
        """The one task of an attempt on the loop. Short, since it is most of what a small task costs."""
        current.set(attempt)
        clock_ms = self.clock.now_ms
        attempt.started_ms = clock_ms()
        route = attempt.route
        body = attempt.body
        if attempt.stop:
            self._never_began(attempt)
            return
        try:
            if route.takes_context:
                result = await route.call(body.payload, Context(attempt))
            else:
                result = await route.call(body.payload)
            data = b"" if result is None else route.encode_result(result)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and not _is_current(attempt.task):
                raise  # the loop is gone and its coroutines are being closed; else it is the handler's own
            attempt.heard = bool(attempt.stop)
            self._raised(attempt, error)
            if isinstance(error, KeyboardInterrupt):
                raise
            return
        if attempt.stop:
            attempt.heard = True
            self._returned(attempt, data)
            return
        attempt.lane.outcomes.append(
            Outcome(body.id, body.attempt, COMPLETED, attempt.started_ms, clock_ms(), data)
        )  # fmt: skip
        route.counts[COMPLETED - 1] += 1
        if attempt.output_capture is not None or attempt.progress is not None:
            self._flush_output(attempt)
        self._release(attempt)
        self._ended()

    # -- in threads ----------------------------------------------------------------------------------------------------

    def _work(self, attempt: Attempt) -> tuple[bytes, Failure | None]:
        """Run the handler; on its thread."""
        return self._base.copy().run(self._call, attempt)

    def _call(self, attempt: Attempt) -> tuple[bytes, Failure | None]:
        current.set(attempt)
        route = attempt.route
        handler = route.handler
        assert handler is not None
        try:
            context = (Context(attempt),) if route.takes_context else ()
            if handler.is_coroutine:
                result = asyncio.run(_in_own_loop(attempt, context))
            else:
                result = route.call(attempt.body.payload, *context)
            return route.encode_result(result), None
        except BaseException as error:  # SystemExit as well: it would only end the thread
            return b"", describe(error, route.template.retry, handler.retry_classes)

    def _thread_done(self, attempt: Attempt, value: tuple[bytes, Failure | None]) -> None:
        data, failure = value
        self._learn("thread", attempt)
        self._over(attempt, data, failure)

    # -- in child processes --------------------------------------------------------------------------------------------

    def process_began(self, attempt: Attempt) -> None:
        attempt.started_ms = self.clock.now_ms()
        self._watch(attempt, self.deadlines.now_ms())

    def process_done(self, attempt: Attempt, frame: AttemptDone) -> None:
        attempt.heard = frame.heard_stop
        failure = Failure(frame.error, frame.fatal, frame.retry_after_ms) if frame.error is not None else None
        self._learn("process", attempt)
        self._over(attempt, frame.result, failure)

    def process_died(self, attempt: Attempt, how: str, tail: bytes) -> None:
        if attempt.stop:
            self._report_stopped(attempt, killed=True)
        else:
            route = attempt.route
            error = TaskError("ProcessDiedError", f"the child process {how}", tail.decode("utf-8", "replace"))
            attempt.started_ms = attempt.started_ms or self.clock.now_ms()
            policy = route.template.retry
            classes = route.handler.retry_classes if route.handler is not None else {}
            fatal = is_fatal(ProcessDiedError, policy, classes)
            self._report(attempt, OutcomeKind.FAILED, error=error, fatal=fatal)
        self._close(attempt)

    def _process_freed(self) -> None:
        self._start_waiting()
        self._ended()  # credits may have changed

    # -- how attempts end ----------------------------------------------------------------------------------------------

    def _over(self, attempt: Attempt, data: bytes, failure: Failure | None) -> None:
        """A thread or child process is done with it."""
        if attempt.given_up:
            pass
        elif attempt.stop and attempt.heard:
            self._report_stopped(attempt)
        elif failure is not None:
            self._report(
                attempt, OutcomeKind.FAILED, error=failure.error, fatal=failure.fatal, retry_after_ms=failure.retry_after_ms
            )
        else:
            self._report(attempt, OutcomeKind.COMPLETED, result=data)
        self._close(attempt)

    def _never_began(self, attempt: Attempt) -> None:
        """A coroutine was stopped before its first step."""
        if attempt.stop == "draining":
            self._report(attempt, OutcomeKind.RETURNED)
        else:
            self._report_stopped(attempt)
        self._close(attempt)

    def _raised(self, attempt: Attempt, error: BaseException) -> None:
        """A coroutine ended with an exception."""
        if attempt.given_up:
            pass
        elif attempt.stop:
            if attempt.stop == "timed_out":
                attempt.why = with_notes(attempt.why, error)
            self._report_stopped(attempt)
        elif isinstance(error, KeyboardInterrupt):
            self._report(attempt, OutcomeKind.INTERRUPTED)
        else:
            handler = attempt.route.handler
            assert handler is not None
            failure = describe(error, attempt.route.template.retry, handler.retry_classes)
            self._report(
                attempt, OutcomeKind.FAILED, error=failure.error, fatal=failure.fatal, retry_after_ms=failure.retry_after_ms
            )
        self._close(attempt)

    def _returned(self, attempt: Attempt, data: bytes) -> None:
        """A coroutine returned although it shall stop."""
        if not attempt.given_up:
            self._report_stopped(attempt)
        self._close(attempt)

    def _report_stopped(self, attempt: Attempt, *, killed: bool = False) -> None:
        """Report an attempt that ended because it had to."""
        kind = _KIND_OF_STOP.get(attempt.stop)
        if kind is None:  # its lease is void: nobody waits for an outcome
            self._drop(attempt)
            return
        error: TaskError | None = None
        fatal = False
        if kind is OutcomeKind.TIMED_OUT:
            error = TaskError(TaskTimeoutError.__name__, attempt.why)
            route = attempt.route
            classes = route.handler.retry_classes if route.handler is not None else {}
            fatal = is_fatal(TaskTimeoutError, route.template.retry, classes)
        elif kind is OutcomeKind.CANCELLED:
            error = TaskError("TaskCancelledError", attempt.why)
        self._report(attempt, kind, error=error, fatal=fatal, killed=killed)

    def _report(
        self,
        attempt: Attempt,
        kind: OutcomeKind,
        *,
        result: bytes = b"",
        error: TaskError | None = None,
        fatal: bool = False,
        retry_after_ms: int = -1,
        killed: bool = False,
    ) -> None:
        if attempt.stop == "lease_lost":
            self._drop(attempt)
            return
        body = attempt.body
        self._flush_output(attempt)
        attempt.lane.outcomes.append(
            Outcome(
                body.id, body.attempt, int(kind), attempt.started_ms, self.clock.now_ms(), result, error, retry_after_ms,
                fatal, killed,
            )
        )  # fmt: skip
        attempt.route.counts[kind - 1] += 1
        if kind is not OutcomeKind.COMPLETED:
            self._trouble.tell(attempt, kind, error, now_ms=self.clock.now_ms(), fatal=fatal, killed=killed)
        self._drop(attempt)

    def _drop(self, attempt: Attempt) -> None:
        """The lease is over, whatever still runs."""
        if self.running.get(attempt.body.id) is attempt:
            del self.running[attempt.body.id]
            if not self.running:
                self.empty.set()

    def _close(self, attempt: Attempt, *, started: bool = True) -> None:
        """What ran is over: free its slots, and tell."""
        self._release(attempt, started=started)
        self._ended()

    def _release(self, attempt: Attempt, *, started: bool = True) -> None:
        route = attempt.route
        running = self.running
        if running.get(attempt.body.id) is attempt:
            del running[attempt.body.id]
            if not running:
                self.empty.set()
        bucket = attempt.bucket
        if bucket is not None:
            self.deadlines.discard(attempt, bucket)
        self.done += 1
        self.used -= route.cost
        if started:
            self.busy -= route.cost
        if route.line is not None:
            route.line.held -= route.cost
        if route.mode == "command":
            self._commands.pop(attempt, None)
        if self._waiting_count:
            self._start_waiting()

    def _flush_output(self, attempt: Attempt) -> None:
        """Put what the attempt printed and its last progress where they leave before its outcome."""
        if attempt.output_capture is not None:
            self.take_output(attempt)
        if attempt.progress is not None:
            attempt.lane.progress.append(attempt.progress)

    def take_output(self, attempt: Attempt) -> None:
        """Move an attempt's output into its lane."""
        capture = attempt.output_capture
        if capture is not None:
            body = attempt.body
            attempt.lane.chunks.extend([LogChunk(body.id, body.attempt, part, text) for part, text in capture.take()])

    def _learn(self, mode: str, attempt: Attempt) -> None:
        took_ms = max(self.clock.now_ms() - attempt.started_ms, 0)
        self._usual_ms[mode] += (took_ms - self._usual_ms[mode]) * 0.2

    # -- stopping ------------------------------------------------------------------------------------------------------

    def stop(self, attempt: Attempt, reason: str, why: str) -> None:
        """Stop an attempt: cooperatively, by force after the grace. `why`: for the record."""
        if attempt.stop:
            if reason == "lease_lost":
                attempt.stop = reason
                self._drop(attempt)
            return
        attempt.stop = reason
        attempt.why = why
        if reason == "lease_lost":
            self._drop(attempt)
        mode = attempt.route.mode
        self._forget_deadline(attempt)
        if self._is_waiting(attempt):
            self._waiting[mode].remove(attempt)
            self._waiting_count -= 1
            if reason == "draining":
                self._report(attempt, OutcomeKind.RETURNED)
            else:
                self._report_stopped(attempt)
            self._close(attempt, started=False)
            return
        if attempt.stopped is not None:
            attempt.stopped.set()
        if mode in ("async", "command"):
            assert attempt.task is not None
            if attempt.started_ms:
                attempt.task.cancel()  # else it sees for itself; a cancelled task that never ran could report nothing
        elif mode == "thread":
            inner = attempt.inner
            if inner is not None:
                _cancel_elsewhere(*inner)
            if reason == "timed_out":  # a thread cannot be killed, and it had its time
                self._give_up(attempt)
                return
        elif reason != "cancelled" or not attempt.started_ms:
            self.processes.kill(attempt)
            return
        else:
            self.processes.stop(attempt, reason)
        grace_ms = attempt.route.template.cancel_grace_ms
        attempt.bucket = self.deadlines.add(attempt, self.deadlines.now_ms(), grace_ms)

    def force(self, attempt: Attempt) -> None:
        """The grace is over."""
        mode = attempt.route.mode
        if mode == "process":
            self.processes.kill(attempt)
            return
        self._give_up(attempt)
        if mode in ("async", "command") and attempt.task is not None:
            attempt.task.cancel()
            attempt.bucket = self.deadlines.add(attempt, self.deadlines.now_ms(), _NUDGE_MS)

    def _give_up(self, attempt: Attempt) -> None:
        """Report what cannot be ended. It keeps its slots until it is over."""
        if not attempt.given_up:
            attempt.given_up = True
            log.warning("attempt_abandoned", stop=attempt.stop, **attempt.fields())
            self._report_stopped(attempt, killed=True)
            self._ended()

    def _due(self, attempt: Attempt) -> None:
        """A deadline of the attempt has come: see which."""
        attempt.bucket = None
        if self._is_waiting(attempt):
            self._waiting[attempt.route.mode].remove(attempt)
            self._waiting_count -= 1
            self._report(attempt, OutcomeKind.RETURNED)
            self._close(attempt, started=False)
        elif attempt.stop:
            self.force(attempt)
        elif attempt.route.plain_deadline and not attempt.body.deadline_ms:
            self.stop(attempt, "timed_out", f"the attempt ran longer than its timeout of {attempt.route.timeout_ms} ms")
        else:
            self._watch(attempt, self.deadlines.now_ms())

    def _watch(self, attempt: Attempt, now_ms: int) -> None:
        """Set the next deadline of a running attempt, or stop it if one has passed."""
        route, body = attempt.route, attempt.body
        silence_ms = route.template.heartbeat_timeout_ms
        if not attempt.beat_ms:
            attempt.beat_ms = now_ms
            if route.timeout_ms:
                attempt.expires_ms = now_ms + route.timeout_ms
        due: list[tuple[int, str]] = []
        if attempt.expires_ms:
            due.append((attempt.expires_ms, f"the attempt ran longer than its timeout of {route.timeout_ms} ms"))
        if body.deadline_ms:
            left_ms = body.deadline_ms - self.clock.now_ms()
            due.append((now_ms + left_ms, f"the task passed its total timeout of {route.template.total_timeout_ms} ms"))
        if silence_ms:
            due.append((attempt.beat_ms + silence_ms, f"the handler gave no sign of life for {silence_ms} ms"))
        if not due:
            return
        at_ms, why = min(due)
        if at_ms <= now_ms and attempt.started_ms:
            self.stop(attempt, "timed_out", why)
        else:
            attempt.bucket = self.deadlines.add(attempt, now_ms, max(at_ms - now_ms, 1))

    def _forget_deadline(self, attempt: Attempt) -> None:
        if attempt.bucket is not None:
            self.deadlines.discard(attempt, attempt.bucket)
            attempt.bucket = None

    # -- all of them ---------------------------------------------------------------------------------------------------

    def stop_all(self, reason: str, why: str) -> None:
        for attempt in list(self.running.values()):
            self.stop(attempt, reason, why)

    def return_waiting(self) -> None:
        """Hand back what has not started."""
        for waiting in self._waiting.values():
            for attempt in list(waiting):
                self.stop(attempt, "draining", "the worker drains before it started")

    def force_all(self) -> None:
        for attempt in list(self.running.values()):
            if attempt.stop:
                self.force(attempt)

    def on_loop(self, callback: Callable[..., None], *args: Any) -> None:
        """Call on the loop: now if this is its thread, soon if not."""
        if threading.get_ident() == self._loop_thread:
            callback(*args)
        else:
            try:
                self._loop.call_soon_threadsafe(callback, *args)
            except RuntimeError:  # the loop is closed; an abandoned thread still talks
                return

    async def close(self) -> None:
        """Leave nothing running but abandoned threads."""
        self.deadlines.close()
        self.threads.close()
        await self.processes.close()
        tasks = [attempt.task for attempt in self._commands if attempt.task is not None]
        for task in tasks:  # for the second time: kill the command
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_COMMANDS_S)


class ProcessDiedError(Exception):
    """A child process ended under its attempt. What a retry policy can name."""


async def _in_own_loop(attempt: Attempt, context: tuple[Context, ...]) -> Any:
    """Run a coroutine function in the loop of its own thread."""
    task = asyncio.current_task()
    assert task is not None
    attempt.inner = (asyncio.get_running_loop(), task)
    if attempt.stop:
        task.cancel()
    try:
        return await attempt.route.call(attempt.body.payload, *context)
    except asyncio.CancelledError:
        attempt.heard = bool(attempt.stop)
        raise


def _is_current(task: asyncio.Task[Any] | None) -> bool:
    try:
        return asyncio.current_task() is task
    except RuntimeError:  # no loop runs
        return False


def _cancel_elsewhere(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    try:
        loop.call_soon_threadsafe(task.cancel)
    except RuntimeError:  # it has just ended
        return
