"""Taking in submissions: ids, rows, dedupe keys, and the answer a repeated request gets.

The store knows who holds a dedupe key and how a request was answered. What was written since a look into the store began is
remembered here, plus a bounded number beyond that, so an answer of the store is completed by what happened meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from ..runtime.actor import Turn
from ..runtime.ids import IdSource
from . import messages as m
from .lifecycle import Lifecycle
from .rows import KeysRead, ReadKeys
from .states import FIRST_FINAL, State
from .table import TaskTable
from .task import KindState, Task
from .waiting import Waiting

REQUEST_WINDOW_MS = 600_000
_SCHEDULED, _QUEUED = State.SCHEDULED, State.QUEUED


class Intake:
    """Submissions to one shard. `memory_max` bounds what is remembered of keys and requests, each."""

    def __init__(
        self, table: TaskTable, life: Lifecycle, waiting: Waiting, ids: IdSource,
        *, keep_payload_max: int, memory_max: int = 20_000,
    ) -> None:  # fmt: skip
        self._table = table
        self._life = life
        self._waiting = waiting
        self._ids = ids
        self._keep_payload_max = keep_payload_max
        self._memory_max = memory_max
        self._holders: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()  # → (task id, expires_ms)
        self._answers: OrderedDict[str, m.TasksSubmitted] = OrderedDict()  # by `_name_of` the request
        self._looking = 0  # submissions whose keys are being looked up

    def submit(self, message: m.SubmitTasks, turn: Turn) -> None:
        """Accept the tasks, at once where nothing needs to be looked up first."""
        answer = self.take(message, turn, Turn.reply)
        if answer is not None:
            turn.reply(answer)

    def take(
        self, message: m.SubmitTasks, turn: Turn, then: Callable[[Turn, m.TasksSubmitted], None]
    ) -> m.TasksSubmitted | None:  # fmt: skip
        """Accept the tasks and return the answer; or None, where something needs to be looked up first, and `then` is
        called with it in a later turn, whose sender to reply to is this one's."""
        keys = list(dict.fromkeys(spec.dedupe_key for spec in message.tasks if spec.dedupe_key))
        if not keys and not message.request_id:
            return self._accept(message, {}, turn)
        sender, request = turn.sender, turn.request
        self._looking += 1
        looked_up: dict[int, None] = {}

        def resume(answer: KeysRead, turn: Turn) -> None:
            turn.sender, turn.request = sender, request
            self._learn(message, answer)
            look_up(turn)

        def look_up(turn: Turn) -> None:
            looked_up.update(dict.fromkeys(self._replaceable(message, turn.now_ms)))
            self._table.with_tasks(list(looked_up), turn, decide)

        def decide(replaceable: dict[int, Task], turn: Turn) -> None:
            if any(holder not in looked_up for holder in self._replaceable(message, turn.now_ms)):
                look_up(turn)  # somebody else took a key meanwhile
                return
            given = self._answers.get(_name_of(message))
            if given is not None:
                turn.changes.fence = True
            if given is None:
                answer = self._accept(message, replaceable, turn)
            else:
                answer = msgspec.structs.replace(given, repeated=True)
            self._looking -= 1
            if not self._looking:
                self._shrink()
            then(turn, answer)

        self._table.ask(ReadKeys(self._table.next_token, message.tenant, keys, _name_of(message)), resume, turn)
        return None

    def make(self, kind: KindState, payload: bytes, priority: int, key: str, due_ms: int, turn: Turn) -> Task:
        """Accept a task that nobody sent, due at once; `due_ms`: since when it is."""
        task_id, lane = self._ids.next_id(turn.now_ms), kind.lane(priority, key)
        row = (task_id, kind.id, _QUEUED, priority, due_ms, turn.now_ms, lane, key, "", payload)
        turn.changes.inserted.append(row)
        kind.counts.accepted += 1
        kind.counts.waiting += 1
        kept = payload if len(payload) <= self._keep_payload_max else None
        task = Task(task_id, kind, _QUEUED, priority, due_ms, lane, key, "", kept)
        if self._table.events is not None:
            self._table.tell(task, 0)
        self._waiting.place(task)
        return task

    def _learn(self, message: m.SubmitTasks, answer: KeysRead) -> None:
        """Take in the store's answer; what was written meanwhile stays."""
        for dedupe_key, held in answer.held.items():
            self._holders.setdefault((message.tenant, dedupe_key), held)
        name = _name_of(message)
        if answer.answer and name not in self._answers:
            self._answers[name] = msgspec.msgpack.decode(answer.answer, type=m.TasksSubmitted)

    def _replaceable(self, message: m.SubmitTasks, now_ms: int) -> list[int]:
        """Return the tasks whose keys a batch may take over."""
        holders = (
            self._holder(message.tenant, spec.dedupe_key, now_ms)
            for spec in message.tasks
            if spec.dedupe_key and message.templates[spec.template].on_conflict == "replace"
        )
        return [holder for holder in holders if holder is not None]

    def _accept(self, message: m.SubmitTasks, replaceable: dict[int, Task], turn: Turn) -> m.TasksSubmitted:
        now_ms, tenant = turn.now_ms, message.tenant
        kinds = [self._table.kind_for(tenant, template, turn) for template in message.templates]
        existing: list[int] = []
        refused: list[m.TaskRefusal] = []
        ids = self._ids.block(now_ms, len(message.tasks))
        inserted: list[Any] = turn.changes.inserted
        keep_max = self._keep_payload_max
        is_told = self._table.events is not None
        for position, spec in enumerate(message.tasks):
            kind = kinds[spec.template]
            task_id = ids[position]
            dedupe_key = spec.dedupe_key
            if dedupe_key:
                held_by = self._take_key(tenant, dedupe_key, kind, task_id, replaceable, turn)
                if held_by is not None:
                    if kind.template.on_conflict == "return_existing":
                        ids[position] = held_by
                        existing.append(position)
                    else:
                        ids[position] = 0
                        text = f"dedupe key {dedupe_key!r} is held by an earlier task"
                        refused.append(m.TaskRefusal(position, "duplicate", text, held_by))
                    continue
            payload, priority, key = spec.payload, spec.priority, spec.key
            lane = kind.lane(priority, key)
            state, due_ms = (_SCHEDULED, spec.due_ms) if spec.due_ms > now_ms else (_QUEUED, now_ms)
            row = (task_id, kind.id, state, priority, due_ms, now_ms, lane, key, dedupe_key, payload)
            inserted.append(row)
            counts = kind.counts
            counts.accepted += 1
            counts.waiting += 1
            kept = payload if len(payload) <= keep_max else None
            task = Task(task_id, kind, state, priority, due_ms, lane, key, dedupe_key, kept)
            if is_told:
                self._table.tell(task, 0)
            if dedupe_key:
                replaceable[task_id] = task  # by a later one of this batch, wherever it waits by then
            if state is _QUEUED:
                self._waiting.place(task)
            else:
                self._waiting.wait_until_due(task, now_ms)
        answer = m.TasksSubmitted(ids, existing, refused)
        if existing or refused:
            turn.changes.fence = True
        if message.request_id:
            name = _name_of(message)
            self._answers[name] = answer
            row_of_request = (name, msgspec.msgpack.encode(answer), now_ms + REQUEST_WINDOW_MS)
            turn.changes.requests.append(row_of_request)
        return answer

    def _take_key(
        self, tenant: str, dedupe_key: str, kind: KindState, task_id: int, replaceable: dict[int, Task], turn: Turn
    ) -> int | None:  # fmt: skip
        """Take the key for the new task, or return the id of the task that holds it and keeps it."""
        holder = self._holder(tenant, dedupe_key, turn.now_ms)
        if holder is not None:
            if kind.template.on_conflict != "replace":
                return holder
            old = self._table.tasks.get(holder) or replaceable.get(holder)
            if old is not None and old.state == State.RUNNING:
                return holder
            if old is not None and old.state < FIRST_FINAL:
                error = m.TaskError("Replaced", "a newer task with the same dedupe key took its place")
                self._life.end(old, State.CANCELLED, turn, error=error)
        expires_ms = turn.now_ms + kind.template.dedupe_window_ms
        self._holders[tenant, dedupe_key] = (task_id, expires_ms)
        self._holders.move_to_end((tenant, dedupe_key))
        turn.changes.dedupe.append((tenant, dedupe_key, task_id, expires_ms))
        return None

    def _holder(self, tenant: str, dedupe_key: str, now_ms: int) -> int | None:
        held = self._holders.get((tenant, dedupe_key))
        return held[0] if held is not None and held[1] > now_ms else None

    def _shrink(self) -> None:
        """Nothing is being looked up: only a bounded number is worth remembering."""
        while len(self._holders) > self._memory_max:
            self._holders.popitem(last=False)
        while len(self._answers) > self._memory_max:
            self._answers.popitem(last=False)


def _name_of(message: m.SubmitTasks) -> str:
    """Return what a request is remembered by: each tenant names its own. Empty for one that cannot be repeated."""
    return f"{message.tenant}:{message.request_id}" if message.request_id else ""
