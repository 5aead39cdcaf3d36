"""Compares the ticks with the reference calendar around every clock change of every zone: `make calendar`.

A change of a zone's clocks is searched by bisection of its offset, and pattern families are laid around it, many of them
at local times of the change itself: its start, middle, last minute and end, on that day and on every day; a few are drawn,
from the change as their seed. Zones that change alike share the walking of the reference; their ticks are computed for each.
Ends with exit code 1 on any difference.
"""

from __future__ import annotations

import argparse
import sys
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from foliot.actors.rules import Rule
from foliot.actors.ticks import Ticks
from foliot.runtime.errors import UsageError
from foliot.runtime.rng import Rng
from foliot.simulations.almanac import Almanac
from foliot.simulations.almanac_words import DAYS, cron_weekday, days_left

from .cron_draws import drawn_cron

FIRST_YEAR: Final = 1995
LAST_YEAR: Final = 2037
POLICIES: Final = tuple(product(("shift", "skip"), ("first", "last", "both")))

DENSE: Final = (  # tried from a day before to a day after
    "0 * * * *",
    "*/15 * * * *",
    "30 0-23 * * *",
    "*/30 17 */1 * * *",
    "*/20 */2 * * *",
    "*/10 0-4 * * *",
)
STANDING: Final = (
    "30 1,2,3 * * *",
    "0 0 * * *",
    "59 23 * * *",
    "15,45 22-2 * * *",
    "30 2 * * sun",
    "0 3 1,15 * fri-mon",
    "30 0,2 */2 * mon,sun",
    "0,30 59 1-3 * * *",
    "30 2 L * *",
    "45 1 LW * *",
    "15 0 L-3 * *",
    "0 2 15W * *",
    "30 1 * * 0L",
    "30 2 * * 6#3",
    "0 0 3 1-7 * ? 1995-2037/2",
)

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_AROUND_MS: Final = 3 * _DAY_MS
_AROUND_DENSE_MS: Final = _DAY_MS
_NEAR_MS: Final = 8 * _DAY_MS  # two changes so close lie in one window, so zones that have both are another group
_STRIDE_MS: Final = _DAY_MS // 2
_LIMIT: Final = 100_000
_SHOWN: Final = 20
_CHUNK: Final = 8
_DRAWN: Final = 6


class Change(NamedTuple):
    """At `at_ms` the clocks went from UTC plus `before_ms` to UTC plus `after_ms`."""

    at_ms: int
    before_ms: int
    after_ms: int


Group = tuple[Change, tuple[str, ...]]  # a change and the zones that have it, and the same ones near to it


@dataclass(frozen=True)
class Found:
    """What comparing came to. `differences`: in words, `_SHOWN` at most; `differing`: all of them, counted."""

    windows: int = 0
    compared: int = 0
    ticks: int = 0
    differing: int = 0
    differences: list[str] = field(default_factory=list)

    def plus(self, other: Found) -> Found:
        return Found(
            self.windows + other.windows,
            self.compared + other.compared,
            self.ticks + other.ticks,
            self.differing + other.differing,
            [*self.differences, *other.differences][:_SHOWN],
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description="Compare the ticks with the reference calendar.")
    parser.add_argument("--zones", nargs="*", default=[], help="these zones only, instead of all")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    zones = options.zones or sorted(available_timezones())
    started = time.monotonic()
    total = Found()
    with ProcessPoolExecutor(options.jobs) as pool:
        by_zone = dict(zip(zones, pool.map(changes_of, zones, chunksize=4), strict=True))
        groups = grouped(by_zone)
        count = sum(map(len, by_zone.values()))
        print(f"{len(zones)} zones, {count} clock changes {FIRST_YEAR}-{LAST_YEAR}, {len(groups)} kinds of them", flush=True)
        for number, found in enumerate(pool.map(compare, groups, chunksize=_CHUNK), start=1):
            for difference in found.differences[: _SHOWN - len(total.differences)]:
                print(difference, flush=True)
            total = total.plus(found)
            if number % 400 == 0:
                print(f"{number} kinds after {time.monotonic() - started:.0f} s: {total.differing} differences", flush=True)
    print(
        f"{total.windows} changes, {total.compared} comparisons, {total.ticks} ticks, {time.monotonic() - started:.0f} s: "
        f"{total.differing} differences"
    )
    return 0 if total.differing == 0 and total.windows == count else 1


