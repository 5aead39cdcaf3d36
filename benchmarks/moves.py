"""What it takes to take a part of a cluster away: a node that leaves or is killed, a worker that dies or stands still, the
broker, the database. Under steady traffic, on a cluster of two nodes and two workers, each a process.

What is measured is what a user would see: when submitted tasks start. Only a hand-over is read from what nodes tell each
other. In the end every acknowledged task must have completed, and the ledger must balance.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from ..runtime.clock import SystemClock
from ..runtime.membership import NODES, SLOTS
from ..sdk.client import Client
from ..sdk.cluster.children import Child
from ..sdk.cluster.local import LocalCluster, LocalOptions, whole
from ..sdk.servers import LocalNats, LocalPostgres
from ..transports.nats.bus import NatsBus
from ..transports.nats.link import NatsConfig, NatsLink
from .cluster_place import tell_log
from .moves_app import held
from .moves_traffic import Starts, Traffic, Watcher
from .numbers import percentile
from .plan import Plan

KINDS: Final = ("drain", "node_kill", "worker_kill", "worker_stop", "broker", "database")
_WAIT_S: Final = 120.0
_LOOK_S: Final = 0.02


class MovesPlan(Plan, frozen=True, kw_only=True):
    """`rate`: tasks a second. `held`: attempts that run on the worker that dies. `lead_s`: of traffic before anything
    happens, and after it passed. `down_s`: how long a server is away. `kinds`: what happens, in this order."""

    shards: int = 64
    rate: int = 1_000
    held: int = 500
    lead_s: float = 3.0
    down_s: float = 2.0
    kinds: tuple[str, ...] = KINDS


async def moves(plan: MovesPlan) -> dict[str, Any]:
    """Let one thing after the other happen, each once all is well again."""
    os.chmod(plan.folder, 0o711)  # a server of root's runs as somebody else, who has to get through here
    log = Path(plan.path("members.log"))
    options = LocalOptions(
        nodes=2, workers=2, data=plan.path("cluster"), slots=plan.shards, restart=False, log=log,
        worker_arguments=[
            "--app", "foliot.benchmarks.moves_app:app", "--processes", "0", "--concurrency", str(plan.concurrency),
        ],
    )  # fmt: skip
    os.mkdir(plan.path("cluster"), 0o711)
    try:
        async with LocalCluster(options) as cluster, AsyncExitStack() as stack:
            client = await stack.enter_async_context(Client(cluster.address, connect_timeout=30))
            return await _Moves(plan, cluster, client, await _watching(plan, cluster, stack)).run()
    except Exception:
        tell_log(log)
        raise


async def _watching(plan: MovesPlan, cluster: LocalCluster, stack: AsyncExitStack) -> Watcher:
    clock, watcher = SystemClock(), Watcher()
    link = await NatsLink.open(NatsConfig(cluster.address, name="bench"), clock=clock, rng=plan.rng("link"))
    stack.push_async_callback(link.close)
    bus = NatsBus(link, slots=plan.shards, name="bench", clock=clock)
    bus.bind(NODES, watcher)
    bus.bind(SLOTS, watcher)
    return watcher


class _Moves:
    def __init__(self, plan: MovesPlan, cluster: LocalCluster, client: Client, watcher: Watcher) -> None:
        self._plan = plan
        self._cluster = cluster
        self._client = client
        self._watcher = watcher
        self._acknowledged = 0
        self._lost = 0
        self._rounds = 0

    async def run(self) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        await self._whole()
        await self._traffic(self._nothing)  # warm
        for kind in self._plan.kinds:
            figures[kind] = await getattr(self, f"_{kind}")()
        verified = await self._client.verify()
        completed = sum(line.completed for line in verified.lines)
        figures |= {
            "tasks": self._acknowledged, "lost": self._lost, "accepted_twice": max(completed - self._acknowledged, 0),
            "balanced": verified.balanced,
        }  # fmt: skip
        return figures

    # -- nodes -----------------------------------------------------------------------------------------------------------

    async def _drain(self) -> dict[str, Any]:
        node = self._node()
        shards = await self._shards_of(node)

        async def leave() -> int:
            since_ns = time.perf_counter_ns()
            node.terminate()
            await self._until(lambda: not node.is_running)
            return since_ns

        since_ns, starts, figures = await self._traffic(leave)
        heard = self._watcher
        left_ns = heard.left_ns[node.name]
        moved = [shard for shard in shards if heard.claimed_ns.get(shard, 0) > left_ns]
        assert moved == shards, f"{len(moved)} of {len(shards)} shards were handed over"
        took = [(heard.claimed_ns[shard] - heard.released_ns[shard]) / 1e6 for shard in shards]
        away = [(heard.claimed_ns[shard] - left_ns) / 1e6 for shard in shards]
        await self._renew_node(node)
        return {
            "shards": len(shards),
            "handover_p50_ms": round(percentile(took, 50), 1),
            "handover_max_ms": round(max(took), 1),
            "all_moved_ms": round(max(away), 1),
            "again_s": starts.again_s(since_ns, since_ns, shards),
            **figures,
        }

    async def _node_kill(self) -> dict[str, Any]:
        node = self._node()
        shards = await self._shards_of(node)

        async def kill() -> int:
            since_ns = time.perf_counter_ns()
            node.kill()
            await self._until(lambda: all(self._watcher.claimed_ns.get(shard, 0) > since_ns for shard in shards))
            return since_ns

        since_ns, starts, figures = await self._traffic(kill)
        claimed = [(self._watcher.claimed_ns[shard] - since_ns) / 1e9 for shard in shards]
        await self._renew_node(node)
        return {
            "shards": len(shards),
            "claimed_s": round(max(claimed), 3),
            "again_s": starts.again_s(since_ns, since_ns, shards),
            **figures,
        }

    def _node(self) -> Child:
        """Return the node that is taken away."""
        return next(node for node in self._cluster.nodes if node.is_running)

    async def _shards_of(self, node: Child) -> list[int]:
        members = (await self._client.members()).members
        return next(sorted(member.shards) for member in members if member.name == node.name)

    async def _renew_node(self, old: Child) -> None:
        """Put another node in its place."""
        await old.stop(0)
        await (await self._cluster.add_node()).wait_ready()
        await self._whole()

    # -- workers ---------------------------------------------------------------------------------------------------------

    async def _worker_kill(self) -> dict[str, Any]:
        """The broker notices, and says so."""
        return await self._requeued(lambda worker: worker.kill(), seconds=60)

    async def _worker_stop(self) -> dict[str, Any]:
        """Its connection stays, so nobody notices but by its silence. Later it goes on, and reports in vain."""
        return await self._requeued(lambda worker: worker.stop_process(), seconds=20)

    async def _requeued(self, harm: Callable[[Child], None], *, seconds: float) -> dict[str, Any]:
        """Have one worker run all that is held, then another one come and the first one be harmed."""
        client, plan = self._client, self._plan
        first, *others = [worker for worker in self._cluster.workers if worker.is_running]
        for worker in others:
            await worker.stop(_WAIT_S)
        result = await client.submit_many((client.spec(held, seconds=seconds) for _ in range(plan.held)), ids=True)
        self._acknowledged += result.accepted
        await self._until_running(result.ids)
        await (await self._cluster.add_worker()).wait_ready()
        since_ns = time.perf_counter_ns()
        harm(first)
        took: list[float] = []
        async with asyncio.timeout(_WAIT_S):
            while len(took) < plan.held:
                await asyncio.sleep(0.25)
                infos = await client.get_many(result.ids)
                again = [info.result for info in infos if info.state == "completed" and info.result]
                took = [(at_ns - since_ns) / 1e9 for at_ns in again]
        first.resume()
        await asyncio.sleep(plan.lead_s)  # for what it still has to say
        await first.stop(5)
        outcomes = [(info.state, info.attempt) for info in await client.get_many(result.ids)]
        await (await self._cluster.add_worker()).wait_ready()
        return {
            "running": plan.held,
            "requeued_p50_s": round(percentile(took, 50), 3),
            "requeued_max_s": round(max(took), 3),
            "second_attempts": sum(outcome == ("completed", 2) for outcome in outcomes),
        }

    async def _until_running(self, ids: list[int]) -> None:
        async with asyncio.timeout(_WAIT_S):
            while any(info.state != "running" for info in await self._client.get_many(ids)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    # -- servers ---------------------------------------------------------------------------------------------------------

    async def _broker(self) -> dict[str, Any]:
        return await self._server(self._cluster.nats)

    async def _database(self) -> dict[str, Any]:
        return await self._server(self._cluster.postgres)

    async def _server(self, server: LocalNats | LocalPostgres) -> dict[str, Any]:
        down_ns = 0

        async def restart() -> int:
            nonlocal down_ns
            down_ns = time.perf_counter_ns()
            server.kill()
            await asyncio.sleep(self._plan.down_s)
            await server.start()
            back_ns = time.perf_counter_ns()
            await self._whole()
            return back_ns

        back_ns, starts, figures = await self._traffic(restart)
        return {
            "down_s": round((back_ns - down_ns) / 1e9, 2),
            "again_s": starts.again_s(down_ns, back_ns, range(self._plan.shards)),
            **figures,
        }

    # -- around it -------------------------------------------------------------------------------------------------------

    async def _nothing(self) -> int:
        return time.perf_counter_ns()

    async def _traffic(self, happen: Callable[[], Awaitable[int]]) -> tuple[int, Starts, dict[str, Any]]:
        """Let something happen under traffic. Returns: what `happen` returns, all starts, and figures."""
        plan = self._plan
        self._rounds += 1
        traffic = Traffic(self._client, plan.rate, plan.shards, plan.rng(f"keys {self._rounds}").bits(64))
        self._watcher.forget()
        running = asyncio.create_task(traffic.run())
        await asyncio.sleep(plan.lead_s)
        before_ns = time.perf_counter_ns()
        at_ns = await happen()
        await asyncio.sleep(plan.lead_s)
        traffic.stop()
        await running
        async with asyncio.timeout(_WAIT_S):
            await self._client.wait_until_idle(_WAIT_S)
            await traffic.settle()
            await self._client.wait_until_idle(_WAIT_S)
        starts = await traffic.starts()
        self._acknowledged += len(traffic.acknowledged) + len(traffic.settled)
        self._lost += len(starts.lost)
        figures: dict[str, Any] = {
            **starts.worst_ms(before_ns, time.perf_counter_ns()),
            "before_max_ms": starts.worst_ms(0, before_ns)["task_max_ms"],
            "tasks": len(traffic.acknowledged),
            "lost": len(starts.lost),
            "held_up": traffic.held_up,
            "unanswered": sum(traffic.unanswered.values()),
        }
        return at_ns, starts, figures

    async def _whole(self) -> None:
        await whole(self._client, self._plan.shards, within_s=_WAIT_S)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(_WAIT_S):
            while not is_so():  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
