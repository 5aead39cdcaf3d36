"""Which moments a shared calendar holds, asked moment by moment: the holidays of the reference calendar.

An expression joins names by `not`, `and`, `or` (in falling strength) and parentheses; each name is asked about the local day
and the local time of the moment. `weekdays` and `weekends` are always known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from typing import Final

from ..actors.rules import Calendar
from .almanac_words import UnreadableRuleError, days_left

BUILT_IN: Final = (Calendar("weekdays", weekdays=(0, 1, 2, 3, 4)), Calendar("weekends", weekdays=(5, 6)))

_WORDS: Final = re.compile(r"[a-z0-9_.-]+|[()]")

LocalTime = Callable[[str], datetime]  # what the clocks of a zone show at the moment asked about; "": the schedule's zone
Asks = Callable[[LocalTime], bool]


class Expression:
    """What `weekdays and not holidays_de` says of a moment."""

    def __init__(self, text: str, calendars: Iterable[Calendar]) -> None:
        self._text = text
        self._calendars = {calendar.name: calendar for calendar in (*BUILT_IN, *calendars)}
        self._words = _WORDS.findall(text)
        self._asks = self._either()
        if self._words:
            raise UnreadableRuleError("calendar", text)

    def holds(self, local_time: LocalTime) -> bool:
        """Say whether the moment that has these local times belongs to the expression."""
        return self._asks(local_time)

    def _either(self) -> Asks:
        parts = [self._all()]
        while self._take("or"):
            parts.append(self._all())
        return lambda local_time: any(part(local_time) for part in parts)

    def _all(self) -> Asks:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return lambda local_time: all(part(local_time) for part in parts)

    def _one(self) -> Asks:
        if self._take("not"):
            part = self._one()
            return lambda local_time: not part(local_time)
        if self._take("("):
            part = self._either()
            if not self._take(")"):
                raise UnreadableRuleError("calendar", self._text)
            return part
        name = self._words.pop(0) if self._words else ""
        if name not in self._calendars:
            raise UnreadableRuleError("calendar", name)
        calendar = self._calendars[name]
        return lambda local_time: is_within(calendar, local_time(calendar.zone))

    def _take(self, word: str) -> bool:
        return self._words[:1] == [word] and bool(self._words.pop(0))


def is_within(calendar: Calendar, local: datetime) -> bool:
    """Say whether a local time is one of the calendar's."""
    minute = local.hour * 60 + local.minute
    if calendar.hours and not any(start <= minute < end for start, end in calendar.hours):
        return False
    day = local.date()
    lists = (calendar.weekdays, calendar.dates, calendar.yearly, calendar.easter, calendar.nth_weekdays)
    return not any(lists) or any(
        (
            day.weekday() in calendar.weekdays,
            day.isoformat() in calendar.dates,
            f"{day.month:02}-{day.day:02}" in calendar.yearly,
            any(is_easter(day - timedelta(days=after)) for after in calendar.easter),
            any(_is_nth(day, *nth) for nth in calendar.nth_weekdays),
        )
    )


def is_easter(day: date) -> bool:
    """Say whether this is Easter Sunday: the first one after the full moon of the church, which is the first since 21 March.

    Source: Knuth, The Art of Computer Programming, 1.3.2, exercise 14: the epacts of Clavius, not one of the short formulas.
    """
    return day.isoweekday() == 7 and any(_is_paschal_moon(day - timedelta(days=before)) for before in range(1, 8))


def _is_paschal_moon(day: date) -> bool:
    golden, century = day.year % 19 + 1, day.year // 100 + 1
    without_leap_day, moon = 3 * century // 4 - 12, (8 * century + 5) // 25 - 5
    epact = (11 * golden + 20 + moon - without_leap_day) % 30
    if epact == 24 or (epact == 25 and golden > 11):
        epact += 1
    full = 44 - epact  # counted from the last of February
    return day == date(day.year, 3, 1) + timedelta(days=(full if full >= 21 else full + 30) - 1)


def _is_nth(day: date, month: int, weekday: int, number: int) -> bool:
    if day.month != month or day.weekday() != weekday:
        return False
    return (day.day + 6) // 7 == number if number > 0 else days_left(day) // 7 + 1 == -number
