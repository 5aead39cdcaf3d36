"""The moments a rule names before any calendar: of a cron expression in a zone, of an interval, of a list.

A stream answers one question, `next(from_ms)`: the first moment at or after an instant, in milliseconds; None: never again.
It holds no position. Moments lie from 1970-01-01T00:00:00Z to the end of 2199.

A cron expression in a zone names the instants that its local times stand for (`actors.hours`): by `gap` and `overlap` where
its hour field does not allow every hour, else by elapsed time, so `*/15 * * * *` fires in both passes of a repeated hour and
is not moved out of a gap. Instants that coincide are one moment.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Protocol

from .cron import Cron
from .days import DAY_S, END_MS, END_S, year_of, year_start
from .hours import MARGIN_S, Zone


class Stream(Protocol):
    def next(self, from_ms: int) -> int | None:
        """Return the first moment at or after an instant."""


class CronStream:
    """Of a compiled expression in a zone."""

    __slots__ = ("cron", "zone")

    def __init__(self, cron: Cron, zone: Zone) -> None:
        """`zone`: with the policies that the rule asks for."""
        self.cron = cron
        self.zone = Zone(zone.name, "skip", "both") if cron.is_hourly else zone

    def next(self, from_ms: int) -> int | None:
        instant = max(-(-from_ms // 1_000), 0)
        named = self.cron.next
        while instant < END_S:
            year = year_of(instant // DAY_S)
            best = END_S
            for start, end, offset, _ in self.zone.pieces(year):
                if start >= best:
                    break
                if end > instant:
                    local = named((instant if instant > start else start) + offset)
                    if local is not None and local - offset < end and local - offset < best:
                        best = local - offset
            if best < END_S:
                return best * 1_000
            # Nothing more this year. What comes next may lie years ahead, so those between are not looked at.
            turn = year_start(year + 1) * DAY_S
            local = named(turn - MARGIN_S)
            if local is None:
                return None
            instant = max(turn, local - MARGIN_S)
        return None


class IntervalStream:
    """At `anchor_ms` + k * `every_ms` for every whole k, also below 0. Elapsed time, whatever the clocks do."""

    __slots__ = ("_anchor_ms", "_every_ms")

    def __init__(self, every_ms: int, anchor_ms: int) -> None:
        self._every_ms = every_ms
        self._anchor_ms = anchor_ms % every_ms

    def next(self, from_ms: int) -> int | None:
        from_ms = max(from_ms, 0)
        found = from_ms + (self._anchor_ms - from_ms) % self._every_ms
        return found if found < END_MS else None


class ListStream:
    """At given instants."""

    __slots__ = ("_at_ms",)

    def __init__(self, at_ms: tuple[int, ...]) -> None:
        """`at_ms`: ascending."""
        self._at_ms = at_ms

    def next(self, from_ms: int) -> int | None:
        index = bisect_left(self._at_ms, from_ms)
        return self._at_ms[index] if index < len(self._at_ms) else None
