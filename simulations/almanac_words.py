"""What a cron expression says of a day and of a time, tested value by value: the words of the reference calendar.

Each item of a field is a question to one value ("is 14 among 10-40/5?"), each special word a question to one date, and a
pattern asks them about every hour and minute once. Nothing is computed ahead, so there is little here that could be wrong in
the same way as in the scheduler, with which it shares no code.

- Numbers, names (`mon`, `JAN`), `*`, `?` (the same), lists, ranges, ranges that wrap (`fri-mon`, `22-2`), steps from the
  start of a range (`*/5`, `10-40/5`; `10/5` goes to the end of the field). Weekdays count from Sunday, which is 0 and 7.
- Days of the month: `L` the last, `L-3` three before it, `15W` the weekday nearest to the 15th within the month, `LW` the
  last weekday. Days of the week: `6L` the last Saturday of the month, `6#3` its third.
- Days of the month and of the week are joined by *or*; by *and* where one of the two fields begins with `*` or is `?`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Final

from ..runtime.errors import UsageError

MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
ALIASES: Final = {
    "@HOURLY": "0 * * * *",
    "@DAILY": "0 0 * * *",
    "@MIDNIGHT": "0 0 * * *",
    "@WEEKLY": "0 0 * * 0",
    "@MONTHLY": "0 0 1 * *",
    "@YEARLY": "0 0 1 1 *",
    "@ANNUALLY": "0 0 1 1 *",
}
FIRST_YEAR, LAST_YEAR = 1970, 2199

_DAY: Final = timedelta(days=1)

Asks = Callable[[int], bool]
AsksDate = Callable[[date], bool]


class UnreadableRuleError(UsageError):
    """The reference calendar cannot read this part of a rule."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"the reference calendar reads no {field} {text!r}")
        self.field = field
        self.text = text


class Pattern:
    """A cron expression of 5 fields, 6 with seconds first or 7 with the year last; or an alias such as `@daily`.

    `seconds`: those of the minute that it names. `minutes`: those of the day, counted from midnight.
    """

    def __init__(self, text: str) -> None:
        words = ALIASES.get(text.upper(), text).upper().split()
        if len(words) == 5:
            words = ["0", *words]
        if len(words) == 6:
            words = [*words, "*"]
        if len(words) != 7:
            raise UnreadableRuleError("cron", text)
        second, minute, hour, self._dom, month, self._dow, year = words
        asks_second, asks_minute, asks_hour = _field(second, 0, 59), _field(minute, 0, 59), _field(hour, 0, 23)
        self.seconds = [each for each in range(60) if asks_second(each)]
        self.minutes = [
            60 * hour + minute for hour in range(24) if asks_hour(hour) for minute in range(60) if asks_minute(minute)
        ]
        self.is_every_hour = all(asks_hour(each) for each in range(24))
        self._month = _field(month, 1, 12, MONTHS)
        self._year = _field(year, FIRST_YEAR, LAST_YEAR)
        self._day_of_month = [_day_of_month(item) for item in self._dom.split(",")]
        self._day_of_week = [_day_of_week(item) for item in self._dow.split(",")]

    def is_on(self, day: date) -> bool:
        """Say whether the expression names some time of this date."""
        if not self._year(day.year) or not self._month(day.month):
            return False
        by_month = any(asks(day) for asks in self._day_of_month)
        by_week = any(asks(day) for asks in self._day_of_week)
        if self._dom[0] in "*?" or self._dow[0] in "*?":
            return by_month and by_week
        return by_month or by_week


def cron_weekday(day: date) -> int:
    """Return 0 for Sunday to 6 for Saturday."""
    return day.isoweekday() % 7


def nearest_weekday(year: int, month: int, day: int) -> date | None:
    """Return the date from Monday to Friday nearest to this one within its month; None: the month has no such day."""
    try:
        start = date(year, month, day)
    except ValueError:
        return None
    for distance in (0, -1, 1, -2, 2):
        candidate = start + distance * _DAY
        if candidate.month == month and candidate.isoweekday() <= 5:
            return candidate
    raise AssertionError("of five days in a row within a month, one is no Saturday and no Sunday")


def days_left(day: date) -> int:
    """Return how many days of its month come after this one."""
    count = 0
    while (day + (count + 1) * _DAY).month == day.month:
        count += 1
    return count


def _field(text: str, low: int, high: int, names: tuple[str, ...] = ()) -> Asks:
    items = [_item(item, low, high, names) for item in text.split(",")]
    return lambda value: any(asks(value) for asks in items)


def _item(text: str, low: int, high: int, names: tuple[str, ...] = ()) -> Asks:
    span, has_step, step_text = text.partition("/")
    step = _number(step_text, 1, high, ()) if has_step else 1
    if span in ("*", "?"):
        first, last = low, high
    elif "-" in span:
        first, last = (_number(end, low, high, names) for end in span.split("-", 1))
    else:
        first = _number(span, low, high, names)
        last = high if has_step else first
    size = high - low + 1

    def asks(value: int) -> bool:
        beyond_first = (value - first) % size
        return beyond_first <= (last - first) % size and beyond_first % step == 0

    return asks


def _number(text: str, low: int, high: int, names: tuple[str, ...]) -> int:
    value = low + names.index(text) if text in names else int(text) if text.isdecimal() else -1
    if not low <= value <= high:
        raise UnreadableRuleError("number", text)
    return value


def _day_of_month(text: str) -> AsksDate:
    if text == "L":
        return lambda day: days_left(day) == 0
    if text == "LW":
        return lambda day: (
            day.isoweekday() <= 5 and all((day + ahead * _DAY).isoweekday() > 5 for ahead in range(1, days_left(day) + 1))
        )
    if text.startswith("L-"):
        ahead = _number(text[2:], 0, 30, ())
        return lambda day: days_left(day) == ahead
    if text.endswith("W"):
        near = _number(text[:-1], 1, 31, ())
        return lambda day: day == nearest_weekday(day.year, day.month, near)
    asks = _item(text, 1, 31)
    return lambda day: asks(day.day)


def _day_of_week(text: str) -> AsksDate:
    if text.endswith("L"):
        weekday = _weekday(text[:-1])
        return lambda day: cron_weekday(day) == weekday and days_left(day) < 7
    if "#" in text:
        name, _, nth = text.partition("#")
        weekday, number = _weekday(name), _number(nth, 1, 5, ())
        return lambda day: cron_weekday(day) == weekday and (day.day + 6) // 7 == number
    span, slash, step = text.partition("/")
    if span.endswith("-7") and not span.startswith("7"):
        # Up to Sunday, written as 7: one more value than the week has days, of which the last is the first.
        asks = _item(text, 0, 7, DAYS)
        return lambda day: asks(cron_weekday(day)) or (cron_weekday(day) == 0 and asks(7))
    ends = ["0" if end == "7" else end for end in span.split("-")]
    asks = _item("-".join(ends) + slash + step, 0, 6, DAYS)
    return lambda day: asks(cron_weekday(day))


def _weekday(text: str) -> int:
    return _number("0" if text == "7" else text, 0, 6, DAYS)
