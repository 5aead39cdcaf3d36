"""A large backlog: tasks wait in a paused queue, the queue is resumed, and the workers go through them."""

from __future__ import annotations

import time
from typing import Any

from .jobs import QUEUE, Jobs
from .place import peak_rss_mb, rss_mb
from .plan import Plan
from .throughput import specs_of


class BacklogPlan(Plan, frozen=True, kw_only=True):
    tasks: int


async def drain(plan: BacklogPlan) -> dict[str, Any]:
    """Return how fast the backlog was worked off, and the most memory the process took."""
    jobs = Jobs()
    progress = plan.progress("backlog", 2 * plan.tasks)
    async with plan.scheduler(jobs.app) as scheduler:
        client = scheduler.client()
        await client.pause_queue(QUEUE)
        start_ns = time.perf_counter_ns()
        result = await client.submit_many(specs_of(plan, client, jobs, plan.tasks), progress=progress)
        submitted_ns = time.perf_counter_ns() - start_ns
        assert result.accepted == plan.tasks, f"{result.accepted} of {plan.tasks} tasks were accepted"
        assert not jobs.started, f"{jobs.started} tasks ran while the queue was paused"
        full_mb = rss_mb()
        start_ns = time.perf_counter_ns()
        await client.resume_queue(QUEUE)
        await jobs.wait_for(plan.tasks)
        await client.wait_until_idle("10m")
        drained_ns = time.perf_counter_ns() - start_ns
    progress.end()
    return {
        "tasks": plan.tasks,
        "submit_per_s": round(plan.tasks * 1e9 / submitted_ns),
        "tasks_per_s": round(plan.tasks * 1e9 / drained_ns),
        "rss_full_mb": full_mb,
        "rss_mb": peak_rss_mb(),
    }