def changes_of(zone: str, first_year: int = FIRST_YEAR, last_year: int = LAST_YEAR) -> list[Change]:
    """Return the clock changes of these years, ascending."""
    clock = ZoneInfo(zone)
    start, end = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1_000 for year in (first_year, last_year + 1))

    def ahead(instant: int) -> int:
        return (datetime.fromtimestamp(instant // 1_000, clock).utcoffset() or timedelta()) // timedelta(milliseconds=1)

    found = []
    before = ahead(start)
    for low in range(start, end, _STRIDE_MS):
        after = ahead(low + _STRIDE_MS)
        if after != before:
            first = bisect_right(range(_STRIDE_MS // 1_000), False, key=lambda s: ahead(low + s * 1_000) != before)
            found.append(Change(low + first * 1_000, before, after))
            before = after
    return found


def grouped(by_zone: dict[str, list[Change]]) -> list[Group]:
    """Put together the zones that change alike, in order of the changes."""
    groups: dict[tuple[Change, tuple[Change, ...]], list[str]] = {}
    for zone, changes in by_zone.items():
        for change in changes:
            near = tuple(other for other in changes if abs(other.at_ms - change.at_ms) < _NEAR_MS)
            groups.setdefault((change, near), []).append(zone)
    return [(change, tuple(zones)) for (change, _), zones in sorted(groups.items())]


def families(change: Change) -> Iterator[str]:
    """Yield the expressions to try around a change: the standing ones, those drawn for it, and those at its local times."""
    yield from DENSE
    yield from STANDING
    rng = Rng(change.at_ms).stream(f"{change.before_ms} {change.after_ms}")
    yield from (drawn_cron(rng) for _ in range(_DRAWN))
    skipped_or_twice = sorted((change.at_ms + change.before_ms, change.at_ms + change.after_ms))
    start, end = (_local(each) for each in skipped_or_twice)
    middle = _local(sum(skipped_or_twice) // 2)
    minute = timedelta(minutes=1)
    for local in (start - minute, start, middle, end - minute, end):
        yield f"{local.minute} {local.hour} * * *"
    yield f"{start.minute} {start.hour},{middle.hour},{end.hour} {start.day} {start.month} *"
    for local in (start, middle, end - minute):
        yield f"{local.minute} {local.hour} {local.day} {local.month} *"
    yesterday, tomorrow = middle - timedelta(days=1), middle + timedelta(days=1)
    yield f"{middle.minute} {middle.hour} {yesterday.day},{tomorrow.day} * {DAYS[cron_weekday(middle.date())]}"
    yield f"7,{middle.second},59 {middle.minute} {middle.hour} {middle.day} {middle.month} ? {middle.year}"
    yield f"{middle.minute} {middle.hour} {f'L-{left}' if (left := days_left(middle.date())) else 'L'} * *"
    yield f"{middle.minute} {middle.hour} {middle.day}W * *"
    yield f"{middle.minute} {middle.hour} * * {cron_weekday(middle.date())}#{(middle.day + 6) // 7}"
    yield f"{middle.minute}/7 {middle.hour} * * {DAYS[cron_weekday(middle.date())]}L"


def compare(group: Group) -> Found:
    """Compare all that is tried around one change: in its first zone under every policy, in the others under one each."""
    change, zones = group
    total = Found(windows=len(zones))
    for number, cron in enumerate(families(change)):
        around_ms = _AROUND_DENSE_MS if cron in DENSE else _AROUND_MS
        start, end = change.at_ms - around_ms, change.at_ms + around_ms
        for turn, (dst_gap, dst_overlap) in enumerate(POLICIES):
            rule = Rule(cron=cron, zone=zones[0], dst_gap=dst_gap, dst_overlap=dst_overlap)
            expected = Almanac(rule).ticks(start, end)
            total = total.plus(differences(rule, expected, start, end, probe_ms=change.at_ms + (turn - 3) * _HOUR_MS // 2))
            for place, zone in enumerate(zones[1:]):
                if (place + number) % len(POLICIES) == turn:
                    other = Rule(cron=cron, zone=zone, dst_gap=dst_gap, dst_overlap=dst_overlap)
                    total = total.plus(differences(other, expected, start, end))
    return total


def differences(rule: Rule, expected: list[int], start: int, end: int, *, probe_ms: int | None = None) -> Found:
    """Compare the ticks of a rule with these, all those in [start, end), and what comes next and was last at the probe."""
    name = f"{rule.cron!r} {rule.zone} {rule.dst_gap} {rule.dst_overlap}"
    try:
        ticks = Ticks(rule)
    except UsageError as refused:
        return Found(compared=1, ticks=len(expected), differing=1, differences=[f"{name}: refused, {refused}"])
    actual = ticks.between(start, end, _LIMIT)
    found = []
    if actual != expected:
        missing = sorted(frozenset(expected) - frozenset(actual))
        surplus = sorted(frozenset(actual) - frozenset(expected))
        found.append(f"between: missing {_shown(missing)}, surplus {_shown(surplus)}, ascending: {actual == sorted(actual)}")
    if probe_ms is not None:
        following = bisect_right(expected, probe_ms)
        after = ticks.after(probe_ms)
        if after != expected[following] if following < len(expected) else after is not None and after < end:
            found.append(f"after {_shown([probe_ms])}: {_shown([] if after is None else [after])}")
        last = ticks.last_before(probe_ms, start)
        if last != (expected[following - 1] if following else None):
            found.append(f"last_before {_shown([probe_ms])}: {_shown([] if last is None else [last])}")
    words = [f"{name}: {each}" for each in found]
    return Found(compared=1, ticks=len(expected), differing=len(words), differences=words)


def _local(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1_000, UTC)


def _shown(instants: Iterable[int]) -> str:
    return " ".join(_local(instant).strftime("%Y-%m-%dT%H:%M:%SZ") for instant in list(instants)[:6]) or "none"


if __name__ == "__main__":
    sys.exit(main())
