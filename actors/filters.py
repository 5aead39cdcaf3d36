"""What a calendar makes of the moments a rule names: it drops those it excludes, or moves them to another day.

A moment is excluded if the expression does not allow that instant. With "next" or "previous" it moves to the same local time
on the nearest later or earlier day, of the 366 days after or before its own, on which this is an allowed moment; if there
is none it is dropped. In detail:

- The local time is the one named: that of the cron expression, before it is moved out of a gap; that of the instant for
  intervals and lists. Its day is the day of that local time. Days are those of the schedule's zone.
- On the new day the local time stands for instants by the same rules as everywhere (`actors.hours`). A day on which it
  stands for none does not count. Of two instants ("both") the allowed ones are taken; if one of two is excluded, that one
  is dropped.
- Moments that coincide are one. So a moment that is allowed stays where it is, and others may come to it.

Intervals are moved if they are 30 minutes or longer and have at most 400 different times of the day (1 h, 7 h, all of a day
or more); others are refused (`actors.rule_check`).

Every filter is a stream (`actors.streams`). All searches are bounded. A bound of years or steps that is reached reads as
"never again"; a search that has spent its effort (`actors.effort`) raises SearchTooLongError.
"""

from __future__ import annotations

from typing import Final

from .calendars import SEARCH_S, SEARCH_STEPS, Allowed
from .days import END_MS
from .effort import Effort
from .hours import Zone
from .moved_cron import MovedCron
from .moved_points import MovedPoints
from .open_days import Direction
from .streams import CronStream, Stream

_MOMENT_COST: Final = 6


class Kept:
    """The moments of a stream that are allowed."""

    __slots__ = ("_allowed", "_effort", "_stream")

    def __init__(self, stream: Stream, allowed: Allowed, effort: Effort) -> None:
        self._stream = stream
        self._allowed = allowed
        self._effort = effort

    def next(self, from_ms: int) -> int | None:
        limit_ms = END_MS
        for _ in range(SEARCH_STEPS):
            self._effort.spend(_MOMENT_COST)
            found = self._stream.next(from_ms)
            if found is None or found >= limit_ms:
                return None
            limit_ms = min(limit_ms, found + SEARCH_S * 1_000)
            is_allowed, until = self._allowed.window(found // 1_000)
            if is_allowed:
                return found
            from_ms = until * 1_000
        return None


def filtered(moments: Stream, zone: Zone, allowed: Allowed | None, excluded: str, effort: Effort) -> Stream:
    """Return what is left of moments. `zone`: with the rule's policies; `allowed`: None for everything; `excluded`: skip,
    next or previous; `effort`: what searching is charged to."""
    if allowed is None:
        return moments
    if excluded == "skip":
        return Kept(moments, allowed, effort)
    direction: Direction = "next" if excluded == "next" else "previous"
    if isinstance(moments, CronStream):
        return MovedCron(moments, allowed, direction, effort)
    return MovedPoints(moments, zone, allowed, direction, effort)
