"""What a node needs to host shards on a store: how a shard is made, made durable, and where poison messages go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from ..actors.addresses import shard_address
from ..actors.rows import ShardChanges
from ..actors.shard import ShardActor, ShardConfig
from ..actors.wire import encode
from ..runtime.actor import Actor, Journal
from ..runtime.cell import PoisonSink
from ..runtime.clock import Clock
from ..runtime.ownership import Durable
from .port import Store

log = structlog.get_logger("foliot.stores")

Told = Callable[[ShardChanges], None]
"""Hears of a turn once it is durable; a plain call that does not block or raise."""


class ShardJournal:
    """A shard's own view of the store, under one epoch. Implements `runtime.actor.Journal`. `told`: see `shards_on`."""

    def __init__(self, store: Store, shard: int, epoch: int, told: Told | None = None) -> None:
        self._store = store
        self._told = told
        self._shard = shard
        self.epoch = epoch

    def changes(self) -> ShardChanges:
        return ShardChanges(self._shard, self.epoch)

    async def commit(self, changes: Any) -> None:
        await self._store.commit(changes)
        if self._told is not None and changes.events:
            self._told(changes)

    async def read(self, query: Any) -> Any:
        return await self._store.query(self._shard, query)


def shards_on(store: Store, config: ShardConfig, *, node: str, told: Told | None = None) -> Durable:
    """Return how the node of that name makes the shard of a slot: each time it claims a new epoch. `told`: hears of every
    turn that is durable and changed the state of tasks, if the shards tell (`ShardConfig.tells_events`)."""

    def durable(slot: int) -> tuple[str, Callable[[], Awaitable[tuple[Actor[Any], Journal]]]]:
        async def make() -> tuple[Actor[Any], Journal]:
            image = await store.claim(slot, node)
            waiting = sum(entry.waiting for entry in image.ledger)
            log.debug("shard_claimed", shard=slot, epoch=image.epoch, waiting=waiting, running=len(image.running))
            return ShardActor(image, config), ShardJournal(store, slot, image.epoch, told)

        return shard_address(slot), make

    return durable


def poison_in(store: Store, clock: Clock) -> PoisonSink:
    """Return a sink that keeps messages no actor could handle in the store."""

    async def keep(address: str, message: Any, error: BaseException) -> None:
        await store.set_aside(address, encode(message), repr(error), clock.now_ms())

    return keep
