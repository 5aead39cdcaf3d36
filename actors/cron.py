"""Cron expressions: which local times one names, and which of them comes next.

Fields, separated by spaces: `minute hour day month weekday`; six put the second in front; seven put the second in front
and the year last. `@hourly @daily @midnight @weekly @monthly @yearly @annually` stand for the usual ones. Letters may be
large or small. In each field:

- `*` and `?`: every value. `5`, `1-5`, `1,15`, names (`mon`, `jan`). Sunday is 0 and 7.
- `*/5`, `10-40/5`, and `10/5`, which is from 10 to the field's end. In `1/2` of a weekday the end is Saturday. A step is at
  most as long as the field (`*/60` minutes is `0`; `*/90` is refused).
- A range may go over the end: `fri-mon`, `22-2`, `28-3`; its steps are counted from its beginning (`22-4/2`: 22, 0, 2, 4; of
  days, the month has 31). A range of years may not.
- `H`: one value drawn from the schedule's seed and the field's name; `H(0-29)` within a range; `H/15` every 15 from a drawn
  beginning below 15; `H(0-29)/10`. A plain `H` as a day of the month is 1-28.
- Day of the month: `L` the last, `L-3` three days before it, `15W` the Monday-Friday day nearest to the 15th within the
  same month (Saturday: the day before, Sunday: the day after; over a month's edge it is the nearest on the other side, so
  1W on a Saturday is Monday the 3rd), `LW` the last Monday-Friday day, `L-3W` likewise the one nearest to `L-3`. A month
  without that day (31W in April, L-30 in February) has none.
- Weekday: `5L` or `friL` the last Friday, `5#3` or `fri#3` the third one (numbers as in cron: 0 Sunday ... 5 Friday).

Days: if the day or the weekday field begins with `*` (also `*/2`) or `?`, a day must satisfy both; otherwise one of them is
enough. This is exactly the rule of Vixie's cron. The month and the year must be right in any case.

A local time is an integer, in seconds since 1970-01-01 00:00:00 of the same wall clock. Compiled expressions are shared and
never change; what they remember of a kind of year could be computed again at any time.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import Final

from .cron_fields import DAY, HOUR, MINUTE, MONTH, SECOND, WEEKDAY, YEAR, Field, FieldError, Special, field_of
from .days import DAY_S, FIRST_YEAR, LAST_YEAR, YEAR_STARTS, is_leap, lowest_bit, month_length, weekday_of
from .rule_errors import InvalidCronError

MAX_TEXT: Final = 256

_MACROS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FORMS: Final = "5 fields (minute hour day month weekday), 6 with seconds first or 7 with the year last as well"
_NONE: Final = 255
_TABLE_FROM: Final = FIRST_YEAR - 1
_KINDS: Final = tuple(
    weekday_of(start) + 7 * is_leap(year) for year, start in enumerate(YEAR_STARTS, start=_TABLE_FROM)
)  # years of one kind have the same days on the same weekdays


class DayRule:
    """Which days an expression names."""

    __slots__ = ("_day", "_is_either", "_masks", "_months", "_weekday", "_years")

    def __init__(self, day: Field, month: Field, weekday: Field, year: Field) -> None:
        self._day = day
        self._months = month.values
        self._weekday = weekday
        self._years = None if len(year.values) > LAST_YEAR - FIRST_YEAR else frozenset(year.values)
        self._is_either = not day.is_star and not weekday.is_star
        self._masks: list[int | None] = [None] * 14  # by kind of year, made when first needed

    def next(self, day: int) -> int | None:
        """Return the first day named, from `day` on."""
        index = max(bisect_right(YEAR_STARTS, day) - 1, 0)
        while index < len(YEAR_STARTS) - 1:
            if bits := self._mask(index) >> max(day - YEAR_STARTS[index], 0):
                return max(day, YEAR_STARTS[index]) + lowest_bit(bits)
            index += 1
        return None

    def previous(self, day: int) -> int | None:
        """Return the last day named, up to and with `day`."""
        index = min(bisect_right(YEAR_STARTS, day), len(YEAR_STARTS) - 1) - 1
        while index >= 0:
            bits = self._mask(index) & ((2 << (day - YEAR_STARTS[index])) - 1)
            if bits:
                return YEAR_STARTS[index] + bits.bit_length() - 1
            index -= 1
        return None

    def _mask(self, index: int) -> int:
        year = index + _TABLE_FROM
        if self._years is not None and year not in self._years:
            return 0
        kind = _KINDS[index]
        mask = self._masks[kind]
        if mask is None:
            mask = self._masks[kind] = self._days_of_year(year, kind % 7)
        return mask

    def _days_of_year(self, year: int, weekday: int) -> int:
        """Return the days as bits. `weekday`: of 1 January, 0 for a Monday."""
        bits = 0
        start = 0
        for month in range(1, 13):
            length = month_length(year, month)
            if month in self._months:
                bits |= self._days_of_month((weekday + start) % 7, length) << start
            start += length
        return bits

    def _days_of_month(self, weekday: int, length: int) -> int:
        first = (weekday + 1) % 7  # of the 1st, 0 for a Sunday
        by_day = sum(1 << (day - 1) for day in self._day.values if day <= length)
        for special in self._day.specials:
            by_day |= _special_day(special, first, length)
        by_weekday = sum(1 << day for day in range(length) if (first + day) % 7 in self._weekday.values)
        for special in self._weekday.specials:
            by_weekday |= _special_weekday(special, first, length)
        return by_day | by_weekday if self._is_either else by_day & by_weekday


def _special_day(special: Special, first: int, length: int) -> int:
    """Return the day as a bit, 0 if the month has none. `first`: the weekday of the 1st, 0 for a Sunday."""
    kind, number, _ = special
    day = number if kind == "near" else length - number
    if not 1 <= day <= length:
        return 0
    if kind != "last":
        weekday = (first + day - 1) % 7
        if weekday == 6:
            day += -1 if day > 1 else 2
        elif weekday == 0:
            day += 1 if day < length else -2
    return 1 << (day - 1)


def _special_weekday(special: Special, first: int, length: int) -> int:
    kind, weekday, number = special
    day = 1 + (weekday - first) % 7
    day += 7 * ((length - day) // 7 if kind == "last_weekday" else number - 1)
    return 1 << (day - 1) if day <= length else 0


class Times:
    """Which times of the day an expression names. Each table holds, for each number, the next allowed one from it on."""

    __slots__ = ("_first_minute", "_first_second", "_hours", "_minutes", "_seconds", "first")

    def __init__(self, second: Field, minute: Field, hour: Field) -> None:
        self._seconds = _table(second.values, 60)
        self._minutes = _table(minute.values, 60)
        self._hours = _table(hour.values, 24)
        self._first_second = second.values[0]
        self._first_minute = minute.values[0] * 60 + second.values[0]
        self.first = hour.values[0] * 3_600 + self._first_minute

    def next(self, time: int) -> int:
        """Return the first second of the day allowed, from `time` on; -1 if there is none left."""
        hour, rest = divmod(time, 3_600)
        if self._hours[hour] == hour:
            minute, second = divmod(rest, 60)
            if self._minutes[minute] == minute:
                found = self._seconds[second]
                if found != _NONE:
                    return time - second + found
            found = self._minutes[minute + 1]
            if found != _NONE:
                return hour * 3_600 + found * 60 + self._first_second
        found = self._hours[hour + 1]
        return -1 if found == _NONE else found * 3_600 + self._first_minute


def _table(values: tuple[int, ...], size: int) -> bytes:
    return bytes(next((value for value in values if value >= number), _NONE) for number in range(size + 1))


class Cron:
    """A compiled expression. `is_hourly`: it allows every hour, so it follows elapsed time across clock changes."""

    __slots__ = ("days", "is_hourly", "text", "times")

    def __init__(self, text: str, times: Times, days: DayRule, *, is_hourly: bool) -> None:
        self.text = text
        self.times = times
        self.days = days
        self.is_hourly = is_hourly

    def next(self, local: int) -> int | None:
        """Return the first local time named, from `local` on; None: never again."""
        today, time = divmod(local, DAY_S)
        day = self.days.next(today)
        if day == today:
            found = self.times.next(time)
            if found >= 0:
                return local - time + found
            day = self.days.next(today + 1)
        return None if day is None else day * DAY_S + self.times.first

    def has(self, local: int) -> bool:
        """Tell whether a local time is named."""
        return self.next(local) == local


def parse(text: str, seed: str = "") -> Cron:
    """Return the compiled expression. `seed`: stable text that `H` is drawn from.

    Raises: InvalidCronError if it cannot be read, or names no day that exists.
    """
    lowered = text.lower()
    plain = _MACROS.get(lowered.strip(), lowered)
    return _parse(text, plain, seed if "h" in plain else "")


@lru_cache(maxsize=4_096)
def _parse(text: str, plain: str, seed: str) -> Cron:
    if len(text) > MAX_TEXT:
        raise InvalidCronError(text, f"is {len(text)} characters long", f"at most {MAX_TEXT}")
    if plain.strip().startswith("@"):
        known = ", ".join(_MACROS)
        problem = "names no time" if plain.strip() == "@reboot" else "is not known"
        raise InvalidCronError(text, problem, f"one of {known}, or {_FORMS}")
    parts = plain.split()
    if not 5 <= len(parts) <= 7:
        raise InvalidCronError(text, f"has {len(parts)} fields", _FORMS)
    if len(parts) == 5:
        parts.insert(0, "0")
    if len(parts) == 6:
        parts.append("*")
    try:
        second, minute, hour, day, month, weekday, year = (
            field_of(kin, part, seed if "h" in part else "")
            for kin, part in zip((SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY, YEAR), parts, strict=True)
        )
    except FieldError as error:
        raise InvalidCronError(text, error.problem, error.expected) from error
    cron = Cron(text, _times(second, minute, hour), _days(day, month, weekday, year), is_hourly=len(hour.values) == 24)
    if cron.next(0) is None:
        raise InvalidCronError(text, "never fires: it names no day that exists", "a day that its months have")
    return cron


@lru_cache(maxsize=4_096)
def _times(second: Field, minute: Field, hour: Field) -> Times:
    return Times(second, minute, hour)


@lru_cache(maxsize=4_096)
def _days(day: Field, month: Field, weekday: Field, year: Field) -> DayRule:
    return DayRule(day, month, weekday, year)
