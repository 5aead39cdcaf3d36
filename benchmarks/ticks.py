"""What it costs to find the next tick of a schedule, by the kind of its rule. Nothing is stored and no scheduler runs.

Each figure is the median over instants all over a year, so clock changes and month ends have their share; what is cached is
warm, as it is in a scheduler. One kind shows what reading an expression for the first time costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, Final

from ..actors.rules import Calendar, Rule
from ..actors.ticks import Ticks
from .numbers import percentile
from .plan import Plan

_YEAR_MS: Final = 366 * 86_400_000
_START_MS: Final = 1_767_225_600_000  # 2026-01-01T00:00:00Z
_LATER_MS: Final = _START_MS + 4 * _YEAR_MS
_HOLIDAYS: Final = Calendar("holidays", yearly=("01-01", "05-01", "12-25", "12-26"), easter=(-2, 1, 39, 50))
_BUSINESS: Final = "weekdays and not holidays"

RULES: Final[tuple[tuple[str, Rule], ...]] = (
    ("interval", Rule(every_ms=90_000)),
    ("cron_minutes", Rule(cron="*/5 * * * *", zone="Europe/Berlin")),
    ("cron_daily", Rule(cron="30 2 * * *", zone="Europe/Berlin", dst_overlap="both")),
    ("cron_weekdays", Rule(cron="0 9-17/2 * * mon-fri", zone="America/New_York")),
    ("cron_month_end", Rule(cron="0 18 LW * *", zone="Europe/Berlin")),
    ("cron_leap_day", Rule(cron="0 0 29 2 *", zone="Australia/Lord_Howe")),
    ("cron_seconds", Rule(cron="*/7 * * * * *", zone="Asia/Kathmandu")),
    ("calendar_skip", Rule(cron="0 9 * * *", zone="Europe/Berlin", calendar=_BUSINESS)),
    ("calendar_moved", Rule(cron="0 18 LW * *", zone="Europe/Berlin", calendar=_BUSINESS, excluded="previous")),
)


class TicksPlan(Plan, frozen=True, kw_only=True):
    """`questions`: of each kind."""

    questions: int = 20_000


async def next_ticks(plan: TicksPlan) -> dict[str, Any]:
    """Return the microseconds of one `after`, by kind of rule."""
    rng = plan.rng("ticks")
    instants = [_START_MS + rng.below(_YEAR_MS) for _ in range(plan.questions)]
    figures: dict[str, Any] = {"questions": plan.questions}
    cron: list[float] = []
    for name, rule in RULES:
        ticks = Ticks(rule, {"holidays": _HOLIDAYS}, seed="bench")
        ticks.between(_START_MS, _START_MS + _YEAR_MS, 1_000)
        # What was asked last is remembered; an instant far ahead leaves nothing of use for the question.
        spent = timed(ticks.after, instants, first=partial(ticks.after, _LATER_MS))
        figures[f"{name}_us"] = round(median(spent), 2)
        figures[f"{name}_p99_us"] = round(percentile(spent, 99), 2)
        if name.startswith("cron"):
            cron += spent
    figures["cron_us"] = round(median(cron), 2)
    new = [Rule(cron=f"{rng.below(60)} {rng.below(24)} {1 + rng.below(28)} * *") for _ in range(min(plan.questions, 1_000))]
    figures["new_rule_us"] = round(median(timed(lambda rule: Ticks(rule).after(_START_MS), new)), 2)
    return figures


def timed(
    call: Callable[[Any], object], arguments: Sequence[Any], first: Callable[[], object] = lambda: None
) -> list[float]:  # fmt: skip
    """Return the microseconds of each call. `first`: called before each of them, and not counted."""
    spent = []
    for argument in arguments:
        first()
        before = time.perf_counter_ns()
        call(argument)
        spent.append((time.perf_counter_ns() - before) / 1_000)
    return spent
