"""The tasks a shard has in memory, their kinds and counts, and what of them is to be written.

What always holds: a task that changed in a turn gives one row at its end, whatever happened to it meanwhile; and a row read
from the store is believed only if the task has not changed since the turn that asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..runtime.actor import Turn
from ..runtime.hashing import fnv1a
from . import messages as m
from .rows import Query, ReadTasks, ShardChanges, ShardImage, TaskRow, TasksRead
from .states import FIRST_FINAL, State
from .task import Counts, KindState, Task, Tick

_RUNNING = State.RUNNING
_encode = msgspec.msgpack.Encoder().encode


def template_id_of(tenant: str, template: m.Template) -> int:
    """Return the id of a tenant's template, 63 bits, the same wherever it is computed."""
    return fnv1a(tenant.encode() + b"\0" + _encode(template)) >> 1


class TaskTable:
    """Memory of one shard."""

    def __init__(self, image: ShardImage) -> None:
        self.shard = image.shard
        self.tasks: dict[int, Task] = {}
        self.counts = {(entry.tenant, entry.queue): Counts(entry) for entry in image.ledger}
        self._kinds: dict[int, KindState] = {}
        self._kind_of_template: dict[tuple[str, m.Template], KindState] = {}
        self._dirty: dict[int, Task] = {}
        self._turn = 0
        self._token = 0
        self._pending: dict[int, tuple[int, Callable[[Any, Turn], None]]] = {}  # reads: turn asked, what then
        self._asked = 0  # the turn in which the read in hand was asked for
        self._touched: dict[int, int] = {}  # the turn in which a task last changed while any read was under way
        self.ticks: dict[int, Tick] = {}
        """Tasks alive that a tick made."""
        self.ended_ticks: list[tuple[Task, Tick]] = []
        """Those that ended in this turn."""
        self.events: list[tuple[int, str, int, int, int]] | None = None
        """What became of tasks in this turn, see `ShardChanges.events`; None: nobody wants to hear of it."""
        for kind in image.kinds:
            self.learn(kind)

    # -- kinds -----------------------------------------------------------------------------------------------------------

    def kind_for(self, tenant: str, template: m.Template, turn: Turn) -> KindState:
        """Return the kind of a tenant's template, stored from this turn on if it is new."""
        kind = self._kind_of_template.get((tenant, template))
        if kind is None:
            kind = self.learn(m.Kind(tenant, template_id_of(tenant, template), template))
            turn.changes.kinds.append(kind.kind)
        return kind

    def learn(self, kind: m.Kind) -> KindState:
        """Return the state of a kind that the store has."""
        known = self._kinds.get(kind.template_id)
        if known is None:
            key = (kind.tenant, kind.template.queue)
            counts = self.counts.get(key)
            if counts is None:
                counts = self.counts[key] = Counts(m.LedgerEntry(*key))
            known = self._kinds[kind.template_id] = KindState(kind, counts)
            self._kind_of_template[kind.tenant, kind.template] = known
        return known

    def queues_at_work(self) -> dict[str, None]:
        """Return the queues with tasks that are offered or run, in a certain order."""
        return {kind.queue: None for kind in self._kinds.values() if kind.offered or kind.counts.running}

    def queues_of(self, tenant: str) -> list[str]:
        """Return the queues in which tasks of the tenant wait or run, in a certain order."""
        kinds = self._kinds.values()
        at_work = (kind for kind in kinds if kind.kind.tenant == tenant and (kind.counts.waiting or kind.counts.running))
        return list(dict.fromkeys(kind.queue for kind in at_work))

    def kind_of(self, row: TaskRow) -> KindState:
        return self._kinds[row.template_id]

    def kind_of_id(self, template_id: int) -> KindState:
        return self._kinds[template_id]

    # -- changes -----------------------------------------------------------------------------------------------------------

    def touch(self, task: Task) -> None:
        """The task's row is to be written."""
        self._dirty[task.id] = task
        if self._pending:
            self._touched[task.id] = self._turn

    def tell(self, task: Task, before: int) -> None:
        """The task's state changed, for whoever wants to hear of it. `before`: 0 for a new one."""
        if self.events is not None:
            self.events.append((task.id, task.kind.tenant, before, int(task.state), task.attempt))

    def note_change(self, row_id: int) -> None:
        """A row that is no task's is to be written: what reads under way say of it will be out of date."""
        if self._pending:
            self._touched[row_id] = self._turn

    def purge(self, task: Task, turn: Turn) -> None:
        """The task's row is to be deleted."""
        self.touch(task)
        del self._dirty[task.id]
        turn.changes.purged.append(task.id)

    def end_turn(self, turn: Turn) -> None:
        """Write the rows of all that changed."""
        changes: ShardChanges = turn.changes
        now_ms = turn.now_ms
        if self._dirty:
            leased, ended, moved = changes.leased, changes.ended, changes.moved
            for task in self._dirty.values():
                state = task.state
                if state >= FIRST_FINAL:
                    error = _encode(task.error) if task.error else b""
                    ended.append((task.id, state, task.spent, task.started_ms, task.ended_ms, task.result, error))
                    continue
                if state == _RUNNING and task.leased_ms == now_ms:
                    leased.append((task.id, task.attempt, task.session, now_ms))
                    if not task.cancelling:
                        continue
                moved.append((task.id, state, task.due_ms, task.spent, task.interruptions, task.cancelling, now_ms))
            self._dirty = {}
        if changes:
            for counts in self.counts.values():
                for what, difference in counts.differences():
                    changes.count(counts.tenant, counts.queue, what, difference)
        if self.events:
            changes.events, self.events = self.events, []
        self._turn += 1

    # -- reads -------------------------------------------------------------------------------------------------------------

    @property
    def next_token(self) -> int:
        """The token the next query must carry."""
        return self._token + 1

    def ask(self, query: Query, then: Callable[[Any, Turn], None], turn: Turn) -> None:
        """Look something up in the store after this turn's commit; `then` gets the answer."""
        self._token += 1
        assert query.token == self._token
        self._pending[query.token] = self._turn, then
        turn.read(query)

    def answered(self, answer: Any, turn: Turn) -> None:
        """The store answered."""
        self._asked, then = self._pending.pop(answer.token)
        then(answer, turn)
        if not self._pending:
            self._touched.clear()

    def is_stale(self, task_id: int) -> bool:
        """Tell whether what the answer in hand says of a task is out of date: it changed after the turn that asked."""
        return self._touched.get(task_id, -1) > self._asked

    def with_tasks(self, ids: list[int], turn: Turn, act: Callable[[dict[int, Task], Turn], None]) -> None:
        """Call `act` with the tasks that exist of these ids, now if all are in memory, else when the store has told the
        others; the sender to reply to is the same then. Tasks that come from the store do not enter the memory."""
        tasks = self.tasks
        absent = [task_id for task_id in ids if task_id not in tasks]
        if not absent:
            act({task_id: tasks[task_id] for task_id in ids}, turn)
            return
        present = [task_id for task_id in ids if task_id in tasks]
        sender, request = turn.sender, turn.request

        def resume(answer: TasksRead, turn: Turn) -> None:
            turn.sender, turn.request = sender, request
            ended = any(task_id not in tasks for task_id in present)  # and left the memory, unasked for
            if ended or any(row.id not in tasks and self.is_stale(row.id) for row in answer.rows):
                self.with_tasks(ids, turn, act)
                return
            found = {row.id: Task.of_row(row, self.kind_of(row)) for row in self.rows_of(answer)}
            found.update((task_id, tasks[task_id]) for task_id in ids if task_id in tasks)
            act(found, turn)

        self.ask(ReadTasks(self.next_token, absent), resume, turn)

    def rows_of(self, answer: Any) -> list[Any]:
        """Return the rows of an answer, their kinds learnt."""
        for kind in answer.kinds:
            self.learn(kind)
        rows: list[Any] = answer.rows
        return rows
