"""One measurement in a process of its own, so that nothing of another run is in its memory or its caches.

    python -m foliot.benchmarks.part NAME PLAN    prints one line of JSON

The plan is the JSON of the part's plan. The event loop is what the product uses; the garbage collector is left alone.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NoReturn

import msgspec
import structlog

from .place import has_uvloop
from .plan import Plan

Part = Callable[[Any], Awaitable[dict[str, Any]]]

_END_GRACE_S: Final = 10


class PartFailedError(RuntimeError):
    """A measurement ended without figures."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"the measurement {name!r} ended with code {code} and no figures; what it said is above")
        self.code = code


def parts() -> dict[str, tuple[type[Plan], Part]]:
    """Return every measurement by name."""
    from . import backlog, crash, crash_node, latency, memory, sleepers, throughput, timers

    return {
        "throughput": (throughput.LifecyclePlan, throughput.lifecycle),
        "submit": (throughput.SubmitPlan, throughput.submit_alone),
        "backlog": (backlog.BacklogPlan, backlog.drain),
        "latency": (latency.LatencyPlan, latency.pickup),
        "submitter": (latency.SubmitterPlan, latency.submit_from_outside),
        "timers_instant": (timers.InstantPlan, timers.at_one_instant),
        "timers_spread": (timers.SpreadPlan, timers.over_one_second),
        "timers_alone": (timers.AlonePlan, timers.one_at_a_time),
        "memory_insert": (memory.InsertPlan, memory.insert),
        "memory_start": (memory.StartPlan, memory.start),
        "sleepers": (sleepers.SleepersPlan, sleepers.run_at_once),
        "crash": (crash.CrashPlan, crash.survive),
        "crash_node": (crash_node.NodePlan, crash_node.serve),
    }


def command(name: str, plan: Plan) -> list[str]:
    """Return the command line that runs a part. -P: the current folder is no place to import from."""
    return [sys.executable, "-P", "-m", "foliot.benchmarks.part", name, msgspec.json.encode(plan).decode()]


def run(name: str, plan: Plan) -> dict[str, Any]:
    """Run a part in a process of its own and return its figures. Raises: PartFailedError."""
    process = subprocess.Popen(command(name, plan), stdout=subprocess.PIPE, text=True)
    try:
        output, _ = process.communicate()
    finally:
        end(process)
    if process.returncode or not output.strip():
        raise PartFailedError(name, process.returncode)
    figures: dict[str, Any] = msgspec.json.decode(output.strip().splitlines()[-1])
    return figures


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that was started here, by force if it does not listen."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_loop(main: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Run a coroutine on the event loop the product uses."""
    if has_uvloop():
        import uvloop

        figures: dict[str, Any] = uvloop.run(main)
        return figures
    return asyncio.run(main)


def _terminated(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt  # the event loop then ends in order, as with Ctrl-C


def main(arguments: list[str]) -> int:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(30),  # warnings
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    name, text = arguments
    plan_type, part = parts()[name]
    plan = msgspec.json.decode(text, type=plan_type)
    signal.signal(signal.SIGTERM, _terminated)

    async def measure() -> dict[str, Any]:
        return await part(plan)

    try:
        figures = run_loop(measure())
    except KeyboardInterrupt:
        return 130
    print(msgspec.json.encode(figures).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
