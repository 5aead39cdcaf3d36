"""When a schedule ticks, as data: the rule that people write and the shared calendars it may name.

Rules travel and are stored; `actors.ticks` says which moments one names. Instants are wall-clock milliseconds, spans are
milliseconds, days and hours are those of a zone. A rule that cannot be meant is refused when it is made into ticks
(`actors.ticks.Ticks`), never later.
"""

from __future__ import annotations

import msgspec


class Rule(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """When a schedule ticks. Exactly one of `cron`, `every_ms`, `after_ms` and `at_ms` is given."""

    cron: str = ""  # 5 fields; 6 with seconds first; 7 with seconds first and year last; or @daily and the like
    every_ms: int = 0  # fixed rate: at anchor_ms + k * every_ms
    after_ms: int = 0  # fixed delay: so long after the previous run ended, the first one at start_ms or at once
    at_ms: tuple[int, ...] = ()  # at these instants, ascending
    anchor_ms: int = 0
    zone: str = "UTC"  # IANA name
    dst_gap: str = "shift"  # shift | skip: local times that do not exist
    dst_overlap: str = "first"  # first | last | both: local times that exist twice
    start_ms: int = 0  # no tick before
    end_ms: int = 0  # no tick after, 0: no end
    limit: int = 0  # ticks that fire at most, 0: no limit (counted by the schedule, not here)
    calendar: str = ""  # an expression over calendar names: "weekdays and not holidays_de"
    excluded: str = "skip"  # skip | next | previous: what becomes of a tick on a day the expression excludes
    jitter_ms: int = 0  # a tick fires up to so much later than it names, never later than the next
    is_jitter_fixed: bool = False  # True: by the same span at every tick
    precision: str = "normal"  # high | normal | low


class Calendar(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A named set of moments, shared by schedules. A moment belongs to it if its local day is one of the days given (every
    day, if none are) and its local time is within the hours given (any time, if none are)."""

    name: str
    weekdays: tuple[int, ...] = ()  # 0 Monday ... 6 Sunday
    dates: tuple[str, ...] = ()  # "2026-12-24"
    yearly: tuple[str, ...] = ()  # "12-25"
    easter: tuple[int, ...] = ()  # days after Easter Sunday (Gregorian), -2 is Good Friday
    nth_weekdays: tuple[tuple[int, int, int], ...] = ()  # (month, weekday, n): n from 1, -1 the last of the month
    hours: tuple[tuple[int, int], ...] = ()  # (from, to) in minutes of the day, `to` excluded and at most 1440
    zone: str = ""  # IANA name; empty: the zone of the schedule
    version: int = 0  # counted by the store's owner at each change
