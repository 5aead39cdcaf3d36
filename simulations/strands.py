"""Plain handlers in a simulated worker: each on a thread of its own, of which one at a time runs, when the loop says so.

So a plain function may block, in `time.sleep`, in `ctx.sleep`, in a call to a simulated service: simulated time goes on
meanwhile, and its worker can be killed in the middle. What holds: the loop stands still while a strand runs, so nothing runs
at the same time as anything else, and the order is the loop's.
"""

from __future__ import annotations

import asyncio
import threading
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable
from typing import Any, Final

from ..sdk.attempt import Attempt
from .loop import Lane, SimLoop, Step

_CLOSING_MAX: Final = 100  # how often a strand that shall end may go on waiting


class StrandClosedError(BaseException):
    """Ends a plain handler whose run is over. No `except Exception` catches it."""


class Strands:
    """All strands of a run. Lives on the loop's thread."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.current: Strand | None = None
        """The one that runs now, None while the loop does."""
        self._alive: dict[Strand, None] = {}
        self._loop_thread = threading.get_ident()

    def is_inside(self) -> bool:
        """Tell whether the calling thread is the loop's, or that of the strand that runs."""
        caller = threading.get_ident()
        return caller == (self._loop_thread if self.current is None else self.current.thread)

    def start(self, lane: Lane, work: Callable[[], Any], done: Callable[[Any], None]) -> Strand:
        """Run `work` as a strand of a lane, from its next step on; `done` gets what it returned, on the loop."""
        strand = Strand(self, lane, work, done)
        self._alive[strand] = None
        self.loop.post(lane, strand.resume)
        return strand

    def ended(self, strand: Strand) -> None:
        self._alive.pop(strand, None)

    def close(self) -> None:
        """End all that is left, by an exception where it waits."""
        for strand in list(self._alive):
            strand.close()
        self._alive.clear()


class Strand:
    """One plain function under way."""

    def __init__(self, strands: Strands, lane: Lane, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.lane = lane
        self._strands = strands
        self._loop = strands.loop
        self._work = work
        self._done = done
        self._value: Any = None
        self._go, self._back = allocate_lock(), allocate_lock()
        self._go.acquire()
        self._back.acquire()
        self._has_begun = self._has_ended = False
        self._closing = 0
        self.thread = 0

    # -- on the loop ---------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Let it run until it waits or ends."""
        if self._has_ended:
            return
        before, self._strands.current = self._strands.current, self
        if self._has_begun:
            self._go.release()
        else:
            self._has_begun = True
            start_new_thread(self._run, ())
        self._back.acquire()
        self._strands.current = before
        if self._has_ended:
            self._strands.ended(self)
            if not self._closing:
                self._done(self._value)

    def close(self) -> None:
        self._closing = 1
        if self._has_begun:
            self.resume()

    # -- on its own thread ---------------------------------------------------------------------------------------------

    def sleep_ns(self, span_ns: int) -> None:
        """Let simulated time pass. Raises: StrandClosedError when the run is over."""
        if not self._closing:
            self._loop.at(self._loop.now_ns + span_ns, self.lane, self.resume)
        self.wait()

    def wait(self) -> None:
        """Wait until somebody resumes it."""
        if self._closing:
            self._closing += 1
            if self._closing < _CLOSING_MAX:
                raise StrandClosedError
            self._has_ended = True  # it does not want to end: leave it where it is
        self._back.release()
        self._go.acquire()
        if self._closing:
            raise StrandClosedError

    def _run(self) -> None:
        self.thread = threading.get_ident()
        try:
            self._value = self._work()
        except StrandClosedError:
            self._value = None
        finally:
            self._has_ended = True
            self._back.release()


class Wake:
    """Wakes a strand from `ctx.sleep`. Stands for a `threading.Event`."""

    def __init__(self, strands: Strands) -> None:
        self._strands = strands
        self._is_set = False
        self._waiting: tuple[Strand, Step] | None = None

    def set(self) -> None:
        self._is_set = True
        if self._waiting is not None:
            strand, step = self._waiting
            self._waiting = None
            step.cancel()
            self._strands.loop.post(strand.lane, strand.resume)

    def wait(self, seconds: float | None = None) -> bool:
        strand = self._strands.current
        assert strand is not None, "only plain handlers wait"
        if not self._is_set:
            loop = self._strands.loop
            span_ns = round((seconds or 0) * 1e9)
            self._waiting = strand, loop.at(loop.now_ns + span_ns, strand.lane, self._due)
            strand.wait()
        return self._is_set

    def _due(self) -> None:
        if self._waiting is not None:
            strand, _ = self._waiting
            self._waiting = None
            strand.resume()


class StrandThreads:
    """The threads of one worker. Implements `sdk.executors.Threads`."""

    def __init__(
        self, strands: Strands, limit: int, work: Callable[[Attempt], Any], done: Callable[[Attempt, Any], None]
    ) -> None:  # fmt: skip
        self._strands = strands
        self._limit = limit
        self._work = work
        self._done = done
        self.busy = 0
        self._is_closed = False

    @property
    def free(self) -> int:
        return 0 if self._is_closed else self._limit - self.busy

    def start(self, job: Attempt) -> None:
        self.busy += 1
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        wake: Any = Wake(self._strands)
        job.stopped = wake
        self._strands.start(loop.lane, lambda: self._work(job), lambda value: self._ended(job, value))

    def close(self) -> None:
        self._is_closed = True

    def _ended(self, job: Attempt, value: Any) -> None:
        self.busy -= 1
        self._done(job, value)
