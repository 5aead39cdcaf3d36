"""An event loop on simulated time, for many simulated processes at once.

Each process has a lane: its own queue of steps, served first in first out as an event loop of its own would be. Between
lanes with work the seed decides. Time is an integer of nanoseconds; when no lane has work it jumps to the next timer, ties
in the order they were set. What holds: nothing here depends on addresses, hash seeds or the machine it runs on; no real
input, output or thread is possible; a run that cannot go on, or goes on without end at one instant, says so and ends.
"""

# The loop's methods take and return what asyncio really passes, which its stubs describe more narrowly.
# mypy: disable-error-code="override"

from __future__ import annotations

import asyncio
import math
import warnings
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from heapq import heappop, heappush
from typing import Any, Final, NoReturn, TypeVar

from ..runtime.errors import FoliotError
from ..runtime.rng import Rng
from .trace import STEPS, Trace

T = TypeVar("T")
NS: Final = 1_000_000_000
MS: Final = 1_000_000
_INSTANT_MAX: Final = 200_000  # steps without any time passing
_STEPS_MAX: Final = 1 << 62


class SimulationError(FoliotError):
    """The simulated run itself cannot go on."""

    code = "simulation"


class DeadlockError(SimulationError):
    """Nothing can run and no timer is set."""

    def __init__(self, pending: list[str]) -> None:
        waits = "; ".join(pending[:20]) or "nobody"
        super().__init__(f"nothing can run and no timer is set, expected the run to end first; waiting: {waits}")
        self.pending = pending


class LivelockError(SimulationError):
    """Steps follow each other and time stands still."""

    def __init__(self, lane: str, callback: str, at_ns: int) -> None:
        super().__init__(f"{_INSTANT_MAX} steps at {at_ns} ns without time passing, the last in {lane}: {callback}")
        self.lane = lane
        self.callback = callback


class EscapeError(SimulationError):
    """Simulated code asked for something of the real world."""

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(f"{what} is not possible in a simulation; expected {instead}")
        self.what = what


class SimTask(asyncio.Task[T]):
    """A task whose hash is its number: sets of tasks are then ordered alike in every process."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, T], **options: Any) -> None:
        self.number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number


class Step:
    """A callback on its way, with the lane it belongs to and the event that led to it. Stands for asyncio's handles."""

    __slots__ = ("args", "callback", "cause", "context", "is_cancelled", "lane", "mono_ns")

    def __init__(
        self, lane: Lane, callback: Callable[..., Any], args: tuple[Any, ...], context: Context, cause: int
    ) -> None:
        self.lane = lane
        self.callback = callback
        self.args = args
        self.context = context
        self.cause = cause
        self.is_cancelled = False
        self.mono_ns = 0  # of a timer: when, by the lane's monotonic clock

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        """Return a timer's moment in seconds of the lane's monotonic clock."""
        return self.mono_ns / NS


class Stopwatch:
    """A monotonic clock as the loop needs it; `simulations.machine` has those of machines."""

    def mono_ns(self, now_ns: int) -> int:
        """Return its reading at a moment of simulated time."""
        return now_ns

    def moment_of(self, mono_ns: int) -> int:
        """Return the first moment of simulated time at which it reads at least that."""
        return mono_ns


class Lane:
    """One process's share of the loop."""

    def __init__(self, name: str, watch: Stopwatch | None = None) -> None:
        self.name = name
        self.watch = watch or Stopwatch()
        self.queue: deque[Step] = deque()
        self.tasks: list[SimTask[Any]] = []
        self.is_dead = False
        self.blocks = 0  # reasons why it may not run now: paused, busy
        self.step_ns = 0  # what each of its steps costs
        self.context = copy_context()
        self._is_ready = False
        self._tasks_kept = 256


