"""Time as a port: a wall clock in milliseconds, a monotonic one in nanoseconds, and timers on the wall clock.

Nothing else in the product reads a clock. Integers only: a float clock either fires early or spins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol


class Timer(Protocol):
    """A pending call; `cancel` is harmless after it ran."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What a node knows of time."""

    def now_ms(self) -> int:
        """Return the wall clock, milliseconds since 1970 UTC, rounded down."""
        ...

    def mono_ns(self) -> int:
        """Return a clock that never steps, nanoseconds from an arbitrary origin of this machine."""
        ...

    def call_at_ms(self, when_ms: int, callback: Callable[[], None]) -> Timer:
        """Call `callback` once the wall clock has reached `when_ms`, soon if it already has. Never early by this
        clock's own count, but for one case: soon after the wall clock was set back by `SET_BACK_MS` or more, so that
        what waits for an interval rather than an instant can begin anew. So the callee looks at `now_ms` again."""
        ...


SET_BACK_MS: Final = 1_000  # a smaller step back only makes things late by as much
_LOOK_NS: Final = 10_000_000_000


class SystemClock:
    """The machine's own clocks; timers run on the event loop that is current when they are set."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    def call_at_ms(self, when_ms: int, callback: Callable[[], None]) -> Timer:
        return _SystemTimer(when_ms, callback)


class _SystemTimer:
    """A pending call that looks at the wall clock again: an event loop may round a delay down (uvloop does, to a whole
    millisecond), and the wall clock may be set meanwhile. It looks at least every `_LOOK_NS`, so a clock that was set
    forward makes it late by no more than that, and one that was set back is noticed within that."""

    __slots__ = ("_apart_ns", "_callback", "_handle", "_loop", "_when_ns")

    def __init__(self, when_ms: int, callback: Callable[[], None]) -> None:
        self._when_ns = when_ms * 1_000_000
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        now_ns = time.time_ns()
        self._apart_ns = now_ns - time.monotonic_ns()
        delay_ns = self._when_ns - now_ns
        self._handle = self._loop.call_later(min(max(delay_ns, 0), _LOOK_NS) / 1e9, self._fire)

    def _fire(self) -> None:
        now_ns = time.time_ns()
        missing_ns = self._when_ns - now_ns
        was_set_back = now_ns - time.monotonic_ns() <= self._apart_ns - SET_BACK_MS * 1_000_000
        if missing_ns > 0 and not was_set_back:
            self._handle = self._loop.call_later(min(max(missing_ns, 1_000_000), _LOOK_NS) / 1e9, self._fire)
        else:
            self._callback()

    def cancel(self) -> None:
        self._handle.cancel()
