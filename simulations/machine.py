"""Machines and their clocks.

A machine's two clocks run at its own speed; the wall clock can be set and can stand still, the monotonic one begins at an
arbitrary value, so that readings of two machines cannot be mixed up unnoticed. Clocks belong to machines: they go on when
a process ends. What holds: integers only; a timer fires no earlier than its clock says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..runtime.clock import SET_BACK_MS, Timer
from .loop import MS, NS, Lane, SimLoop, Step, Stopwatch

_MILLION: Final = 1_000_000
_LOOK_NS: Final = 10 * NS  # how often timers of `runtime.clock.SystemClock` look at the wall clock at least


class Machine(Stopwatch):
    """One machine. `wall_ns`: its wall clock at the beginning; `mono_ns`: its monotonic clock then."""

    def __init__(self, name: str, loop: SimLoop, *, wall_ns: int, mono_ns: int, ppm: int = 0) -> None:
        self.name = name
        self._loop = loop
        self._at_ns = loop.now_ns
        self._mono_ns = mono_ns
        self._wall_ns = wall_ns
        self._ppm = ppm
        self._is_frozen = False
        self.mono_ahead_ns: int | None = None
        """How far the monotonic clock is ahead of simulated time; None: that changes."""
        self.wall_ahead_ns: int | None = None
        """The same of the wall clock."""
        self._timers: dict[WallTimer, None] = {}  # pending, in order of setting
        self._look_ahead()

    def mono_ns(self, now_ns: int) -> int:
        passed = now_ns - self._at_ns
        if self._ppm:
            passed += passed * self._ppm // _MILLION
        return self._mono_ns + passed

    def moment_of(self, mono_ns: int) -> int:
        return self._first(self.mono_ns, mono_ns, mono_ns - self._mono_ns)

    def wall_ns(self, now_ns: int) -> int:
        """Return the wall clock, nanoseconds since 1970."""
        if self._is_frozen:
            return self._wall_ns
        passed = now_ns - self._at_ns
        if self._ppm:
            passed += passed * self._ppm // _MILLION
        return self._wall_ns + passed

    def apart_ns(self) -> int:
        """Return how far the wall clock is ahead of the monotonic one; they run alike unless it stands still."""
        if self._is_frozen:
            return self._wall_ns - self.mono_ns(self._loop.now_ns)
        return self._wall_ns - self._mono_ns

    def moment_of_wall(self, wall_ns: int) -> int | None:
        """Return the first moment at which the wall clock reads at least that if nobody sets it; None while it stands."""
        if self._is_frozen:
            return None
        return self._first(self.wall_ns, wall_ns, wall_ns - self._wall_ns)

    def _first(self, reading: Callable[[int], int], target: int, ahead: int) -> int:
        if not self._ppm:
            moment, now_ns = self._at_ns + ahead, self._loop.now_ns
            return moment if moment > now_ns else now_ns
        moment = self._at_ns + ahead * _MILLION // (_MILLION + self._ppm)
        while reading(moment) < target:
            moment += 1
        return max(moment, self._loop.now_ns)

    # -- changes -----------------------------------------------------------------------------------------------------

    def step(self, by_ns: int) -> None:
        """Set the wall clock forward or back."""
        self._rebase()
        self._wall_ns += by_ns
        self._look_ahead()
        self._look_again()

    def freeze(self) -> None:
        """Let the wall clock stand still."""
        self._rebase()
        self._is_frozen = True
        self._look_ahead()
        self._look_again()

    def unfreeze(self) -> None:
        """Let the wall clock go on from where it stands."""
        self._rebase()
        self._is_frozen = False
        self._look_ahead()
        self._look_again()

    def drift(self, ppm: int) -> None:
        """Let both clocks run that much faster, in parts per million."""
        self._rebase()
        self._ppm = ppm
        self._look_ahead()
        self._look_again()

    def _rebase(self) -> None:
        now_ns = self._loop.now_ns
        self._mono_ns, self._wall_ns = self.mono_ns(now_ns), self.wall_ns(now_ns)
        self._at_ns = now_ns

    def _look_ahead(self) -> None:
        """The clocks were changed: say by how much they are ahead from now on."""
        is_even = not self._ppm
        self.mono_ahead_ns = self._mono_ns - self._at_ns if is_even else None
        self.wall_ahead_ns = self._wall_ns - self._at_ns if is_even and not self._is_frozen else None

    def _look_again(self) -> None:
        for timer in list(self._timers):
            timer.look_again()

    def add(self, timer: WallTimer) -> None:
        self._timers[timer] = None

    def discard(self, timer: WallTimer) -> None:
        self._timers.pop(timer, None)


class WallTimer:
    """A pending call on a machine's wall clock.

    As the real one it waits on the monotonic clock and looks at the wall clock every ten seconds: a clock that was set is
    noticed at the next look, and if it was set back by a second or more, the call is made then. Those looks cost nothing
    here while nobody sets the clock. A timer that is over lets go of its step: nothing is collected during a run, so the two
    may not keep each other.
    """

    __slots__ = ("_apart_ns", "_callback", "_lane", "_loop", "_machine", "_moment_ns", "_set_ns", "_step", "_when_ns")

    def __init__(self, machine: Machine, loop: SimLoop, when_ns: int, callback: Callable[[], None]) -> None:
        self._machine = machine
        self._loop = loop
        self._lane = loop.lane
        self._when_ns = when_ns
        self._callback = callback
        self._set_ns = loop.now_ns
        self._apart_ns = machine.apart_ns()
        machine.add(self)
        moment_ns = machine.moment_of_wall(when_ns)
        self._arm(loop.now_ns + _LOOK_NS if moment_ns is None else moment_ns)

    def look_again(self) -> None:
        """The wall clock was changed: it looks as soon as it would have."""
        if self._step is not None:
            self._step.cancel()
        if self._lane.is_dead:
            self._machine.discard(self)
            return
        looks = -(-(self._loop.now_ns - self._set_ns) // _LOOK_NS)
        self._arm(min(self._set_ns + looks * _LOOK_NS, self._moment_ns))

    def _arm(self, moment_ns: int) -> None:
        self._moment_ns = moment_ns
        self._step: Step | None = self._loop.at(moment_ns, self._lane, self._fire)

    def _fire(self) -> None:
        missing_ns = self._when_ns - self._machine.wall_ns(self._loop.now_ns)
        was_set_back = self._machine.apart_ns() <= self._apart_ns - SET_BACK_MS * MS
        if missing_ns > 0 and not was_set_back:
            self._arm(self._loop.now_ns + min(max(missing_ns, MS), _LOOK_NS))
            return
        self._machine.discard(self)
        self._step = None
        self._callback()

    def cancel(self) -> None:
        self._machine.discard(self)
        if self._step is not None:
            self._step.cancel()
            self._step = None


class SimClock:
    """A machine's clocks as a process sees them. Implements `runtime.clock.Clock`."""

    def __init__(self, machine: Machine, loop: SimLoop) -> None:
        self._machine = machine
        self._loop = loop

    def now_ms(self) -> int:
        now_ns, ahead_ns = self._loop.now_ns, self._machine.wall_ahead_ns
        return (self._machine.wall_ns(now_ns) if ahead_ns is None else now_ns + ahead_ns) // MS

    def mono_ns(self) -> int:
        now_ns, ahead_ns = self._loop.now_ns, self._machine.mono_ahead_ns
        return self._machine.mono_ns(now_ns) if ahead_ns is None else now_ns + ahead_ns

    def call_at_ms(self, when_ms: int, callback: Callable[[], None]) -> Timer:
        return WallTimer(self._machine, self._loop, when_ms * MS, callback)


def lane_on(machine: Machine, name: str) -> Lane:
    """Return a lane for a process of that machine."""
    return Lane(name, machine)
