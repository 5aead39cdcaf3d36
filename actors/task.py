"""A task in a shard's memory, and what it shares with others of its kind.

The shard keeps tasks in memory only while something can happen to them soon: within the timer horizon, within the window
offered to a queue, or running. All others are rows in the store.
"""

from __future__ import annotations

from typing import NamedTuple

from .addresses import queue_address
from .messages import Kind, LedgerEntry, TaskError
from .rows import TaskRow, lane_of
from .states import State

_STORED = ("accepted", "fired", "completed", "failed", "cancelled", "dead", "expired", "skipped")


class Tick(NamedTuple):
    """The tick that made a task: of which schedule, which moment it names, and whose it is (`schedule_rows.SOURCE_RULE`)."""

    schedule_id: int
    tick_ms: int
    source: int
    name: str


class Counts:
    """The ledger of one tenant and queue, in memory. `flushed` is what the store has."""

    __slots__ = (
        "accepted", "cancelled", "completed", "dead", "expired", "failed", "fired", "flushed", "queue", "running",
        "skipped", "tenant", "waiting",
    )  # fmt: skip

    def __init__(self, entry: LedgerEntry) -> None:
        self.tenant = entry.tenant
        self.queue = entry.queue
        self.accepted = entry.accepted
        self.waiting = entry.waiting
        self.running = entry.running
        self.completed = entry.completed
        self.failed = entry.failed
        self.cancelled = entry.cancelled
        self.dead = entry.dead
        self.expired = entry.expired
        self.skipped = entry.skipped
        self.fired = entry.fired
        self.flushed = self._stored()

    def _stored(self) -> tuple[int, ...]:
        # In the order of `_STORED`.
        return (
            self.accepted, self.fired, self.completed, self.failed, self.cancelled, self.dead, self.expired, self.skipped
        )  # fmt: skip

    def differences(self) -> list[tuple[str, int]]:
        """Return (what, difference) since the last call, for the ledger's rows."""
        stored = self._stored()
        if stored == self.flushed:
            return []
        found = [
            (what, new - old)
            for what, new, old in zip(_STORED, stored, self.flushed, strict=True)
            if new != old
        ]
        self.flushed = stored
        return found

    def entry(self) -> LedgerEntry:
        """Return the counts as a message."""
        return LedgerEntry(
            tenant=self.tenant, queue=self.queue, accepted=self.accepted, waiting=self.waiting, running=self.running,
            completed=self.completed, failed=self.failed, cancelled=self.cancelled, dead=self.dead,
            expired=self.expired, skipped=self.skipped, fired=self.fired,
        )  # fmt: skip


class KindState:
    """A kind as its shard knows it."""

    __slots__ = (
        "_lanes", "attempt_span_ms", "counts", "has_deadline", "id", "kind", "offered", "queue", "template", "tenant"
    )  # fmt: skip

    def __init__(self, kind: Kind, counts: Counts) -> None:
        self.kind = kind
        self.id = kind.template_id
        self.tenant = kind.tenant
        self.template = kind.template
        self.queue = queue_address(kind.template.pool, kind.template.queue)
        self.counts = counts
        self.offered = 0  # tasks its queue has been offered and has not granted
        template = kind.template
        self.attempt_span_ms = template.timeout_ms + template.cancel_grace_ms if template.timeout_ms else 0
        self.has_deadline = bool(kind.template.wait_timeout_ms or kind.template.total_timeout_ms)  # while it waits
        self._lanes: dict[int, int] = {}

    def lane(self, priority: int, key: str) -> int:
        """Return the lane number of a task of this kind; lanes without a key are remembered, at most ten."""
        if key:
            return lane_of(self.queue, self.tenant, priority, key)
        lane = self._lanes.get(priority)
        if lane is None:
            lane = self._lanes[priority] = lane_of(self.queue, self.tenant, priority, "")
        return lane


class Task:
    """One task. `payload` and `checkpoint` are None while only the store has them."""

    __slots__ = (
        "attempt", "bucket", "cancelling", "checkpoint", "dedupe_key", "due_ms", "ended_ms", "error", "id",
        "interruptions", "key", "kind", "lane", "leased_ms", "offered", "payload", "priority", "result", "session",
        "spent", "started_ms", "state",
    )  # fmt: skip

    def __init__(
        self, id: int, kind: KindState, state: int, priority: int, due_ms: int, lane: int, key: str, dedupe_key: str,
        payload: bytes | None,
    ) -> None:  # fmt: skip
        self.id = id
        self.kind = kind
        self.state = state
        self.priority = priority
        self.due_ms = due_ms
        self.lane = lane
        self.key = key
        self.dedupe_key = dedupe_key
        self.payload = payload
        self.attempt = 0
        self.spent = 0
        self.interruptions = 0
        self.session = ""
        self.cancelling = 0
        self.offered = False
        self.bucket = 0  # where its deadline is kept, 0: it has none
        self.leased_ms = 0
        self.started_ms = 0
        self.ended_ms = 0
        self.result = b""
        self.error: TaskError | None = None
        self.checkpoint: bytes | None = b""

    @classmethod
    def of_row(cls, row: TaskRow, kind: KindState) -> Task:
        """Return the task of a stored row."""
        task = cls(
            row.id, kind, row.state, row.priority, row.due_ms, row.lane, row.key, row.dedupe_key, row.payload
        )  # fmt: skip
        task.attempt = row.attempt
        task.spent = row.spent
        task.interruptions = row.interruptions
        task.session = row.session if row.state == State.RUNNING else ""
        task.cancelling = row.cancelling
        task.leased_ms = row.updated_ms
        task.checkpoint = None if row.attempt else b""
        return task
