"""What people ask of a shard: cancel, retry, purge, wait for the end."""

from __future__ import annotations

import msgspec

from ..runtime.actor import Turn
from ..runtime.bus import Refusal
from . import messages as m
from .lifecycle import Lifecycle
from .outgoing import Outgoing
from .rows import ReadTasks, TasksRead
from .states import FIRST_FINAL, State
from .table import TaskTable
from .task import Task
from .timeouts import Timeouts
from .watchers import Watchers

_RUNNING = State.RUNNING


class Commands:
    """Answers people's commands at one shard."""

    def __init__(
        self, table: TaskTable, life: Lifecycle, timeouts: Timeouts, watchers: Watchers, out: Outgoing,
        *, keep_payload_max: int,
    ) -> None:  # fmt: skip
        self._table = table
        self._life = life
        self._timeouts = timeouts
        self._watchers = watchers
        self._out = out
        self._keep_payload_max = keep_payload_max

    def command(self, message: m.CancelTasks | m.RetryTasks | m.PurgeTasks, turn: Turn) -> None:
        """Carry out the command for each task, once all of them are known."""

        def act(tasks: dict[int, Task], turn: Turn) -> None:
            outcomes = []
            for task_id in message.ids:
                task = tasks.get(task_id)
                if task is None or (message.tenant and task.kind.tenant != message.tenant):
                    outcomes.append("not_found")
                elif isinstance(message, m.CancelTasks):
                    outcomes.append(self._cancel(task, message.reason, turn))
                elif isinstance(message, m.RetryTasks):
                    outcomes.append(self._retry(task, message.payload, turn))
                else:
                    outcomes.append(self._purge(task, turn))
            turn.changes.fence = True
            turn.reply(m.TasksAnswered(outcomes))

        self._table.with_tasks(message.ids, turn, act)

    def cancel_all(self, ids: list[int], reason: str, turn: Turn) -> None:
        """Cancel tasks in the scheduler's own name: those that run as soon as they let themselves be."""

        def act(tasks: dict[int, Task], turn: Turn) -> None:
            for task in tasks.values():
                self._cancel(task, reason, turn)

        self._table.with_tasks(ids, turn, act)

    def terminate_all(self, ids: list[int], reason: str, turn: Turn) -> None:
        """End tasks now. The workers of those that run are told to let go of them; what they still report is refused."""

        def act(tasks: dict[int, Task], turn: Turn) -> None:
            for task in tasks.values():
                if task.state >= FIRST_FINAL:
                    continue
                if task.state == _RUNNING:
                    self._out.cancel(task, "lease_lost")
                self._life.end(task, State.CANCELLED, turn, error=m.TaskError("Terminated", reason))

        self._table.with_tasks(ids, turn, act)

    def _cancel(self, task: Task, reason: str, turn: Turn) -> str:
        if task.state >= FIRST_FINAL:
            return "ended"
        if task.state != _RUNNING:
            self._life.end(task, State.CANCELLED, turn, error=m.TaskError("Cancelled", reason or "cancelled"))
            return "cancelled"
        if not task.cancelling:
            task.cancelling = 1
            self._table.touch(task)
            self._timeouts.watch_cancelled(task, turn.now_ms)
        self._out.cancel(task, "cancelled")
        return "cancelling"

    def _retry(self, task: Task, payload: bytes | None, turn: Turn) -> str:
        if task.state < FIRST_FINAL:
            return "alive"
        if task.state == State.COMPLETED:
            return "completed"
        if payload is not None:
            turn.changes.payloads.append((task.id, payload))
            task.payload = payload if len(payload) <= self._keep_payload_max else None
        self._life.revive(task, turn)
        return "retried"

    def _purge(self, task: Task, turn: Turn) -> str:
        if task.state < FIRST_FINAL:
            return "alive"
        self._table.purge(task, turn)
        return "purged"

    def watch(self, message: m.WatchTasks, turn: Turn) -> None:
        """Answer once all have ended, or when the caller's time is up."""
        if not self._watchers.has_room(len(message.ids)):
            turn.reply(Refusal("overloaded", "too many callers wait for tasks of this shard", retry_after_ms=1_000))
            return
        tenant = message.tenant
        watch = self._watchers.add(turn, tenant, message.ids, turn.now_ms + message.wait_ms)
        table = self._table
        absent: list[int] = []
        for task_id in dict.fromkeys(message.ids):
            task = table.tasks.get(task_id)
            if task is None:
                absent.append(task_id)
            elif tenant and task.kind.tenant != tenant:
                self._watchers.missing(watch, task_id, turn)
        if not absent:
            return

        def resume(answer: TasksRead, turn: Turn) -> None:
            found = {row.id: row for row in table.rows_of(answer)}
            for task_id in absent:
                row = found.get(task_id)
                if task_id in table.tasks or table.is_stale(task_id):
                    continue  # alive, or its end was told meanwhile
                if row is None or (tenant and table.kind_of(row).tenant != tenant):
                    self._watchers.missing(watch, task_id, turn)
                elif row.state >= FIRST_FINAL:
                    error = msgspec.msgpack.decode(row.error, type=m.TaskError) if row.error else None
                    end = m.TaskEnd(row.id, row.state, row.attempt, row.result, error)
                    self._watchers.ended(end, table.kind_of(row).tenant, turn)

        table.ask(ReadTasks(table.next_token, absent), resume, turn)

    def describe(self, message: m.DescribeTasks, turn: Turn) -> None:
        """Say what is in memory."""
        found = [self._table.tasks[task_id] for task_id in message.ids if task_id in self._table.tasks]
        turn.reply(
            m.TasksDescribed(
                [m.TaskInMemory(t.id, t.state, t.attempt, t.due_ms, t.session, t.offered) for t in found]
            )
        )
