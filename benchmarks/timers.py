"""Timers: how late scheduled tasks start when many are due at once, when they are spread out, and when one is alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ..sdk.client import Client
from ..sdk.client_spec import Spec
from .jobs import AT_BYTES, Jobs, pad
from .numbers import percentile
from .plan import Plan

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PADS: Final = 64


class InstantPlan(Plan, frozen=True, kw_only=True):
    """`lead_ms`: from the first submission to the instant."""

    tasks: int = 20_000
    lead_ms: int = 4_000


class SpreadPlan(InstantPlan, frozen=True, kw_only=True):
    """The tasks are due one after the other within `span_ms`."""

    span_ms: int = 1_000


class AlonePlan(Plan, frozen=True, kw_only=True):
    """Each task is due `delay_ms` to twice that after its submission, when the one before it is over."""

    tasks: int = 100
    delay_ms: int = 50


def instant(at_ms: int) -> datetime:
    """Return the moment, exactly: a float of seconds would round it."""
    return _EPOCH + timedelta(milliseconds=at_ms)


async def at_one_instant(plan: InstantPlan) -> dict[str, Any]:
    """All tasks are due at the same millisecond."""
    return await _run(plan, [0] * plan.tasks)


async def over_one_second(plan: SpreadPlan) -> dict[str, Any]:
    """The tasks are due evenly over a second."""
    return await _run(plan, [number * plan.span_ms // plan.tasks for number in range(plan.tasks)])


async def _run(plan: InstantPlan, after_ms: Sequence[int]) -> dict[str, Any]:
    """`after_ms`: when each task is due, from the first one on."""
    jobs = Jobs()
    async with plan.scheduler(jobs.app) as scheduler:
        client = scheduler.client()
        first_ms = time.time_ns() // 1_000_000 + plan.lead_ms
        due_ms = [first_ms + each for each in after_ms]
        result = await client.submit_many(_specs(plan, client, jobs, due_ms))
        spare_ms = first_ms - time.time_ns() // 1_000_000
        assert result.accepted == plan.tasks, f"{result.accepted} of {plan.tasks} tasks were accepted"
        assert spare_ms > 0, f"submitting took {-spare_ms} ms longer than there was time; expected a longer lead"
        await jobs.wait_for(plan.tasks)
        await client.wait_until_idle("5m")
    return {"tasks": plan.tasks, **lateness(jobs.late_ms())}


def _specs(plan: Plan, client: Client, jobs: Jobs, due_ms: Sequence[int]) -> Iterator[Spec]:
    rng = plan.rng("timers")
    pads = [pad(rng, taken=AT_BYTES) for _ in range(_PADS)]
    for number, at_ms in enumerate(due_ms):
        yield client.spec(jobs.due, at_ns=at_ms * 1_000_000, pad=pads[number % _PADS], at=instant(at_ms))


async def one_at_a_time(plan: AlonePlan) -> dict[str, Any]:
    """One timer, nothing else going on; again and again."""
    jobs = Jobs()
    rng = plan.rng("alone")
    async with plan.scheduler(jobs.app) as scheduler:
        client = scheduler.client()
        for number in range(plan.tasks):
            at_ms = time.time_ns() // 1_000_000 + plan.delay_ms + rng.below(plan.delay_ms + 1)
            data = pad(rng, taken=AT_BYTES)
            task = await client.submit(jobs.due, at_ns=at_ms * 1_000_000, pad=data, at=instant(at_ms))
            await jobs.wait_for(number + 1)
            await task.result()
            await asyncio.sleep(0)
    return {"tasks": plan.tasks, **lateness(jobs.late_ms())}


def lateness(late_ms: Sequence[float]) -> dict[str, Any]:
    """Return how many started early, and how late they were."""
    return {
        "early": sum(late < 0 for late in late_ms),
        "late_p50_ms": round(percentile(late_ms, 50), 3),
        "late_p95_ms": round(percentile(late_ms, 95), 3),
        "late_p99_ms": round(percentile(late_ms, 99), 3),
        "late_max_ms": round(max(late_ms), 3),
    }
