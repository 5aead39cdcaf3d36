"""Spans, rates and instants as people write them, turned into the integers everything below works with.

A span is rounded up to a whole millisecond, so nothing is ever early. What is absurd (negative, NaN, a century away) is
refused here, with the value and what was expected, before anything is half done.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Final

from ..runtime.clock import Clock
from ..runtime.errors import UsageError

Span = str | int | float | timedelta
"""`"30s"`, `"1h30m"`, `"250ms"`, `"1.5s"`, `"2d"`, a number of seconds, or a timedelta."""

MAX_SPAN_MS: Final = 100 * 366 * 86_400_000
"""About 100 years; longer spans are mistakes."""

_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_RATE_UNITS: Final = {
    "s": "1s", "sec": "1s", "second": "1s", "m": "1m", "min": "1m", "minute": "1m", "h": "1h", "hour": "1h",
    "d": "1d", "day": "1d",
}  # fmt: skip
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_RATE = re.compile(r"(\d+)\s*/\s*(\S+)")
_EXPECTED_SPAN: Final = "a span such as '30s', '1h30m', '250ms', seconds as a number, or a timedelta"
_EXPECTED_INSTANT: Final = "an aware datetime, or ISO text with an offset such as '2030-01-31T09:00:00+01:00'"


class InvalidSpanError(UsageError):
    """A span of time that cannot be used."""

    code = "invalid_span"

    def __init__(self, what: str, value: object, problem: str, expected: str = _EXPECTED_SPAN) -> None:
        super().__init__(f"{what} {_show(value)} {problem}, expected {expected}")
        self.what = what
        self.value = value
        self.expected = expected


class InvalidRateError(UsageError):
    """A rate that cannot be used."""

    code = "invalid_rate"

    def __init__(self, what: str, value: object) -> None:
        self.expected = "a rate such as '10/min', '5/s' or '100/30s', of at least 1"
        super().__init__(f"{what} {_show(value)} is not a rate, expected {self.expected}")
        self.what = what
        self.value = value


class InvalidInstantError(UsageError):
    """A moment that cannot be used."""

    code = "invalid_instant"

    def __init__(self, what: str, value: object, problem: str, expected: str = _EXPECTED_INSTANT) -> None:
        self.expected = expected
        super().__init__(f"{what} {_show(value)} {problem}, expected {self.expected}")
        self.what = what
        self.value = value


def parse_span(value: Span, *, what: str = "span") -> int:
    """Return the span in milliseconds, 0 or more, rounded up. Raises: InvalidSpanError."""
    if isinstance(value, timedelta):
        micros = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
        return _checked(-(-micros // 1_000), value, what)
    if isinstance(value, bool):
        raise InvalidSpanError(what, value, "is not a span")
    if isinstance(value, int):
        return _checked(value * 1_000, value, what)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise InvalidSpanError(what, value, "is not a finite number")
        # The shortest decimal that means this float: 0.07 s is 70 ms, not 71.
        return _checked(_up(Decimal(repr(value)) * 1_000), value, what)
    if isinstance(value, str):
        return _checked(_up(_of_text(value, what)), value, what)
    raise InvalidSpanError(what, value, "is not a span")


def parse_rate(value: str | tuple[int, Span], *, what: str = "rate") -> tuple[int, int]:
    """Return (how many, in how many milliseconds), both at least 1. Raises: InvalidRateError."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], int):
        count, span = value
    elif isinstance(value, str) and (found := _RATE.fullmatch(value.strip())) and len(found[1]) <= 9:
        count, span = int(found[1]), _RATE_UNITS.get(found[2], found[2])
    else:
        raise InvalidRateError(what, value)
    try:
        per_ms = parse_span(span, what=what)
    except InvalidSpanError as error:
        raise InvalidRateError(what, value) from error
    if isinstance(count, bool) or count < 1 or per_ms < 1:
        raise InvalidRateError(what, value)
    return count, per_ms


def to_instant_ms(value: datetime | str, clock: Clock, *, what: str = "at") -> int:
    """Return the moment in wall-clock milliseconds, rounded up. Raises: InvalidInstantError if it has no offset or is
    more than a century away."""
    instant_ms = instant_of(value, what=what)
    if abs(instant_ms - clock.now_ms()) > MAX_SPAN_MS:
        raise InvalidInstantError(what, value, "is more than 100 years away")
    return instant_ms


def instant_of(value: datetime | str, *, what: str) -> int:
    """Return any moment in wall-clock milliseconds, rounded up. Raises: InvalidInstantError if it has no offset."""
    moment = value
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment.strip())
        except ValueError:
            raise InvalidInstantError(what, value, "is not a moment") from None
    if not isinstance(moment, datetime):
        raise InvalidInstantError(what, value, "is not a moment")
    offset = moment.utcoffset()
    if offset is None:
        raise InvalidInstantError(what, value, "has no time zone")
    naive = moment.replace(tzinfo=None)
    # By hand, since `timestamp()` is a float and the first and last days of the calendar overflow in UTC.
    seconds = (naive.toordinal() - 719_163) * 86_400 + naive.hour * 3_600 + naive.minute * 60 + naive.second
    seconds -= offset.days * 86_400 + offset.seconds
    micros = seconds * 1_000_000 + naive.microsecond - offset.microseconds
    return -(-micros // 1_000)


def _of_text(text: str, what: str) -> Decimal:
    squeezed = text.strip().lower().replace(" ", "")
    if len(squeezed) > 64:
        raise InvalidSpanError(what, text, "is not a span")
    if squeezed.startswith("-") and len(squeezed) > 1:
        raise InvalidSpanError(what, text, "is negative")
    if squeezed.isascii() and _NUMBER.fullmatch(squeezed):
        return Decimal(squeezed) * 1_000
    total, position, seen = Decimal(0), 0, [""]
    for part in _PART.finditer(squeezed):
        if part.start() != position or part[2] in seen or not part[1].isascii():
            break
        total += Decimal(part[1]) * _UNITS_MS[part[2]]
        position = part.end()
        seen.append(part[2])
    if position != len(squeezed) or not squeezed:
        raise InvalidSpanError(what, text, "is not a span")
    return total


def _up(value: Decimal) -> int:
    return int(value.to_integral_value(rounding=ROUND_CEILING))


def _checked(span_ms: int, value: object, what: str) -> int:
    if span_ms < 0:
        raise InvalidSpanError(what, value, "is negative")
    if span_ms > MAX_SPAN_MS:
        raise InvalidSpanError(what, value, "is longer than 100 years")
    return span_ms


def _show(value: object) -> str:
    if isinstance(value, datetime):
        return repr(value.isoformat())
    if isinstance(value, int) and value.bit_length() > 256:  # its digits could be too many to print
        return f"(an integer of {value.bit_length()} bits)"
    return f"{value!r:.80}"
