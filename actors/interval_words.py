"""Rules in words: `every 5 minutes`, `every day at 18:00`, `every monday and friday at 9:30`.

    every [N] UNIT            of elapsed time, on whole multiples of it since 1970 (UTC): ms, second, minute, hour
    every N days | weeks      likewise: 24 hours each, so the local hour moves with the clocks
    every day [at TIME]       by the wall clock of the schedule's zone, at midnight if no time is given
    every DAY [, DAY | and DAY] [at TIME]   days of the week, `weekday` (Monday to Friday), `weekend`
    every month [at TIME], every year [at TIME]   on the first day

A time is `18:00`, `18:00:30`, `6 pm`, `9:30am`, `noon` or `midnight`. Letters may be large or small; units may be shortened
(`5 min`, `90s`, `500 ms`). Whatever is not of one of these forms is refused.
"""

from __future__ import annotations

import re
from typing import Final

from .days import END_MS
from .rule_errors import InvalidWordsError
from .rules import Rule

MAX_TEXT: Final = 200

_UNITS_MS: Final = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 1),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1_000),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60_000),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3_600_000),
    **dict.fromkeys(("d", "day", "days"), 86_400_000),
    **dict.fromkeys(("w", "week", "weeks"), 604_800_000),
}
_WEEKDAYS: Final = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_SHORT: Final = {"tues": 2, "thur": 4, "thurs": 4} | {name[:3]: number for number, name in enumerate(_WEEKDAYS)}
_BY_WALL_CLOCK: Final = {"day": "* * *", "month": "1 * *", "year": "1 1 *"}

_INTERVAL: Final = re.compile(r"every (?:(\d+) ?)?([a-z]+)", re.ASCII)
_ON_DAYS: Final = re.compile(r"every ([a-z, ]+?)(?: at (.+))?", re.ASCII)
_TIME: Final = re.compile(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))? ?(am|pm)?", re.ASCII)
_EXPECTED_UNIT: Final = "one such as ms, s, m, h, day, week or their names"
_EXPECTED: Final = "'every 5 minutes', 'every day at 18:00' or 'every monday at 9:30'"


def parse(text: str) -> Rule:
    """Return a rule with `every_ms` or `cron` and nothing else set: its zone and all else is for the caller to replace.

    Raises: InvalidWordsError.
    """
    if len(text) > MAX_TEXT:
        raise InvalidWordsError(text, f"is {len(text)} characters long", f"at most {MAX_TEXT}")
    plain = " ".join(text.lower().split())
    match = _INTERVAL.fullmatch(plain)
    if match and match[2] in _UNITS_MS and (match[1] or match[2] not in ("d", "day", "w")):
        return _interval(text, match[1], match[2])
    if match and match[1]:
        raise InvalidWordsError(text, f"has {match[2]!r}, which is no unit", _EXPECTED_UNIT)
    match = _ON_DAYS.fullmatch(plain)
    if match is None:
        if re.fullmatch(r"every \d+ ?[a-z]+ at .*", plain):
            raise InvalidWordsError(text, "gives a time to an interval", "'every day at TIME' or 'every DAY at TIME'")
        raise InvalidWordsError(text, "is not understood", _EXPECTED)
    second, minute, hour = _time(text, match[2])
    days = _BY_WALL_CLOCK.get(match[1]) or f"* * {_weekdays(text, match[1])}"
    return Rule(cron=f"{f'{second} ' if second else ''}{minute} {hour} {days}")


def _interval(text: str, count: str | None, unit: str) -> Rule:
    every_ms = int(count or "1") * _UNITS_MS[unit]
    if not 0 < every_ms < END_MS:
        problem = "is no interval" if every_ms == 0 else "is longer than schedules reach"
        raise InvalidWordsError(text, problem, "1 or more, and less than 230 years")
    return Rule(every_ms=every_ms)


def _weekdays(text: str, words: str) -> str:
    """Return days of the week as a cron field."""
    found: set[int] = set()
    for word in re.split(r", and |, ?| and ", words):
        singular = word.removesuffix("s") if word not in _SHORT else word
        if singular in _WEEKDAYS:
            found.add(_WEEKDAYS.index(singular))
        elif word in _SHORT:
            found.add(_SHORT[word])
        elif singular == "weekday":
            found.update(range(1, 6))
        elif singular == "weekend":
            found.update((0, 6))
        else:
            raise InvalidWordsError(text, f"has {word!r}, which is no unit or day", _EXPECTED)
    return ",".join(map(str, sorted(found)))


def _time(text: str, words: str | None) -> tuple[int, int, int]:
    """Return the second, minute and hour of a time of the day."""
    if words in (None, "midnight", "noon"):
        return 0, 0, 12 if words == "noon" else 0
    assert words is not None
    match = _TIME.fullmatch(words)
    if match and (match[2] or match[4]):
        hour, minute, second = (int(match[group] or "0") for group in (1, 2, 3))
        half = match[4]
        if minute < 60 and second < 60 and (1 <= hour <= 12 if half else hour < 24):
            return second, minute, hour if half is None else hour % 12 + (12 if half == "pm" else 0)
    raise InvalidWordsError(text, f"has the time {words!r}", "a time such as 18:00, 9:30 or 6 pm")
