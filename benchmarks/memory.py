"""Two million timers far apart: how fast they go in, what a fresh process takes with them, and how fast questions are
answered over them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from ..runtime.ids import from_text, to_text
from ..runtime.rng import Rng
from ..sdk.client import Client
from ..sdk.client_spec import Spec
from .jobs import AT_BYTES, QUEUE, Jobs, pad
from .numbers import percentile
from .place import peak_rss_mb, rss_mb
from .plan import Plan
from .timers import instant

_PADS: Final = 64
_FIRST_MS: Final = 86_400_000  # the first one is due in a day, the last one in a year
_SPAN_MS: Final = 364 * 86_400_000
_ENDED: Final = 200  # of each kind, so that the filters have something to find


class InsertPlan(Plan, frozen=True, kw_only=True):
    tasks: int = 2_000_000


class StartPlan(Plan, frozen=True, kw_only=True):
    """`first_id`: of the file's first task; `queries`: how many of each kind are asked."""

    first_id: str
    tasks: int = 2_000_000
    queries: int = 300


async def insert(plan: InsertPlan) -> dict[str, Any]:
    """Store the timers, and a few tasks that ended."""
    jobs = Jobs()
    async with plan.scheduler(jobs.app) as scheduler:
        client = scheduler.client()
        first = await client.submit(jobs.noop, pad=pad(plan.rng("first")))
        progress = plan.progress("timers", plan.tasks)
        start_ns = time.perf_counter_ns()
        result = await client.submit_many(_far_apart(plan, client, jobs), progress=progress)
        took_ns = time.perf_counter_ns() - start_ns
        progress.end()
        assert result.accepted == plan.tasks, f"{result.accepted} of {plan.tasks} timers were accepted"
        inserting_mb = peak_rss_mb()
        rng = plan.rng("ended")
        for handler in (jobs.noop, jobs.failing):
            await client.submit_many(client.spec(handler, pad=pad(rng)) for _ in range(_ENDED))
        await jobs.wait_for(2 * _ENDED + 1)
    return {"insert_per_s": round(plan.tasks * 1e9 / took_ns), "insert_rss_mb": inserting_mb, "first_id": first.id}


def _far_apart(plan: InsertPlan, client: Client, jobs: Jobs) -> Iterator[Spec]:
    rng = plan.rng("timers")
    pads = [pad(rng, taken=AT_BYTES) for _ in range(_PADS)]
    first_ms = time.time_ns() // 1_000_000 + _FIRST_MS
    for number in range(plan.tasks):
        # Not in the order of their instants, since nobody submits a year in order.
        at_ms = first_ms + (number * 7_919) % plan.tasks * _SPAN_MS // plan.tasks
        yield client.spec(jobs.due, at_ns=at_ms * 1_000_000, pad=pads[number % _PADS], at=instant(at_ms))


async def start(plan: StartPlan) -> dict[str, Any]:
    """Open the file in a fresh process: ready when a first task was submitted and is done."""
    jobs = Jobs()
    empty_mb = rss_mb()
    start_ns = time.perf_counter_ns()
    async with plan.scheduler(jobs.app) as scheduler:
        client = scheduler.client()
        task = await client.submit(jobs.noop, pad=pad(plan.rng("first")), priority="critical")
        await task.result()
        startup_ns = time.perf_counter_ns() - start_ns
        figures = {
            "timers": plan.tasks,
            "startup_s": round(startup_ns / 1e9, 3),
            "rss_mb": rss_mb(),
            "rss_peak_mb": peak_rss_mb(),
            "rss_without_file_mb": empty_mb,
        }
        figures |= await _queries(plan, client, plan.rng("queries"))
    return figures


async def _queries(plan: StartPlan, client: Client, rng: Rng) -> dict[str, Any]:
    """Ask for the status of tasks by id, and for lists by various filters, one question at a time."""
    ids = await _some_ids(plan, client, rng, plan.queries)

    async def status(number: int) -> None:
        await client.get(ids[number % len(ids)])

    filters: dict[str, dict[str, Any]] = {
        "newest": {},
        "scheduled": {"states": ["scheduled"]},
        "dead": {"states": ["dead"]},
        "completed_in_queue": {"states": ["completed"], "queue": QUEUE},
        "by_handler": {"handler": "bench.noop"},
        "none_of_few": {"states": ["cancelled"], "handler": "bench.noop"},
        "none_of_many": {"states": ["scheduled"], "handler": "bench.noop"},
        "older": {"before": ids[0]},
    }
    found: dict[str, Any] = {"query_p95_ms": round(percentile(await _time(status, plan.queries), 95), 3)}
    everything: list[float] = []
    by_filter: dict[str, float] = {}
    for name, options in filters.items():

        async def look(_: int, options: dict[str, Any] = options) -> None:
            await client.page(limit=100, **options)

        took_ms = await _time(look, max(plan.queries // len(filters), 1))
        everything += took_ms
        by_filter[name] = round(percentile(took_ms, 95), 3)
    found["list_p95_ms"] = round(percentile(everything, 95), 3)
    found["list_worst_p95_ms"] = max(by_filter.values())
    found["list_by_filter_p95_ms"] = by_filter
    return found


async def _some_ids(plan: StartPlan, client: Client, rng: Rng, count: int) -> list[str]:
    """Return ids from all over the file: each the newest one before a random number between the first and the last."""
    first = from_text(plan.first_id)
    last = from_text((await client.page(limit=1)).tasks[0].id)
    pages = [await client.page(limit=1, before=to_text(last - rng.below(last - first))) for _ in range(count)]
    return [page.tasks[0].id for page in pages]


async def _time(call: Callable[[int], Awaitable[None]], count: int) -> list[float]:
    took_ms: list[float] = []
    for number in range(count):
        start_ns = time.perf_counter_ns()
        await call(number)
        took_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
    return took_ms
