"""One measurement in a process of its own, so that nothing of another run is in its memory or its caches.

    python -m foliot.benchmarks.part NAME PLAN    prints one line of JSON

The plan is the JSON of the part's plan. The event loop is what the product uses; the garbage collector is left alone.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import msgspec
import structlog

from ..sdk.server_process import ServerFailedError, ServerMissingError
from .backlog import BacklogPlan, drain
from .cluster import ClusterLatencyPlan, ClusterThroughputPlan, cluster_latency, cluster_throughput
from .crash import CrashPlan, survive
from .crash_node import NodePlan, serve
from .latency import LatencyPlan, SubmitterPlan, pickup, submit_from_outside
from .memory import InsertPlan, StartPlan, insert, start
from .moves import MovesPlan, moves
from .place import has_uvloop
from .plan import Plan
from .schedules import PeakPlan, PutPlan, StoredPlan, peak, put
from .schedules import start as start_stored
from .sessions import SessionsPlan, sessions
from .sleepers import SleepersPlan, run_at_once
from .throughput import LifecyclePlan, SubmitPlan, lifecycle, submit_alone
from .ticks import TicksPlan, next_ticks
from .timers import AlonePlan, InstantPlan, SpreadPlan, at_one_instant, one_at_a_time, over_one_second

Part = Callable[[Any], Awaitable[dict[str, Any]]]

PARTS: Final[dict[str, tuple[type[Plan], Part]]] = {
    "throughput": (LifecyclePlan, lifecycle),
    "submit": (SubmitPlan, submit_alone),
    "backlog": (BacklogPlan, drain),
    "latency": (LatencyPlan, pickup),
    "submitter": (SubmitterPlan, submit_from_outside),
    "timers_instant": (InstantPlan, at_one_instant),
    "timers_spread": (SpreadPlan, over_one_second),
    "timers_alone": (AlonePlan, one_at_a_time),
    "ticks": (TicksPlan, next_ticks),
    "schedules_put": (PutPlan, put),
    "schedules_start": (StoredPlan, start_stored),
    "schedules_peak": (PeakPlan, peak),
    "memory_insert": (InsertPlan, insert),
    "memory_start": (StartPlan, start),
    "sleepers": (SleepersPlan, run_at_once),
    "cluster_throughput": (ClusterThroughputPlan, cluster_throughput),
    "cluster_latency": (ClusterLatencyPlan, cluster_latency),
    "sessions": (SessionsPlan, sessions),
    "moves": (MovesPlan, moves),
    "crash": (CrashPlan, survive),
    "crash_node": (NodePlan, serve),
}


def run_loop(main: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Run a coroutine on the event loop the product uses."""
    if has_uvloop():
        import uvloop

        figures: dict[str, Any] = uvloop.run(main)
        return figures
    return asyncio.run(main)


def main(arguments: list[str]) -> int:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(30),  # warnings
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    name, text = arguments
    plan_type, part = PARTS[name]
    plan = msgspec.json.decode(text, type=plan_type)

    async def measure() -> dict[str, Any]:
        own = asyncio.current_task()
        assert own is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, own.cancel)  # ends in order, as with Ctrl-C
        return await part(plan)

    try:
        figures = run_loop(measure())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    except (ServerMissingError, ServerFailedError) as error:  # a folder or a program that is not as it has to be
        print(f"foliot: {error}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(figures).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
