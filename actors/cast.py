"""The actors a node makes on demand, by the kind in their address: those that are rebuilt from messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..runtime.actor import Actor, Journal
from ..runtime.node import Make
from .addresses import key_of
from .queue import QueueActor
from .tenant import TenantActor
from .worker import WorkerActor


def makers(shards: int) -> Mapping[str, Make]:
    """Return how queue, tenant and worker actors are made in a cluster of so many shards."""

    async def queue(address: str) -> tuple[Actor[Any], Journal | None]:
        return QueueActor(address, shards), None

    async def tenant(address: str) -> tuple[Actor[Any], Journal | None]:
        return TenantActor(key_of(address), shards), None

    async def worker(address: str) -> tuple[Actor[Any], Journal | None]:
        return WorkerActor(key_of(address)), None

    return {"queue": queue, "tenant": tenant, "worker": worker}
