"""Throughput: how many tasks a second go from submission to completion in one process, and how many can be submitted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from ..sdk.client import Client
from ..sdk.client_spec import Spec
from ..sdk.scheduler import Scheduler
from .jobs import Jobs, pad
from .place import peak_rss_mb
from .plan import Plan
from .stages import StageClock

_PADS = 256  # different payloads
_WARM_TASKS = 2_000


class LifecyclePlan(Plan, frozen=True, kw_only=True):
    """`stages`: also say where the CPU time went; `hot`: by function as well."""

    tasks: int
    stages: bool = False
    hot: bool = False


class SubmitPlan(Plan, frozen=True, kw_only=True):
    """`tasks`: in bulk; `one_by_one`, `together`: with one and with 64 callers."""

    tasks: int
    one_by_one: int = 2_000
    together: int = 20_000
    callers: int = 64


def specs_of(plan: Plan, client: Client, jobs: Jobs, count: int) -> Iterator[Spec]:
    """Make tasks that do nothing, as a caller would: each through the client."""
    rng = plan.rng("payloads")
    pads = [pad(rng) for _ in range(_PADS)]
    spec, noop = client.spec, jobs.noop
    for number in range(count):
        yield spec(noop, pad=pads[number % _PADS])


async def lifecycle(plan: LifecyclePlan) -> dict[str, Any]:
    """Submit tasks in bulk while workers run them, until the last one is completed and durable."""
    jobs = Jobs()
    async with plan.scheduler(jobs.app) as scheduler:
        client = scheduler.client()
        await client.submit_many(specs_of(plan, client, jobs, min(_WARM_TASKS, plan.tasks)))
        await client.wait_until_idle("1m")
        if not plan.stages:
            return await _lifecycle(plan, scheduler, client, jobs)
        with StageClock(lines=plan.hot) as stages:
            figures = await _lifecycle(plan, scheduler, client, jobs)
        figures["us_per_task"] = stages.us_per_task(plan.tasks)
        figures["us_per_task"]["store_busy"] = figures.pop("store_busy_us")
        if plan.hot:
            figures["hot"] = stages.hot(plan.tasks)
        return figures


async def _lifecycle(plan: LifecyclePlan, scheduler: Scheduler, client: Client, jobs: Jobs) -> dict[str, Any]:
    tasks = plan.tasks
    progress = plan.progress("tasks", tasks)
    before = scheduler.figures()
    started_before = jobs.started
    cpu_ns, start_ns = time.process_time_ns(), time.perf_counter_ns()
    result = await client.submit_many(specs_of(plan, client, jobs, tasks), progress=progress)
    submitted_ns = time.perf_counter_ns() - start_ns
    await jobs.wait_for(started_before + tasks)
    await client.wait_until_idle("5m")
    took_ns = time.perf_counter_ns() - start_ns
    cpu_ns = time.process_time_ns() - cpu_ns
    progress.end()
    after = scheduler.figures()
    assert result.accepted == tasks, f"{result.accepted} of {tasks} tasks were accepted"
    commits = after["store.commits"] - before["store.commits"]
    return {
        "tasks": tasks,
        "tasks_per_s": round(tasks * 1e9 / took_ns),
        "submit_while_running_per_s": round(tasks * 1e9 / submitted_ns),
        "cpu_us_per_task": round(cpu_ns / tasks / 1e3, 2),
        "cpu_cores": round(cpu_ns / took_ns, 2),
        "commits": round(commits),
        "rows_per_commit": round((after["store.rows"] - before["store.rows"]) / max(commits, 1), 1),
        "store_busy_us": round((after["store.busy_ns"] - before["store.busy_ns"]) / tasks / 1e3, 2),
        "rss_mb": peak_rss_mb(),
    }


async def submit_alone(plan: SubmitPlan) -> dict[str, Any]:
    """Submit with no worker there: in bulk, one after the other, and by many callers at once."""
    jobs = Jobs()
    async with plan.scheduler() as scheduler:
        client = scheduler.client()
        start_ns = time.perf_counter_ns()
        result = await client.submit_many(specs_of(plan, client, jobs, plan.tasks))
        bulk_ns = time.perf_counter_ns() - start_ns
        assert result.accepted == plan.tasks, f"{result.accepted} of {plan.tasks} tasks were accepted"
    async with plan.scheduler(database="single.db") as scheduler:
        client = scheduler.client()
        one_ns = await _callers(plan, client, jobs, 1, plan.one_by_one)
        together_ns = await _callers(plan, client, jobs, plan.callers, plan.together)
    return {
        "submit_per_s": round(plan.tasks * 1e9 / bulk_ns),
        "submit_one_per_s": round(plan.one_by_one * 1e9 / one_ns),
        f"submit_{plan.callers}_per_s": round(plan.together * 1e9 / together_ns),
    }


async def _callers(plan: SubmitPlan, client: Client, jobs: Jobs, callers: int, tasks: int) -> int:
    """Return how long callers took, each of which waits for one task to be durable before it submits the next."""
    rng = plan.rng("callers")
    pads = iter([pad(rng) for _ in range(tasks)])

    async def call() -> None:
        for data in pads:
            await client.submit(jobs.noop, pad=data)

    start_ns = time.perf_counter_ns()
    await asyncio.gather(*[call() for _ in range(callers)])
    return time.perf_counter_ns() - start_ns
