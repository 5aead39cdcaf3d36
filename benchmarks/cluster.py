"""Throughput and latency of a real cluster: the client in this process; nodes, workers, broker and database in others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

from ..sdk.client import Client
from ..sdk.client_spec import Spec
from .cluster_app import noop, sent
from .cluster_place import BenchCluster, ClusterPlan
from .floor import cluster_floor
from .jobs import pad
from .latency import steadily
from .numbers import percentile
from .plan import Plan
from .stages import StageClock

_PADS: Final = 256  # different payloads
_WARM_TASKS: Final = 5_000
_WARM_LATENCY: Final = 100
_QUERY_IDS: Final = 100
_IDLE_S: Final = 3.0


class ClusterThroughputPlan(ClusterPlan, frozen=True, kw_only=True):
    """`floor`: a script to compare with; empty: none."""

    tasks: int
    floor: str = ""


class ClusterLatencyPlan(ClusterPlan, frozen=True, kw_only=True):
    """`queries`: questions of 100 task ids each."""

    rate: int = 100
    seconds: float = 10.0
    queries: int = 200

    @property
    def tasks(self) -> int:
        return max(round(self.rate * self.seconds), _QUERY_IDS)


def _specs(plan: Plan, client: Client, count: int) -> Iterator[Spec]:
    rng = plan.rng("payloads")
    pads = [pad(rng) for _ in range(_PADS)]
    spec = client.spec
    for number in range(count):
        yield spec(noop, pad=pads[number % _PADS])


async def cluster_throughput(plan: ClusterThroughputPlan) -> dict[str, Any]:
    """Submit tasks in bulk while the workers run them, until the last one is completed and durable."""
    async with BenchCluster(plan) as cluster:
        floors = [await _floor(plan, cluster)] if plan.floor else []
        await cluster.client.submit_many(_specs(plan, cluster.client, min(_WARM_TASKS, plan.tasks)))
        await cluster.client.wait_until_idle("5m")
        figures = await _throughput(plan, cluster)
        if plan.floor:
            floors.append(await _floor(plan, cluster))
            for name in ("tasks_per_s", "us_per_task"):
                figures[f"floor_{name}"] = round(sum(floor[name] for floor in floors) / len(floors), 1)
            figures["floor_ratio"] = round(figures["tasks_per_s"] / figures["floor_tasks_per_s"], 3)
            used = figures["cpu_us_per_task"].get("all", 0)
            figures["floor_cpu_ratio"] = round(figures["floor_us_per_task"] / used, 3) if used else 0.0
        return figures


async def _throughput(plan: ClusterThroughputPlan, cluster: BenchCluster) -> dict[str, Any]:
    client, tasks = cluster.client, plan.tasks
    accepted_before = _accepted(await client.verify())
    before = await cluster.figures()
    progress = plan.progress("tasks", tasks)
    own = StageClock(lines=True)
    if plan.profile:
        cluster.begin_profiles()
        own.__enter__()
    with cluster.meter() as meter:
        result = await client.submit_many(_specs(plan, client, tasks), progress=progress)
        submitted_ns = time.perf_counter_ns() - meter.start_ns
        await client.wait_until_idle("10m")
    progress.end()
    profiles: dict[str, Any] = {}
    if plan.profile:
        own.__exit__(None, None, None)
        profiles = await cluster.end_profiles()
        profiles["client"] = {"stages": own.us_per_task(tasks), "hot": own.hot(tasks, 20)}
    after = await cluster.figures()
    verified = await client.verify()
    assert result.accepted == tasks, f"{result.accepted} of {tasks} tasks were accepted"
    assert verified.balanced, f"the ledger does not balance: {[each.text for each in verified.differences]}"
    assert _accepted(verified) - accepted_before == tasks, "the ledger counts other tasks than these"
    delta = {name: after.get(name, 0) - before.get(name, 0) for name in after}
    commits = max(delta["store.commits"], 1)
    figures: dict[str, Any] = {
        "tasks": tasks,
        "tasks_per_s": round(tasks * 1e9 / meter.took_ns),
        "submit_while_running_per_s": round(tasks * 1e9 / submitted_ns),
        "cpu_cores": meter.cores,
        "cpu_us_per_task": meter.us_per_task(tasks),
        "commits": round(commits),
        "shard_commits": round(delta.get("store.shard_commits", 0)),
        "rows_per_commit": round(delta["store.rows"] / commits, 1),
        "store_busy_us": round(delta["store.busy_ns"] / tasks / 1e3, 2),
        "node_us_per_task": _node_us(delta, tasks),
    }
    if profiles:
        figures["profiles"] = profiles
    return figures


async def _floor(plan: ClusterThroughputPlan, cluster: BenchCluster) -> dict[str, Any]:
    return await cluster_floor(
        plan.floor, plan.tasks, nats=cluster.address, dsn=await cluster.floor_dsn(), folder=plan.folder,
        servers=cluster.server_pids(),
    )  # fmt: skip


def _accepted(verified: Any) -> int:
    return sum(line.accepted for line in verified.lines)


def _node_us(delta: dict[str, float], tasks: int) -> dict[str, float]:
    """Return what the nodes' actors used for each task, by kind and step."""
    found = {name: value / tasks / 1e3 for name, value in sorted(delta.items()) if name.endswith("_ns") and value > 0}
    return {name.removesuffix("_ns"): round(value, 2) for name, value in found.items() if value >= 0.05}


