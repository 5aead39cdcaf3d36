"""The reference calendar: which moments a rule names, found by walking through time as slowly as it takes.

It exists to disagree. `actors.ticks` computes the next tick; this module looks at every minute of UTC through `zoneinfo`,
keeps what the clocks of the zone showed, and asks each day and each minute whether the rule means it. The two share the
rule's type and no other code, so a difference between them is a bug in one. What is meant, in the words both follow:

- A cron expression names local times. A local time that clocks showed once is that moment.
- Where its hour field allows every hour, it names the moments at which clocks show such a time: both passes of an hour that
  comes twice, and nothing for times that clocks never showed.
- Otherwise `dst_overlap` chooses among the moments of a local time that came twice, and a local time that never came is read
  by the clocks before the gap (`dst_gap` shift: 02:30 is 03:30 on the clocks after) or is not meant (skip).
- `every_ms` counts elapsed time from the anchor; `at_ms` are moments. A fixed delay names none before something ran.
- A moment outside the calendar expression is skipped, or moved to the same local time (that of the rule, before a gap moved
  it) on the nearest day, at most 366 away, on which that is a moment of the expression. What coincides is one tick.
- No tick before `start_ms` or after `end_ms`, wherever it was moved from.

Whole minutes: offsets and changes of an offset that are not (none after 1972) are refused, not rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from ..actors.rules import Calendar, Rule
from .almanac_days import Expression
from .almanac_words import Pattern, UnreadableRuleError

FURTHEST_MOVE: Final = 366  # days

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)
_MS: Final = timedelta(milliseconds=1)
_MINUTE: Final = timedelta(minutes=1)
_NO_TIME: Final = timedelta(0)
_MINUTE_MS: Final = 60_000
_DAY_MS: Final = 86_400_000
_MARGIN_DAYS: Final = 3  # more than clocks of any zone are away from UTC, with the longest gap on top
_DAYS_KEPT: Final = 65_536


class Stretch(NamedTuple):
    """From `start_ms` to before `end_ms`, clocks showed UTC plus `ahead_ms`."""

    start_ms: int
    end_ms: int
    ahead_ms: int


class Almanac:
    """All ticks of one rule. `calendars`: those that its expression may name."""

    def __init__(self, rule: Rule, calendars: Iterable[Calendar] = ()) -> None:
        if rule.after_ms:
            raise UnreadableRuleError("after_ms", str(rule.after_ms))
        self._rule = rule
        self._pattern = _pattern(rule.cron) if rule.cron else None
        self._expression = Expression(rule.calendar, calendars) if rule.calendar else None
        self._held: dict[int, bool] = {}  # what the expression said of an instant, while ticks are looked for

    def ticks(self, from_ms: int, until_ms: int) -> list[int]:
        """Return the ticks in [from_ms, until_ms), ascending, each once."""
        rule = self._rule
        start, end = max(from_ms, rule.start_ms), until_ms if not rule.end_ms else min(until_ms, rule.end_ms + 1)
        found = self._all(start, end) if self._expression is None else self._allowed(self._expression, start, end)
        ticks = sorted({instant for _, instant in found if start <= instant < end})
        self._held.clear()
        return ticks

    def _all(self, from_ms: int, until_ms: int) -> Iterator[tuple[int, int]]:
        """Yield (local time, instant) of all that the rule names in this time, and perhaps some around, calendars aside."""
        rule = self._rule
        if self._pattern is None:
            first = from_ms + (rule.anchor_ms - from_ms) % rule.every_ms if rule.every_ms else 0
            for instant in range(first, until_ms, rule.every_ms) if rule.every_ms else rule.at_ms:
                yield instant + ahead_ms(rule.zone, instant), instant
        elif self._pattern.is_every_hour:
            yield from self._shown(self._pattern, from_ms, until_ms)
        else:
            yield from self._meant(self._pattern, from_ms, until_ms)

    def _shown(self, pattern: Pattern, from_ms: int, until_ms: int) -> Iterator[tuple[int, int]]:
        """Yield each moment at which clocks show a time of the pattern."""
        for start, end, ahead in walked(self._rule.zone, from_ms // _DAY_MS, until_ms // _DAY_MS):
            for day in range((start + ahead) // _DAY_MS, (end + ahead) // _DAY_MS + 1):
                if pattern.is_on(_date(day)):
                    for minute in pattern.minutes:
                        local = day * _DAY_MS + minute * _MINUTE_MS
                        if start <= local - ahead < end:
                            yield from ((local + s * 1_000, local - ahead + s * 1_000) for s in pattern.seconds)

    def _meant(self, pattern: Pattern, from_ms: int, until_ms: int) -> Iterator[tuple[int, int]]:
        """Yield the moments of each local time of the pattern."""
        for day in range(from_ms // _DAY_MS - _MARGIN_DAYS, until_ms // _DAY_MS + _MARGIN_DAYS + 1):
            if pattern.is_on(_date(day)):
                for minute in pattern.minutes:
                    local = day * _DAY_MS + minute * _MINUTE_MS
                    for instant in self._instants_of(local):
                        yield from ((local + second * 1_000, instant + second * 1_000) for second in pattern.seconds)

    def _instants_of(self, local: int) -> list[int]:
        """Return when the clocks of the rule's zone showed this local time, or are held to have shown it."""
        day = local // _DAY_MS
        return instants_of(
            local,
            walked(self._rule.zone, day - _MARGIN_DAYS, day + _MARGIN_DAYS),
            dst_gap=self._rule.dst_gap,
            dst_overlap=self._rule.dst_overlap,
        )

    def _allowed(self, expression: Expression, from_ms: int, until_ms: int) -> Iterator[tuple[int, int]]:
        """Yield what the expression lets be, and what it moves, from as far as that can come."""
        direction = {"skip": 0, "next": 1, "previous": -1}[self._rule.excluded]
        furthest = (FURTHEST_MOVE + _MARGIN_DAYS) * _DAY_MS
        from_ms, until_ms = from_ms - furthest * (direction > 0), until_ms + furthest * (direction < 0)
        for local, instant in self._all(from_ms, until_ms):
            if self._holds(expression, instant):
                yield local, instant
            elif direction:
                yield from self._moved(expression, local, direction)

    def _moved(self, expression: Expression, local: int, direction: int) -> list[tuple[int, int]]:
        for days in range(1, FURTHEST_MOVE + 1):
            there = local + direction * days * _DAY_MS
            instants = [instant for instant in self._instants_of(there) if self._holds(expression, instant)]
            if instants:
                return [(there, instant) for instant in instants]
        return []

    def _holds(self, expression: Expression, instant: int) -> bool:
        if instant not in self._held:
            self._held[instant] = expression.holds(lambda zone: _local(zone or self._rule.zone, instant))
        return self._held[instant]


