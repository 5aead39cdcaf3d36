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

Every filter is a stream (`actors.streams`). All searches are bounded; a bound that is reached reads as "never again".
"""

from __future__ import annotations

from typing import Final, Literal

from .calendars import SEARCH_S, SEARCH_STEPS, Allowed, opening
from .cron import Cron
from .days import DAY_S, END_MS, END_S, YEAR_STARTS
from .hours import MARGIN_S, Zone
from .spans import Spans, difference, intersection, union
from .streams import CronStream, Stream

Direction = Literal["next", "previous"]

MOVE_DAYS: Final = 366
MOVE_STEPS: Final = 40_000  # days looked at in one search
_KEPT_DAYS: Final = 512
_FEW_TIMES: Final = 64
_FIRST_DAY: Final = YEAR_STARTS[0]
_END_DAY: Final = YEAR_STARTS[-1]


class Kept:
    """The moments of a stream that are allowed."""

    __slots__ = ("_allowed", "_stream")

    def __init__(self, stream: Stream, allowed: Allowed) -> None:
        self._stream = stream
        self._allowed = allowed

    def next(self, from_ms: int) -> int | None:
        limit_ms = min(from_ms + SEARCH_S * 1_000, END_MS)
        for _ in range(SEARCH_STEPS):
            found = self._stream.next(from_ms)
            if found is None or found >= limit_ms:
                return None
            is_allowed, until = self._allowed.window(found // 1_000)
            if is_allowed:
                return found
            from_ms = until * 1_000
        return None


class MovedPoints:
    """The moments of a list, or of an interval of at least a day, each allowed or moved."""

    __slots__ = ("_allowed", "_step", "_stream", "_zone")

    def __init__(self, stream: Stream, zone: Zone, allowed: Allowed, direction: Direction) -> None:
        self._stream = stream
        self._zone = zone
        self._allowed = allowed
        self._step = 1 if direction == "next" else -1

    def next(self, from_ms: int) -> int | None:
        reach_ms = (MOVE_DAYS * DAY_S + MARGIN_S) * 1_000
        if opening(self._allowed, max((from_ms - reach_ms) // 1_000, 0)) is None:
            return None
        best: int | None = None
        at_ms = self._stream.next(from_ms - reach_ms if self._step > 0 else from_ms - MARGIN_S * 1_000)
        ahead_ms = reach_ms if self._step < 0 else MARGIN_S * 1_000
        steps = 0
        while at_ms is not None and (best is None or at_ms - ahead_ms <= best) and steps < MOVE_STEPS:
            found, looked = self._moved(at_ms)
            steps += looked
            best = min([each for each in found if each >= from_ms and (best is None or each < best)], default=best)
            at_ms = self._stream.next(at_ms + 1)
        return best if best is None or best < END_MS else None

    def _moved(self, at_ms: int) -> tuple[list[int], int]:
        """Return where a moment goes, and how many days were looked at."""
        instant, part_ms = divmod(at_ms, 1_000)
        if self._allowed.window(instant)[0]:
            return [at_ms], 1
        local = instant + self._zone.offset(instant)
        for count in range(1, MOVE_DAYS + 1):
            to = local + self._step * count * DAY_S
            if not _FIRST_DAY < to // DAY_S < _END_DAY:
                return [], count
            found = [each for each in self._zone.instants(to) if self._allowed.window(each)[0]]
            if found:
                return [each * 1_000 + part_ms for each in found], count
        return [], MOVE_DAYS


class MovedCron:
    """The moments of a cron expression, each allowed or moved.

    All days named have the same times, so whole days are moved, in spans of times: those that a day allows stay, the others
    go to the day beside it, and so on. What a day comes to is remembered for the days used last.
    """

    __slots__ = ("_allowed", "_cron", "_open", "_step", "_targets", "_times", "_zone")

    def __init__(self, stream: CronStream, allowed: Allowed, direction: Direction) -> None:
        self._cron = stream.cron
        self._zone = stream.zone
        self._allowed = allowed
        self._step = 1 if direction == "next" else -1
        self._times = _times_of(stream.cron)
        self._open: dict[int, Spans] = {}
        self._targets: dict[int, tuple[tuple[int, Spans], ...]] = {}

    def next(self, from_ms: int) -> int | None:
        instant = max(-(-from_ms // 1_000), 0)
        today = (instant + self._zone.offset(instant)) // DAY_S
        best = END_S
        if self._step > 0:
            # Days before may have moved to here; back to the one all of whose times stopped before.
            day = self._cron.days.previous(today)
            while day is not None and day >= today - MOVE_DAYS - 1:
                targets = self._targets_of(day)
                best = min(best, self._first(targets, instant))
                if max([day, *(target for target, _ in targets)]) < today - 1:
                    break
                day = self._cron.days.previous(day - 1)
        day = self._cron.days.next(today + 1 if self._step > 0 else today - 1)
        for _ in range(MOVE_STEPS // MOVE_DAYS):
            if day is None or day >= _END_DAY:
                break
            targets = self._targets_of(day)
            best = min(best, self._first(targets, instant))
            # Whatever stops here, or nowhere, holds up all later days as well.
            lowest = min([day, *(target for target, _ in targets)])
            if best < END_S and lowest > (best + self._zone.offset(best)) // DAY_S + 1:
                break
            if best == END_S and opening(self._allowed, max(instant - MOVE_DAYS * DAY_S - MARGIN_S, 0)) is None:
                break
            day = self._cron.days.next(day + 1)
        return best * 1_000 if best < END_S else None

    def _first(self, targets: tuple[tuple[int, Spans], ...], instant: int) -> int:
        """Return the first moment of these days at or after an instant, or the end of time."""
        best = END_S
        for day, spans in targets:
            start = day * DAY_S
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
            time = self._cron.times.next(low)
            if not 0 <= time < high:
                break
            is_allowed, until = self._allowed.window(midnight + time)
            if is_allowed:
                return time
            low = until - midnight
        return -1

    def _targets_of(self, day: int) -> tuple[tuple[int, Spans], ...]:
        """Return the days to which the times of a day go, and which times go there."""
        found = self._targets.get(day)
        if found is None:
            if len(self._targets) >= _KEPT_DAYS:
                self._targets.clear()
            found = self._targets[day] = tuple(self._find_targets(day))
        return found

    def _find_targets(self, day: int) -> list[tuple[int, Spans]]:
        found = []
        rest = intersection(self._times, union(self._shown(day)))
        for target in range(day, day + self._step * (MOVE_DAYS + 1), self._step):
            if not rest or not _FIRST_DAY < target < _END_DAY:
                break
            stopped = intersection(rest, self._open_times(target))
            if stopped:
                found.append((target, stopped))
                rest = difference(rest, stopped)
        return found

    def _shown(self, day: int) -> list[tuple[int, int]]:
        """Return the times of a day that stand for an instant, piece by piece."""
        start = day * DAY_S
        spans = [
            (max(piece.start + piece.offset - start, 0), min(piece.end + piece.offset - start, DAY_S))
            for piece in self._zone.between(start - MARGIN_S, start + DAY_S + MARGIN_S)
        ]
        return [span for span in spans if span[0] < span[1]]

    def _open_times(self, day: int) -> Spans:
        """Return the times of a day that stand for an allowed instant."""
        known = self._open.get(day)
        if known is not None:
            return known
        start = day * DAY_S
        found = []
        for piece in self._zone.between(start - MARGIN_S, start + DAY_S + MARGIN_S):
            midnight = start - piece.offset
            at, end = max(piece.start, midnight), min(piece.end, midnight + DAY_S)
            while at < end:
                is_allowed, until = self._allowed.window(at)
                if is_allowed:
                    found.append((at - midnight, min(until, end) - midnight))
                at = until
        if len(self._open) >= _KEPT_DAYS:
            self._open.clear()
        spans = self._open[day] = union(found)
        return spans


def _times_of(cron: Cron) -> Spans:
    """Return the times of the day named, one by one if they are few, else the span they lie in: the times beyond the last
    need no place to go."""
    found: list[tuple[int, int]] = []
    time = cron.times.next(0)
    while time >= 0 and len(found) < _FEW_TIMES:
        found.append((time, time + 1))
        time = cron.times.next(time + 1) if time + 1 < DAY_S else -1
    return union(found) if time < 0 else ((cron.times.first, DAY_S),)
