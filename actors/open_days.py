"""Which times of a local day are allowed, as spans of seconds since its midnight: what moving to other days is decided by.

Answers for the days used last are remembered, up to a bound of days and of spans; they could be computed again at any time.
Days that are alike share one answer, the same object, so that whoever goes from day to day sees at once that nothing new can
be said of this one.
"""

from __future__ import annotations

from typing import Final, Literal

from .calendars import Allowed
from .days import DAY_S, YEAR_STARTS
from .hours import MARGIN_S, Zone
from .spans import Spans, union

Direction = Literal["next", "previous"]

MOVE_DAYS: Final = 366  # how far a moment moves at most
_KEPT_DAYS: Final = 1_024
_KEPT_SPANS: Final = 16_384
_FIRST_DAY: Final = YEAR_STARTS[0]
_END_DAY: Final = YEAR_STARTS[-1]


def is_known(day: int) -> bool:
    """Tell whether a moment may move to or from a day."""
    return _FIRST_DAY < day < _END_DAY


class OpenDays:
    """The allowed times of days in a zone."""

    __slots__ = ("_allowed", "_closed", "_kept", "_patterns", "_size", "_zone")

    def __init__(self, zone: Zone, allowed: Allowed) -> None:
        self._zone = zone
        self._allowed = allowed
        self._kept: dict[int, Spans] = {}
        self._patterns: dict[Spans, Spans] = {}
        self._size = 0  # spans in all patterns
        self._closed = (0, 0)  # a span of instants, of which none is allowed

    def shown(self, day: int) -> Spans:
        """Return the times of a day that stand for an instant."""
        start = day * DAY_S
        if self._whole(start) is not None:
            return ((0, DAY_S),)
        return union(
            (max(piece.start + piece.offset - start, 0), min(piece.end + piece.offset - start, DAY_S))
            for piece in self._zone.between(start - MARGIN_S, start + DAY_S + MARGIN_S)
        )

    def times(self, day: int) -> Spans:
        """Return the times of a day that stand for an allowed instant."""
        known = self._kept.get(day)
        if known is None:
            found = union(self._find(day))
            if len(self._kept) >= _KEPT_DAYS or self._size >= _KEPT_SPANS:
                self._kept.clear()
                self._patterns.clear()
                self._size = 0
            known = self._kept[day] = self._patterns.setdefault(found, found)
            if known is found:
                self._size += len(found)
        return known

    def _find(self, day: int) -> list[tuple[int, int]]:
        start = day * DAY_S
        midnight = self._whole(start)
        if midnight is not None:
            end = midnight + DAY_S
            if self._closed[0] <= midnight and end <= self._closed[1]:
                return []
            is_allowed, until = self._allowed.window(midnight)
            if until >= end:
                self._closed = self._closed if is_allowed else (midnight, until)
                return [(0, DAY_S)] if is_allowed else []
            return [(low - midnight, high - midnight) for low, high in self._allowed.spans(midnight, end)]
        found: list[tuple[int, int]] = []
        for piece in self._zone.between(start - MARGIN_S, start + DAY_S + MARGIN_S):
            midnight = start - piece.offset
            at, end = max(piece.start, midnight), min(piece.end, midnight + DAY_S)
            if at < end:
                found += [(low - midnight, high - midnight) for low, high in self._allowed.spans(at, end)]
        return found

    def _whole(self, start: int) -> int | None:
        """Return the instant at which the day of a local midnight begins, None if clocks may change around it."""
        end, offset = self._zone.span(max(start - MARGIN_S, 0))
        return start - offset if end >= start + DAY_S + MARGIN_S and start >= MARGIN_S else None
