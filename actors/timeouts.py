"""By when something must have happened to a task, and what a missed deadline means.

A worker enforces the timeout of an attempt itself; the shard's deadline is the backstop behind it, by the second: cheap to
set and to take back. What must be exact to the millisecond is a timer (`actors.timers`). Tasks in the store only have no
deadline here; theirs is looked at when they come into memory, and always before a lease.
"""

from __future__ import annotations

import heapq

from ..runtime.ids import time_of_ms
from .messages import TaskError
from .states import State
from .task import Task

_QUEUED, _RUNNING = State.QUEUED, State.RUNNING


class Timeouts:
    """At most one deadline to a task, kept in `task.bucket` as a second; a task knows nothing else of it."""

    def __init__(self, lease_margin_ms: int) -> None:
        self._lease_margin_ms = lease_margin_ms
        self._buckets: dict[int, dict[int, Task]] = {}
        self._seconds: list[int] = []  # a heap of the buckets' seconds

    def watch(self, task: Task) -> None:
        """Set the earliest moment at which something must be done about the task, if there is one."""
        template = task.kind.template
        ends: list[int] = []
        if template.total_timeout_ms:
            ends.append(time_of_ms(task.id) + template.total_timeout_ms)
        if task.state == _RUNNING:
            if template.timeout_ms:
                ends.append(task.leased_ms + template.timeout_ms)
            ends = [end + template.cancel_grace_ms + self._lease_margin_ms for end in ends]
        elif task.state == _QUEUED and template.wait_timeout_ms and task.attempt == 0:
            ends.append(task.due_ms + template.wait_timeout_ms)
        if ends:
            self.set(task, min(ends))

    def watch_attempt(self, task: Task) -> None:
        """Set the backstop of an attempt that has just begun."""
        kind = task.kind
        if kind.template.total_timeout_ms:
            self.watch(task)
        elif kind.attempt_span_ms:
            self.set(task, task.leased_ms + kind.attempt_span_ms + self._lease_margin_ms)

    def watch_cancelled(self, task: Task, now_ms: int) -> None:
        """A running task was cancelled: its worker has the grace, and the margin, to say so."""
        self.set(task, now_ms + task.kind.template.cancel_grace_ms + self._lease_margin_ms)

    def set(self, task: Task, at_ms: int) -> None:
        """Set or replace the task's deadline."""
        second = at_ms // 1000 + 1
        if task.bucket:
            if task.bucket == second:
                return
            self._buckets[task.bucket].pop(task.id, None)
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = {}
            heapq.heappush(self._seconds, second)
        bucket[task.id] = task
        task.bucket = second

    def clear(self, task: Task) -> None:
        """Take the deadline back, if there is one."""
        if task.bucket:
            self._buckets[task.bucket].pop(task.id, None)
            task.bucket = 0

    def due_ms(self) -> int | None:
        """Return the end of the first second that has deadlines."""
        while self._seconds and not self._buckets[self._seconds[0]]:
            del self._buckets[heapq.heappop(self._seconds)]
        return self._seconds[0] * 1000 if self._seconds else None

    def pop_due(self, now_ms: int) -> list[Task]:
        """Remove and return the tasks whose deadline has passed, in order of their seconds."""
        found: list[Task] = []
        while self._seconds and self._seconds[0] * 1000 <= now_ms:
            found.extend(self._buckets.pop(heapq.heappop(self._seconds)).values())
        for task in found:
            task.bucket = 0
        return found


def expiry_of(task: Task, now_ms: int) -> TaskError | None:
    """Return why a task that does not run may not start any more, or None."""
    template = task.kind.template
    late_ms = now_ms - task.due_ms
    if template.wait_timeout_ms and task.attempt == 0 and late_ms > template.wait_timeout_ms:
        return TaskError("WaitTimeoutError", f"waited {late_ms} ms, allowed were {template.wait_timeout_ms} ms")
    if template.total_timeout_ms and now_ms > time_of_ms(task.id) + template.total_timeout_ms:
        return TaskError("TotalTimeoutError", f"not done within {template.total_timeout_ms} ms of its submission")
    return None
