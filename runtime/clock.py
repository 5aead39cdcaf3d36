"""Time as a port: a wall clock in milliseconds, a monotonic one in nanoseconds, and timers on the wall clock.

Nothing else in the product reads a clock. Integers only: a float clock either fires early or spins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


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
        clock's own count; the callee checks `now_ms` again, since a wall clock can be set back."""
        ...


class SystemClock:
    """The machine's own clocks; timers run on the event loop that is current when they are set."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    def call_at_ms(self, when_ms: int, callback: Callable[[], None]) -> Timer:
        delay_ns = when_ms * 1_000_000 - time.time_ns()
        return asyncio.get_running_loop().call_later(max(delay_ns, 0) / 1e9, callback)
