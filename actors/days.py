"""Days as integers, counted from 1970-01-01, and the years they fall in.

The years 1969 to 2200 are known: those in which schedules tick, and one on each side for the zones. A set of days of one
year is an integer, whose bit n stands for the year's day n, counted from 0; finding the next day in it is one shift.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import date
from typing import Final

DAY_S: Final = 86_400
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2199

_TABLE_FROM: Final = FIRST_YEAR - 1
_EPOCH: Final = date(1970, 1, 1).toordinal()

YEAR_STARTS: Final = tuple(date(year, 1, 1).toordinal() - _EPOCH for year in range(_TABLE_FROM, LAST_YEAR + 3))
_YEARS: Final = len(YEAR_STARTS) - 1
END_S: Final = (date(LAST_YEAR + 1, 1, 1).toordinal() - _EPOCH) * DAY_S  # nothing ticks at or after this instant
END_MS: Final = END_S * 1_000


def year_of(day: int) -> int:
    """Return the year of a day, one of the known years for any day."""
    index = bisect_right(YEAR_STARTS, day) - 1
    return (index if 0 <= index < _YEARS else 0 if index < 0 else _YEARS - 1) + _TABLE_FROM


def year_start(year: int) -> int:
    """Return the day of 1 January."""
    return YEAR_STARTS[year - _TABLE_FROM]


def is_known(year: int) -> bool:
    """Tell whether `year_start` of the year and of the one after it are known."""
    return _TABLE_FROM <= year <= LAST_YEAR + 1


def day_of(year: int, month: int, day: int) -> int:
    """Raises: ValueError if there is no such day."""
    return date(year, month, day).toordinal() - _EPOCH


def date_of(day: int) -> date:
    return date.fromordinal(day + _EPOCH)


def weekday_of(day: int) -> int:
    """Return 0 for a Monday ... 6 for a Sunday."""
    return (day + 3) % 7


def is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def month_length(year: int, month: int) -> int:
    return 29 if month == 2 and is_leap(year) else (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def lowest_bit(bits: int) -> int:
    """Return the number of the lowest bit that is set; `bits` > 0."""
    return (bits & -bits).bit_length() - 1


def easter(year: int) -> int:
    """Return the day of Easter Sunday, by the Gregorian rule.

    Source: the anonymous algorithm of Nature, 20 April 1876, as given by Meeus, Astronomical Algorithms.
    """
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (32 + 2 * e + 2 * i - h - k) % 7
    n = (a + 11 * h + 22 * m) // 451
    month, day = divmod(h + m - 7 * n + 114, 31)
    return day_of(year, month, day + 1)
