"""Very many attempts at once: coroutines that sleep, while the worker's heartbeats have to stay on time."""

from __future__ import annotations

import time
from typing import Any

import anyio

from ..sdk.client import Client
from .jobs import Jobs, pad
from .place import peak_rss_mb
from .plan import Plan


class SleepersPlan(Plan, frozen=True, kw_only=True):
    """`hold_s`: how long each of them sleeps, longer than a silent worker is given."""

    tasks: int = 10_000
    hold_s: float = 35.0


async def run_at_once(plan: SleepersPlan) -> dict[str, Any]:
    """Run all of them at the same time and watch the worker."""
    jobs = Jobs()
    watch = _Watch()
    async with plan.scheduler(jobs.app) as scheduler:
        client = scheduler.client()
        rng = plan.rng("sleepers")
        async with anyio.create_task_group() as group:
            group.start_soon(watch.run, client)
            start_ns = time.perf_counter_ns()
            specs = (client.spec(jobs.sleeper, seconds=plan.hold_s, pad=pad(rng, taken=17)) for _ in range(plan.tasks))
            await client.submit_many(specs)
            await jobs.wait_for(plan.tasks)
            all_ns = time.perf_counter_ns() - start_ns
            await client.wait_until_idle(plan.hold_s + 120)
            group.cancel_scope.cancel()
        verified = await client.verify()
    return {
        "running_at_once": jobs.most_running,
        "running_all_after_s": round(all_ns / 1e9, 3),
        "running_started_twice": jobs.started - plan.tasks,
        "running_rss_mb": peak_rss_mb(),
        "heartbeat_gap_max_s": round(watch.longest_ms / 1000, 1),
        "sessions_lost": len(watch.sessions) - 1 + watch.silent,
        "balanced": verified.balanced,
    }


class _Watch:
    """Looks at the workers twice a second."""

    def __init__(self) -> None:
        self.longest_ms = 0
        self.silent = 0
        self.sessions: dict[str, None] = {}

    async def run(self, client: Client) -> None:
        while True:
            now_ms = (await client.stats()).now_ms
            for worker in await client.workers():
                self.sessions[worker.heartbeat.session] = None
                self.silent += worker.state == "silent"
                self.longest_ms = max(self.longest_ms, now_ms - worker.heard_ms)
            await anyio.sleep(0.5)
