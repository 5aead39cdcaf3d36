"""Schedules by the million: how fast they are put, what a fresh process takes with them, and what becomes of those that are
all due at the same second.

The rules are mixed: every hour, every six hours, every day in several zones, every week; about two thousand different ones.
What is counted in the end is read from the file itself, when the scheduler has closed it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from ..actors.states import State
from ..sdk.app import Foliot
from ..sdk.client import Client
from ..sdk.schedule_words import Draft
from .jobs import AT_BYTES, QUEUE, Jobs, pad
from .place import peak_rss_mb, rss_mb
from .plan import Plan
from .stages import StageClock
from .timers import instant, lateness

_PADS: Final = 64
_ZONES: Final = ("Europe/Berlin", "America/New_York", "Australia/Sydney")
_FIXED_ZONES: Final = (("UTC", 0), ("Asia/Tokyo", 540), ("Asia/Kathmandu", 345), ("America/Bogota", -300))
"""Without clock changes, so that no local time is there twice; with minutes from UTC."""
_CALM_MS: Final = 500  # before the peak, the CPU time of putting is over
_BEAT: Final = "beat"
_BEAT_MS: Final = 100
_FILE: Final = "bench.db"


class PutPlan(Plan, frozen=True, kw_only=True):
    """`stages`: also say where the CPU time went; `hot`: by function as well."""

    schedules: int = 200_000
    stages: bool = False
    hot: bool = False


class StoredPlan(Plan, frozen=True, kw_only=True):
    """`schedules`: how many are in the file."""

    schedules: int


class PeakPlan(PutPlan, frozen=True, kw_only=True):
    """`precise`: how many of the schedules are of high precision; `lead_ms`: from the first one put to the second at which
    all are due."""

    precise: int = 100
    lead_ms: int = 15_000


class Beats:
    """A handler that notes when it ran. `times`: how often."""

    def __init__(self) -> None:
        self.app = Foliot("beats")
        self.times = 0
        self._twice = asyncio.Event()

        @self.app.task(queue=QUEUE)
        async def beat() -> None:
            self.times += 1
            if self.times == 2:
                self._twice.set()

        self.beat = beat

    async def wait_for_two(self) -> None:
        """Wait for the second run: the first may be of a tick that fired before the process began."""
        await self._twice.wait()


async def put(plan: PutPlan) -> dict[str, Any]:
    """Put schedules in one call, then one that ticks ten times a second."""
    jobs, beats = Jobs(), Beats()
    async with plan.scheduler(jobs.app, beats.app) as scheduler:
        client = scheduler.client()
        await client.schedules.create("warm", jobs.noop, pad=pad(plan.rng("warm")), cron="0 0 1 1 *")
        before_mb = rss_mb()
        with StageClock(lines=plan.hot) if plan.stages else nullcontext() as clock:
            figures = await _put(plan, client, jobs)
        figures |= {"rss_mb": peak_rss_mb(), "rss_before_mb": before_mb}
        await client.schedules.create(_BEAT, beats.beat, every=timedelta(milliseconds=_BEAT_MS))
    stored, active = _counted("select count(*), sum(next_ms > 0) from schedules", plan.path(_FILE))
    assert stored == plan.schedules + 2, f"{stored} schedules are in the file; expected {plan.schedules + 2}"
    return figures | {"active": active} | _stages(clock, plan, plan.schedules)


async def _put(plan: PutPlan, client: Client, jobs: Jobs) -> dict[str, Any]:
    progress = plan.progress("schedules", plan.schedules)
    cpu_ns, loop_ns, start_ns = time.process_time_ns(), time.thread_time_ns(), time.perf_counter_ns()
    result = await client.schedules.put_many(_mixed(plan, client, jobs), progress=progress)
    took_ns = time.perf_counter_ns() - start_ns
    loop_ns, cpu_ns = time.thread_time_ns() - loop_ns, time.process_time_ns() - cpu_ns
    progress.end()
    assert result.created == plan.schedules, f"{result.created} of {plan.schedules} schedules were created"
    return {
        "schedules": plan.schedules,
        "put_per_s": round(plan.schedules * 1e9 / took_ns),
        "loop_us": round(loop_ns / plan.schedules / 1e3, 2),
        "cpu_us": round(cpu_ns / plan.schedules / 1e3, 2),
    }


def _mixed(plan: PutPlan, client: Client, jobs: Jobs) -> Iterator[Draft]:
    rng = plan.rng("put")
    pads = [pad(rng) for _ in range(_PADS)]
    kinds = _rules()
    draft, noop = client.schedules.draft, jobs.noop
    for number in range(plan.schedules):
        rules = kinds[number % len(kinds)]
        rule = rules[number * 7_919 % len(rules)]  # not in order, since nobody puts them so
        yield draft(f"tenant/report-{number:07d}", noop, pad=pads[number % _PADS], **rule)


def _rules() -> list[list[dict[str, Any]]]:
    """Return the words of all rules there are, by kind."""
    first = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        [{"cron": f"{minute} * * * *"} for minute in range(60)],
        [{"every": "6h", "anchor": first + timedelta(minutes=minute)} for minute in range(360)],
        [{"cron": f"{at % 60} {at // 60} * * *", "zone": zone} for zone in _ZONES for at in range(0, 1_440, 5)],
        [{"cron": f"{at % 60} {at // 60} * * {day}"} for day in range(7) for at in range(0, 1_440, 15)],
    ]


async def start(plan: StoredPlan) -> dict[str, Any]:
    """Open a file of schedules in a fresh process: ready when a tick of one of them fired and its task ran."""
    jobs, beats = Jobs(), Beats()
    empty_mb = rss_mb()
    start_ns = time.perf_counter_ns()
    async with plan.scheduler(jobs.app, beats.app) as scheduler:
        await beats.wait_for_two()
        figures = {"startup_s": round((time.perf_counter_ns() - start_ns) / 1e9, 3)}
        client = scheduler.client()
        await asyncio.sleep(_CALM_MS / 1_000)
        seen = await client.schedules.get(_BEAT)
        figures |= {"rss_mb": rss_mb(), "rss_peak_mb": peak_rss_mb(), "rss_without_file_mb": empty_mb}
    assert seen.fired > 0, "the schedule that beats has not fired"
    return {"schedules": plan.schedules, **figures}


async def peak(plan: PeakPlan) -> dict[str, Any]:
    """All schedules are due at the same second, and their tasks run in the same process."""
    jobs, precise = Jobs(), Jobs("precise")
    async with plan.scheduler(jobs.app, precise.app) as scheduler:
        client = scheduler.client()
        due_ms = (time.time_ns() // 1_000_000 + plan.lead_ms) // 1_000 * 1_000 + 1_000
        words = _at_second(due_ms)
        rng = plan.rng("peak")
        pads = [pad(rng, taken=AT_BYTES) for _ in range(_PADS)]

        def drafts() -> Iterator[Draft]:
            every = max(plan.schedules // max(plan.precise, 1), 1)
            left = plan.precise
            for number in range(plan.schedules):
                is_precise = left > 0 and number % every == 0
                left -= is_precise
                yield client.schedules.draft(
                    f"tenant/peak-{number:07d}", precise.due if is_precise else jobs.due, at_ns=due_ms * 1_000_000,
                    pad=pads[number % _PADS], precision="high" if is_precise else "normal", **words[number % len(words)],
                )  # fmt: skip

        result = await client.schedules.put_many(drafts())
        assert result.created == plan.schedules, f"{result.created} of {plan.schedules} schedules were created"
        spare_ms = due_ms - _CALM_MS - time.time_ns() // 1_000_000
        assert spare_ms > 0, f"putting took {-spare_ms} ms longer than there was time; expected a longer lead"
        await asyncio.sleep(spare_ms / 1_000)
        with StageClock(lines=plan.hot) if plan.stages else nullcontext() as clock:
            cpu_ns, loop_ns = time.process_time_ns(), time.thread_time_ns()
            await precise.wait_for(plan.precise)
            await jobs.wait_for(plan.schedules - plan.precise)
            await client.wait_until_idle("5m")
            loop_ns, cpu_ns = time.thread_time_ns() - loop_ns, time.process_time_ns() - cpu_ns
        took_ms = time.time_ns() // 1_000_000 - due_ms
        verified = await client.verify()
    ticks, fired, done = _counted(_OUTCOMES, plan.path(_FILE))
    found: dict[str, Any] = {"schedules": plan.schedules, "precise": plan.precise}
    found |= lateness(jobs.late_ms())
    found |= {f"precise_{name}": value for name, value in lateness(precise.late_ms()).items()} if plan.precise else {}
    return found | {
        "lost": plan.schedules - done,
        "duplicates": max(ticks - fired, jobs.started + precise.started - plan.schedules),
        "balanced": verified.balanced,
        "peak_s": round(took_ms / 1e3, 3),
        "loop_us": round(loop_ns / plan.schedules / 1e3, 2),
        "cpu_us": round(cpu_ns / plan.schedules / 1e3, 2),
        "rss_mb": peak_rss_mb(),
    } | _stages(clock, plan, plan.schedules)  # fmt: skip


_OUTCOMES: Final = f"""
select count(*), count(distinct schedule_id),
    count(distinct case tasks.state when {int(State.COMPLETED)} then schedule_id end)
from ticks left join tasks on tasks.id = ticks.task_id
"""
"""Ticks, schedules that ticked, and those of them whose task was completed."""


def _at_second(at_ms: int) -> list[dict[str, Any]]:
    """Return the words of several rules that tick once a day at that second."""
    found = []
    for zone, minutes in _FIXED_ZONES:
        local = instant(at_ms).astimezone(timezone(timedelta(minutes=minutes)))
        found.append({"cron": f"{local.second} {local.minute} {local.hour} * * *", "zone": zone})
    return found


def _counted(statement: str, path: str) -> tuple[int, ...]:
    """Return the numbers a statement finds in a file that nobody has open."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        row = connection.execute(statement).fetchone()
    return tuple(value or 0 for value in row)


def _stages(clock: StageClock | None, plan: PutPlan, count: int) -> dict[str, Any]:
    if clock is None:
        return {}
    found: dict[str, Any] = {"us_per_schedule": clock.us_per_task(count)}
    return found | ({"hot": clock.hot(count)} if plan.hot else {})
