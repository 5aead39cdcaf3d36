"""The app of the embedded tests. Run as a script it serves `DATABASE` until it is told to stop."""

from __future__ import annotations

import asyncio
import sys
import time

from foliot import Context, Fatal, Foliot, Retry, RetryLater, Scheduler

app = Foliot("shop")
QUICK = Retry(base="5ms", cap="20ms")


@app.task
async def double(number: int) -> int:
    return number * 2


@app.task(retry=QUICK, max_attempts=3)
async def third_time_lucky(ctx: Context) -> int:
    if ctx.attempt < 3:
        raise ConnectionError(f"attempt {ctx.attempt}")
    return ctx.attempt


@app.task(retry=QUICK, max_attempts=2)
def never(number: int) -> None:
    print("trying", number)
    raise ValueError(f"never {number}")


@app.task(max_attempts=5)
async def hopeless() -> None:
    raise Fatal("no use")


@app.task
async def later(ctx: Context) -> int:
    if ctx.attempt == 1:
        raise RetryLater(after="10ms")
    return ctx.attempt


@app.task(isolation="process", timeout="3s", max_attempts=1)
def hang() -> None:
    print("hanging", flush=True)
    time.sleep(60)


@app.task(isolation="process")
def square(number: int) -> int:
    return number * number


@app.task
async def sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "woke"


@app.task(key="customer", key_limit=1)
async def one_at_a_time(customer: str) -> None:
    await asyncio.sleep(0.001)


@app.task(require=["gpu=true"])
async def on_gpu() -> None:
    return None


async def serve(database: str) -> None:
    async with Scheduler(app, database=database, socket=f"{database}.sock", concurrency=64, processes=1):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
