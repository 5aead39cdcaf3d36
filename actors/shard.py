"""The shard actor: the truth about its slice of all tasks.

It owns their rows, timers and leases, so every step of a task's life is decided here and nowhere else, in one commit. The
parts it is made of share one memory (`actors.table`); this module routes messages to them and keeps the settings.
What always holds: a row and its effects leave in the same turn, the effects after the commit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from ..runtime.actor import Actor, Turn
from ..runtime.bus import Refusal
from ..runtime.hashing import slot_of
from ..runtime.ids import IdSource
from . import messages as m
from .addresses import key_of, queue_address, shard_address, tenant_address
from .backlog import BacklogConfig
from .commands import Commands
from .intake import Intake
from .leases import Leases
from .lifecycle import Lifecycle
from .outgoing import Outgoing
from .rows import Answer, KeysRead, LaneRead, LanesRead, ShardImage, TasksRead, TimersRead
from .table import TaskTable
from .task import Task
from .timeouts import Timeouts
from .timers import TimerConfig
from .waiting import Waiting
from .watchers import Watchers


@dataclass(frozen=True)
class ShardConfig:
    """Bounds and habits of a shard."""

    shards: int
    timers: TimerConfig = field(default_factory=TimerConfig)
    backlog: BacklogConfig = field(default_factory=BacklogConfig)
    fire_max: int = 4_096  # timers to a turn
    keep_payload_max: int = 16_384  # larger payloads are read again from the store when the task is leased
    lease_margin_ms: int = 30_000  # beyond timeout and grace: then the shard itself ends an attempt
    heartbeat_interval_ms: int = 10_000
    usage_interval_ms: int = 1_000
    workers_are_local: bool = False  # True: workers live and die with this process, so at start no lease is alive


class ShardActor(Actor[m.ShardMessage | Answer]):
    """One shard."""

    def __init__(self, image: ShardImage, config: ShardConfig) -> None:
        self.shard = image.shard
        self._config = config
        self._out = out = Outgoing(image.shard)
        self._table = table = TaskTable(image)
        self._timeouts = timeouts = Timeouts(config.lease_margin_ms)
        self._watchers = watchers = Watchers()
        self._waiting = waiting = Waiting(
            table, out, timeouts, config.timers, config.backlog, has_ready=image.has_ready
        )  # fmt: skip
        self._life = life = Lifecycle(table, waiting, timeouts, watchers, out)
        self._leases = Leases(table, life, timeouts, out, heartbeat_interval_ms=config.heartbeat_interval_ms)
        ids = IdSource(image.shard, image.last_id)
        self._intake = Intake(table, life, waiting, ids, keep_payload_max=config.keep_payload_max)
        self._commands = Commands(
            table, life, timeouts, watchers, out, keep_payload_max=config.keep_payload_max
        )  # fmt: skip
        self._running_at_start = [Task.of_row(row, table.kind_of(row)) for row in image.running]
        self._queue_configs = {queue_address(c.pool, c.queue): c for c in image.queues}
        self._tenant_configs = {c.tenant: c for c in image.tenants}
        self._usage: dict[str, tuple[int, int]] = {}  # by tenant, as last reported
        self._usage_due_ms: int | None = None

    def started(self, turn: Turn) -> None:
        for task in self._running_at_start:
            self._leases.adopt(task, turn)
            if self._config.workers_are_local:
                self._life.interrupt(task, "the scheduler stopped while it ran", turn)
        self._running_at_start = []

    def handle(self, message: m.ShardMessage | Answer, turn: Turn) -> None:
        match message:
            case m.ReportOutcomes():
                self._leases.report(message, turn)
            case m.GrantLeases():
                self._leases.grant(message, turn)
            case m.SubmitTasks():
                refusal = self._too_many_waiting(message)
                if refusal is None:
                    self._intake.submit(message, turn)
                else:
                    turn.reply(refusal)
            case TimersRead() | LaneRead() | LanesRead() | TasksRead() | KeysRead():
                self._table.answered(message, turn)
            case m.HeldLeases():
                self._leases.reconcile(message, turn)
            case m.WatchTasks():
                self._commands.watch(message, turn)
            case m.CancelTasks() | m.RetryTasks() | m.PurgeTasks():
                self._commands.command(message, turn)
            case m.DescribeTasks():
                self._commands.describe(message, turn)
            case m.ReadLedger():
                turn.reply(m.LedgerRead([counts.entry() for counts in self._table.counts.values()]))
            case m.SessionEnded():
                self._leases.session_ended(message, turn)
            case m.AppendLogs():
                turn.changes.logs.extend((c.id, c.attempt, c.part, c.text) for c in message.chunks)
            case m.ReportProgress():
                self._leases.progress(message, turn)
            case m.QueueStarted():
                self._queue_started(message.queue, turn)
            case m.TenantStarted():
                self._tenant_started(message.tenant, turn)
            case m.ConfigureQueue():
                self._configure_queue(message, turn)
            case m.ConfigureTenant():
                self._tenant_configs[message.config.tenant] = message.config
                turn.changes.tenants.append(message.config)
                turn.send(tenant_address(message.config.tenant), message)
                turn.reply(m.TenantConfigured(message.config))
            case _:
                assert_never(message)

    def due_ms(self) -> int | None:
        dues = (self._waiting.due_ms(), self._timeouts.due_ms(), self._watchers.due_ms(), self._usage_due_ms)
        return min((due for due in dues if due is not None), default=None)

    def on_time(self, turn: Turn) -> None:
        for task in self._waiting.pop_due(turn.now_ms, self._config.fire_max):
            self._life.fire(task)
        for task in self._timeouts.pop_due(turn.now_ms):
            self._life.overdue(task, turn)
        self._watchers.on_time(turn)
        if self._usage_due_ms is not None and self._usage_due_ms <= turn.now_ms:
            self._report_usage(turn)

    def end_turn(self, turn: Turn) -> None:
        self._waiting.end_turn(turn)
        self._leases.end_turn(turn)
        self._out.send(turn)
        self._table.end_turn(turn)
        if self._usage_due_ms is None and turn.changes:
            self._usage_due_ms = turn.now_ms + self._config.usage_interval_ms

    # -- settings and usage ----------------------------------------------------------------------------------------------

    def _is_home(self, address: str) -> bool:
        """Tell whether this shard keeps the durable settings of the queue or tenant."""
        return slot_of(address, self._config.shards) == self.shard

    def _queue_started(self, queue: str, turn: Turn) -> None:
        self._waiting.offer_again(queue)
        self._leases.tell_queue(queue, turn)
        if self._is_home(queue):
            pool, _, name = key_of(queue).partition(".")
            turn.send(queue, m.ConfigureQueue(self._queue_configs.get(queue) or m.QueueConfig(pool, name)))

    def _tenant_started(self, tenant: str, turn: Turn) -> None:
        self._usage.pop(tenant, None)
        self._usage_due_ms = turn.now_ms
        address = tenant_address(tenant)
        if self._is_home(address):
            turn.send(address, m.ConfigureTenant(self._tenant_configs.get(tenant) or m.TenantConfig(tenant)))

    def _configure_queue(self, message: m.ConfigureQueue, turn: Turn) -> None:
        config = message.config
        address = queue_address(config.pool, config.queue)
        self._queue_configs[address] = config
        if not self._is_home(address):
            return  # told by the home shard, for the bound on waiting tasks
        turn.changes.queues.append(config)
        turn.send(address, message)
        for shard in range(self._config.shards):
            if shard != self.shard:
                turn.send(shard_address(shard), message)
        turn.reply(m.QueueConfigured(config))

    def _too_many_waiting(self, message: m.SubmitTasks) -> Refusal | None:
        for template in message.templates:
            config = self._queue_configs.get(queue_address(template.pool, template.queue))
            if config is None or not config.max_waiting:
                continue
            share = -(-config.max_waiting // self._config.shards)
            waiting = sum(c.waiting for c in self._table.counts.values() if c.queue == template.queue)
            if waiting + len(message.tasks) > share:
                text = (
                    f"queue {template.queue!r} is full: {waiting} tasks wait in shard {self.shard}, whose share of the "
                    f"limit {config.max_waiting} is {share}; retry later"
                )
                return Refusal("overloaded", text, retry_after_ms=1_000)
        return None

    def _report_usage(self, turn: Turn) -> None:
        """Tell tenants how much the shard holds for them, if that changed; then be silent until the next change."""
        self._usage_due_ms = None
        usage: dict[str, tuple[int, int]] = {}
        for counts in self._table.counts.values():
            waiting, running = usage.get(counts.tenant, (0, 0))
            usage[counts.tenant] = (waiting + counts.waiting, running + counts.running)
        for tenant, (waiting, running) in usage.items():
            if self._usage.get(tenant) != (waiting, running):
                self._usage[tenant] = (waiting, running)
                turn.send(tenant_address(tenant), m.ReportUsage(self.shard, waiting, running))
