"""The app that the workers of the cluster tests serve."""

from __future__ import annotations

import asyncio
import os

from foliot import Foliot

app = Foliot("clustered")


@app.task
async def double(number: int) -> int:
    return 2 * number


@app.task(queue="whoami")
async def whoami() -> int:
    """Return the process it runs in, after long enough that another worker takes the next one."""
    await asyncio.sleep(0.05)
    return os.getpid()


@app.task(max_attempts=5)
async def nap(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()
