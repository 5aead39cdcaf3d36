"""One field of a cron expression: from its text to the values it allows.

Single numbers, ranges, steps and lists of them are read by croniter. What it reads otherwise than stated here, or not at
all, is ours: ranges over the end (`22-2`, `fri-mon`), ranges of one value, `?`, `H`, and the days that depend on the month
(`L`, `L-3`, `15W`, `LW`, `6L`, `6#3`). Nothing is guessed: what is not in the grammar of `actors.cron` is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from croniter import croniter

from .days import FIRST_YEAR, LAST_YEAR
from .spread import spread

Kind = Literal["last", "near", "near_last", "last_weekday", "nth_weekday"]
Special = tuple[Kind, int, int]  # a kind and its numbers; 0 where it has only one

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

_PLAIN: Final = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?", re.ASCII)
_HASHED: Final = re.compile(r"h(?:\((\d+)-(\d+)\))?(?:/(\d+))?", re.ASCII)
_LAST: Final = re.compile(r"l(?:-(\d+))?(w)?", re.ASCII)
_NEAR: Final = re.compile(r"(\d+)w", re.ASCII)
_LAST_WEEKDAY: Final = re.compile(r"(\w+)l", re.ASCII)
_NTH_WEEKDAY: Final = re.compile(r"(\w+)#(\d+)", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Kin:
    """What is allowed in a field. `hashed`: the range of a plain `H`, so that it names a value in every month."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    hashed: tuple[int, int] = (0, 0)
    position: int = 0  # in the five fields that croniter reads

    @property
    def expected(self) -> str:
        names = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"{self.low}-{7 if self.name == 'day of the week' else self.high}{names}"


SECOND: Final = Kin("second", 0, 59, hashed=(0, 59))
MINUTE: Final = Kin("minute", 0, 59, hashed=(0, 59))
HOUR: Final = Kin("hour", 0, 23, hashed=(0, 23), position=1)
DAY: Final = Kin("day of the month", 1, 31, hashed=(1, 28), position=2)
MONTH: Final = Kin("month", 1, 12, _MONTHS, hashed=(1, 12), position=3)
WEEKDAY: Final = Kin("day of the week", 0, 6, _DAYS, hashed=(0, 6), position=4)
YEAR: Final = Kin("year", FIRST_YEAR, LAST_YEAR)


@dataclass(frozen=True, slots=True)
class Field:
    """`values`: ascending. `is_star`: the text begins with `*` (or `?`), so the field does not restrict the days."""

    values: tuple[int, ...]
    specials: tuple[Special, ...] = ()
    is_star: bool = False


class FieldError(ValueError):
    """`problem` and `expected` become part of an `InvalidCronError`, which knows the whole expression."""

    def __init__(self, kin: Kin, text: str, expected: str) -> None:
        super().__init__(text)
        self.problem = f"has the {kin.name} {text!r}"
        self.expected = expected


@lru_cache(maxsize=4_096)
def field_of(kin: Kin, text: str, seed: str) -> Field:
    """Return what a field allows. `text`: in lower case; `seed`: of `H`, else empty so that the result is shared.

    Raises: FieldError.
    """
    values: set[int] = set()
    specials: list[Special] = []
    plain: list[str] = []
    for token in text.replace("?", "*").split(","):
        special = _special(kin, token)
        if special is not None:
            specials.append(special)
        elif (match := _HASHED.fullmatch(token)) and kin is not YEAR:
            values.update(_hashed(kin, token, match, seed))
        elif match := _PLAIN.fullmatch(token):
            found = _plain(kin, token, match)
            if isinstance(found, str):
                plain.append(found)
            else:
                values.update(found)
        else:
            raise FieldError(kin, token, kin.expected)
    if plain:
        values.update(_by_croniter(kin, ",".join(plain)))
    return Field(tuple(sorted(values)), tuple(sorted(set(specials))), text[0] in "*?")


