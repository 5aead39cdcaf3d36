"""The process that the crash benchmark kills: a scheduler with a socket and a worker, whose handlers leave a witness.

Each start of a handler is a line in a file that only grows; the system keeps what was written when the process dies. The
process ends when its standard input does, so it never outlives the benchmark.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, Final

from ..sdk.app import Foliot
from ..sdk.context import Context
from .plan import Plan

SOCKET: Final = "crash.sock"
WITNESS: Final = "witness.log"
ONCE_QUEUE: Final = "once"


class NodePlan(Plan, frozen=True, kw_only=True):
    """Nothing beyond what all have."""


class Witnessed:
    """The app, both for the process that runs it and for the one that submits. `witness`: a file descriptor, or -1."""

    def __init__(self, witness: int = -1) -> None:
        self.app = Foliot("crash")

        def note(ctx: Context) -> None:
            if witness >= 0:
                os.write(witness, f"{ctx.task_id} {ctx.attempt_token}\n".encode())

        @self.app.task(queue="many")
        async def many(ctx: Context, pause_ms: int, pad: bytes) -> None:
            note(ctx)
            await asyncio.sleep(pause_ms / 1000)

        @self.app.task(queue=ONCE_QUEUE, delivery="exactly_once")
        async def once(ctx: Context, pause_ms: int, pad: bytes) -> str:
            note(ctx)
            await asyncio.sleep(pause_ms / 1000)
            return ctx.attempt_token

        @self.app.task(queue="probe", priority="critical")
        async def probe() -> None:
            """Show that work is done again."""

        self.many = many
        self.once = once
        self.probe = probe


async def serve(plan: NodePlan) -> dict[str, Any]:
    """Run until the standard input ends."""
    witness = os.open(plan.path(WITNESS), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    jobs = Witnessed(witness)
    async with plan.scheduler(jobs.app, database="crash.db", socket=SOCKET):
        await _end_of_input()
    os.close(witness)
    return {}


async def _end_of_input() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
