"""What can be wrong with a rule or a calendar: each error names the field, its value and what was expected instead."""

from __future__ import annotations

from ..runtime.errors import UsageError

_SHOWN = 120


class InvalidRuleError(UsageError):
    """A rule that cannot be meant. `field`: of `Rule`; `problem`: a verb and what it says of the value."""

    code = "invalid_rule"

    def __init__(self, field: str, value: object, problem: str, expected: str) -> None:
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
        super().__init__(f"{field} {shown} {problem}, expected {expected}")
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


class InvalidWordsError(InvalidRuleError):
    """Words for a rule that are not understood."""

    code = "invalid_words"

    def __init__(self, value: str, problem: str, expected: str) -> None:
        super().__init__("words", value, problem, expected)