async def cluster_latency(plan: ClusterLatencyPlan) -> dict[str, Any]:
    """Submit at a steady rate with little going on, then ask after tasks by their ids."""
    async with BenchCluster(plan) as cluster:
        client, rng = cluster.client, plan.rng("latency")
        await steadily(client, sent, rng, rate=200, tasks=_WARM_LATENCY)
        await client.wait_until_idle("1m")
        with cluster.meter() as idle:
            await asyncio.sleep(_IDLE_S)
        with cluster.meter() as meter:
            submit_ms = await steadily(client, sent, rng, rate=plan.rate, tasks=plan.tasks)
        await client.wait_until_idle("1m")
        infos = [info async for info in client.list(handler=sent.name, limit=plan.tasks)]  # newest first
        late_ms = [info.result / 1e6 for info in await client.get_many([info.id for info in infos])]
        assert len(late_ms) == plan.tasks, f"{len(late_ms)} of {plan.tasks} tasks are there"
        ids = [info.id for info in infos]
        query_ms = [await _query(client, ids, start) for start in range(plan.queries)]
    return {
        "tasks": plan.tasks,
        "p50_ms": round(percentile(late_ms, 50), 3),
        "p95_ms": round(percentile(late_ms, 95), 3),
        "p99_ms": round(percentile(late_ms, 99), 3),
        "max_ms": round(max(late_ms), 3),
        "submit_p50_ms": round(percentile(submit_ms, 50), 3),
        "submit_p99_ms": round(percentile(submit_ms, 99), 3),
        "query_100_p50_ms": round(percentile(query_ms, 50), 3),
        "query_100_p95_ms": round(percentile(query_ms, 95), 3),
        "cpu_us_per_task": meter.us_per_task(plan.tasks),
        "idle_percent": {name: round(100 * used / idle.took_ns, 2) for name, used in idle.used_ns.items()},
    }


async def _query(client: Client, ids: list[str], number: int) -> float:
    """Ask after 100 tasks, each time others. Returns: ms until the answer."""
    start = number * 37 % (len(ids) - _QUERY_IDS + 1)
    asked = ids[start : start + _QUERY_IDS]
    start_ns = time.perf_counter_ns()
    infos = await client.get_many(asked)
    took_ms = (time.perf_counter_ns() - start_ns) / 1e6
    assert [info.id for info in infos] == asked, "the answer is about other tasks"
    await asyncio.sleep(0.005)
    return took_ms
