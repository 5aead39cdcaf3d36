"""The app of generated runs: one handler that acts as it is told, and the outside world it calls.

The outside world (`Witness`) is beyond the cluster's trust: it counts what really happened. It does what a careful user's
own store would do with `ctx.attempt_token`: it refuses a token older than one it has seen for the task, and takes each
effect once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..runtime.ids import from_text
from ..sdk.app import Foliot
from ..sdk.context import Context, Fatal, RetryLater
from .history import BodyEnded, BodyStarted, Effect
from .process import Process

if TYPE_CHECKING:
    from .world import World

RETRY_LATER_MS = 1_500
STUBBORN = "stubborn"
"""The name of a task that ignores its cancellation; a worker that stops has to leave it behind."""


def handler_of(queue: str) -> str:
    """Return the name of the handler whose tasks go to a queue."""
    return f"sim.act.{queue}"


class Witness:
    """What the outside world has seen."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._newest: dict[int, int] = {}  # task → newest attempt that called
        self._taken: dict[tuple[int, int], int] = {}  # (task, effect) → attempt

    def call(self, process: Process, task: int, attempt: int, number: int) -> bool:
        """Take an effect. Returns whether it counts."""
        if process.is_dead:
            return False
        newest = self._newest.get(task, 0)
        accepted = attempt >= newest and (task, number) not in self._taken
        if attempt > newest:
            self._newest[task] = attempt
        if accepted:
            self._taken[task, number] = attempt
        process.note("effect", task=task, attempt=attempt, number=number, accepted=accepted)
        self._world.observe(Effect(self._world.loop.now_ns, process.name, task, attempt, number, accepted))
        return accepted


def acting_app(
    process: Process, witness: Witness, session: Callable[[], str], costs: Mapping[str, int]
) -> Foliot:  # fmt: skip
    """Return the app as one worker process has it. `session`: the worker's session at this moment; `costs`: the most a
    task may cost, by queue."""
    app = Foliot("sim")
    world = process.world

    async def act(
        ctx: Context, acts: list[str], takes_ms: int, effects: int, filler: bytes = b""
    ) -> int:  # fmt: skip
        task, attempt = from_text(ctx.task_id), ctx.attempt
        running: Any = ctx._behind
        kind, key = running.route.kind, running.body.key
        process.note("body", task=ctx.task_id, attempt=attempt, handler=ctx.handler)
        world.observe(
            BodyStarted(
                world.loop.now_ns, process.name, process.boot, session(), task, attempt, kind, ctx.priority, key
            )
        )  # fmt: skip
        how = "raised"
        try:
            process.point("handler.start")
            how = await _act(process, witness, ctx, acts[min(attempt, len(acts)) - 1], takes_ms, effects)
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        finally:
            if not process.is_dead:
                process.note("body_end", task=ctx.task_id, attempt=attempt, how=how)
                world.observe(BodyEnded(world.loop.now_ns, process.name, process.boot, task, attempt, how))
        return attempt

    for queue, cost in costs.items():
        app.task(name=handler_of(queue), queue=queue, cost=cost)(act)
    return app


async def _act(process: Process, witness: Witness, ctx: Context, what: str, takes_ms: int, effects: int) -> str:
    task, attempt = from_text(ctx.task_id), ctx.attempt
    await asyncio.sleep(takes_ms / 1000)
    if what == "poison":
        process.world.count("act.poison")
        process.world.kill(process.name, down_ns=500_000_000)
        await asyncio.sleep(0)
    if what == "hang":
        await asyncio.sleep(86_400)
    if what == "stubborn":
        current = asyncio.current_task()
        if current is not None:
            current.set_name(STUBBORN)
        for _ in range(3):
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                process.world.count("act.stubborn")
    for number in range(effects):
        process.point("effect.before")
        witness.call(process, task, attempt, number)
        process.point("effect.after")
        if process.is_dead:
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    if what == "fail":
        raise ValueError("it was told to fail")
    if what == "fatal":
        raise Fatal("it was told to give up")
    if what == "later":
        raise RetryLater(RETRY_LATER_MS / 1000)
    return "ok"
