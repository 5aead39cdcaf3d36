"""A year of many schedules on one node that crashes every week: `python -m foliot.simulations.year`.

A thousand schedules of every kind in several zones, with holidays that are edited on the way, every policy for overlaps and
for ticks that were missed; all invariants watch. Most tick daily, on workdays, weekly or monthly, a few every hour, so that
a thousand of them fire about a hundred thousand times a year. Prints what happened, and how long it took; ends with exit
code 1 if an invariant broke.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from ..actors.schedule_messages import MISSED, OVERLAPS
from ..runtime.clock import SystemClock
from .case import Case, Crash, Fault, Options, PutSchedule, SetCalendar, Timings, Work
from .case_check import checked_case
from .draws import Dice
from .run import run

_START: Final = datetime(2026, 9, 1, tzinfo=UTC)
_DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000
_ZONES: Final = (
    "UTC", "Europe/Berlin", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo"
)  # fmt: skip
_HOLIDAYS: Final = ("2026-10-03", "2026-12-25", "2026-12-26", "2027-01-01", "2027-03-26", "2027-03-29", "2027-05-01")
_LATER: Final = (*_HOLIDAYS, "2027-05-06", "2027-05-17", "2027-08-02")
_EXPRESSIONS: Final = ("not holidays", "weekdays and not holidays", "not (holidays or fridays)")
_KINDS: Final = (("often", 2), ("daily", 120), ("workdays", 120), ("weekly", 400), ("monthly", 300), ("rarely", 58))
_TIMINGS: Final = Timings(
    worker_heartbeat_ms=_HOUR_MS, worker_dead_ms=4 * _HOUR_MS, node_heartbeat_ms=_HOUR_MS, node_dead_ms=4 * _HOUR_MS,
    reconcile_ms=6 * _HOUR_MS,
)  # fmt: skip


def year(schedules: int, days: int, seed: int) -> Case:
    """Return the case: so many schedules, so many days, a kill every week."""
    options = Options(
        nodes=1, workers=1, slots=4, concurrency=64, embedded=True, duration_ms=days * _DAY_MS, heal_ms=2 * _DAY_MS,
        start_ms=int(_START.timestamp()) * 1_000, timings=_TIMINGS, timer_horizon_ms=_DAY_MS,
    )  # fmt: skip
    work: list[Work] = [
        SetCalendar(10, "holidays", dates=list(_HOLIDAYS)),
        SetCalendar(10, "fridays", weekdays=[4]),
        SetCalendar(days * _DAY_MS * 2 // 5, "holidays", dates=list(_LATER)),
        SetCalendar(days * _DAY_MS * 3 // 5, "fridays", weekdays=[4, 5], zone="Asia/Kolkata"),
    ]
    dice = Dice(seed, "year")
    work += [_schedule(dice, number, days) for number in range(schedules)]
    crashes = Dice(seed, "year/crashes")
    faults: list[Fault] = [
        Crash(week * 7 * _DAY_MS + crashes.below(7 * _DAY_MS), "n1", "kill", crashes.log_between(500, 3 * _HOUR_MS))
        for week in range(days // 7)
    ]
    return checked_case(Case(seed, "year", options, faults, sorted(work, key=lambda entry: entry.at_ms)))


def _schedule(dice: Dice, number: int, days: int) -> PutSchedule:
    kind = dice.weighted([name for name, _ in _KINDS], [weight for _, weight in _KINDS])
    fields: dict[str, Any] = {
        "zone": dice.pick(_ZONES), "dst_gap": dice.pick(("shift", "skip")),
        "dst_overlap": dice.pick(("first", "last", "both")),
        "overlap": dice.pick(OVERLAPS), "missed": dice.pick(MISSED), "grace_ms": dice.pick((60_000, 600_000, _HOUR_MS)),
        "max_lateness_ms": dice.pick((0, 0, _HOUR_MS)), "takes_ms": dice.pick((1, 20, 1_000)), "effects": 0,
        "acts": list(dice.pick((("ok",), ("ok",), ("ok",), ("fail", "ok")))), "jitter_ms": dice.pick((0, 0, 0, 60_000)),
    }  # fmt: skip
    minute, hour = dice.below(60), dice.pick((0, 1, 2, 2, 3, 6, 9, 12, 18, 23))
    match kind:
        case "often":
            fields |= dice.pick(({"cron": f"{minute} * * * *"}, {"every_ms": _HOUR_MS}, {"after_ms": 2 * _HOUR_MS}))
            fields |= {"takes_ms": dice.pick((20, _HOUR_MS * 3 // 2)), "timeout_ms": 4 * _HOUR_MS}
        case "daily":
            every = {"every_ms": _DAY_MS, "anchor_ms": dice.below(_DAY_MS)}
            fields |= dice.pick(({"cron": f"{minute} {hour} * * *"}, every))
            if dice.chance(1, 15):  # runs that are alive when the next tick comes
                fields |= {"takes_ms": 30 * _HOUR_MS, "timeout_ms": 40 * _HOUR_MS}
        case "workdays":
            fields |= {"cron": f"{minute} {hour} * * 1-5"}
        case "weekly":
            fields |= {"cron": f"{minute} {hour} * * {dice.below(7)}"}
        case "monthly":
            fields |= {"cron": f"{minute} {hour} {dice.pick(('1', '15', '31', 'L', 'LW', '15W'))} * *"}
        case _:
            fields |= dice.pick((
                {"cron": f"{minute} {hour} 1 1,4,7,10 *"}, {"cron": f"{minute} {hour} 29 2 *"}, {"cron": "@yearly"},
                {"moments": sorted({1_000 + dice.below(days * _DAY_MS) for _ in range(5)})},
            ))  # fmt: skip
    if "cron" in fields and kind in ("daily", "workdays", "weekly", "monthly") and dice.chance(1, 3):
        fields |= {"calendar": dice.pick(_EXPRESSIONS)}
        if kind != "daily":
            fields |= {"excluded": dice.pick(("skip", "next", "previous"))}
    return PutSchedule(100 + 20 * number, f"r{number}", **fields)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description="Simulate a year of schedules with a crash every week.")
    parser.add_argument("--schedules", type=int, default=1_000)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    clock = SystemClock()
    began_ns = clock.mono_ns()
    result = run(year(given.schedules, given.days, given.seed))
    seconds = (clock.mono_ns() - began_ns) / 1e9
    print(f"{given.schedules} schedules, {given.days} days, seed {given.seed}: digest {result.digest[:16]}")
    print(f"{result.figures['tick.fired']} ticks fired, {result.figures['tick.left_out']} left out, "
          f"{result.figures['tick.missed']} missed, {result.faults} crashes, {result.tasks} tasks")  # fmt: skip
    for found in result.violations[:20]:
        print(f"{found.identity}: {found.text}")
    print(f"{len(result.violations)} violations, {seconds:.0f} s")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