def instants_of(local: int, stretches: tuple[Stretch, ...], *, dst_gap: str, dst_overlap: str) -> list[int]:
    """Return the instants of a local time, ascending. `local`: what clocks show, as milliseconds since 1970 on these clocks.

    `stretches`: without holes, from well before to well after.
    """
    shown = [local - ahead for start, end, ahead in stretches if start <= local - ahead < end]
    if shown:
        return {"first": shown[:1], "last": shown[-1:], "both": shown}[dst_overlap]
    if dst_gap == "skip":
        return []
    return [
        local - before.ahead_ms
        for before, after in pairwise(stretches)
        if before.end_ms + before.ahead_ms <= local < after.start_ms + after.ahead_ms
    ]


@lru_cache(maxsize=512)
def _pattern(cron: str) -> Pattern:
    return Pattern(cron)


@lru_cache(maxsize=512)
def walked(zone: str, first_day: int, last_day: int) -> tuple[Stretch, ...]:
    """Return what clocks showed on these days of UTC, the last included; days are counted from 1970-01-01."""
    stretches: list[Stretch] = []
    for day in range(first_day, last_day + 1):
        for stretch in walked_day(zone, day):
            if stretches and stretches[-1].ahead_ms == stretch.ahead_ms:
                stretches[-1] = stretches[-1]._replace(end_ms=stretch.end_ms)
            else:
                stretches.append(stretch)
    return tuple(stretches)


@lru_cache(maxsize=_DAYS_KEPT)
def walked_day(zone: str, day: int) -> tuple[Stretch, ...]:
    """Look at the clocks of a zone in every minute of a day of UTC."""
    clock = ZoneInfo(zone)
    utc = (_EPOCH + timedelta(days=day)).replace(tzinfo=clock)  # the form in which `fromutc` takes it
    changes: list[tuple[int, timedelta]] = []
    for instant in range(day * _DAY_MS, (day + 1) * _DAY_MS, _MINUTE_MS):
        ahead = clock.fromutc(utc) - utc  # in one zone, so what clocks show is subtracted as it is
        utc += _MINUTE
        if not changes or changes[-1][1] != ahead:
            changes.append((instant, ahead))
    if any(ahead % _MINUTE != _NO_TIME for _, ahead in changes):
        raise UnreadableRuleError("zone with seconds in its offset", zone)
    ends = [*(start for start, _ in changes[1:]), (day + 1) * _DAY_MS]
    return tuple(Stretch(start, end, ahead // _MS) for (start, ahead), end in zip(changes, ends, strict=True))


def ahead_ms(zone: str, instant: int) -> int:
    """Return by how much the clocks of a zone are ahead of UTC at an instant."""
    return (_local(zone, instant) - _EPOCH) // _MS - instant // 1_000 * 1_000


def _local(zone: str, instant: int) -> datetime:
    """Return what clocks show, to the second."""
    return datetime.fromtimestamp(instant // 1_000, ZoneInfo(zone)).replace(tzinfo=None)


def _date(day: int) -> date:
    return (_EPOCH + timedelta(days=day)).date()
