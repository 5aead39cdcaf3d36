"""The app of the embedded tests of schedules, and a clock whose hands can be moved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from foliot import Context, Fatal, Foliot

app = Foliot("clockwork")
GATES: dict[str, asyncio.Event] = {}
"""What `hold` waits for, by name: tests open them."""


@app.task
async def tell(ctx: Context, word: str = "") -> list[str]:
    return [ctx.schedule or "", ctx.tick.isoformat() if ctx.tick else "", word]


@app.task(isolation="process")
def tell_apart(ctx: Context) -> list[str]:
    return [ctx.schedule or "", ctx.tick.isoformat() if ctx.tick else ""]


@app.task(cancel_grace="1s")
async def hold(gate: str) -> str:
    await GATES.setdefault(gate, asyncio.Event()).wait()
    return gate


@app.task
async def hopeless() -> None:
    raise Fatal("no use")


class StepClock:
    """A wall clock that starts where it is told to, runs on, and leaps when it is set; the monotonic one is the
    machine's."""

    def __init__(self, start: str) -> None:
        self._ahead_ms = 0
        self._timers: dict[_StepTimer, None] = {}
        self.set(start)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    def set(self, moment: str) -> None:
        """Set the wall clock to a moment in UTC, such as 2026-03-01T12:00:00; timers that are due by it go off."""
        at_ms = round(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() * 1_000)
        self._ahead_ms += at_ms - self.now_ms()
        for timer in list(self._timers):
            timer.look()

    def call_at_ms(self, when_ms: int, callback: Callable[[], None]) -> _StepTimer:
        timer = _StepTimer(self, when_ms, callback)
        self._timers[timer] = None
        timer.look()
        return timer

    def forget(self, timer: _StepTimer) -> None:
        self._timers.pop(timer, None)


class _StepTimer:
    def __init__(self, clock: StepClock, when_ms: int, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._when_ms = when_ms
        self._callback = callback
        self._handle: asyncio.Handle | None = None

    def look(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        missing_ms = max(self._when_ms - self._clock.now_ms(), 0)
        self._handle = asyncio.get_running_loop().call_later(missing_ms / 1_000, self._fire)

    def _fire(self) -> None:
        if self._clock.now_ms() < self._when_ms:
            self.look()
            return
        self._clock.forget(self)
        self._callback()

    def cancel(self) -> None:
        self._clock.forget(self)
        if self._handle is not None:
            self._handle.cancel()
