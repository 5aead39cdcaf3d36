"""The moments of an interval or a list, each allowed by a calendar or moved to another day (`actors.filters`).

Ticks are found for a block of days at a time. A sweep goes from day to day in the direction in which moments move and takes
along the times of the day that found no place yet; it begins far enough outside the block for all that may come to it: 366
days, or where no time of the day gets past that is allowed in the block. Times that coincide are one, so it carries at most
as many as there are different times of the day, which `actors.rule_check` bounds. The blocks used last are remembered.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

from .calendars import Allowed, opening
from .days import DAY_S, END_MS
from .effort import Effort
from .hours import MARGIN_S, Zone
from .open_days import MOVE_DAYS, Direction, OpenDays, is_known
from .spans import Spans, difference, union
from .streams import Stream

_BLOCK_DAYS: Final = 32
_KEPT_BLOCKS: Final = 8
_MAX_BLOCKS: Final = 40  # that come to nothing although something is allowed in them, in one search
_REACH_S: Final = MOVE_DAYS * DAY_S + MARGIN_S
_DAY_MS: Final = DAY_S * 1_000
_DAY_COST: Final = 4
_MOMENT_COST: Final = 4
_TIME_COST: Final = 2


class MovedPoints:
    """The moments of a stream, allowed or moved."""

    __slots__ = ("_allowed", "_blocks", "_days", "_effort", "_is_forward", "_stream", "_zone")

    def __init__(self, stream: Stream, zone: Zone, allowed: Allowed, direction: Direction, effort: Effort) -> None:
        self._stream = stream
        self._zone = zone
        self._allowed = allowed
        self._effort = effort
        self._is_forward = direction == "next"
        self._days = OpenDays(zone, allowed)
        self._blocks: dict[int, tuple[int, ...]] = {}

    def next(self, from_ms: int) -> int | None:
        if from_ms >= END_MS:
            return None
        coming = self._stream.next(from_ms - _REACH_S * 1_000)
        if coming is None:
            return None
        day = max(from_ms // 1_000 - MARGIN_S, coming // 1_000 - _REACH_S, 0) // DAY_S
        for _ in range(_MAX_BLOCKS):
            number = day // _BLOCK_DAYS
            found = self._first(number, from_ms)
            # Local days and instants may be out of step by a day, so at its end the next block has a say as well.
            if found is None or found >= ((number + 1) * _BLOCK_DAYS * DAY_S - MARGIN_S) * 1_000:
                other = self._first(number + 1, from_ms)
                found = other if found is None or (other is not None and other < found) else found
            if found is not None:
                return found if found < END_MS else None
            day = (number + 2) * _BLOCK_DAYS
            coming = self._stream.next((day * DAY_S - _REACH_S) * 1_000)
            opened = opening(self._allowed, max(day * DAY_S - MARGIN_S, 0))
            if coming is None or opened is None:
                break
            day = max(day, (coming // 1_000 - _REACH_S) // DAY_S, (opened - MARGIN_S) // DAY_S)
        return None

    def _first(self, number: int, from_ms: int) -> int | None:
        """Return the first tick of a block at or after an instant."""
        ticks = self._block(number)
        index = bisect_left(ticks, from_ms)
        return ticks[index] if index < len(ticks) else None

    def _block(self, number: int) -> tuple[int, ...]:
        """Return the ticks of the local days of a block, ascending."""
        known = self._blocks.get(number)
        if known is None:
            if len(self._blocks) >= _KEPT_BLOCKS:
                self._blocks.clear()
            # Most of a sweep is before or after the block, so two of them are made at once.
            ticks: dict[int, list[int]] = {number: [], number + 1: []}
            for day, tick in self._sweep(number * _BLOCK_DAYS, (number + 2) * _BLOCK_DAYS):
                ticks[day // _BLOCK_DAYS].append(tick)
            for each, found in ticks.items():
                self._blocks[each] = tuple(sorted(set(found)))
            known = self._blocks[number]
        return known

    def _sweep(self, low: int, high: int) -> list[tuple[int, int]]:
        """Return the days in [low, high) and their ticks, some of them perhaps twice."""
        first, last = low, high - 1
        if self._is_forward:
            first = self._beginning(low, high, range(low - 1, low - MOVE_DAYS - 2, -1))
        else:
            last = self._beginning(low, high, range(high, high + MOVE_DAYS + 1))
        kept, excluded = self._sorted_out(first, last)
        found = [(day, tick) for day, tick in kept if low <= day < high]
        carried: dict[int, int] = {}  # times of the day in milliseconds, and the day they come from
        fresh: list[int] = []  # those of them that came since `tried` was
        tried: Spans = ()
        for day in range(first, last + 1) if self._is_forward else range(last, first - 1, -1):
            self._effort.spend(_DAY_COST)
            times = self._days.times(day) if carried and is_known(day) else ()
            if times:
                # What found no place on a day finds none on one that is like it.
                for time in self._stopped(carried, fresh if times is tried else list(carried), day, times):
                    if low <= day < high:
                        found += [(day, tick) for tick in self._ticks_at(day, time)]
                fresh, tried = [], times
            coming = excluded.get(day, ())
            carried |= dict.fromkeys(coming, day)
            fresh += coming
        return found

    def _sorted_out(self, first: int, last: int) -> tuple[list[tuple[int, int]], dict[int, list[int]]]:
        """Return the moments around these days that are allowed and their days, and the times of the others by day."""
        found: list[tuple[int, int]] = []
        excluded: dict[int, list[int]] = {}
        is_allowed, until, offset_ms, until_change = False, 0, 0, 0
        at_ms = self._stream.next((first * DAY_S - MARGIN_S) * 1_000)
        end_ms = ((last + 1) * DAY_S + MARGIN_S) * 1_000
        while at_ms is not None and at_ms < end_ms:
            self._effort.spend(_MOMENT_COST)
            instant = at_ms // 1_000
            if instant >= until:
                is_allowed, until = self._allowed.window(instant)
            if instant >= until_change:
                until_change, offset = self._zone.span(instant)
                offset_ms = offset * 1_000
            day, time = divmod(at_ms + offset_ms, _DAY_MS)
            if is_allowed:
                found.append((day, at_ms))
            else:
                excluded.setdefault(day, []).append(time)
            at_ms = self._stream.next(at_ms + 1)
        return found, excluded

    def _stopped(self, carried: dict[int, int], candidates: list[int], day: int, times: Spans) -> list[int]:
        """Take those of the candidates that a day allows out of the times carried; return those not from too far."""
        self._effort.spend(_TIME_COST * len(candidates))
        found = []
        for time in candidates:
            second = time // 1_000
            index = bisect_right(times, (second, DAY_S + 1)) - 1
            if index >= 0 and second < times[index][1]:
                origin = carried.pop(time, None)
                if origin is not None and abs(day - origin) <= MOVE_DAYS:
                    found.append(time)
        return found

    def _ticks_at(self, day: int, time: int) -> list[int]:
        seconds, part_ms = divmod(time, 1_000)
        instants = self._zone.instants(day * DAY_S + seconds)
        return [each * 1_000 + part_ms for each in instants if self._allowed.window(each)[0]]

    def _beginning(self, low: int, high: int, outside: range) -> int:
        """Return the day at which a sweep begins: moments beyond it stop before they come to the days in [low, high), or
        pass through those. `outside`: the days from which moments come, the nearest first.

        A time of the day can only stop in [low, high) if it is allowed on one of these days. Once it was allowed on one of
        the days outside, no moment at that time comes from beyond.
        """
        rest: Spans = ()
        last: Spans = ()
        for day in range(low, high):
            times = self._days.times(day) if is_known(day) else ()
            if times and times is not last:
                self._effort.spend(len(rest) + len(times))
                rest, last = union([*rest, *times]), times
        last = ()
        beginning = low if outside.step < 0 else high - 1
        for day in outside:
            if not rest or not is_known(day):
                break
            self._effort.spend(_DAY_COST)
            beginning = day
            times = self._days.times(day)
            if times and times is not last:
                self._effort.spend(len(rest) + len(times))
                rest, last = difference(rest, times), times
        return beginning
