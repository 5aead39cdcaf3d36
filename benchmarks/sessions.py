"""What very many worker sessions cost the node that hears them.

None may be given up, and whatever was sent must have been heard, since a node that hears nothing costs nothing. If the node
falls behind, what it uses until it has caught up counts too.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from .cluster_place import BenchCluster
from .sessions_crowd import Crowd, SessionsPlan

__all__ = ["SessionsPlan", "sessions"]

_WARM_S: Final = 3.0
_BEHIND_S: Final = 30.0  # then what was not heard is lost
_LOOK_S: Final = 0.1


async def sessions(plan: SessionsPlan) -> dict[str, Any]:
    """Measure the nodes while the sessions beat steadily."""
    async with BenchCluster(plan) as cluster, AsyncExitStack() as stack:
        before_mb = _rss_mb(cluster)
        crowd = await Crowd.of(plan, cluster.address, stack)
        await _heard(cluster, crowd, await _ears(cluster, crowd), await crowd.beat(_WARM_S))
        known = [read for read in await cluster.client.workers() if read.state == "alive"]
        assert len(known) == plan.sessions, f"{len(known)} of {plan.sessions} sessions are known"
        dropped = (await cluster.figures())["bus.dropped"]
        before = await _ears(cluster, crowd)
        if plan.profile:
            cluster.begin_profiles()
        with cluster.meter() as meter:
            started = time.perf_counter()
            sent = await crowd.beat(plan.seconds)
            took_s = time.perf_counter() - started
            heard, answered = await _heard(cluster, crowd, before, sent)
        profiles = await cluster.end_profiles() if plan.profile else {}
        alive = [read for read in await cluster.client.workers() if read.state == "alive"]

        def percent(process: str) -> float:
            return round(meter.used_ns.get(process, 0) / took_s / 1e7, 1)

        figures: dict[str, Any] = {
            "sessions": plan.sessions,
            "connections": plan.links,
            "asked_per_s": plan.beats,
            "beats_per_s": round(sent / took_s),
            "behind_s": round(meter.took_ns / 1e9 - took_s, 2),
            "not_heard": max(sent - heard, 0),
            "not_answered": max(sent - answered, 0) + crowd.refused,
            "node_percent": percent("node"),
            "node_us_per_beat": round(meter.used_ns["node"] / max(sent, 1) / 1e3, 2),
            "broker_percent": percent("nats"),
            "bench_percent": percent("client"),
            "node_rss_mb": _rss_mb(cluster),
            "node_rss_before_mb": before_mb,
            "dropped": round((await cluster.figures())["bus.dropped"] - dropped),
            "given_up": plan.sessions - len(alive) + crowd.ended,
        }
        return figures | ({"profiles": profiles} if profiles else {})


async def _ears(cluster: BenchCluster, crowd: Crowd) -> tuple[int, int]:
    """Return how many heartbeats the nodes' worker actors have heard, and how many were answered."""
    return round((await cluster.figures()).get("worker.messages", 0)), crowd.answered


async def _heard(cluster: BenchCluster, crowd: Crowd, before: tuple[int, int], sent: int) -> tuple[int, int]:
    """Return how many of those sent since `before` were heard and answered, once all are or will not be any more."""
    until = time.perf_counter() + _BEHIND_S
    while True:
        heard, answered = (now - then for now, then in zip(await _ears(cluster, crowd), before, strict=True))
        if min(heard, answered) >= sent or time.perf_counter() >= until:
            return heard, answered
        await asyncio.sleep(_LOOK_S)


def _rss_mb(cluster: BenchCluster) -> float:
    """Return the memory that the nodes hold together."""
    return round(sum(_status_mb(node.pid) for node in cluster.nodes), 1)


def _status_mb(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0
