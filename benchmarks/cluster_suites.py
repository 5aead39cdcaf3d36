"""What `foliot bench … --cluster` measures: its parts, how often, and how their figures come together."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from .children import run
from .cluster import ClusterLatencyPlan, ClusterThroughputPlan
from .moves import MovesPlan
from .place import scratch
from .sessions import SessionsPlan
from .suites import Settings, repeated


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster to be measured. `nats`, `postgres`: servers that are there; empty: some are started."""

    nats: str = ""
    postgres: str = ""
    nodes: int = 1
    workers: int = 1
    slots: int = 64

    def told(self, common: dict[str, Any]) -> dict[str, Any]:
        """Return what every plan is told. `common`: to all measurements."""
        return {
            **common, "shards": self.slots, "nats": self.nats, "postgres": self.postgres, "nodes": self.nodes,
            "workers": self.workers,
        }  # fmt: skip


def throughput(
    settings: Settings, where: Where, *, tasks: int, floor: str | None = None, profile: bool = False
) -> dict[str, Any]:
    """`floor`: a script that does the least that must be done, run around each of ours on the same servers. `profile`: a
    further run that says where the CPU time went; it is slower."""
    script = os.path.abspath(floor) if floor else ""

    def measure(common: dict[str, Any]) -> dict[str, Any]:
        return run("cluster_throughput", ClusterThroughputPlan(**where.told(common), tasks=tasks, floor=script))

    figures = repeated(settings, measure)
    if profile:
        with scratch(settings.folder) as folder:
            told = where.told(settings.common(folder))
            plan = ClusterThroughputPlan(**told, tasks=tasks, profile=True, profiled_tasks=tasks)
            figures["profiles"] = run("cluster_throughput", plan)["profiles"]
    return figures


def latency(settings: Settings, where: Where, *, rate: int, seconds: float, queries: int) -> dict[str, Any]:
    def measure(common: dict[str, Any]) -> dict[str, Any]:
        plan = ClusterLatencyPlan(**where.told(common), rate=rate, seconds=seconds, queries=queries)
        return run("cluster_latency", plan)

    return repeated(settings, measure)


def sessions(
    settings: Settings, where: Where, *, count: int, beats: int, seconds: float, public: bool = False, profile: bool = False
) -> dict[str, Any]:
    def measure(common: dict[str, Any]) -> dict[str, Any]:
        told = where.told(common) | {"workers": 0}
        plan = SessionsPlan(
            **told, sessions=count, beats=beats, seconds=seconds, public=public, profile=profile,
            profiled_tasks=round(beats * seconds),
        )  # fmt: skip
        return run("sessions", plan)

    return repeated(settings, measure)


def moves(settings: Settings, *, slots: int, rate: int, held: int, kinds: tuple[str, ...]) -> dict[str, Any]:
    def measure(common: dict[str, Any]) -> dict[str, Any]:
        return run("moves", MovesPlan(**common | {"shards": slots}, rate=rate, held=held, kinds=kinds))

    return repeated(settings, measure)
