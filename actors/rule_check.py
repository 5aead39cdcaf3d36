"""Whether the fields of a rule can be meant, each alone and together. What needs a zone, a calendar or a cron expression is
checked where that is read."""

from __future__ import annotations

from itertools import pairwise
from math import gcd
from typing import Final

from .days import DAY_S, END_MS
from .hours import GAPS, OVERLAPS
from .rule_errors import InvalidRuleError
from .rules import Rule

EXCLUDED: Final = ("skip", "next", "previous")
PRECISIONS: Final = ("high", "normal", "low")
KINDS: Final = ("cron", "every_ms", "after_ms", "at_ms")
MAX_INSTANTS: Final = 10_000  # in at_ms
MIN_MOVED_MS: Final = 1_800_000
MAX_MOVED_TIMES: Final = 400  # of an interval or a list
MAX_SPAN_MS: Final = 100 * 366 * DAY_S * 1_000
MAX_JITTER_MS: Final = 366 * DAY_S * 1_000
DAY_MS: Final = DAY_S * 1_000

_WORDS: Final = (("dst_gap", GAPS), ("dst_overlap", OVERLAPS), ("excluded", EXCLUDED), ("precision", PRECISIONS))


def check_fields(rule: Rule) -> None:
    """Raises: InvalidRuleError."""
    for name in ("every_ms", "after_ms"):
        value = getattr(rule, name)
        if not 0 <= value <= MAX_SPAN_MS:
            expected = "1 or more milliseconds, at most 100 years of them, in a rule of that kind"
            raise InvalidRuleError(name, value, "is not an interval", expected)
    given = [name for name in KINDS if getattr(rule, name)]
    if len(given) != 1:
        problem = "are given together" if given else "says not when to tick"
        expected = "exactly one of cron, every_ms, after_ms and at_ms, an interval of 1 or more milliseconds"
        raise InvalidRuleError("rule", given, problem, expected)
    for name, known in _WORDS:
        if getattr(rule, name) not in known:
            raise InvalidRuleError(name, getattr(rule, name), "is not known", " or ".join(map(repr, known)))
    _check_instants(rule)
    if not 0 <= rule.jitter_ms <= MAX_JITTER_MS:
        raise InvalidRuleError("jitter_ms", rule.jitter_ms, "is not a span", f"0 to {MAX_JITTER_MS} milliseconds")
    if rule.limit < 0:
        raise InvalidRuleError("limit", rule.limit, "is negative", "a number of ticks, or 0 for no limit")
    if rule.calendar and rule.excluded != "skip":
        if rule.after_ms and rule.excluded == "previous":
            raise InvalidRuleError("excluded", "previous", "would go back behind the run before", "'skip' or 'next'")
        _check_movable(rule)


def _check_movable(rule: Rule) -> None:
    """Moving from day to day is decided for each time of the day, so there must not be too many different ones."""
    times = len(rule.at_ms)
    if 0 < rule.every_ms < MIN_MOVED_MS:
        expected = f"{MIN_MOVED_MS} or more milliseconds, or excluded 'skip'"
        raise InvalidRuleError("every_ms", rule.every_ms, "is too often to move to other days", expected)
    if rule.every_ms:
        times = min(DAY_MS // gcd(rule.every_ms, DAY_MS), 366 * DAY_MS // rule.every_ms + 1)
    if times > MAX_MOVED_TIMES:
        field = "every_ms" if rule.every_ms else "at_ms"
        value = rule.every_ms or len(rule.at_ms)
        problem = f"is at {times} different times of the day, too many to move to other days"
        expected = (
            f"at most {MAX_MOVED_TIMES} (as a day or more has, or a part of a day such as an hour), or excluded 'skip'"
        )
        raise InvalidRuleError(field, value, problem, expected)


def _check_instants(rule: Rule) -> None:
    if not 0 <= rule.start_ms < END_MS:
        raise InvalidRuleError("start_ms", rule.start_ms, "is not an instant", f"0 to {END_MS - 1} milliseconds")
    if rule.end_ms and not 0 < rule.end_ms < END_MS:
        raise InvalidRuleError("end_ms", rule.end_ms, "is not an instant", f"1 to {END_MS - 1} milliseconds, or 0: no end")
    if rule.end_ms and rule.end_ms < rule.start_ms:
        raise InvalidRuleError("end_ms", rule.end_ms, "is before the start", f"at or after start_ms {rule.start_ms}")
    if not -END_MS < rule.anchor_ms < END_MS:
        raise InvalidRuleError("anchor_ms", rule.anchor_ms, "is not an instant", f"less than {END_MS} milliseconds")
    if len(rule.at_ms) > MAX_INSTANTS:
        raise InvalidRuleError("at_ms", len(rule.at_ms), "are too many instants", f"at most {MAX_INSTANTS}")
    for each in rule.at_ms:
        if not 0 <= each < END_MS:
            raise InvalidRuleError("at_ms", each, "is not an instant", f"0 to {END_MS - 1} milliseconds")
    for before, each in pairwise(rule.at_ms):
        if each <= before:
            raise InvalidRuleError("at_ms", each, f"comes after {before}", "instants in ascending order, each once")
