"""What the workers run under chaos. Every attempt leaves a line in the witness when it starts and, as its effect, one when
it is done; the system keeps what was written when a process dies.
"""

from __future__ import annotations

import asyncio
import os
import time

from foliot import Context, Foliot, Retry

WITNESS_VARIABLE = "FOLIOT_CHAOS_WITNESS"
ATTEMPTS = 25  # a worker that dies costs an attempt; nothing here shall end for want of them

app = Foliot("chaos")


def note(kind: str, ctx: Context, what: str = "-") -> None:
    """Append a line; one write, so that no other process's line gets into it."""
    line = f"{kind} {ctx.task_id} {ctx.attempt_token} {os.getpid()} {time.time_ns()} {what}\n"
    file = os.open(os.environ[WITNESS_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode("ascii"))
    finally:
        os.close(file)


async def _work(ctx: Context, pause_ms: int) -> str:
    note("S", ctx)
    await asyncio.sleep(pause_ms / 1000)
    note("E", ctx)
    return ctx.attempt_token


@app.task(queue="work", max_attempts=ATTEMPTS)
async def work(ctx: Context, pause_ms: int) -> str:
    return await _work(ctx, pause_ms)


@app.task(queue="once", max_attempts=ATTEMPTS, delivery="exactly_once")
async def once(ctx: Context, pause_ms: int) -> str:
    return await _work(ctx, pause_ms)


@app.task(queue="maybe", delivery="at_most_once")
async def maybe(ctx: Context, pause_ms: int) -> str:
    return await _work(ctx, pause_ms)


@app.task(queue="flaky", max_attempts=ATTEMPTS, retry=Retry(base="200ms", cap="1s"))
async def flaky(ctx: Context, failures: int) -> str:
    """Fail so many times, then be done."""
    note("S", ctx)
    if ctx.attempt <= failures:
        raise RuntimeError(f"attempt {ctx.attempt} of {failures} that fail")
    note("E", ctx)
    return ctx.attempt_token


@app.task(queue="flaky", max_attempts=2, retry=Retry(base="100ms", jitter=False))
async def doomed(ctx: Context) -> None:
    note("S", ctx)
    raise RuntimeError("made to fail")


@app.task(queue="handed", max_attempts=ATTEMPTS)
async def handed(ctx: Context, number: int) -> None:
    """Of a one-way submission, whose sender hears no id: the number tells which."""
    note("H", ctx, str(number))


@app.task(queue="work", max_attempts=ATTEMPTS)
async def ticked(ctx: Context) -> None:
    assert ctx.tick is not None
    note("T", ctx, f"{ctx.schedule}@{round(ctx.tick.timestamp() * 1000)}")


@app.task(queue="probe", priority="critical", max_attempts=ATTEMPTS)
async def probe() -> None:
    """Show that work is done again."""
