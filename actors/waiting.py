"""Tasks of a shard that wait: for their time, or for a worker.

A ready task is offered to its queue if it is its turn (`actors.backlog`), else the store keeps it; a task whose time is far
off is in the store only (`actors.timers`). Pages are asked for as memory drains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..runtime.actor import Turn
from .backlog import Backlog, BacklogConfig, Placed
from .outgoing import Outgoing
from .rows import LaneRead, ReadLane, ReadLanes, TaskRow, TimersRead
from .states import State
from .table import TaskTable
from .task import Task
from .timeouts import Timeouts
from .timers import TimerConfig, TimerQueue

_QUEUED = State.QUEUED


class Waiting:
    """The timers and the backlog of one shard."""

    def __init__(
        self, table: TaskTable, out: Outgoing, timeouts: Timeouts, timers: TimerConfig, backlog: BacklogConfig,
        *, has_ready: bool,
    ) -> None:  # fmt: skip
        self._table = table
        self._out = out
        self._timeouts = timeouts
        self._timers = TimerQueue(timers)
        self._backlog = Backlog(backlog, has_ready=has_ready)

    def place(self, task: Task) -> None:
        """A task became ready: offer it if it is its turn, else leave it to the store."""
        placed = self._backlog.add(task)
        if placed is Placed.STORED:
            self._forget(task)
            return
        self._table.tasks[task.id] = task
        if task.kind.has_deadline:
            self._timeouts.watch(task)
        if placed is Placed.OFFER:
            self._out.offer(task)

    def wait_until_due(self, task: Task, now_ms: int) -> None:
        """A task waits for its time: in memory if that is soon, else in the store."""
        if self._timers.add(task.due_ms, task.id, now_ms):
            self._table.tasks[task.id] = task
            if task.kind.has_deadline:
                self._timeouts.watch(task)
        else:
            self._forget(task)

    def pop_due(self, now_ms: int, limit: int) -> list[Task]:
        """Remove and return tasks whose time has come."""
        tasks = self._table.tasks
        return [tasks[task_id] for task_id in self._timers.pop_due(now_ms, limit)]

    def leave(self, task: Task) -> None:
        """A task stops waiting, whatever it waited for."""
        if task.state != _QUEUED:
            self._timers.discard(task.due_ms, task.id)
        elif task.id in self._table.tasks:
            self._backlog.leave(task)
            if task.offered:
                self._out.withdraw(task)

    def leave_for_worker(self, task: Task) -> None:
        """An offered task was granted to a worker."""
        self._backlog.leave(task)
        task.offered = False
        task.kind.offered -= 1

    def due_ms(self) -> int | None:
        return self._timers.due_ms()

    def end_turn(self, turn: Turn) -> None:
        """Give back what is too much, ask for what is wanted."""
        for task_id in self._timers.shed():
            self._forget(self._table.tasks[task_id])
        table = self._table
        page = self._timers.next_page(turn.now_ms, table.next_token)
        if page is not None:
            table.ask(page, self._take_timers, turn)
        for query in self._backlog.next_loads(table.next_token):
            table.ask(query, self._taker(query), turn)

    def _taker(self, query: ReadLane | ReadLanes) -> Callable[[Any, Turn], None]:
        if isinstance(query, ReadLanes):
            return lambda answer, turn: self._backlog.take_lanes(answer, query.limit)
        return lambda answer, turn: self._take_lane(answer, query.limit)

    def _take_timers(self, answer: TimersRead, turn: Turn) -> None:
        table = self._table
        last = (answer.rows[-1].due_ms, answer.rows[-1].id) if answer.rows else None
        rows = [row for row in table.rows_of(answer) if row.id not in table.tasks and not table.is_stale(row.id)]
        keys = [(row.due_ms, row.id) for row in rows]
        dropped = self._timers.take_page(answer.token, keys, last, answer.next_due_ms)
        if dropped is None:
            return
        for row in rows:
            self._remember(row)
        for task_id in dropped:
            self._forget(table.tasks[task_id])

    def _take_lane(self, answer: LaneRead, limit: int) -> None:
        table = self._table
        out_of_date = {row.id for row in table.rows_of(answer) if row.id in table.tasks or table.is_stale(row.id)}
        rows, held, dropped = self._backlog.take_page(answer, limit, out_of_date)
        for row in rows:
            self._out.offer(self._remember(row))
        for task in held:
            self._out.offer(task)
        for task in dropped:
            self._forget(task)

    def _remember(self, row: TaskRow) -> Task:
        task = self._table.tasks[row.id] = Task.of_row(row, self._table.kind_of(row))
        if task.kind.has_deadline:
            self._timeouts.watch(task)
        return task

    def _forget(self, task: Task) -> None:
        self._timeouts.clear(task)
        self._table.tasks.pop(task.id, None)


