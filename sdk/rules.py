"""When a schedule ticks, from a user's words to a `Rule`: spans as texts, moments as datetimes, intervals in words.

What is wrong with a single word is said here; whether the whole can be meant and will ever tick, `actors.ticks` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from ..actors import interval_words
from ..actors.rule_errors import InvalidRuleError, InvalidWordsError, instant_text
from ..actors.rules import Calendar, Rule
from ..actors.schedule import seed_of
from ..actors.ticks import Ticks, check
from ..runtime.errors import UsageError
from .durations import InvalidSpanError, Span, instant_of, parse_span
from .options import InvalidOptionError

WHEN_WORDS: Final = ("cron", "every", "after", "at")
RULE_WORDS: Final = (
    *WHEN_WORDS, "anchor", "zone", "dst_gap", "dst_overlap", "start", "end", "limit", "calendar", "excluded", "jitter",
    "hashed", "precision",
)  # fmt: skip
_TEXTS: Final = ("cron", "zone", "dst_gap", "dst_overlap", "calendar", "excluded", "precision")
_LIMIT_MAX: Final = 1 << 53


class WhenError(UsageError):
    """No word that says when a schedule ticks, or several. `given`: those. `form`: how whoever reads it writes a word."""

    code = "invalid_option"

    def __init__(self, given: Sequence[str], form: str = "{}=") -> None:
        words = [form.format(word) for word in given]
        problem = f"{' and '.join(words)} are given together" if words else "nothing says when to tick"
        super().__init__(f"{problem}, expected exactly one of {', '.join(map(form.format, WHEN_WORDS))}")
        self.given = list(given)


def rule_of(words: Mapping[str, Any], old: Rule | None = None) -> Rule:
    """Return the rule that these words name, or `old` changed by them.

    cron: an expression. every: a span, or words such as "5 minutes" or "day at 18:00". after: a span from the end of one run
    to the next. at: a moment or several. Exactly one of these four, unless there is an old rule. anchor: the moment from
    which `every` counts, by default the start, else 1970. zone, dst_gap, dst_overlap, calendar, excluded, precision: texts
    as in `Rule`. start, end: aware moments. limit: how many ticks fire at most. jitter: a span, hashed=True: the same one at
    every tick. None means the default.

    Raises: WhenError, InvalidOptionError, InvalidSpanError, InvalidInstantError, InvalidWordsError.
    """
    changes: dict[str, Any] = {}
    given = [word for word in WHEN_WORDS if words.get(word) is not None]
    if len(given) > 1 or (old is None and not given):
        raise WhenError(given)
    usual = Rule()
    for word in words:
        if word in _TEXTS and word != "cron":
            value = words[word]
            changes[word] = getattr(usual, word) if value is None else _text(word, value)
    for word in ("start", "end"):
        if word in words:
            changes[f"{word}_ms"] = 0 if words[word] is None else instant_of(words[word], what=word)
    if given:
        changes |= {"cron": "", "every_ms": 0, "after_ms": 0, "at_ms": (), "anchor_ms": 0}
        changes |= _when(given[0], words[given[0]])
    if "anchor" in words and words["anchor"] is not None:
        changes["anchor_ms"] = instant_of(words["anchor"], what="anchor")
    elif changes.get("every_ms"):
        changes["anchor_ms"] = changes.get("start_ms", (old or usual).start_ms)
    if "limit" in words:
        limit = words["limit"]
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= _LIMIT_MAX):
            raise InvalidOptionError("limit", limit, "a whole number of ticks, 1 or more, or None for no limit")
        changes["limit"] = limit or 0
    if "jitter" in words:
        changes["jitter_ms"] = 0 if words["jitter"] is None else parse_span(words["jitter"], what="jitter")
    if "hashed" in words:
        if not isinstance(words["hashed"], bool):
            raise InvalidOptionError("hashed", words["hashed"], "True or False")
        changes["is_jitter_fixed"] = words["hashed"]
    return msgspec.structs.replace(old or usual, **changes)


def _text(word: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidOptionError(word, value, "a text")
    return value


def _when(word: str, value: Any) -> dict[str, Any]:
    match word:
        case "cron":
            return {"cron": _text(word, value).strip()}
        case "every":
            return _interval(value)
        case "after":
            return {"after_ms": _delay(value)}
        case _:
            return {"at_ms": _moments(value)}


def _interval(value: Any) -> dict[str, Any]:
    """Return a fixed rate, or the cron expression that words such as "day at 18:00" stand for."""
    try:
        every_ms = parse_span(value, what="every")
    except InvalidSpanError:
        if not isinstance(value, str) or value.strip().startswith("-"):
            raise
        words = value.strip()
        rule = interval_words.parse(words if words.lower().startswith("every ") else f"every {words}")
        return {"cron": rule.cron, "every_ms": rule.every_ms}
    if not every_ms:
        raise InvalidSpanError("every", value, "is no interval", "1 ms or more")
    return {"every_ms": every_ms}


def _delay(value: Any) -> int:
    try:
        after_ms = parse_span(value, what="after")
    except InvalidSpanError as error:
        try:
            after_ms = interval_words.parse(f"every {value}").every_ms
        except InvalidWordsError:
            raise error from None
    if not after_ms:
        raise InvalidSpanError("after", value, "is no delay", "1 ms or more, such as '10m'")
    return after_ms


def _moments(value: datetime | str | Iterable[datetime | str]) -> tuple[int, ...]:
    if isinstance(value, datetime | str):
        return (instant_of(value, what="at"),)
    if not isinstance(value, Iterable):
        raise InvalidOptionError("at", value, "a moment, or several")
    moments = sorted(dict.fromkeys(instant_of(each, what="at") for each in value))
    if not moments:
        raise InvalidOptionError("at", value, "at least one moment")
    return tuple(moments)


def check_rule(rule: Rule, *, tenant: str, name: str, now_ms: int) -> None:
    """Say with fields what the scheduler would say in a sentence. A rule that names calendars is left to it, since it knows
    them. Raises: InvalidRuleError of a kind that names field, value and expectation."""
    if not rule.calendar:
        check(rule, {}, now_ms, seed=seed_of(tenant, name))


def ticks_of(words: Mapping[str, Any], *, now_ms: int, name: str = "", tenant: str = "default",
             calendars: Iterable[Calendar] = ()) -> Ticks:  # fmt: skip
    """Return the ticks of a rule in words, for a look ahead without a scheduler. Raises: UsageError, as `rule_of` and
    `actors.ticks.check`."""
    known = {calendar.name: calendar for calendar in calendars}
    return check(rule_of(words), known, now_ms, seed=seed_of(tenant, name))


def check_until(begin_ms: int, until_ms: int) -> None:
    """Raises: InvalidRuleError unless a look ahead ends after it begins; `until_ms` 0: it has no end."""
    if until_ms and until_ms <= begin_ms:
        expected = f"a moment after the start {instant_text(begin_ms)}"
        raise InvalidRuleError("until", instant_text(until_ms), "is not after the start", expected)


def span_ms(word: str, value: Span | None) -> int:
    """Return a span, 0 for None."""
    return 0 if value is None else parse_span(value, what=word)
