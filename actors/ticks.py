"""The ticks of a rule: the moments at which a schedule fires, as instants in milliseconds. Pure, integers only.

What a rule names is decided in this order; each step is stated in full where it is made:

1. The moments themselves (`actors.streams`). Cron: the local times of the expression (`actors.cron`), as instants of the
   rule's zone (`actors.hours`). If its hour field allows every hour, every instant whose local time matches is one, so
   elapsed time counts and neither `dst_gap` nor `dst_overlap` plays a part. Otherwise `dst_gap` decides for local times that
   do not exist, and `dst_overlap` for those that exist twice. Cron moments are whole seconds.
   `every_ms`: anchor_ms + k * every_ms for every whole k, also below 0. `at_ms`: as given.
2. The calendar (`actors.filters`): a moment that the expression excludes is dropped, or moved to another day.
3. `start_ms` and `end_ms`: ticks before the start and after the end are dropped; a tick at either is kept. What counts is
   where a tick is after it was moved.

Ticks come strictly ascending: what coincides fires once. They lie from 1970-01-01T00:00:00Z to the end of 2199 (UTC).
Searches for an allowed moment are bounded (`actors.calendars`, `actors.filters`); beyond the bound there is no tick. A
search that costs too much work is given up with an error (`actors.effort`).

A fixed delay (`after_ms`) has no moments of its own: each tick follows from the end of the run before (`after_end`). The
first is at the start, or at once. A tick that the calendar excludes waits for whole further delays until it is allowed
("skip"), or moves to a later day ("next"). Asked without runs, for a preview, it ticks as if every run ended at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from .calendars import compiled, days_of, is_holidays, names_in
from .cron import parse
from .days import DAY_S, END_MS, date_of
from .effort import MOST, MOST_AT_FIRST, PER_TICK, Effort
from .filters import filtered
from .hours import Zone
from .open_days import MOVE_DAYS
from .rule_check import check_fields
from .rule_errors import NeverTicksError, instant_text, rule_value
from .rules import Calendar, Rule
from .spread import spread
from .streams import CronStream, IntervalStream, ListStream, Stream

LOW_SPREAD_MS: Final = 10_000  # what precision "low" may add


class Ticks:
    """The ticks of one rule. Every answer follows from the question alone."""

    __slots__ = (
        "_allowed", "_asked", "_calendars", "_effort", "_end_ms", "_found", "_moments", "_seed", "_stream", "_zone", "rule",
    )  # fmt: skip

    def __init__(self, rule: Rule, calendars: Mapping[str, Calendar] | None = None, *, seed: str = "") -> None:
        """`calendars`: by name, at least those that the rule's expression names; `seed`: stable text of the schedule, such
        as its tenant and name, from which `H` and the jitter are drawn.

        Raises: InvalidRuleError or one of its kinds (InvalidCronError, InvalidZoneError, InvalidCalendarError), which name
        the field, its value and what was expected. Rules that are right but never tick are told by `check`. Any question
        that searches raises SearchTooLongError, another kind, once it has cost more than one may (`actors.effort`).
        """
        check_fields(rule)
        self.rule = rule
        self._seed = seed
        self._calendars = calendars or {}
        self._zone = Zone(rule.zone, rule.dst_gap, rule.dst_overlap)
        self._end_ms = rule.end_ms or END_MS
        self._effort = Effort(rule.calendar)
        self._allowed = compiled(rule.calendar, self._calendars, rule.zone, self._effort)
        self._moments: Stream
        if rule.cron:
            self._moments = CronStream(parse(rule.cron, seed), self._zone)
        elif rule.every_ms:
            self._moments = IntervalStream(rule.every_ms, rule.anchor_ms)
        else:
            self._moments = ListStream(rule.at_ms)
        self._asked: int | None = None  # what `after` was asked last, and what it found
        self._found: int | None = None
        self._stream = self._filtered(self._moments)

    def after(self, instant_ms: int) -> int | None:
        """Return the first tick strictly after an instant, None: never again. Of a fixed delay: the tick that follows a run
        which ended at that instant, or the start if it is still to come."""
        self._begin(MOST)
        return self._after(instant_ms)

    def between(self, from_ms: int, until_ms: int, limit: int) -> list[int]:
        """Return the ticks in [from_ms, until_ms), ascending, at most `limit`, the earliest ones."""
        self._begin(MOST)
        return self._between(from_ms, until_ms, limit)

    def passed(self, from_ms: int, until_ms: int, limit: int) -> tuple[int, int]:
        """Return how many ticks are in [from_ms, until_ms), the first of which is at `from_ms`, and the last. At most
        `limit` are counted, unless the rule is an interval without a calendar."""
        every_ms = self.rule.every_ms
        if every_ms and self._allowed is None:
            further = max(until_ms - 1 - from_ms, -1) // every_ms
            return further + 1, from_ms + further * every_ms
        found = self.between(from_ms, until_ms, limit)
        return len(found), found[-1] if found else 0

    def last_before(self, instant_ms: int, from_ms: int) -> int | None:
        """Return the latest tick in [from_ms, instant_ms], None if there is none, or for a fixed delay.

        The cost grows with the logarithm of the span, not with the number of ticks in it.
        """
        self._begin(MOST)
        if self.rule.after_ms:
            return None
        span = 60_000
        best = None
        is_checked = False
        while best is None:
            low = max(instant_ms - span, from_ms - 1)
            found = self._after(low)
            if found is not None and found <= instant_ms:
                best = found
            elif low < from_ms:
                return None
            elif found is None and not is_checked:
                # Searches that come to nothing are the dear ones: go on only if there is something to be found.
                first = self._after(from_ms - 1)
                if first is None or first > instant_ms:
                    return None
                is_checked = True
            span *= 4
        # The latest tick is at least `best`, and none comes after `high`.
        high = instant_ms
        while best < high:
            middle = (best + high) // 2
            found = self._after(middle)
            if found is not None and found <= instant_ms:
                best = found
            else:
                high = middle
        return best

    def first(self, now_ms: int) -> int | None:
        """Return the first tick of a schedule that begins now: at or after now and the start. Of `at_ms`: the first one,
        also if it is past. Of a fixed delay: the start, or now if that is later."""
        self._begin(MOST_AT_FIRST)
        return self._first(now_ms)

    def after_end(self, ended_ms: int) -> int | None:
        """Return the tick that follows a run which ended at an instant: for a fixed delay so long after it; for all other
        rules the first tick strictly after it."""
        self._begin(MOST)
        return self._after_end(ended_ms)

    def due(self, tick_ms: int) -> int:
        """Return the instant at which a tick is to fire: up to `jitter_ms` after its own, with precision "low" up to 10 s
        more, and in any case before the next tick.

        Both are drawn from the seed and the tick; a fixed jitter from the seed alone.
        """
        rule = self.rule
        low_ms = LOW_SPREAD_MS if rule.precision == "low" else 0
        if not rule.jitter_ms and not low_ms:
            return tick_ms
        self._begin(MOST)
        following = None if rule.after_ms else self._after(tick_ms)
        room_ms = END_MS if following is None else following - tick_ms - 1
        if rule.is_jitter_fixed:
            jitter_ms = min(spread(f"{self._seed}|jitter", rule.jitter_ms + 1), room_ms)
        else:
            jitter_ms = spread(f"{self._seed}|jitter|{tick_ms}", min(rule.jitter_ms, room_ms) + 1)
        low_ms = min(low_ms, room_ms - jitter_ms)
        return tick_ms + jitter_ms + (spread(f"{self._seed}|low|{tick_ms}", low_ms + 1) if low_ms else 0)

    def notes(self, tick_ms: int) -> tuple[str, ...]:
        """Return what is special about a tick, for people: "dst_gap" (its local time does not exist on that day and was
        shifted), "dst_overlap" (its local time exists twice), "moved from 2026-12-31T18:00:00" (by the calendar), "holiday
        NAME" (its day is one of a calendar that names single days, of those that the rule names)."""
        instant = tick_ms // 1_000
        shown = self._shown(instant)
        found = ["dst_gap"] if any(is_gap for _, is_gap in shown) else []
        if any(len(Zone(self.rule.zone, "skip", "both").instants(local)) > 1 for local, _ in shown):
            found.append("dst_overlap")
        origin = self._origin(tick_ms)
        if origin is not None:
            found.append(f"moved from {date_of(origin // DAY_S)}T{_clock(origin % DAY_S)}")
        for name in sorted(names_in(self.rule.calendar)):
            calendar = self._calendars[name]
            if is_holidays(calendar):
                zone = Zone(calendar.zone or self.rule.zone)
                if days_of(calendar).run((instant + zone.offset(instant)) // DAY_S)[0]:
                    found.append(f"holiday {name}")
        return tuple(found)

    # -- within a question, which has begun --------------------------------------------------------------------------------

    def _begin(self, most: int) -> None:
        """Begin a question, which may cost so much. One that was given up has left nothing behind that would let the same
        question through when it is asked again."""
        if self._effort.is_spent:
            self._stream = self._filtered(self._moments)
        self._effort.allow(most)

    def _filtered(self, moments: Stream) -> Stream:
        return filtered(moments, self._zone, self._allowed, self.rule.excluded, self._effort)

    def _after(self, instant_ms: int) -> int | None:
        if self.rule.after_ms:
            return self._after_end(instant_ms) if instant_ms >= self.rule.start_ms else self._first(instant_ms)
        # Thousands of schedules with one rule ask again and again before the same tick.
        asked, found = self._asked, self._found
        if instant_ms != asked and (asked is None or found is None or not asked < instant_ms < found):
            found = self._from(instant_ms + 1)
            self._asked, self._found = instant_ms, found
        return found

    def _between(self, from_ms: int, until_ms: int, limit: int) -> list[int]:
        found: list[int] = []
        tick = self._first(from_ms) if self.rule.after_ms else self._after(from_ms - 1)
        while tick is not None and tick < until_ms and len(found) < limit:
            found.append(tick)
            self._effort.add(PER_TICK)
            tick = self._after(tick)
        return found

    def _first(self, now_ms: int) -> int | None:
        rule = self.rule
        if rule.after_ms:
            return self._delayed(max(now_ms, rule.start_ms))
        return self._from(0) if rule.at_ms else self._after(now_ms - 1)

    def _after_end(self, ended_ms: int) -> int | None:
        if not self.rule.after_ms:
            return self._after(ended_ms)
        return self._delayed(max(ended_ms + self.rule.after_ms, self.rule.start_ms))

    def _from(self, from_ms: int) -> int | None:
        from_ms = max(from_ms, self.rule.start_ms)
        found = self._stream.next(from_ms) if from_ms < END_MS else None
        return found if found is None or found <= self._end_ms else None

    def _delayed(self, at_ms: int) -> int | None:
        """Return `at_ms`, or the tick it becomes by the calendar and the end."""
        if at_ms >= END_MS:
            return None  # no search begins where nothing ticks any more
        moments = IntervalStream(self.rule.after_ms, at_ms) if self.rule.excluded == "skip" else ListStream((at_ms,))
        found = self._filtered(moments).next(at_ms)
        return found if found is None or found <= min(self._end_ms, END_MS - 1) else None

    def _shown(self, instant: int) -> list[tuple[int, bool]]:
        """Return the local times that stand for an instant and are meant by the rule, and whether each is out of a gap."""
        moments = self._moments
        if not isinstance(moments, CronStream):
            return [(instant + self._zone.offset(instant), False)]
        found = moments.zone.locals(instant)
        return [(local, is_gap) for local, is_gap in found if moments.cron.times.next(local % DAY_S) == local % DAY_S]

    def _origin(self, tick_ms: int) -> int | None:
        """Return the local time a tick was moved from, the nearest if several came together; None if it was not moved."""
        if self._allowed is None or self.rule.excluded == "skip" or self.rule.after_ms:
            return None
        if self._moments.next(tick_ms) == tick_ms:
            return None
        zone = self._moments.zone if isinstance(self._moments, CronStream) else self._zone
        step = -DAY_S if self.rule.excluded == "next" else DAY_S
        instant, part_ms = divmod(tick_ms, 1_000)
        for count in range(1, MOVE_DAYS + 1):
            for local, _ in self._shown(instant):
                origins = [each * 1_000 + part_ms for each in zone.instants(local + count * step)]
                if any(self._moments.next(each) == each for each in origins):
                    return local + count * step
        return None


def check(rule: Rule, calendars: Mapping[str, Calendar] | None = None, now_ms: int = 0, *, seed: str = "") -> Ticks:
    """Return the ticks of a rule that is right and will tick at least once from now on (`at_ms`: at all).

    Raises: as `Ticks`; SearchTooLongError; NeverTicksError if the rule names no moment from now on, with the field that
    leaves none.
    """
    ticks = Ticks(rule, calendars, seed=seed)
    if ticks.first(now_ms) is not None:
        return ticks
    kind = next(name for name in ("cron", "every_ms", "after_ms", "at_ms") if getattr(rule, name))
    value = getattr(rule, kind)
    if rule.end_ms and rule.end_ms < now_ms and not rule.at_ms:
        raise NeverTicksError("end_ms", rule.end_ms, "is past", f"an end at or after {instant_text(now_ms)}")
    if rule.calendar:
        open_rule = Ticks(_without_calendar(rule), seed=seed)
        if open_rule.first(now_ms) is not None:
            told = rule_value(kind, value)
            expected = f"one that allows at least one tick of {told}"[:200] + ", before the end if there is one"
            raise NeverTicksError("calendar", rule.calendar, "excludes every tick within the years searched", expected)
    within = f"from {instant_text(max(now_ms, rule.start_ms))} to {instant_text(rule.end_ms or END_MS - 1)}"
    raise NeverTicksError(kind, value, "names no moment from now on", f"at least one {within}")


def _without_calendar(rule: Rule) -> Rule:
    return msgspec.structs.replace(rule, calendar="")


def _clock(seconds: int) -> str:
    return f"{seconds // 3_600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
