"""The moments of an interval or a list, each allowed by a calendar or moved to another day (`actors.filters`).

Ticks are found for a block of days at a time. A sweep goes from day to day in the direction in which moments move and takes
along the times of the day that found no place yet; it begins far enough outside the block for all that may come to it: 366
days, or where a run of allowed days lets nothing pass. Times that coincide are one, so it carries at most as many as there
are different times of the day, which `actors.rule_check` bounds. The blocks used last are remembered.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from .calendars import Allowed, opening
from .days import DAY_S, END_MS
from .hours import MARGIN_S, Zone
from .open_days import MOVE_DAYS, Direction, OpenDays, is_known
from .streams import Stream

_BLOCK_DAYS: Final = 32
_KEPT_BLOCKS: Final = 4
_MAX_BLOCKS: Final = 40  # that come to nothing although something is allowed in them, in one search
_REACH_S: Final = MOVE_DAYS * DAY_S + MARGIN_S
_RUN_S: Final = 50 * 3_600  # two days, and an hour for each: a local time may be missing on one of them
_DAY_MS: Final = DAY_S * 1_000


class MovedPoints:
    """The moments of a stream, allowed or moved."""

    __slots__ = ("_allowed", "_blocks", "_days", "_is_forward", "_stream", "_zone")

    def __init__(self, stream: Stream, zone: Zone, allowed: Allowed, direction: Direction) -> None:
        self._stream = stream
        self._zone = zone
        self._allowed = allowed
        self._is_forward = direction == "next"
        self._days = OpenDays(zone, allowed)
        self._blocks: dict[int, tuple[int, ...]] = {}

    def next(self, from_ms: int) -> int | None:
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
            known = self._blocks[number] = tuple(sorted(set(self._sweep(number * _BLOCK_DAYS, (number + 1) * _BLOCK_DAYS))))
        return known

    def _sweep(self, low: int, high: int) -> list[int]:
        """Return the ticks of the days in [low, high), some of them perhaps twice."""
        if self._is_forward:
            first, last = self._held_up(low * DAY_S - MARGIN_S) // DAY_S - 1, high - 1
        else:
            first, last = low, self._let_through(high * DAY_S + MARGIN_S) // DAY_S + 1
        found, excluded = self._sorted_out(first, last)
        found = [tick for tick in found if low <= self._local(tick) // _DAY_MS < high]
        carried: dict[int, int] = {}  # times of the day in milliseconds, and the day they come from
        for day in range(first, last + 1) if self._is_forward else range(last, first - 1, -1):
            if carried and is_known(day):
                for time in self._stopped(carried, day):
                    if low <= day < high:
                        found += self._ticks_at(day, time)
            carried |= dict.fromkeys(excluded.get(day, ()), day)
        return found

    def _sorted_out(self, first: int, last: int) -> tuple[list[int], dict[int, list[int]]]:
        """Return the moments around these days that are allowed, and the times of the others by their day."""
        found: list[int] = []
        excluded: dict[int, list[int]] = {}
        at_ms = self._stream.next((first * DAY_S - MARGIN_S) * 1_000)
        end_ms = ((last + 1) * DAY_S + MARGIN_S) * 1_000
        while at_ms is not None and at_ms < end_ms:
            if self._allowed.window(at_ms // 1_000)[0]:
                found.append(at_ms)
            else:
                day, time = divmod(self._local(at_ms), _DAY_MS)
                excluded.setdefault(day, []).append(time)
            at_ms = self._stream.next(at_ms + 1)
        return found, excluded

    def _stopped(self, carried: dict[int, int], day: int) -> list[int]:
        """Take the times that a day allows, or that came too far, out of those carried; return the allowed ones."""
        spans = [(start * 1_000, end * 1_000) for start, end in self._days.times(day)]
        for time in [time for time, origin in carried.items() if abs(day - origin) > MOVE_DAYS]:
            del carried[time]
        found = [time for time in carried if any(start <= time < end for start, end in spans)] if spans else []
        for time in found:
            del carried[time]
        return found

    def _ticks_at(self, day: int, time: int) -> list[int]:
        seconds, part_ms = divmod(time, 1_000)
        instants = self._zone.instants(day * DAY_S + seconds)
        return [each * 1_000 + part_ms for each in instants if self._allowed.window(each)[0]]

    def _local(self, at_ms: int) -> int:
        return at_ms + self._zone.offset(at_ms // 1_000) * 1_000

    def _held_up(self, instant: int) -> int:
        """Return an instant before which every moment stops before the given one, when it moves to later days."""
        for days in (8, 64):
            starts = self._runs(instant - days * DAY_S, instant)
            if starts:
                return starts[-1] - MARGIN_S
        return instant - _REACH_S

    def _let_through(self, instant: int) -> int:
        """Return an instant after which every moment stops after the given one, when it moves to earlier days."""
        for days in (8, 64):
            starts = self._runs(instant, instant + days * DAY_S)
            if starts:
                return starts[0] + _RUN_S + MARGIN_S
        return instant + _REACH_S

    def _runs(self, start: int, end: int) -> list[int]:
        """Return where, in a span, runs of allowed instants begin that no moment can pass on its way from day to day."""
        found: list[int] = []
        begin = at = max(start, 0)
        while at < end:
            is_allowed, until = self._allowed.window(at)
            if not is_allowed:
                begin = until
            elif min(until, end) - begin >= _RUN_S and begin not in found[-1:]:
                found.append(begin)
            at = until
        return found
