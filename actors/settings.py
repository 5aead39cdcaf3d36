"""Durable settings of queues and tenants at a shard: kept by their home shard, told to whom they concern until that answers.

The home shard of a queue or tenant is the one its address hashes to. It commits a change, then tells the actor itself and,
for queues, every other shard, since each holds its part of the bound on waiting tasks. What it tells is numbered under its
epoch, so the newest wins in whatever order it arrives.
"""

from __future__ import annotations

from ..runtime.actor import Turn
from ..runtime.bus import Refusal
from ..runtime.hashing import slot_of
from . import messages as m
from .addresses import key_of, queue_address, shard_address, tenant_address
from .rows import ShardImage
from .table import TaskTable

Setting = m.ConfigureQueue | m.ConfigureTenant


class Settings:
    """The settings one shard knows."""

    def __init__(self, image: ShardImage, table: TaskTable, shards: int) -> None:
        self._shard = image.shard
        self._epoch = image.epoch
        self._shards = shards
        self._table = table
        self._queues = {queue_address(c.pool, c.queue): c for c in image.queues}
        self._tenants = {c.tenant: c for c in image.tenants}
        self._number = 0
        self._newest: dict[str, tuple[int, int]] = {}  # by queue of another home: (epoch, number) as last told
        self._unanswered: dict[tuple[str, str], Setting] = {}  # by (who was told, whose settings)

    # -- changes ---------------------------------------------------------------------------------------------------------

    def configure_queue(self, message: m.ConfigureQueue, turn: Turn) -> None:
        """A person changed a queue here, or another home shard tells of one of its queues."""
        config = message.config
        address = queue_address(config.pool, config.queue)
        if not self._is_home(address):
            stamp = (message.epoch, message.number)
            if stamp >= self._newest.get(address, (0, 0)):
                self._newest[address] = stamp
                self._queues[address] = config
            if message.number:
                turn.send(turn.sender, m.QueueConfigured(config, message.number))
            return
        self._queues[address] = config
        turn.changes.queues.append(config)
        others = [shard_address(shard) for shard in range(self._shards) if shard != self._shard]
        self._tell(m.ConfigureQueue(config, self._epoch, self._next()), address, [address, *others], turn)
        turn.reply(m.QueueConfigured(config))

    def configure_tenant(self, message: m.ConfigureTenant, turn: Turn) -> None:
        """A person changed a tenant."""
        config = message.config
        address = tenant_address(config.tenant)
        self._tenants[config.tenant] = config
        turn.changes.tenants.append(config)
        self._tell(m.ConfigureTenant(config, self._epoch, self._next()), address, [address], turn)
        turn.reply(m.TenantConfigured(config))

    def answered(self, message: m.QueueConfigured | m.TenantConfigured, turn: Turn) -> None:
        """Somebody has taken what it was told."""
        config = message.config
        if isinstance(config, m.QueueConfig):
            about = queue_address(config.pool, config.queue)
        else:
            about = tenant_address(config.tenant)
        setting = self._unanswered.get((turn.sender, about))
        if setting is not None and setting.number == message.number:
            del self._unanswered[turn.sender, about]

    # -- actors that began anew ------------------------------------------------------------------------------------------

    def tell_queue(self, queue: str, turn: Turn) -> None:
        """A queue actor does not know its settings."""
        if self._is_home(queue):
            pool, _, name = key_of(queue).partition(".")
            config = self._queues.get(queue) or m.QueueConfig(pool, name)
            turn.send(queue, m.ConfigureQueue(config, self._epoch, self._next()))

    def tell_tenant(self, tenant: str, turn: Turn) -> None:
        """A tenant actor does not know its settings."""
        address = tenant_address(tenant)
        if self._is_home(address):
            config = self._tenants.get(tenant) or m.TenantConfig(tenant)
            turn.send(address, m.ConfigureTenant(config, self._epoch, self._next()))

    @property
    def any_unanswered(self) -> bool:
        return bool(self._unanswered)

    def repeat(self, turn: Turn) -> None:
        """Tell those again who have not answered."""
        for (receiver, _), setting in self._unanswered.items():
            turn.send(receiver, setting)

    # -- the bound on waiting tasks --------------------------------------------------------------------------------------

    def too_many_waiting(self, message: m.SubmitTasks) -> Refusal | None:
        """Return why a submission finds its queue full here, or None."""
        for template in message.templates:
            config = self._queues.get(queue_address(template.pool, template.queue))
            if config is None or not config.max_waiting:
                continue
            share = -(-config.max_waiting // self._shards)
            waiting = sum(c.waiting for c in self._table.counts.values() if c.queue == template.queue)
            if waiting + len(message.tasks) > share:
                text = (
                    f"queue {template.queue!r} is full: {waiting} tasks wait in shard {self._shard}, whose share of the "
                    f"limit {config.max_waiting} is {share}; retry later"
                )
                return Refusal("overloaded", text, retry_after_ms=1_000)
        return None

    def _is_home(self, address: str) -> bool:
        return slot_of(address, self._shards) == self._shard

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _tell(self, setting: Setting, about: str, receivers: list[str], turn: Turn) -> None:
        for receiver in receivers:
            turn.send(receiver, setting)
            self._unanswered[receiver, about] = setting
