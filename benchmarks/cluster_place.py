"""A cluster to be measured: a broker, a database, nodes and workers, each a process; the client is in the measuring one.

Servers that are named are used as they are, and their CPU time is not known then; the others are started here, write every
acknowledged byte through to the disk, and end with the measurement.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from ..runtime.errors import UnavailableError
from ..sdk.client import Client
from ..sdk.cluster.assembly import Assembly
from ..sdk.cluster.children import Child, ChildFailedError
from ..sdk.servers import LocalNats, LocalPostgres
from . import member
from .cpu import CpuMeter, family_ns, process_ns
from .plan import Plan

_READY_S: Final = 60.0
_STOP_S: Final = 20.0
_WHOLE_S: Final = 60.0
_FOUND_S: Final = 30.0
_LOG_TAIL: Final = 6_000


def tell_log(log: Path) -> None:
    """Show the end of what nodes and workers logged."""
    if log.exists():
        print(log.read_text(errors="replace")[-_LOG_TAIL:], file=sys.stderr)


class ClusterPlan(Plan, frozen=True, kw_only=True):
    """`nats`, `postgres`: servers that are there; empty: start some. `shards`: of a database that is made now. `profile`:
    say where the nodes' and workers' CPU time goes, for `profiled_tasks` tasks."""

    nats: str = ""
    postgres: str = ""
    nodes: int = 1
    workers: int = 1
    profile: bool = False
    profiled_tasks: int = 1


class BenchCluster(Assembly):
    """The cluster of a plan, as an async context manager; `client` is connected to it, and all shards have a node."""

    def __init__(self, plan: ClusterPlan) -> None:
        super().__init__()
        self._plan = plan
        self._log = Path(plan.path("members.log"))
        self._nats: LocalNats | None = None
        self._postgres: LocalPostgres | None = None
        self.nodes: list[Child] = []
        self.workers: list[Child] = []

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and self.nodes:
            tell_log(self._log)
        await super().__aexit__(kind, error, traceback)

    async def _start(self) -> None:
        plan = self._plan
        if not plan.nats:
            self._nats = await self._stack.enter_async_context(LocalNats(plan.path("nats")))
        if not plan.postgres:
            os.chmod(plan.folder, 0o711)  # a server of root's runs as somebody else, who has to get through here
            self._postgres = await self._stack.enter_async_context(LocalPostgres(plan.path("postgresql")))
        self._stack.push_async_callback(self._stop, self.nodes)
        self._stack.push_async_callback(self._stop, self.workers)
        for number in range(1, plan.nodes + 1):
            await self._add(self.nodes, f"bench-node-{number}", ["node", "--slots", str(plan.shards)])
        words = [
            "worker", "--app", "foliot.benchmarks.cluster_app:app", "--processes", "0", "--concurrency",
            str(plan.concurrency),
        ]  # fmt: skip
        for number in range(1, plan.workers + 1):
            await self._add(self.workers, f"bench-worker-{number}", words)
        try:
            async with asyncio.timeout(_READY_S):
                for child in (*self.nodes, *self.workers):
                    await child.wait_ready()
        except (ChildFailedError, TimeoutError):
            tell_log(self._log)
            raise
        self.client = await self._stack.enter_async_context(Client(self.address, connect_timeout=30))
        await self._whole()

    async def _add(self, children: list[Child], name: str, words: list[str]) -> None:
        plan = self._plan
        env = {
            "FOLIOT_NATS": self.address, "FOLIOT_POSTGRES": self.dsn,
            member.FOLDER_VARIABLE: plan.folder, member.TASKS_VARIABLE: str(plan.profiled_tasks),
        }  # fmt: skip
        child = Child(name, [*words, "--name", name], env=env, restart=False, program=member.PROGRAM, log=self._log)
        children.append(child)
        await child.start()

    async def _stop(self, children: list[Child]) -> None:
        await asyncio.gather(*[child.stop(_STOP_S) for child in children])

    async def _whole(self) -> None:
        """Wait until every shard has a node and every worker is known."""
        async with asyncio.timeout(_WHOLE_S):
            while True:
                try:
                    members = (await self.client.members()).members
                    alive = [read for read in await self.client.workers() if read.state == "alive"]
                    hosted = sum(len(node.shards) for node in members)
                    shards = (await self.client.stats()).shards
                    if len(members) >= len(self.nodes) and hosted == shards and len(alive) >= len(self.workers):
                        return
                except UnavailableError:
                    pass
                await asyncio.sleep(0.05)

    # -- what is there ---------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        return self._plan.nats or (self._nats.url if self._nats is not None else "")

    @property
    def dsn(self) -> str:
        return self._plan.postgres or (self._postgres.dsn if self._postgres is not None else "")

    async def floor_dsn(self) -> str:
        """Return a database for the floor's script: one of its own where the server was started here."""
        return self.dsn if self._postgres is None else await self._postgres.database("floor")

    def server_pids(self) -> dict[str, int]:
        """Return the servers that were started here, by name."""
        found = {"nats": self._nats, "postgres": self._postgres}
        return {name: server.pid for name, server in found.items() if server is not None}

    def meter(self) -> CpuMeter:
        """Return a meter of all processes there are."""
        reads: dict[str, Callable[[], int]] = {"client": time.process_time_ns}
        for name, children in (("node", self.nodes), ("worker", self.workers)):
            pids = [child.pid for child in children]
            reads[name] = lambda pids=pids: sum(map(process_ns, pids))  # type: ignore[misc]
        for name, pid in self.server_pids().items():
            reads[name] = lambda pid=pid: family_ns(pid)  # type: ignore[misc]
        return CpuMeter(reads)

    async def figures(self) -> dict[str, float]:
        """Return what the nodes measured of themselves, added up."""
        found: dict[str, float] = {}
        for node in (await self.client.members()).members:
            for name, value in node.figures.items():
                found[name] = found.get(name, 0) + value
        return found

    # -- profiles --------------------------------------------------------------------------------------------------------

    def begin_profiles(self) -> None:
        for child in (*self.nodes, *self.workers):
            os.kill(child.pid, signal.SIGUSR1)

    async def end_profiles(self) -> dict[str, Any]:
        """Return what every node and worker found, by its name."""
        children = [*self.nodes, *self.workers]
        for child in children:
            os.kill(child.pid, signal.SIGUSR2)
        found: dict[str, Any] = {}
        async with asyncio.timeout(_FOUND_S):
            for child in children:
                path = member.found_file(self._plan.folder, child.pid)
                while not path.exists():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                found[child.name.removeprefix("bench-")] = msgspec.to_builtins(member.read_found(path))
        return found
