"""Crashes: a scheduler with its workers is killed with SIGKILL at random moments, started again, and must have lost
nothing.

A client in this process submits all the while, through the socket, and remembers what was acknowledged. Outcomes are read
after every start and at the end; an outcome that was accepted once must still be the same.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ..runtime.errors import UnavailableError
from ..runtime.rng import Rng
from ..sdk.client import Client
from ..sdk.client_spec import Spec
from ..transports.local import resolve_socket
from .children import command, end
from .crash_node import ONCE_QUEUE, SOCKET, WITNESS, NodePlan, Witnessed
from .jobs import pad
from .plan import Plan

_ONCE_SHARE: Final = 4  # every fourth task is to take effect exactly once
_PAUSE_MS: Final = 200  # handlers take 0 to this long, so that many run when the process dies
_KILL_WITHIN_MS: Final = 300
_BATCH: Final = 100
_READY_S: Final = 60


class CrashPlan(Plan, frozen=True, kw_only=True):
    tasks: int = 20_000
    kills: int = 10


async def survive(plan: CrashPlan) -> dict[str, Any]:
    """Return what was lost, what took effect twice, and how long it took to be back at work."""
    run = _Run(plan)
    try:
        return await run.measure()
    finally:
        run.node.end()


class _Node:
    """The process to be killed."""

    def __init__(self, plan: CrashPlan) -> None:
        self._plan = plan
        fields = {name: getattr(plan, name) for name in ("folder", "seed", "shards", "concurrency", "encode")}
        self._command = command("crash_node", NodePlan(**fields))
        self._process: subprocess.Popen[bytes] | None = None
        self.started_ns = 0

    def start(self) -> None:
        self.started_ns = time.perf_counter_ns()
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            end(self._process)

    async def listening(self) -> None:
        """Wait until it takes connections. Raises: TimeoutError; AssertionError if it ended instead."""
        assert self._process is not None
        path = self._plan.path(SOCKET)
        async with asyncio.timeout(_READY_S):
            while True:
                assert self._process.poll() is None, f"the process ended with code {self._process.returncode}"
                with suppress(OSError, UnavailableError):
                    _, writer = await asyncio.open_unix_connection(resolve_socket(path))
                    writer.close()
                    return
                await asyncio.sleep(0.005)


class _Run:
    """One run: the submitting client, the killer, and what both saw."""

    def __init__(self, plan: CrashPlan) -> None:
        self._plan = plan
        self._jobs = Witnessed()
        self._armed = [asyncio.Event() for _ in range(plan.kills)]
        self._recovered = [asyncio.Event() for _ in range(plan.kills)]
        self._seen: dict[str, dict[tuple[Any, ...], None]] = {}  # accepted outcomes of each exactly-once task
        self._probes = 0
        self.node = _Node(plan)

    async def measure(self) -> dict[str, Any]:
        plan = self._plan
        self.node.start()
        await self.node.listening()
        async with Client(plan.path(SOCKET), connect_timeout=30) as client:
            progress = plan.progress("tasks", plan.tasks)
            async with asyncio.TaskGroup() as group:
                killer = group.create_task(self._kill_again_and_again())
                result = await client.submit_many(
                    self._specs(client), ids=True, batch=_BATCH, in_flight=4, progress=progress, patience=120
                )
            progress.end()
            await client.wait_until_idle("10m")
            recovery_s = killer.result()
            return await self._judge(client, result.ids) | {
                "tasks": plan.tasks,
                "kills": plan.kills,
                "recovery_s": max(recovery_s, default=0.0),
                "recoveries_s": recovery_s,
            }

    # -- submitting and killing ------------------------------------------------------------------------------------------

    async def _specs(self, client: Client) -> AsyncIterator[Spec]:
        """Make the tasks in as many parts as there are kills, and one more. In each part the killer is armed at a random
        task; a part ends only when its kill is over, so that no kill meets a scheduler with nothing to do."""
        plan, rng = self._plan, self._plan.rng("tasks")
        for part in range(plan.kills + 1):
            first, last = (plan.tasks * at // (plan.kills + 1) for at in (part, part + 1))
            fatal = first + rng.below(max(last - first, 1))
            for number in range(first, last):
                if part < plan.kills and number == fatal:
                    self._armed[part].set()
                yield self._spec(client, rng, number)
            if part < plan.kills:
                self._armed[part].set()
                await self._recovered[part].wait()

    def _spec(self, client: Client, rng: Rng, number: int) -> Spec:
        pause_ms, data = rng.below(_PAUSE_MS + 1), pad(rng, taken=10)
        if number % _ONCE_SHARE:
            return client.spec(self._jobs.many, pause_ms=pause_ms, pad=data)
        return client.spec(self._jobs.once, pause_ms=pause_ms, pad=data, dedupe_key=_key(number))

    async def _kill_again_and_again(self) -> list[float]:
        rng = self._plan.rng("kills")
        took_s = []
        for armed, recovered in zip(self._armed, self._recovered, strict=True):
            await armed.wait()
            await asyncio.sleep(rng.below(_KILL_WITHIN_MS) / 1000)
            self.node.kill()
            self.node.start()
            took_s.append(await self._back_at_work())
            recovered.set()
        return took_s

    async def _back_at_work(self) -> float:
        """Return how long after the start of the process a task that was submitted to it was completed."""
        await self.node.listening()
        async with Client(self._plan.path(SOCKET), connect_timeout=30) as client:
            task = await client.submit(self._jobs.probe)
            self._probes += 1
            await task.result("1m")
            took_ns = time.perf_counter_ns() - self.node.started_ns
            await self._look(client)
        return round(took_ns / 1e9, 3)

    # -- what became of it -----------------------------------------------------------------------------------------------

    async def _look(self, client: Client) -> None:
        """Note the outcome of every exactly-once task that is over."""
        async for task in client.list(queue=ONCE_QUEUE, states=["completed"]):
            outcome = (task.attempt, task.started_at, task.ended_at)
            self._seen.setdefault(task.id, {})[outcome] = None

    async def _judge(self, client: Client, ids: list[int]) -> dict[str, Any]:
        plan = self._plan
        await self._look(client)
        completed = {task.id async for task in client.list(states=["completed"])}
        acknowledged = {client.task(number).id for number in ids if number}
        starts = Counter(line.split()[0] for line in _lines(plan))
        tokens = {line.split()[1] for line in _lines(plan)}
        twice = sum(len(outcomes) > 1 for outcomes in self._seen.values())
        once = [info async for info in client.list(queue=ONCE_QUEUE)]
        results = [info.result for info in await client.get_many([task.id for task in once])]
        verified = await client.verify()
        accepted = sum(line.accepted for line in verified.lines)
        counted = sum(line.completed for line in verified.lines)
        again = await self._again(client)
        return {
            "lost": len(acknowledged - completed),
            "duplicates": twice + max(counted - len(completed), 0),
            "not_witnessed": sum(result not in tokens for result in results),
            "accepted_twice": accepted - len(acknowledged) - self._probes,
            "dedupe_broken": again,
            "unanswered": plan.tasks - len(acknowledged),
            "started_again_percent": round(100 * (starts.total() - len(starts)) / max(len(starts), 1), 3),
            "balanced": verified.balanced,
        }

    async def _again(self, client: Client) -> int:
        """Submit some dedupe keys once more. Returns: how many were taken for new."""
        rng = self._plan.rng("again")
        numbers = range(0, self._plan.tasks, _ONCE_SHARE)[:200]
        specs = [self._spec(client, rng, number) for number in numbers]
        return (await client.submit_many(specs)).accepted


def _key(number: int) -> str:
    return f"task-{number}"


def _lines(plan: Plan) -> list[str]:
    """Return the witness's lines; the last one may have been cut off by a kill."""
    lines = Path(plan.path(WITNESS)).read_text(encoding="ascii").splitlines()
    return [line for line in lines if len(line.split()) == 2]