def _number(kin: Kin, token: str, text: str) -> int:
    """Return a value by its number or name; 7 for a Sunday is left as it is, since a range may end there."""
    if text in kin.names:
        return kin.names.index(text) + kin.low
    highest = 7 if kin is WEEKDAY else kin.high
    if not _NUMBER.fullmatch(text) or not kin.low <= int(text) <= highest:
        raise FieldError(kin, token, kin.expected)
    return int(text)


def _step(kin: Kin, token: str, text: str | None, count: int) -> int:
    """`count`: of the values in the field. A longer step would fire once a round, which is not what it says."""
    if text is None:
        return 1
    step = int(text) if len(text) <= 4 else 0
    if not 1 <= step <= count:
        raise FieldError(kin, token, f"a step of 1-{count}")
    return step


def _plain(kin: Kin, token: str, match: re.Match[str]) -> str | list[int]:
    """Return the token as croniter reads it rightly, in numbers; or the values, where it does not."""
    count = kin.high - kin.low + 1
    step = _step(kin, token, match[4], count)
    if match[1]:
        return list(range(kin.low, kin.high + 1, step)) if kin is YEAR else f"*/{step}"
    first = _number(kin, token, match[2])
    if match[3] is None:
        if match[4] is None:
            return [first] if kin is YEAR else str(first)
        return list(range(first % 7 if kin is WEEKDAY else first, kin.high + 1, step))
    last = _number(kin, token, match[3])
    if first > last and kin is YEAR:
        raise FieldError(kin, token, "a range that does not go backwards")
    if kin is WEEKDAY and first == 7 and last < 7:
        first = 0
    if first < last and kin is not YEAR:
        return f"{first}-{last}/{step}"
    # Steps of a range over the end are counted from its beginning, through the end: 22-4/2 is 22, 0, 2, 4.
    length = last - first + 1 if first <= last else last + count - first + 1
    return [(first + n - kin.low) % count + kin.low for n in range(0, length, step)]


def _by_croniter(kin: Kin, text: str) -> list[int]:
    fields = ["*"] * 5
    fields[kin.position] = text
    expanded: list[Any] = croniter.expand(" ".join(fields))[0][kin.position]
    return list(range(kin.low, kin.high + 1)) if "*" in expanded else expanded


def _hashed(kin: Kin, token: str, match: re.Match[str], seed: str) -> range:
    """Return the values of `H`, `H(a-b)`, `H/s` or `H(a-b)/s`: drawn once from the seed and the field's name."""
    low, high = kin.hashed
    if match[1]:
        low, high = _number(kin, token, match[1]), _number(kin, token, match[2])
        if low > high or high > kin.high:
            raise FieldError(kin, token, f"H(low-high) within {kin.low}-{kin.high}")
    count = high - low + 1
    if match[3] is None:
        value = low + spread(f"{seed}|{kin.name}", count)
        return range(value, value + 1)
    step = _step(kin, token, match[3], count)
    return range(low + spread(f"{seed}|{kin.name}", step), high + 1, step)


def _special(kin: Kin, token: str) -> Special | None:
    """Return what a token means that depends on the month, or None if it is of another sort."""
    if kin is DAY:
        if match := _LAST.fullmatch(token):
            back = int(match[1]) if match[1] and len(match[1]) <= 2 else 31 if match[1] else 0
            if back > 30:
                raise FieldError(kin, token, "L-1 to L-30")
            return ("near_last" if match[2] else "last", back, 0)
        if token == "wl":
            raise FieldError(kin, token, "LW for the last weekday")
        if match := _NEAR.fullmatch(token):
            return ("near", _number(kin, token, match[1]), 0)
    elif kin is WEEKDAY:
        if token == "l":
            raise FieldError(kin, token, "a day with it, such as 5L or friL for the last Friday")
        if match := _LAST_WEEKDAY.fullmatch(token):
            return ("last_weekday", _number(kin, token, match[1]) % 7, 0)
        if match := _NTH_WEEKDAY.fullmatch(token):
            if not 1 <= int(match[2][:4]) <= 5:
                raise FieldError(kin, token, "a week of 1-5 after #")
            return ("nth_weekday", _number(kin, token, match[1]) % 7, int(match[2]))
    return None
