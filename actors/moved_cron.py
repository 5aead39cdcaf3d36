"""The moments of a cron expression, each allowed by a calendar or moved to another day (`actors.filters`)."""

from __future__ import annotations

from typing import Final

from .calendars import Allowed, opening
from .cron import Cron
from .days import DAY_S, END_MS, END_S
from .effort import Effort
from .hours import MARGIN_S
from .open_days import MOVE_DAYS, Direction, OpenDays, is_known
from .spans import Spans, difference, intersection, union
from .streams import CronStream

_MAX_DAYS: Final = 400  # that are named and come to nothing although something is allowed, in one search
_KEPT_DAYS: Final = 1_024
_KEPT_SPANS: Final = 16_384
_FEW_TIMES: Final = 64
_DAY_COST: Final = 10
_TIME_COST: Final = 10

Targets = tuple[tuple[int, Spans], ...]
"""Days, in the order in which they are come to, and the times that stop there."""


class MovedCron:
    """The moments of a cron expression, each allowed or moved.

    All days named have the same times, so whole days are moved, in spans of times: those that a day allows stay, the others
    go to the day beside it, and so on. What a day comes to is remembered for the days used last, up to a bound of days and
    of spans; a day that allows nothing comes to what the day beside it does, so a closed period is gone through once.
    """

    __slots__ = ("_allowed", "_cron", "_days", "_effort", "_size", "_step", "_targets", "_times", "_zone")

    def __init__(self, stream: CronStream, allowed: Allowed, direction: Direction, effort: Effort) -> None:
        self._cron = stream.cron
        self._zone = stream.zone
        self._allowed = allowed
        self._effort = effort
        self._step = 1 if direction == "next" else -1
        self._times = _times_of(stream.cron)
        self._days = OpenDays(stream.zone, allowed)
        self._targets: dict[int, Targets] = {}
        self._size = 0  # spans in what is remembered

    def next(self, from_ms: int) -> int | None:
        if from_ms >= END_MS:
            return None
        instant = max(-(-from_ms // 1_000), 0)
        today = (instant + self._zone.offset(instant)) // DAY_S
        best = END_S
        known: Targets = ()  # whose first moment was looked for already: many days come to the same ones
        if self._step > 0:
            # Days before may have moved to here; back to the one all of whose times stopped before.
            day = self._cron.days.previous(today)
            while day is not None and day >= today - MOVE_DAYS - 1:
                self._effort.spend(_DAY_COST)
                targets = self._targets_of(day)
                if targets is not known:
                    best, known = min(best, self._first(targets, instant)), targets
                if max([day, *(target for target, _ in targets)]) < today - 1:
                    break
                day = self._cron.days.previous(day - 1)
        day = self._cron.days.next(today + 1 if self._step > 0 else today - 1)
        for _ in range(_MAX_DAYS):
            self._effort.spend(_DAY_COST)
            if day is None or not is_known(day):
                break
            targets = self._targets_of(day)
            if targets is not known:
                best, known = min(best, self._first(targets, instant)), targets
            # Whatever stops here, or nowhere, holds up all later days as well.
            lowest = min([day, *(target for target, _ in targets)])
            if best < END_S and lowest > (best + self._zone.offset(best)) // DAY_S + 1:
                break
            day += 1
            if best == END_S:
                # What lands from now on lands where something is allowed again, and comes from near there.
                opened = opening(self._allowed, max(day * DAY_S - MARGIN_S, 0))
                if opened is None:
                    break
                day = max(day, opened // DAY_S - (MOVE_DAYS + 2 if self._step > 0 else 2))
            day = self._cron.days.next(day)
        return best * 1_000 if best < END_S else None

    def _first(self, targets: Targets, instant: int) -> int:
        """Return the first moment of these days at or after an instant, or the end of time."""
        best = END_S
        for day, spans in targets:
            start = day * DAY_S
            if start + DAY_S + MARGIN_S <= instant or start - MARGIN_S >= best:
                continue
            self._effort.spend(_DAY_COST + len(spans))
            for piece in self._zone.between(max(instant, start - MARGIN_S), start + DAY_S + MARGIN_S):
                midnight = start - piece.offset
                low, high = max(piece.start, instant) - midnight, min(piece.end, best) - midnight
                for first, last in spans:
                    if first >= high:
                        break
                    time = self._named(max(low, first), min(high, last), midnight) if last > low else -1
                    if time >= 0:
                        best = midnight + time
                        break
        return best

    def _named(self, low: int, high: int, midnight: int) -> int:
        """Return the first time of the day in [low, high) that is named and allowed, -1 if there is none."""
        while low < high:
            self._effort.spend(_TIME_COST)
            time = self._cron.times.next(low)
            if not 0 <= time < high:
                break
            is_allowed, until = self._allowed.window(midnight + time)
            if is_allowed:
                return time
            low = until - midnight
        return -1

    def _targets_of(self, day: int) -> Targets:
        """Return the days to which the times of a day go, and which times go there."""
        found = self._targets.get(day)
        if found is not None:
            return found
        last = day
        while last not in self._targets and abs(last - day) < MOVE_DAYS and self._is_as_beside(last):
            last += self._step
        found = self._targets.get(last)
        if found is None:
            found = self._keep(last, tuple(self._find_targets(last)))
        while last != day:
            last -= self._step
            if found and abs(found[-1][0] - last) > MOVE_DAYS:
                found = tuple(each for each in found if abs(each[0] - last) <= MOVE_DAYS)
            self._keep(last, found)
        return found

    def _keep(self, day: int, found: Targets) -> Targets:
        if len(self._targets) >= _KEPT_DAYS or self._size >= _KEPT_SPANS:
            self._targets.clear()
            self._size = 0
        self._targets[day] = found
        self._size += sum(len(spans) for _, spans in found)
        return found

    def _is_as_beside(self, day: int) -> bool:
        """Tell whether the times of a day go where those of the day beside it go: it has the same ones, and keeps none."""
        beside = day + self._step
        self._effort.spend(_DAY_COST)
        if not (is_known(day) and is_known(beside)) or self._days.times(day):
            return False
        return self._days.shown(day) == self._days.shown(beside)

    def _find_targets(self, day: int) -> list[tuple[int, Spans]]:
        found = []
        rest = intersection(self._times, self._days.shown(day))
        before: Spans = ()
        last: Spans = ()
        for target in range(day, day + self._step * (MOVE_DAYS + 1), self._step):
            if not rest or not is_known(target):
                break
            self._effort.spend(1)
            times = self._days.times(target)
            if not times or times is last or times is before:
                continue  # nothing can stop here that did not stop where the same times were open
            before, last = last, times
            self._effort.spend(len(rest) + len(times))
            stopped = intersection(rest, times)
            if stopped:
                found.append((target, stopped))
                rest = difference(rest, stopped)
        return found


def _times_of(cron: Cron) -> Spans:
    """Return the times of the day named, one by one if they are few, else the span they lie in: the times beyond the last
    need no place to go."""
    found: list[tuple[int, int]] = []
    time = cron.times.next(0)
    while time >= 0 and len(found) < _FEW_TIMES:
        found.append((time, time + 1))
        time = cron.times.next(time + 1) if time + 1 < DAY_S else -1
    return union(found) if time < 0 else ((cron.times.first, DAY_S),)
