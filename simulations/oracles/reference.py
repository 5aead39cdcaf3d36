"""The reference calendar for oracles: the ticks of a rule, from the almanac, kept by stretches of time.

The almanac walks through time as slowly as it takes; a run asks about the same stretch again and again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from ...actors.rules import Calendar, Rule
from ..almanac import Almanac
from ..almanac_days import Expression
from ..almanac_words import Pattern

_DAY_MS: Final = 86_400_000
_COARSE: Final = 24  # ticks a day, at most
_FINE: Final = 2_000
_MOVED_DAYS: Final = 400  # looking for what is moved costs a year on top
_KEPT: Final = 4_096


class Reference:
    """The ticks of one rule, by these calendars."""

    def __init__(self, rule: Rule, calendars: tuple[Calendar, ...]) -> None:
        self._zone = rule.zone
        self._expression: Expression | None = None
        if rule.calendar and rule.excluded == "skip":  # asked of the ticks in question only
            self._expression = Expression(rule.calendar, calendars)
            rule = msgspec.structs.replace(rule, calendar="")
        self._almanac = Almanac(rule, calendars)
        self._days = _MOVED_DAYS if rule.calendar else 0
        if rule.cron and not rule.calendar:
            pattern = Pattern(rule.cron)
            daily = len(pattern.minutes) * len(pattern.seconds)
            self._days = 32 if daily <= _COARSE else 4 if daily <= _FINE else 1
        self._stretches: dict[int, list[int]] = {}

    def ticks(self, from_ms: int, until_ms: int) -> list[int]:
        """Return the ticks in [from_ms, until_ms), ascending."""
        if from_ms >= until_ms:
            return []
        found = self._kept(from_ms, until_ms) if self._days else self._almanac.ticks(from_ms, until_ms)
        if self._expression is None:
            return found
        return [tick for tick in found if self._is_allowed(self._expression, tick)]

    def has(self, tick_ms: int) -> bool:
        return self.ticks(tick_ms, tick_ms + 1) != []

    def _kept(self, from_ms: int, until_ms: int) -> list[int]:
        span_ms = self._days * _DAY_MS
        found: list[int] = []
        for number in range(from_ms // span_ms, (until_ms - 1) // span_ms + 1):
            stretch = self._stretches.get(number)
            if stretch is None:
                stretch = self._stretches[number] = self._almanac.ticks(number * span_ms, (number + 1) * span_ms)
            found += stretch[bisect_left(stretch, from_ms) : bisect_left(stretch, until_ms)]
        return found

    def _is_allowed(self, expression: Expression, tick_ms: int) -> bool:
        return expression.holds(
            lambda zone: datetime.fromtimestamp(tick_ms // 1_000, ZoneInfo(zone or self._zone)).replace(tzinfo=None)
        )


def reference(rule: Rule, calendars: Iterable[Calendar] = ()) -> Reference:
    """Return the reference for a rule. What does not say when it ticks has no part in it."""
    plain = msgspec.structs.replace(rule, limit=0, jitter_ms=0, is_jitter_fixed=False, precision="normal")
    return _reference(plain, tuple(calendars))


@lru_cache(maxsize=_KEPT)
def _reference(rule: Rule, calendars: tuple[Calendar, ...]) -> Reference:
    return Reference(rule, calendars)
