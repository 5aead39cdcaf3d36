"""Wall clocks are set now and then; an interval must neither end early nor wait for the time to come again.

An actor keeps the instants at which its intervals end. When it notices that the clock was set, it moves them by as much.
What is due at an instant (a task, a deadline) is not moved: the wall clock is what it goes by. That a clock was set is
noticed by the monotonic one; without that, only that it was set back.
"""

from __future__ import annotations

from ..runtime.actor import Turn
from ..runtime.clock import SET_BACK_MS


class Steps:
    """How one actor has seen the wall clock go. `latest_ms`: at the last turn."""

    __slots__ = ("_ahead_ms", "latest_ms")

    def __init__(self) -> None:
        self.latest_ms = 0
        self._ahead_ms: int | None = None  # of the wall clock, before the monotonic one

    def taken(self, turn: Turn) -> int:
        """Take note of the time. Returns by how much the clock was set since the last turn, 0 if it was not or by little."""
        by_ms = turn.now_ms - self.latest_ms
        if turn.mono_ms >= 0:
            ahead_ms = turn.now_ms - turn.mono_ms
            by_ms = 0 if self._ahead_ms is None else ahead_ms - self._ahead_ms
            if self._ahead_ms is None or abs(by_ms) >= SET_BACK_MS:
                self._ahead_ms = ahead_ms
        elif by_ms > 0:
            by_ms = 0
        self.latest_ms = max(turn.now_ms, self.latest_ms) if abs(by_ms) < SET_BACK_MS else turn.now_ms
        return by_ms if abs(by_ms) >= SET_BACK_MS else 0

    def is_steady(self, now_ms: int, mono_ms: int) -> bool:
        """Tell whether the wall clock is known to have gone on as it should since the last turn: `taken` would return 0."""
        return mono_ms >= 0 and self._ahead_ms is not None and abs(now_ms - mono_ms - self._ahead_ms) < SET_BACK_MS
