"""What the store tests share: a database that can be opened again, and a shard's hand that writes to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from foliot.actors.addresses import queue_address
from foliot.actors.messages import Kind, Template
from foliot.actors.rows import ReadTasks, ShardChanges, TaskRow, TasksRead, lane_of
from foliot.actors.states import State
from foliot.runtime.clock import SystemClock, Timer
from foliot.runtime.hashing import fnv1a
from foliot.runtime.ids import IdSource
from foliot.stores.port import Store, TaskDetail

NOW_MS = 1_800_000_000_000


class TestClock(SystemClock):
    """A wall clock that moves when told."""

    __test__ = False

    def __init__(self) -> None:
        self.wall_ms = NOW_MS

    def now_ms(self) -> int:
        return self.wall_ms

    def call_at_ms(self, when_ms: int, callback: Callable[[], None]) -> Timer:
        raise AssertionError("stores set no timers")


class Database(Protocol):
    """A database that stays when its store is closed; one store at a time."""

    clock: TestClock

    async def open(self, shards: int = 4) -> Store:
        """Open the database, after closing the store that had it."""
        ...


def kind_of(handler: str = "noop", *, tenant: str = "acme", queue: str = "default") -> Kind:
    template_id = fnv1a(f"{tenant} {queue} {handler}".encode()) >> 1
    return Kind(tenant, template_id, Template(handler=handler, queue=queue))


class Hand:
    """Writes as a ShardActor would, one turn a call, its ledger included. Ids come from the shard's own source."""

    def __init__(self, store: Store, shard: int, epoch: int, last_id: int = 0) -> None:
        self.store = store
        self.shard = shard
        self.epoch = epoch
        self.ids = IdSource(shard, last_id)

    @classmethod
    async def of(cls, store: Store, shard: int = 0) -> Hand:
        image = await store.claim(shard, "node-1")
        return cls(store, shard, image.epoch, image.last_id)

    def changes(self) -> ShardChanges:
        return ShardChanges(self.shard, self.epoch)

    def insert(
        self,
        changes: ShardChanges,
        count: int = 1,
        *,
        kind: Kind | None = None,
        state: State = State.QUEUED,
        due_ms: int = NOW_MS,
        priority: int = 5,
        key: str = "",
        dedupe_key: str = "",
        payload: bytes = b"\0\xff payload",
        made_ms: int = NOW_MS,
    ) -> list[int]:
        kind = kind or kind_of()
        ids = self.ids.block(made_ms, count)
        lane = lane_of(queue_address("default", kind.template.queue), kind.tenant, priority, key)
        changes.kinds.append(kind)
        changes.inserted += [
            (task_id, kind.template_id, int(state), priority, due_ms, made_ms, lane, key, dedupe_key, payload)
            for task_id in ids
        ]
        changes.count(kind.tenant, kind.template.queue, "accepted", count)
        return ids

    def end(
        self, changes: ShardChanges, ids: list[int], state: State = State.COMPLETED, *, kind: Kind | None = None,
        ended_ms: int = NOW_MS, result: bytes = b"", error: bytes = b"",
    ) -> None:  # fmt: skip
        kind = kind or kind_of()
        changes.ended += [(task_id, int(state), 1, ended_ms - 1, ended_ms, result, error) for task_id in ids]
        changes.count(kind.tenant, kind.template.queue, state.label, len(ids))

    async def add(self, count: int = 1, *, kind: Kind | None = None, state: State = State.QUEUED,
                  due_ms: int = NOW_MS, payload: bytes = b"p") -> list[int]:  # fmt: skip
        """Insert in a commit of its own; a final state is reached in a second one."""
        changes = self.changes()
        first = State.QUEUED if state.is_final or state is State.RUNNING else state
        ids = self.insert(changes, count, kind=kind, state=first, due_ms=due_ms, payload=payload)
        if state is State.RUNNING:
            changes.leased += [(task_id, 1, "session-1", NOW_MS) for task_id in ids]
        if state.is_final:
            self.end(changes, ids, state, kind=kind)
        await self.store.commit(changes)
        return ids

    async def row(self, task_id: int) -> TaskRow:
        answer = await self.store.query(self.shard, ReadTasks(1, [task_id]))
        assert isinstance(answer, TasksRead)
        [row] = answer.rows
        return row

    async def detail(self, task_id: int) -> TaskDetail:
        [detail] = await self.store.tasks([task_id])
        return detail
