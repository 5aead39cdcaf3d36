"""Latency of an idle scheduler: from the call of `submit` to the first line of the handler."""

from __future__ import annotations

import asyncio
import subprocess
import time
from typing import Any

import msgspec

from ..runtime.rng import Rng
from ..sdk.client import Client
from ..sdk.handler import Handler
from .children import command, end
from .jobs import AT_BYTES, Jobs, pad
from .numbers import percentile
from .plan import Plan

_WARM_TASKS = 50


class LatencyPlan(Plan, frozen=True, kw_only=True):
    """`outside`: submit from a second process, through the local socket."""

    rate: int = 100
    seconds: float = 10.0
    outside: bool = False

    @property
    def tasks(self) -> int:
        return max(round(self.rate * self.seconds), 1)


class SubmitterPlan(Plan, frozen=True, kw_only=True):
    """Where the other process listens."""

    socket: str
    rate: int
    tasks: int


async def pickup(plan: LatencyPlan) -> dict[str, Any]:
    """Submit at a steady rate. The pauses between two tasks vary a little, so that they fall on no beat."""
    jobs = Jobs()
    async with plan.scheduler(jobs.app, socket="bench.sock" if plan.outside else None) as scheduler:
        client = scheduler.client()
        rng = plan.rng("latency")
        await steadily(client, jobs.sent, rng, rate=200, tasks=_WARM_TASKS)
        await jobs.wait_for(_WARM_TASKS)
        if plan.outside:
            submit_ms = await _from_outside(plan)
        else:
            submit_ms = await steadily(client, jobs.sent, rng, rate=plan.rate, tasks=plan.tasks)
        await jobs.wait_for(_WARM_TASKS + plan.tasks)
        await client.wait_until_idle("1m")
    late_ms = jobs.late_ms()[_WARM_TASKS:]
    assert len(late_ms) == plan.tasks, f"{len(late_ms)} of {plan.tasks} tasks started"
    return {
        "tasks": plan.tasks,
        "p50_ms": round(percentile(late_ms, 50), 3),
        "p95_ms": round(percentile(late_ms, 95), 3),
        "p99_ms": round(percentile(late_ms, 99), 3),
        "max_ms": round(max(late_ms), 3),
        "submit_p50_ms": round(percentile(submit_ms, 50), 3),
        "submit_p99_ms": round(percentile(submit_ms, 99), 3),
    }


async def steadily(client: Client, handler: Handler[..., Any], rng: Rng, *, rate: int, tasks: int) -> list[float]:
    """Submit tasks at a rate, whether or not the earlier ones are through. Returns: how long each submission took."""
    pads = [pad(rng, taken=AT_BYTES) for _ in range(tasks)]
    pauses_ns = [rng.below(2_000_000_000 // rate) for _ in range(tasks)]
    took_ms: list[float] = []

    async def submit(data: bytes) -> None:
        start_ns = time.perf_counter_ns()
        await client.submit(handler, at_ns=start_ns, pad=data)
        took_ms.append((time.perf_counter_ns() - start_ns) / 1e6)

    next_ns = time.perf_counter_ns()
    async with asyncio.TaskGroup() as group:
        for data, pause_ns in zip(pads, pauses_ns, strict=True):
            next_ns += pause_ns
            await asyncio.sleep(max(next_ns - time.perf_counter_ns(), 0) / 1e9)
            group.create_task(submit(data))
    return took_ms


async def _from_outside(plan: LatencyPlan) -> list[float]:
    submitter = SubmitterPlan(
        folder=plan.folder, seed=plan.seed, socket=plan.path("bench.sock"), rate=plan.rate, tasks=plan.tasks
    )
    process = subprocess.Popen(command("submitter", submitter), stdout=subprocess.PIPE)  # noqa: ASYNC220  (starts at once)
    try:
        output, _ = await asyncio.to_thread(process.communicate)
    finally:
        end(process)
    assert not process.returncode, f"the submitting process ended with code {process.returncode}"
    took_ms: list[float] = msgspec.json.decode(output)["took_ms"]
    return took_ms


async def submit_from_outside(plan: SubmitterPlan) -> dict[str, Any]:
    """The second process: submit through the socket."""
    async with Client(plan.socket, connect_timeout=30) as client:
        took_ms = await steadily(client, Jobs().sent, plan.rng("outside"), rate=plan.rate, tasks=plan.tasks)
    return {"took_ms": took_ms}
