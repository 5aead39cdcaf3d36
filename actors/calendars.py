"""Which moments a calendar, or an expression over calendars, allows.

A moment belongs to a calendar if its local day is one of the days given (every day, if none are) and its local time is
within the hours given (any time, if none are). Local is in the calendar's zone, or in the schedule's if it has none.
`weekdays` (Monday to Friday) and `weekends` are always there and mean the schedule's zone; no calendar may be named so.

An expression answers for spans, not only for moments: `window(instant)` says whether it allows an instant and until when
that certainly stays so. A search can thus leap over what is excluded; a leap ends no later than the next change of day,
hour, clock or year, and always after the instant asked about, so that every walk from window to window gets ahead. Beyond
the years known nothing belongs to a calendar. Instants are seconds. Compiled calendars never change; what they remember of
a year could be computed again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import date
from functools import lru_cache
from typing import Any, Final, Protocol

from . import calendar_words as words
from .calendar_days import Days
from .days import (
    DAY_S,
    END_S,
    YEAR_STARTS,
)
from .effort import Effort
from .hours import MARGIN_S, Zone, check_zone
from .rule_errors import InvalidCalendarError
from .rules import Calendar
from .spans import Spans, difference, intersection, joined, union

BUILT_IN: Final = (
    Calendar(name="weekdays", weekdays=(0, 1, 2, 3, 4)),
    Calendar(name="weekends", weekdays=(5, 6)),
)
MAX_DATES: Final = 20_000  # in one calendar
MAX_OTHERS: Final = 1_500  # of each other kind in one calendar: the minutes of a day, and more
SEARCH_S: Final = 40 * 366 * DAY_S  # an allowed moment further away is not looked for
SEARCH_STEPS: Final = 10_000  # spans looked at in one search

_NAME: Final = re.compile(r"[a-z0-9_.-]{1,63}")
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_KNOWN_END_S: Final = YEAR_STARTS[-1] * DAY_S - MARGIN_S
_FOREVER_S: Final = 1 << 62
_WINDOW_COST: Final = 6
_SHOWN: Final = 80  # characters of what was sent
_LARGE: Final = 200  # entries of a calendar from which on only a few such are remembered


class Allowed(Protocol):
    """What an expression allows. Whoever asks pays for it out of the effort it was compiled with."""

    def window(self, instant: int) -> tuple[bool, int]:
        """Return whether an instant is allowed, and until when (excluded) this stays so at least."""

    def spans(self, start: int, end: int) -> Spans:
        """Return the allowed instants of [start, end): what windows would say, for many of them at once."""


class _Leaf:
    """One calendar in a zone."""

    __slots__ = ("_days", "_edges", "_effort", "_zone")

    def __init__(self, days: Days, zone: Zone, effort: Effort) -> None:
        self._days = days
        self._edges = days.edges
        self._zone = zone
        self._effort = effort

    def window(self, instant: int) -> tuple[bool, int]:
        self._effort.spend(_WINDOW_COST)
        if instant >= _KNOWN_END_S:
            return False, _FOREVER_S
        end, offset = self._zone.span(instant)
        local = instant + offset
        has, change = self._days.run(local // DAY_S)
        until = change * DAY_S
        if has and self._edges:
            time = local % DAY_S
            index = bisect_right(self._edges, time)
            until = local - time + (self._edges[index] if index < len(self._edges) else DAY_S)
            has = index % 2 == 1
        return has, min(until - offset, end)

    def spans(self, start: int, end: int) -> Spans:
        found: list[tuple[int, int]] = []
        end = min(end, _KNOWN_END_S)
        while start < end:
            self._effort.spend(_WINDOW_COST)
            piece_end, offset = self._zone.span(start)
            piece_end = min(piece_end, end)
            first = (start + offset) // DAY_S
            has, change = self._days.run(first)
            until = min(change * DAY_S - offset, piece_end)
            if has and self._edges:
                self._effort.spend(len(self._edges) // 2 * (1 + (until - start) // DAY_S))
                for midnight in range(first * DAY_S - offset, until, DAY_S):
                    hours = zip(self._edges[::2], self._edges[1::2], strict=True)
                    spans = [(midnight + low, midnight + high) for low, high in hours]
                    if midnight < start or midnight + DAY_S > until:
                        spans = [(max(low, start), min(high, until)) for low, high in spans if low < until and high > start]
                    found += spans
            elif has:
                found.append((start, until))
            start = until
        return joined(found)


class _Inverted:
    __slots__ = ("_of",)

    def __init__(self, of: Allowed) -> None:
        self._of = of

    def window(self, instant: int) -> tuple[bool, int]:
        has, until = self._of.window(instant)
        return not has, until

    def spans(self, start: int, end: int) -> Spans:
        return difference(((start, end),), self._of.spans(start, end)) if start < end else ()


class _Joined:
    """Both sides, or either: if one side decides alone, then for as long as it does."""

    __slots__ = ("_decides", "_left", "_right")

    def __init__(self, left: Allowed, right: Allowed, *, is_and: bool) -> None:
        self._left = left
        self._right = right
        self._decides = not is_and  # the value of one side that settles it

    def window(self, instant: int) -> tuple[bool, int]:
        left, left_until = self._left.window(instant)
        right, right_until = self._right.window(instant)
        if (left is self._decides) and (right is self._decides):
            return left, max(left_until, right_until)
        if left is self._decides:
            return left, left_until
        if right is self._decides:
            return right, right_until
        return left, min(left_until, right_until)

    def spans(self, start: int, end: int) -> Spans:
        left, right = self._left.spans(start, end), self._right.spans(start, end)
        return union([*left, *right]) if self._decides else intersection(left, right)


def compiled(text: str, calendars: Mapping[str, Calendar], zone: str, effort: Effort | None = None) -> Allowed | None:
    """Return what an expression allows, None if it is empty. `zone`: of the calendars that have none; `effort`: what looking
    into them is charged to.

    Raises: InvalidCalendarError if it cannot be read, names a calendar that is not there, or one of them is wrong.
    """
    if not text.strip():
        return None
    known = {each.name: each for each in BUILT_IN}
    used = {}
    for name in words.names_of(_tree(text)):
        calendar = known.get(name.name, calendars.get(name.name))
        if calendar is None:
            names = ", ".join(sorted({*known, *calendars})[:20])
            problem = f"names {name.name!r} at position {name.position}, which is not there"
            if text.strip() == name.name:
                problem = "is not there"
            expected = f"one of {names}; set it with `foliot calendars set` or app.calendar(...)"
            raise InvalidCalendarError("calendar", text, problem, expected)
        used[name.name] = calendar
    return _built(_tree(text), used, zone, effort or Effort(text))


def names_in(text: str) -> tuple[str, ...]:
    """Return the names of an expression, each once, in the order they are written, without those built in.

    Raises: InvalidCalendarError if it cannot be read.
    """
    if not text.strip():
        return ()
    built_in = [each.name for each in BUILT_IN]
    names = [each.name for each in words.names_of(_tree(text))]
    return tuple(name for name in dict.fromkeys(names) if name not in built_in)


@lru_cache(maxsize=1_024)
def _tree(text: str) -> words.Expression:
    return words.parse(text)


def _built(tree: words.Expression, calendars: Mapping[str, Calendar], zone: str, effort: Effort) -> Allowed:
    match tree:
        case words.Name(name=name):
            calendar = calendars[name]
            return _Leaf(days_of(calendar), Zone(calendar.zone or zone, "skip", "both"), effort)
        case words.Not(of=of):
            return _Inverted(_built(of, calendars, zone, effort))
        case words.Both(left=left, right=right, is_and=is_and):
            sides = (_built(each, calendars, zone, effort) for each in (left, right))
            return _Joined(*sides, is_and=is_and)


def days_of(calendar: Calendar) -> Days:
    """Return the days of a calendar, compiled. Raises: InvalidCalendarError.

    They are remembered by value, and with them the calendar, of which every edit makes another: so of large ones only a
    few are.
    """
    entries = sum(len(getattr(calendar, field)) for field, _, _ in _CHECKS)
    return _large_days_of(calendar) if entries > _LARGE else _small_days_of(calendar)


@lru_cache(maxsize=1_024)
def _small_days_of(calendar: Calendar) -> Days:
    check_calendar(calendar)
    return Days(calendar)


@lru_cache(maxsize=16)
def _large_days_of(calendar: Calendar) -> Days:
    check_calendar(calendar)
    return Days(calendar)


def is_holidays(calendar: Calendar) -> bool:
    """Tell whether a calendar names single days, such as holidays, and not only days of the week or hours."""
    return bool(calendar.dates or calendar.yearly or calendar.easter or calendar.nth_weekdays)


def opening(allowed: Allowed, instant: int) -> int | None:
    """Return the first allowed instant from one on, None if a bounded search finds none: of forty years at most."""
    end = min(instant + SEARCH_S, END_S)
    for _ in range(SEARCH_STEPS):
        has, until = allowed.window(instant)
        if has:
            return instant
        instant = until
        if instant >= end:
            break
    return None


_CHECKS: Final[tuple[tuple[str, Callable[[Any], bool], str], ...]] = (
    ("weekdays", lambda day: 0 <= day <= 6, "0 (Monday) to 6 (Sunday)"),
    ("dates", lambda text: _is_date(text), "a date such as '2026-12-24'"),
    ("yearly", lambda text: _is_date(f"2000-{text}"), "a day of the year such as '12-25'"),
    ("easter", lambda days: -366 <= days <= 366, "-366 to 366 days after Easter Sunday"),
    ("nth_weekdays", lambda each: _is_nth(*each), "a month, a weekday and 1 to 5 or -1 to -5, such as 'nov thu 4'"),
    ("hours", lambda each: 0 <= each[0] < each[1] <= 1_440, "a part of one day, such as '09:00-17:00'"),
)


def check_calendar(calendar: Calendar) -> None:
    """Raises: InvalidCalendarError, which names what of the calendar is wrong; InvalidZoneError."""

    def wrong(field: str, value: object, problem: str, expected: str) -> InvalidCalendarError:
        name = "nth" if field == "nth_weekdays" else field
        field_of = f"{name} of calendar {calendar.name[:_SHOWN]!r}"
        shown = _as_typed(field, value)
        return InvalidCalendarError(field_of, shown[:_SHOWN] if isinstance(shown, str) else shown, problem, expected)

    if not _NAME.fullmatch(calendar.name) or calendar.name in words.OPERATORS:
        raise wrong("name", calendar.name, "cannot be used", "1-63 of a-z, 0-9, '_', '.' and '-', no operator")
    if calendar not in BUILT_IN and any(calendar.name == each.name for each in BUILT_IN):
        raise wrong("name", calendar.name, "is built in", "another name")
    for field, is_right, expected in _CHECKS:
        most = MAX_DATES if field == "dates" else MAX_OTHERS
        if len(getattr(calendar, field)) > most:
            raise wrong(field, len(getattr(calendar, field)), "are too many", f"at most {most}")
        for value in getattr(calendar, field):
            if not is_right(value):
                raise wrong(field, value, "cannot be meant", expected)
    if calendar.zone:
        check_zone(calendar.zone, field=f"zone of calendar {calendar.name!r}")


def _as_typed(field: str, value: Any) -> object:
    """Return a value as people write it, if it is such that they could have."""
    match field, value:
        case "hours", (int(start), int(end)):
            return "-".join(f"{minutes // 60:02d}:{minutes % 60:02d}" for minutes in (start, end))
        case "nth_weekdays", (int(month), int(weekday), int(n)) if 1 <= month <= 12 and 0 <= weekday <= 6:
            return f"{_MONTHS[month - 1]} {_WEEKDAYS[weekday]} {n}"
        case _:
            return value


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _is_nth(month: int, weekday: int, n: int) -> bool:
    return 1 <= month <= 12 and 0 <= weekday <= 6 and 1 <= abs(n) <= 5
