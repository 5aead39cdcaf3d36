"""Which times of a local day are allowed, as spans of seconds since its midnight: what moving to other days is decided by.

Answers for the days used last are remembered, up to a bound; they could be computed again at any time.
"""

from __future__ import annotations

from typing import Final, Literal

from .calendars import Allowed
from .days import DAY_S, YEAR_STARTS
from .hours import MARGIN_S, Zone
from .spans import Spans, union

Direction = Literal["next", "previous"]

MOVE_DAYS: Final = 366  # how far a moment moves at most
_KEPT_DAYS: Final = 512
_FIRST_DAY: Final = YEAR_STARTS[0]
_END_DAY: Final = YEAR_STARTS[-1]


def is_known(day: int) -> bool:
    """Tell whether a moment may move to or from a day."""
    return _FIRST_DAY < day < _END_DAY


class OpenDays:
    """The allowed times of days in a zone."""

    __slots__ = ("_allowed", "_kept", "_zone")

    def __init__(self, zone: Zone, allowed: Allowed) -> None:
        self._zone = zone
        self._allowed = allowed
        self._kept: dict[int, Spans] = {}

    def shown(self, day: int) -> Spans:
        """Return the times of a day that stand for an instant."""
        start = day * DAY_S
        return union(
            (max(piece.start + piece.offset - start, 0), min(piece.end + piece.offset - start, DAY_S))
            for piece in self._zone.between(start - MARGIN_S, start + DAY_S + MARGIN_S)
        )

    def times(self, day: int) -> Spans:
        """Return the times of a day that stand for an allowed instant."""
        known = self._kept.get(day)
        if known is None:
            if len(self._kept) >= _KEPT_DAYS:
                self._kept.clear()
            known = self._kept[day] = union(self._find(day))
        return known

    def _find(self, day: int) -> list[tuple[int, int]]:
        found = []
        start = day * DAY_S
        for piece in self._zone.between(start - MARGIN_S, start + DAY_S + MARGIN_S):
            midnight = start - piece.offset
            at, end = max(piece.start, midnight), min(piece.end, midnight + DAY_S)
            while at < end:
                is_allowed, until = self._allowed.window(at)
                if is_allowed:
                    found.append((at - midnight, min(until, end) - midnight))
                at = until
        return found
