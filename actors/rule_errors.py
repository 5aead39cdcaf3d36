"""What can be wrong with a rule or a calendar: each error names the field, its value and what was expected instead."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from ..runtime.errors import UsageError

_SHOWN = 120
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANTS: Final = ("start_ms", "end_ms", "anchor_ms", "at_ms")
_SPANS: Final = ("every_ms", "after_ms", "jitter_ms")
_INSTANT: Final = re.compile(r"\b\d{12,13}\b")  # milliseconds since 1970, of 1973 and later
_FIELD: Final = re.compile(r"\b(start|end|anchor|at|every|after|jitter)_ms\b")


def instant_text(instant_ms: int) -> str:
    """Return an instant as people read it, `2026-03-29T01:30:00Z`; as a number if it is none that a date can say."""
    try:
        moment = _EPOCH + timedelta(milliseconds=instant_ms)
    except OverflowError:
        return str(instant_ms)
    return moment.isoformat(timespec="milliseconds" if instant_ms % 1_000 else "seconds").removesuffix("+00:00") + "Z"


def user_words(text: str) -> str:
    """Return a text about a rule with the words users have for its fields: `every` for `every_ms`."""
    return _FIELD.sub(r"\1", text)


def rule_value(field: str, value: object) -> str:
    """Return a field of a rule and its value, for people: `every 300000 ms`."""
    return f"{user_words(field)} {_shown(field, value)}"


def _with_dates(text: str) -> str:
    return _INSTANT.sub(lambda found: instant_text(int(found[0])), text)


def _shown(field: str, value: object) -> str:
    if field in _INSTANTS and isinstance(value, int) and _INSTANT.fullmatch(str(value)):
        shown = repr(instant_text(value))
    elif field in _INSTANTS:
        shown = _with_dates(repr(value))
    elif field in _SPANS:
        shown = f"{value} ms"
    else:
        shown = user_words(repr(value)) if field == "rule" else repr(value)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."


class InvalidRuleError(UsageError):
    """A rule that cannot be meant. `field`: of `Rule`; `problem`: a verb and what it says of the value. The message says it
    in the words of users: `every` for `every_ms`, dates for instants."""

    code = "invalid_rule"

    def __init__(self, field: str, value: object, problem: str, expected: str) -> None:
        said = user_words(f"{problem}, expected {expected}")
        said = _with_dates(said) if field in _INSTANTS else said
        super().__init__(f"{rule_value(field, value)} {said}")
        self.field = field
        self.value = value
        self.problem = problem
        self.expected = expected


class InvalidCronError(InvalidRuleError):
    """A cron expression that cannot be read, or that names no moment at all."""

    code = "invalid_cron"

    def __init__(self, value: str, problem: str, expected: str) -> None:
        super().__init__("cron", value, problem, expected)


class InvalidZoneError(InvalidRuleError):
    """No such time zone. `nearest`: names that look like it, the best first."""

    code = "invalid_zone"

    def __init__(self, value: str, nearest: tuple[str, ...] = (), *, field: str = "zone") -> None:
        names = " or ".join(map(repr, nearest))
        expected = f"{names}, or another IANA name" if nearest else "an IANA name such as 'Europe/Berlin'"
        super().__init__(field, value, "is not a time zone", expected)
        self.nearest = nearest


class InvalidCalendarError(InvalidRuleError):
    """A calendar whose data cannot be meant, or an expression over calendars that cannot be read."""

    code = "invalid_calendar"


class NeverTicksError(InvalidRuleError):
    """A rule that is right in each part, and yet names no moment from now on."""

    code = "never_ticks"


class SearchTooLongError(InvalidRuleError):
    """A rule whose next tick takes too much work to find among what its calendars exclude."""

    code = "search_too_long"

    def __init__(self, expression: str) -> None:
        expected = "fewer calendars, fewer spans of hours, or another value of 'excluded'"
        super().__init__("calendar", expression, "needs too long to find the next tick", expected)


class InvalidWordsError(InvalidRuleError):
    """Words for a rule that are not understood."""

    code = "invalid_words"

    def __init__(self, value: str, problem: str, expected: str) -> None:
        super().__init__("words", value, problem, expected)
