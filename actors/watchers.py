"""Who waits for tasks to end, at one shard."""

from __future__ import annotations

import heapq

from ..runtime.actor import Turn
from .messages import TaskEnd, TasksEnded


class Watch:
    """One waiting request."""

    __slots__ = ("ended", "remaining", "request", "sender", "tenant")

    def __init__(self, sender: str, request: int, tenant: str, remaining: set[int]) -> None:
        self.sender = sender
        self.request = request
        self.tenant = tenant
        self.remaining = remaining
        self.ended: list[TaskEnd] = []


class Watchers:
    """Bounded: `capacity` task ids over all waiting requests."""

    def __init__(self, capacity: int = 100_000) -> None:
        self._capacity = capacity
        self._by_task: dict[int, list[Watch]] = {}
        self._deadlines: list[tuple[int, int, Watch]] = []
        self._number = 0
        self._count = 0

    def has_room(self, count: int) -> bool:
        return self._count + count <= self._capacity

    def add(self, turn: Turn, tenant: str, ids: list[int], until_ms: int) -> Watch:
        """Let the sender of the message in hand wait for all of `ids`, until `until_ms` at the latest. `tenant`: whose
        tasks it may hear of; empty: everybody's."""
        watch = Watch(turn.sender, turn.request, tenant, set(ids))
        for task_id in watch.remaining:
            self._by_task.setdefault(task_id, []).append(watch)
        self._count += len(watch.remaining)
        self._number += 1
        heapq.heappush(self._deadlines, (until_ms, self._number, watch))
        return watch

    def is_watched(self, task_id: int) -> bool:
        return task_id in self._by_task

    def ended(self, end: TaskEnd, tenant: str, turn: Turn) -> None:
        """A task of the tenant ended: answer those that now have all of theirs. To others there is no such task."""
        for watch in self._by_task.pop(end.id, ()):
            self._tell(watch, end if watch.tenant in ("", tenant) else TaskEnd(end.id, 0), turn)

    def missing(self, watch: Watch, task_id: int, turn: Turn) -> None:
        """For this one there is no such task, whoever else waits for it."""
        others = [other for other in self._by_task.pop(task_id, ()) if other is not watch]
        if others:
            self._by_task[task_id] = others
        self._tell(watch, TaskEnd(task_id, 0), turn)

    def _tell(self, watch: Watch, end: TaskEnd, turn: Turn) -> None:
        if end.id not in watch.remaining:
            return
        watch.remaining.discard(end.id)
        self._count -= 1
        watch.ended.append(end)
        if not watch.remaining:
            turn.send(watch.sender, TasksEnded(watch.ended), request=watch.request)

    def shift(self, by_ms: int) -> None:
        """The wall clock was set: nobody waits any longer or shorter for that."""
        self._deadlines = [(until_ms + by_ms, number, watch) for until_ms, number, watch in self._deadlines]

    def due_ms(self) -> int | None:
        while self._deadlines and not self._deadlines[0][2].remaining:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def on_time(self, turn: Turn) -> None:
        """Answer those whose time is up with what has ended."""
        while self._deadlines and self._deadlines[0][0] <= turn.now_ms:
            watch = heapq.heappop(self._deadlines)[2]
            if not watch.remaining:
                continue
            for task_id in sorted(watch.remaining):
                waiting = [other for other in self._by_task.get(task_id, ()) if other is not watch]
                if waiting:
                    self._by_task[task_id] = waiting
                else:
                    self._by_task.pop(task_id, None)
            self._count -= len(watch.remaining)
            watch.remaining = set()
            turn.send(watch.sender, TasksEnded(watch.ended), request=watch.request)
