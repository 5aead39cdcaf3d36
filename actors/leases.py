"""Leases of a shard: granting them, sending the bodies, taking the outcomes, finding those that were lost.

What always holds: a body is sent only after its lease is durable; an outcome counts only if it is of the task's newest
attempt and of the session that holds it; a grant counts once, and only if it is of the newest queue actor.
"""

from __future__ import annotations

from ..runtime.actor import Turn
from ..runtime.hashing import slot_of
from ..runtime.ids import time_of_ms
from . import messages as m
from .addresses import session_address, shard_address, worker_address
from .lifecycle import Lifecycle
from .outgoing import Outgoing
from .rows import ReadTasks, TasksRead
from .states import State
from .table import TaskTable
from .task import Task, Tick
from .timeouts import Timeouts

_QUEUED, _RUNNING = State.QUEUED, State.RUNNING
_COMPLETED = int(m.OutcomeKind.COMPLETED)
_BODIES_BYTES = 1 << 19  # payloads in one message to a session
_ON_ITS_WAY_MS = 1_000  # a body may take so long before it is sent again
_NO_TICK = Tick(0, 0, 0, "")


class Leases:
    """The running tasks of one shard."""

    def __init__(
        self, table: TaskTable, life: Lifecycle, timeouts: Timeouts, out: Outgoing, *, heartbeat_interval_ms: int
    ) -> None:  # fmt: skip
        self._table = table
        self._life = life
        self._timeouts = timeouts
        self._out = out
        self._lost_after_ms = 2 * heartbeat_interval_ms
        self._to_confirm: list[m.ConfirmLeases] = []
        self._missing: dict[str, dict[int, int]] = {}  # by session: leases (id → attempt) it did not have last time

    def adopt(self, task: Task, turn: Turn) -> None:
        """Take over a lease found in the store."""
        self._table.tasks[task.id] = task
        task.leased_ms = min(task.leased_ms, turn.now_ms)  # by another node's clock
        self._held_by(task.session, turn)[task.id] = task
        self._timeouts.watch(task)

    def grant(self, message: m.GrantLeases, turn: Turn) -> None:
        if not self._out.links.of(message.queue).takes(message):
            return
        session, now_ms = message.session, turn.now_ms
        tasks, start = self._table.tasks, self._life.start
        self._held_by(session, turn)
        bodies = self._out.bodies.setdefault(session, [])
        for task_id in message.ids:
            task = tasks.get(task_id)
            if task is None or task.state != _QUEUED or not task.offered:
                if task is None or task.state != _RUNNING:  # one that runs has not ended, whoever it runs for
                    self._out.refuse(message, task_id, 1 if task is None else task.kind.template.cost)
                    turn.changes.fence = True
            elif task.kind.has_deadline and self._life.expire_if_late(task, turn):
                self._out.refuse(message, task_id, task.kind.template.cost)
            else:
                start(task, session, now_ms)
                bodies.append(task)

    def report(self, message: m.ReportOutcomes, turn: Turn) -> None:
        session = message.session
        tasks, life = self._table.tasks, self._life
        stale: list[int] = []
        for position, outcome in enumerate(message.outcomes):
            task = tasks.get(outcome.id)
            if (
                task is None
                or task.attempt != outcome.attempt
                or task.session != session
                or task.state != _RUNNING
            ):  # fmt: skip
                stale.append(position)
            elif outcome.kind == _COMPLETED:
                life.complete(task, outcome, turn)
            else:
                life.did_not_complete(task, outcome, turn)
        if stale:
            turn.changes.fence = True
        turn.reply(m.OutcomesTaken(stale))

    def confirm(self, message: m.ConfirmLeases, turn: Turn) -> None:
        """A queue actor counts these as running: see which do once the turn's grants are in, since the answer counts for
        those as well."""
        if self._out.links.of(message.queue).hears(message):
            self._to_confirm.append(message)
            turn.changes.fence = True

    def _confirmed(self, message: m.ConfirmLeases) -> None:
        """Release those that do not run, and offer again what is ready."""
        tasks = self._table.tasks
        for task_id in message.ids:
            task = tasks.get(task_id)
            if task is not None and task.state == _RUNNING:
                continue
            self._out.release(message.queue, task_id)
            if task is not None and task.offered:
                self._out.offer(task)

    def session_ended(self, message: m.SessionEnded, turn: Turn) -> None:
        why = "its worker left" if message.reason == "left" else "its worker fell silent"
        self._missing.pop(message.session, None)
        for task in list(self._life.leases.pop(message.session, {}).values()):
            self._life.interrupt(task, why, turn)

    def reconcile(self, message: m.HeldLeases, turn: Turn) -> None:
        """Compare the leases with what their session says it holds. The body of one that is missing is sent again: a session
        takes each attempt once. One that is missing twice, and is old enough, was lost: the clock alone may have been set
        forward while it was under way."""
        held = self._life.leases.get(message.session, {})
        told = dict(zip(message.ids, message.attempts, strict=True))
        lost_before_ms, late_before_ms = turn.now_ms - self._lost_after_ms, turn.now_ms - _ON_ITS_WAY_MS
        missed_before = self._missing.pop(message.session, {})
        missing: dict[int, int] = {}
        for task in list(held.values()):
            if told.get(task.id) == task.attempt:
                if task.cancelling:
                    self._out.cancel(task, "cancelled")  # the first word may have been lost
            elif missed_before.get(task.id) == task.attempt and task.leased_ms < lost_before_ms:
                self._life.interrupt(task, "it never reached its worker", turn)
            else:
                missing[task.id] = task.attempt
                if task.leased_ms < late_before_ms and not task.cancelling:
                    self._out.bodies.setdefault(message.session, []).append(task)
                    turn.changes.fence = True
        if missing:
            self._missing[message.session] = missing
        void = [(id, attempt) for id, attempt in told.items() if id not in held or held[id].attempt != attempt]
        if void:
            ids, attempts = [id for id, _ in void], [attempt for _, attempt in void]
            turn.send(session_address(message.session), m.CancelAttempts(ids, attempts, "lease_lost"))
            turn.changes.fence = True

    def progress(self, message: m.ReportProgress, turn: Turn) -> None:
        for item in message.items:
            task = self._table.tasks.get(item.id)
            if task is None or task.attempt != item.attempt or task.session != message.session:
                continue
            if item.checkpoint is not None:
                task.checkpoint = item.checkpoint
            row = (item.id, item.attempt, item.permille, item.note, item.checkpoint, turn.now_ms)
            turn.changes.progress.append(row)

    @property
    def any_held(self) -> bool:
        """Tell whether anything runs."""
        return any(self._life.leases.values())

    def watch_again(self, turn: Turn, *, slot: int = -1, slots: int = 1) -> None:
        """Ask anew to be told when the sessions that hold leases end: their worker actors may have moved, or have told us in
        vain. `slot`: only of worker actors that live there; else the sessions themselves are asked what they hold, too."""
        for session, held in list(self._life.leases.items()):
            if not held:
                del self._life.leases[session]
            elif slot < 0 or slot_of(worker_address(session), slots) == slot:
                turn.send(worker_address(session), m.WatchSession(shard_address(self._table.shard)))
                if slot < 0:
                    turn.send(session_address(session), m.TellHeld(self._table.shard))

    def shift(self, by_ms: int, now_ms: int) -> None:
        """The wall clock was set: leases stay as old as they are, and attempts have the time they had."""
        for held in self._life.leases.values():
            for task in held.values():
                task.leased_ms += by_ms
                if task.cancelling:
                    self._timeouts.watch_cancelled(task, now_ms)
                else:
                    self._timeouts.watch(task)

    def end_turn(self, turn: Turn) -> None:
        """Send the bodies of what was leased in this turn."""
        if self._to_confirm:
            to_confirm, self._to_confirm = self._to_confirm, []
            for message in to_confirm:
                self._confirmed(message)
        bodies = self._out.bodies
        if bodies:
            self._out.bodies = {}
            for session, tasks in bodies.items():
                self._send_bodies(session, tasks, turn)

    def _held_by(self, session: str, turn: Turn) -> dict[int, Task]:
        held = self._life.leases.get(session)
        if held is None:
            held = self._life.leases[session] = {}
            turn.send(worker_address(session), m.WatchSession(shard_address(self._table.shard)))
        return held

    def _send_bodies(self, session: str, tasks: list[Task], turn: Turn) -> None:
        kinds: list[m.Kind] = []
        index: dict[int, int] = {}
        bodies: list[m.Body] = []
        size = 0
        ticks = self._table.ticks
        unread: dict[int, int] = {}  # id → attempt of tasks whose payload or checkpoint only the store has
        for task in tasks:
            if task.state != _RUNNING or task.session != session:
                continue  # ended or taken away within this very turn
            if task.payload is None or task.checkpoint is None:
                unread[task.id] = task.attempt
                continue
            size += len(task.payload) + len(task.checkpoint)
            if size > _BODIES_BYTES and bodies:
                turn.send(session_address(session), m.RunTasks(self._table.shard, kinds, bodies))
                kinds, index, bodies, size = [], {}, [], len(task.payload) + len(task.checkpoint)
            kind = task.kind
            at = index.get(kind.id)
            if at is None:
                at = index[kind.id] = len(kinds)
                kinds.append(kind.kind)
            total_ms = kind.template.total_timeout_ms
            deadline_ms = time_of_ms(task.id) + total_ms if total_ms else 0
            tick = ticks.get(task.id, _NO_TICK)
            bodies.append(
                m.Body(task.id, task.attempt, at, task.payload, task.priority, task.key, deadline_ms, task.checkpoint,
                       tick.name, tick.tick_ms)
            )  # fmt: skip
        if bodies:
            turn.send(session_address(session), m.RunTasks(self._table.shard, kinds, bodies))
        if unread:
            self._table.ask(
                ReadTasks(self._table.next_token, list(unread)),
                lambda answer, turn: self._take_bodies(session, unread, answer),
                turn,
            )

    def _take_bodies(self, session: str, unread: dict[int, int], answer: TasksRead) -> None:
        for row in self._table.rows_of(answer):
            task = self._table.tasks.get(row.id)
            if task is not None and task.state == _RUNNING and task.attempt == unread[row.id]:
                if task.payload is None:
                    task.payload = row.payload
                task.checkpoint = answer.checkpoints.get(row.id, b"")
                self._out.bodies.setdefault(session, []).append(task)
