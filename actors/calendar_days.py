"""The days and hours that belong to one calendar, compiled from its data; which instants they are is `actors.calendars`'.

Days are integers and the days of a year are bits, so what is remembered of a calendar is small however many dates it names.
"""

from __future__ import annotations

from datetime import date
from typing import Final

from .days import day_of, easter, is_leap, lowest_bit, month_length, weekday_of, year_of, year_start
from .rules import Calendar
from .spans import union

_ALL_DAYS: Final = (1 << 366) - 1


class Days:
    """The days and hours of a calendar, whatever the zone. It keeps nothing of the calendar itself, which may be large."""

    __slots__ = ("_dates", "_easter", "_kinds", "_nth_weekdays", "_weekdays", "_yearly", "_years", "edges", "is_every_day")

    def __init__(self, calendar: Calendar) -> None:
        given = (calendar.weekdays, calendar.dates, calendar.yearly, calendar.easter, calendar.nth_weekdays)
        self.is_every_day = not any(given)
        # In and out of the hours by turns, in seconds of the day.
        self.edges = tuple(edge * 60 for span in union(calendar.hours) for edge in span)
        self._weekdays = sorted(set(calendar.weekdays))
        self._yearly = sorted({(int(text[:2]), int(text[3:])) for text in calendar.yearly})
        self._easter = sorted(set(calendar.easter))
        self._nth_weekdays = sorted(set(calendar.nth_weekdays))
        self._dates: dict[int, int] = {}  # bits of the days of a year, as all that follow
        for text in calendar.dates:
            day = date.fromisoformat(text).timetuple()
            self._dates[day.tm_year] = self._dates.get(day.tm_year, 0) | 1 << (day.tm_yday - 1)
        self._kinds: dict[tuple[int, bool], int] = {}  # by the weekday of 1 January and whether it is a leap year
        self._years: dict[int, int] = {}  # made when first needed

    def run(self, day: int) -> tuple[bool, int]:
        """Return whether a day belongs to it, and the first day after it (at most a new year) where this may change."""
        year = year_of(day)
        start, end = year_start(year), year_start(year + 1)
        if self.is_every_day:
            return True, max(end, day + 1)
        bits = self._years.get(year)
        if bits is None:
            bits = self._years[year] = self._days_of(year)
        rest = bits >> max(day - start, 0)
        has = bool(rest & 1)
        rest = rest ^ _ALL_DAYS if has else rest
        return has, max(min(day + lowest_bit(rest), end) if rest else end, day + 1)

    def _days_of(self, year: int) -> int:
        start, length = year_start(year), year_start(year + 1) - year_start(year)
        kind = (weekday_of(start), is_leap(year))
        bits = self._kinds.get(kind)
        if bits is None:
            bits = self._kinds[kind] = self._days_of_kind(year, start, length)
        bits |= self._dates.get(year, 0)
        for around in (year - 1, year, year + 1) if self._easter else ():
            sunday = easter(around) - start
            for after in self._easter:
                if 0 <= sunday + after < length:
                    bits |= 1 << (sunday + after)
        return bits

    def _days_of_kind(self, year: int, start: int, length: int) -> int:
        days = [n for n in range(length) if weekday_of(start + n) in self._weekdays] if self._weekdays else []
        days += [day_of(year, month, day) - start for month, day in self._yearly if day <= month_length(year, month)]
        days += [_nth_weekday(year, *each) - start for each in self._nth_weekdays]
        bits = 0
        for day in days:
            if 0 <= day < length:
                bits |= 1 << day
        return bits


def _nth_weekday(year: int, month: int, weekday: int, n: int) -> int:
    """Return the day, or one before any year if the month has none."""
    first, length = day_of(year, month, 1), month_length(year, month)
    day = (weekday - weekday_of(first)) % 7
    day += 7 * (n - 1) if n > 0 else 7 * ((length - 1 - day) // 7 + n + 1)
    return first + day if 0 <= day < length else -1_000_000