class SimLoop(asyncio.BaseEventLoop):
    """Runs lanes. `on_error`: told (lane, what, text) of exceptions nobody handled."""

    def __init__(self, rng: Rng, trace: Trace, *, schedule: str = "random") -> None:
        super().__init__()
        self.now_ns = 0
        self.steps = 0
        self.trace = trace
        self.system = Lane("world")
        self.lane = self.system
        """The lane whose step runs now."""
        self.on_error: Callable[[Lane, str, str], None] = lambda lane, what, text: None
        self.on_quiet: Callable[[], None] | None = None
        """Called when nothing can run, before time moves on; may make something runnable."""
        self.is_tearing = False
        self._bits = rng.stream("sched").bits
        self._schedule = schedule
        self._turn = 0
        self._ready_lanes: list[Lane] = []
        self._heap: list[tuple[int, int, Step]] = []
        self._sequence = 0
        self._task_number = 0
        self._dead: list[Any] = []  # what belonged to killed lanes: kept, so that nothing of it is finalised during the run
        self._lanes: list[Lane] = [self.system]

    # -- lanes -------------------------------------------------------------------------------------------------------

    def add_lane(self, lane: Lane) -> None:
        self._lanes.append(lane)

    def kill(self, lane: Lane) -> None:
        """Run nothing of a lane any more: no `finally`, no cancellation. What it held is closed when the run is over."""
        lane.is_dead = True
        self._dead.append(lane.queue)
        lane.queue = deque()

    def block(self, lane: Lane) -> None:
        """Let a lane stand still, until as many calls of `unblock`."""
        lane.blocks += 1

    def unblock(self, lane: Lane) -> None:
        lane.blocks -= 1
        if not lane.blocks and lane.queue:
            self._wake(lane)

    def post(self, lane: Lane, callback: Callable[..., Any], *args: Any) -> None:
        """Run a callback in a lane, from outside of it."""
        self._enqueue(Step(lane, callback, args, lane.context, self.trace.cause))

    def call_in(self, lane: Lane, callback: Callable[[], None]) -> None:
        """Call something now, on behalf of a lane: what it makes ready runs there."""
        before, self.lane = self.lane, lane
        try:
            callback()
        finally:
            self.lane = before

    def at(self, moment_ns: int, lane: Lane, callback: Callable[..., Any], *args: Any) -> Step:
        """Run a callback in a lane at a moment of simulated time."""
        step = Step(lane, callback, args, lane.context, self.trace.cause)
        self._sequence += 1
        heappush(self._heap, (moment_ns, self._sequence, step))
        return step

    def spawn(self, lane: Lane, coro: Coroutine[Any, Any, T], *, name: str) -> SimTask[T]:
        """Start a task in a lane, from outside of it."""
        before, self.lane = self.lane, lane
        try:
            task: SimTask[T] = self.create_task(coro, name=name, context=lane.context.copy())
            return task
        finally:
            self.lane = before

    def _enqueue(self, step: Step) -> None:
        lane = step.lane
        if lane.is_dead:
            self._dead.append(step)
            return
        lane.queue.append(step)
        if not lane._is_ready and not lane.blocks:
            lane._is_ready = True
            self._ready_lanes.append(lane)

    def _wake(self, lane: Lane) -> None:
        if not lane._is_ready:
            lane._is_ready = True
            self._ready_lanes.append(lane)

    def _set_timer(self, moment_ns: int, step: Step) -> None:
        self._sequence += 1
        heappush(self._heap, (moment_ns, self._sequence, step))

    # -- running -----------------------------------------------------------------------------------------------------

    def run_task(self, task: SimTask[T], *, until_ns: int | None = None, steps_max: int = 0) -> T:
        """Run until the task is done. Raises: what it raised; DeadlockError, LivelockError; SimulationError beyond
        `until_ns` of simulated time or `steps_max` steps."""
        self._run(task.done, until_ns, steps_max)
        return task.result()

    def _run(self, done: Callable[[], bool], until_ns: int | None, steps_max: int) -> None:
        before = events._get_running_loop()
        events._set_running_loop(None)  # the loop of the test that calls, if any, stands still meanwhile
        events._set_running_loop(self)
        try:
            self._run_steps(done, until_ns, steps_max)
        finally:
            self.lane = self.system
            events._set_running_loop(before)

    def _run_steps(self, done: Callable[[], bool], until_ns: int | None, steps_max: int) -> None:
        ready, trace = self._ready_lanes, self.trace
        at = 0
        deep = trace.level >= STEPS
        steps_max = steps_max or _STEPS_MAX
        bound = min(self.steps + _INSTANT_MAX, steps_max)
        while not done():
            count = len(ready)
            if count:
                at = self._choose(count) if count > 1 else 0
                lane = ready[at]
                queue = lane.queue
                if not queue or lane.blocks:  # paused, or killed, since it got its place
                    self._leave_ready(at)
                    continue
                step = queue.popleft()
                if step.is_cancelled:
                    continue
            else:
                if self.on_quiet is not None:
                    self.on_quiet()
                    if ready:
                        continue
                alone = self._next_instant(until_ns)
                bound = self.steps + _INSTANT_MAX
                if bound > steps_max:
                    bound = steps_max
                if alone is None:
                    continue
                step, lane = alone, alone.lane
            self.lane = lane
            trace.cause = step.cause
            self.steps += 1
            if deep:
                trace.note(self.now_ns, lane.name, 0, "step", of=name_of(step.callback))
            try:
                step.context.run(step.callback, *step.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.on_error(lane, type(error).__name__, f"{name_of(step.callback)}: {error}")
            if count and not queue:
                self._leave_ready(at)
            if lane.step_ns:
                self._spend(lane)
            if self.steps > bound:
                if self.steps > steps_max:
                    raise SimulationError(f"more than {steps_max} steps at {self.now_ns // MS} ms; expected the run to end")
                raise LivelockError(lane.name, name_of(step.callback), self.now_ns)

    def _choose(self, count: int) -> int:
        schedule = self._schedule
        if schedule == "random":
            return self._bits(16) % count
        if schedule == "burst":  # whoever came last goes on until it has nothing left
            return count - 1
        self._turn += 1
        return self._turn % count

    def _leave_ready(self, at: int) -> None:
        ready = self._ready_lanes
        ready[at]._is_ready = False
        last = ready.pop()
        if at < len(ready):
            ready[at] = last

    def _next_instant(self, until_ns: int | None) -> Step | None:
        """Go on to the next instant at which something is due. Returns: the step that is, if it is the only one; more of
        them join the queues of their lanes."""
        heap = self._heap
        while heap and heap[0][2].is_cancelled:
            heappop(heap)
        if not heap:
            raise DeadlockError(self.pending())
        moment_ns = heap[0][0]
        if moment_ns <= self.now_ns:
            moment_ns = self.now_ns
        elif until_ns is not None and moment_ns > until_ns:
            raise SimulationError(f"the run went beyond {until_ns // MS} ms; expected it to end")
        else:
            self.now_ns = moment_ns
        step = heappop(heap)[2]
        is_alone = not heap or heap[0][0] > moment_ns
        while True:
            lane = step.lane
            if step.is_cancelled:
                pass
            elif step.mono_ns and lane.watch.mono_ns(moment_ns) < step.mono_ns:  # its clock was changed meanwhile
                self._set_timer(lane.watch.moment_of(step.mono_ns), step)
            elif is_alone and not lane.blocks and not lane.is_dead:
                return step
            else:
                self._enqueue(step)
            if is_alone or not heap or heap[0][0] > moment_ns:
                return None
            step = heappop(heap)[2]

    def _spend(self, lane: Lane) -> None:
        """A step took its time: the lane may go on after it."""
        self.block(lane)
        free = Step(self.system, self.unblock, (lane,), self.system.context, -1)
        self._set_timer(self.now_ns + lane.step_ns, free)

    def pending(self) -> list[str]:
        """Return what waits, `lane/task: where`, in order of making."""
        found = []
        for lane in self._lanes:
            if not lane.is_dead:
                found += [f"{lane.name}/{task.get_name()}: {_where(task)}" for task in lane.tasks if not task.done()]
        return found

    def tear_down(self) -> None:
        """Close everything that was left, whatever it says. The loop is unusable afterwards."""
        from anyio._backends import _asyncio as backend

        self.is_tearing = True
        self._heap.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of coroutines that never came to run
            self._close_lanes(backend)
        self._dead.clear()
        self._ready_lanes.clear()
        self.close()

    def _close_lanes(self, backend: Any) -> None:
        for lane in self._lanes:
            lane.is_dead = True
            for task in lane.tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    coroutine: Any = task.get_coro()
                    try:
                        coroutine.close()
                    except BaseException as error:  # its clean-up met a world that is gone
                        del error
                # Its values lead back to their keys, so a weak table would keep them all.
                backend._task_states.pop(task, None)
            lane.tasks.clear()
            lane.queue.clear()

    # -- what asyncio asks of a loop ---------------------------------------------------------------------------------

    def time(self) -> float:
        return self.lane.watch.mono_ns(self.now_ns) / NS

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        lane = self.lane
        step = Step(lane, callback, args, copy_context() if context is None else context, self.trace.cause)
        if lane._is_ready and not lane.is_dead:
            lane.queue.append(step)
        else:
            self._enqueue(step)
        return step

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.call_soon(callback, *args, context=context)

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        mono_ns = self.lane.watch.mono_ns(self.now_ns)
        return self._call_at_ns(None if math.isinf(delay) else mono_ns + _up(max(delay, 0)), callback, args, context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self._call_at_ns(None if math.isinf(when) else _up(when), callback, args, context)

    def _call_at_ns(self, mono_ns: int | None, callback: Any, args: tuple[Any, ...], context: Context | None) -> Step:
        lane = self.lane
        step = Step(lane, callback, args, copy_context() if context is None else context, self.trace.cause)
        if mono_ns is not None:  # else it never comes
            step.mono_ns = mono_ns
            self._set_timer(lane.watch.moment_of(mono_ns), step)
        return step

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None, **_: Any) -> Any:
        self._task_number += 1
        number = self._task_number
        lane = self.lane
        task: SimTask[Any] = SimTask(number, coro, loop=self, name=name or f"task-{number}", context=context)
        lane.tasks.append(task)
        if len(lane.tasks) > lane._tasks_kept:
            lane.tasks = [task for task in lane.tasks if not task.done()]
            lane._tasks_kept = 2 * len(lane.tasks) + 256
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.is_tearing or self.lane.is_dead:
            return
        error = context.get("exception")
        what = type(error).__name__ if error is not None else "unhandled"
        self.on_error(self.lane, what, f"{context.get('message', '')}: {error}")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Run the function at once: simulated processes have no threads."""
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_soon(run)
        return future

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def get_debug(self) -> bool:
        return False

    def _escape(self, what: str) -> NoReturn:
        raise EscapeError(what, "an outside service that the simulation knows (`sim.service`)")

    async def getaddrinfo(self, *args: Any, **options: Any) -> Any:
        self._escape("looking up a host name")

    async def getnameinfo(self, *args: Any, **options: Any) -> Any:
        self._escape("looking up a host name")

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        self._escape("opening a connection")

    async def create_unix_connection(self, *args: Any, **options: Any) -> Any:
        self._escape("opening a connection")

    async def create_server(self, *args: Any, **options: Any) -> Any:
        self._escape("listening")

    async def create_unix_server(self, *args: Any, **options: Any) -> Any:
        self._escape("listening")

    async def create_datagram_endpoint(self, *args: Any, **options: Any) -> Any:
        self._escape("opening a socket")

    async def subprocess_exec(self, *args: Any, **options: Any) -> Any:
        self._escape("starting a process")

    async def subprocess_shell(self, *args: Any, **options: Any) -> Any:
        self._escape("starting a process")

    def add_reader(self, *args: Any) -> NoReturn:
        self._escape("watching a file descriptor")

    def add_writer(self, *args: Any) -> NoReturn:
        self._escape("watching a file descriptor")

    def add_signal_handler(self, *args: Any) -> NoReturn:
        self._escape("handling a signal")


def _up(seconds: float) -> int:
    """Return nanoseconds, rounded up: a deadline that fires a hair early is set again without end."""
    ns = round(seconds * NS)
    while ns / NS < seconds:
        ns += 1
    return ns


def name_of(callback: Any) -> str:
    """Return a name that is the same in every process."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return owner.get_name()
    return str(getattr(callback, "__qualname__", type(callback).__name__))


def _where(task: asyncio.Task[Any]) -> str:
    """Return where a task waits, innermost first known line."""
    frame = next(iter(task.get_stack(limit=1)), None)
    if frame is None:
        return "about to run"
    return f"{frame.f_code.co_qualname if hasattr(frame.f_code, 'co_qualname') else frame.f_code.co_name}:{frame.f_lineno}"
