"""What the workers serve while parts of their cluster are taken away. A handler tells as its result what it saw, on the
monotonic clock, which is the same for all processes of the machine."""

from __future__ import annotations

import asyncio
import time

from ..sdk.app import Foliot
from ..sdk.context import Context
from .jobs import QUEUE

HELD_QUEUE = "bench-held"
_ATTEMPTS = 10  # none shall end for want of them

app = Foliot("moves")


@app.task(queue=QUEUE, max_attempts=_ATTEMPTS)
async def steady(at_ns: int) -> int:
    """Return how late it starts after `at_ns`."""
    return time.perf_counter_ns() - at_ns


@app.task(queue=HELD_QUEUE, max_attempts=_ATTEMPTS)
async def held(ctx: Context, seconds: float) -> int:
    """Sleep in the first attempt; return when a later one started, 0 in the first."""
    if ctx.attempt == 1:
        await asyncio.sleep(seconds)
        return 0
    return time.perf_counter_ns()
