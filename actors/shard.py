"""The shard actor: the truth about its slice of all tasks.

It owns their rows, timers and leases, so every step of a task's life is decided here and nowhere else, in one commit. The
parts it is made of share one memory (`actors.table`); this module routes messages to them, and lets them repeat now and then
what may have been lost. What always holds: a row and its effects leave in the same turn, the effects after the commit; an
answer that rests on this memory alone leaves only if the shard is still its owner's (`ShardChanges.fence`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from ..runtime.actor import Actor, Turn
from ..runtime.hashing import slot_of
from ..runtime.ids import IdSource
from ..runtime.membership import SlotClaimed
from . import messages as m
from . import schedule_messages as sm
from .backlog import BacklogConfig
from .calendar_book import CalendarBook
from .commands import Commands
from .inbox import Inbox
from .intake import Intake
from .leases import Leases
from .lifecycle import Lifecycle
from .outgoing import Outgoing
from .rows import Answer, KeysRead, LaneRead, LanesRead, ShardImage, TasksRead, TimersRead
from .schedule_desk import ScheduleDesk
from .schedule_rows import SchedulesRead, ScheduleTimersRead, TicksRead
from .schedules import Schedules
from .settings import Settings
from .steps import Steps
from .table import TaskTable
from .task import Task
from .timeouts import Timeouts
from .timers import TimerConfig
from .usage import Usage
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
    reconcile_ms: int = 10_000  # what may have been lost on its way is repeated so often, while anything is going on
    tells_events: bool = False  # True: every change of state is told (`ShardChanges.events`)
    workers_are_local: bool = False  # True: workers live and die with this process, so at start no lease is alive


class ShardActor(Actor[m.ShardMessage | sm.ScheduleMessage | Answer]):
    """One shard."""

    def __init__(self, image: ShardImage, config: ShardConfig) -> None:
        self.shard = image.shard
        self._config = config
        self._steps = Steps()
        self._out = out = Outgoing(image.shard, image.epoch)
        self._table = table = TaskTable(image)
        if config.tells_events:
            table.events = []
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
        self._book = book = CalendarBook(image.schedules, image.shard, image.epoch, config.shards)
        self._schedules = Schedules(image, table, self._intake, self._commands, book, config.timers)
        self._desk = ScheduleDesk(table, self._schedules, ids)
        self._running_at_start = [Task.of_row(row, table.kind_of(row)) for row in image.running]
        self._settings = Settings(image, table, config.shards)
        self._inbox = Inbox(image, self._intake, self._settings)
        self._usage = Usage(table, image.epoch, config.usage_interval_ms)
        self._reconcile_due_ms: int | None = None

    def started(self, turn: Turn) -> None:
        self._steps.taken(turn)
        for task in self._running_at_start:
            self._leases.adopt(task, turn)
            if self._config.workers_are_local:
                self._life.interrupt(task, "the scheduler stopped while it ran", turn)
        self._running_at_start = []
        self._schedules.backfills.begin()

    def handle(self, message: m.ShardMessage | sm.ScheduleMessage | Answer, turn: Turn) -> None:
        if turn.now_ms != self._steps.latest_ms:
            self._take_time(turn)
        match message:
            case m.ReportOutcomes():
                self._leases.report(message, turn)
            case m.GrantLeases():
                self._leases.grant(message, turn)
            case m.SubmitTasks():
                refusal = self._settings.too_many_waiting(message)
                if refusal is None:
                    self._intake.submit(message, turn)
                else:
                    turn.reply(refusal)
            case TimersRead() | LaneRead() | LanesRead() | TasksRead() | KeysRead():
                self._table.answered(message, turn)
            case ScheduleTimersRead() | SchedulesRead() | TicksRead():
                self._table.answered(message, turn)
            case m.HeldLeases():
                self._leases.reconcile(message, turn)
            case m.WatchTasks():
                self._commands.watch(message, turn)
            case m.TakeInbox():
                self._inbox.take(message, turn)
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
                self._queue_started(message, turn)
            case m.ConfirmLeases():
                self._leases.confirm(message, turn)
            case m.TenantStarted():
                self._usage.tell(message.tenant, turn.now_ms)
                self._settings.tell_tenant(message.tenant, turn)
            case m.ConfigureQueue():
                self._settings.configure_queue(message, turn)
            case m.ConfigureTenant():
                self._settings.configure_tenant(message, turn)
            case m.QueueConfigured() | m.TenantConfigured():
                self._settings.answered(message, turn)
            case sm.PutSchedules() | sm.CommandSchedules() | sm.StartBackfill() | sm.CommandBackfills():
                self._desk.take(message, turn)
            case sm.HoldSchedules():
                self._schedules.hold()
            case sm.ConfigureCalendar():
                self._book.configure(message, turn)
            case sm.CalendarConfigured():
                self._book.answered(message, turn)
            case SlotClaimed():
                self._slot_claimed(message.slot, turn)
            case _:
                assert_never(message)

    def due_ms(self) -> int | None:
        due = self._reconcile_due_ms
        for other in (
            self._waiting.due_ms(), self._timeouts.due_ms(), self._watchers.due_ms(), self._usage.due_ms,
            self._schedules.due_ms(),
        ):  # fmt: skip
            if other is not None and (due is None or other < due):
                due = other
        return due

    def on_time(self, turn: Turn) -> None:
        if turn.now_ms != self._steps.latest_ms:
            self._take_time(turn)
        for task in self._waiting.pop_due(turn.now_ms, self._config.fire_max):
            self._life.fire(task)
        for task in self._timeouts.pop_due(turn.now_ms):
            self._life.overdue(task, turn)
        self._schedules.on_time(turn)
        self._watchers.on_time(turn)
        self._usage.on_time(turn)
        if self._reconcile_due_ms is not None and self._reconcile_due_ms <= turn.now_ms:
            self._reconcile(turn)

    def end_turn(self, turn: Turn) -> None:
        if turn.now_ms != self._steps.latest_ms:
            self._take_time(turn)
        self._schedules.end_turn(turn)
        self._waiting.end_turn(turn)
        self._leases.end_turn(turn)
        self._out.send(self._table.tasks.values(), turn)
        self._table.end_turn(turn)
        if turn.changes:
            self._usage.changed(turn.now_ms)
        if self._reconcile_due_ms is None and turn.outbox:
            self._reconcile_due_ms = turn.now_ms + self._config.reconcile_ms

    # -- what may have been lost -----------------------------------------------------------------------------------------

    def _queue_started(self, message: m.QueueStarted, turn: Turn) -> None:
        if not self._out.links.of(message.queue).hears(message):
            return
        self._settings.tell_queue(message.queue, turn)
        self._out.tell_all(message.queue)
        turn.changes.fence = True  # the queue goes by it when it counts what runs

    def _slot_claimed(self, slot: int, turn: Turn) -> None:
        """The actors of that slot began anew somewhere, or will with their first message: let those hear of us that concern
        us. A queue actor then asks for what it needs."""
        shards = self._config.shards
        for queue in self._table.queues_at_work():
            if slot_of(queue, shards) == slot:
                self._out.show_number(queue)
        self._leases.watch_again(turn, slot=slot, slots=shards)
        self._usage.tell_slot(slot, shards, turn.now_ms)

    def _reconcile(self, turn: Turn) -> None:
        """Repeat what may have been lost, until nothing is going on any more."""
        now_ms, reconcile_ms = turn.now_ms, self._config.reconcile_ms
        links, at_work = self._out.links, self._table.queues_at_work()
        goes_on = (
            bool(at_work) or self._leases.any_held or not links.all_shown
            or self._usage.any_to_repeat or self._settings.any_unanswered or self._book.any_unanswered
        )  # fmt: skip
        for queue in links.silent_since(now_ms - reconcile_ms // 2, at_work):
            self._out.show_number(queue)
        links.sweep(at_work)
        self._leases.watch_again(turn)
        self._usage.repeat(turn)
        self._settings.repeat(turn)
        self._book.repeat(turn)
        self._reconcile_due_ms = now_ms + reconcile_ms if goes_on else None

    def _take_time(self, turn: Turn) -> None:
        """Intervals go on where they were when the wall clock is set; what is due at an instant goes by it."""
        by_ms = self._steps.taken(turn)
        if not by_ms:
            return
        self._usage.shift(by_ms)
        self._watchers.shift(by_ms)
        self._leases.shift(by_ms, turn.now_ms)
        self._out.links.shift(by_ms)
        if self._reconcile_due_ms is not None:
            self._reconcile_due_ms += by_ms
