"""The actors a node makes on demand, by the kind in their address: those that are rebuilt from messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..runtime.actor import Actor
from ..runtime.node import Make
from .addresses import key_of
from .queue import QueueActor
from .tenant import TenantActor
from .worker import DEAD_AFTER_MS, WorkerActor

RECONCILE_MS: Final = 10_000


def makers(shards: int, *, worker_dead_ms: int = DEAD_AFTER_MS, reconcile_ms: int = RECONCILE_MS) -> Mapping[str, Make]:
    """Return how queue, tenant and worker actors are made in a cluster of so many shards. Two of one address may live for a
    moment while their slot moves; the epoch of the slot tells which of them is the later. `worker_dead_ms`: of silence;
    `reconcile_ms`: see `QueueActor`."""

    async def queue(address: str, epoch: int) -> Actor[Any]:
        return QueueActor(address, shards, epoch=epoch, reconcile_ms=reconcile_ms)

    async def tenant(address: str, epoch: int) -> Actor[Any]:
        return TenantActor(key_of(address), shards, epoch=epoch)

    async def worker(address: str, epoch: int) -> Actor[Any]:
        return WorkerActor(key_of(address), dead_after_ms=worker_dead_ms)

    return {"queue": queue, "tenant": tenant, "worker": worker}
