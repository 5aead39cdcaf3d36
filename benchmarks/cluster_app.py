"""What the workers of the cluster's benchmarks serve. A handler tells as its result what it saw, since it runs in another
process than the one that measures."""

from __future__ import annotations

import time

from ..sdk.app import Foliot
from .jobs import QUEUE

app = Foliot("bench")


@app.task(queue=QUEUE)
async def noop(pad: bytes) -> None:
    """Do nothing."""


@app.task(queue=QUEUE)
async def sent(at_ns: int, pad: bytes) -> int:
    """Return how late it starts. `at_ns`: on the monotonic clock, the same for all processes of the machine."""
    return time.perf_counter_ns() - at_ns
