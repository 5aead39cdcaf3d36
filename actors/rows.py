"""What a shard writes and reads: rows, the changes of one turn, and the queries of an actor to its store.

Rows are plain tuples in the order given here, since they go by the thousand. Lanes: all ready tasks of one queue,
tenant, priority and concurrency key form a lane, whose number sorts by priority first; the backlog is paged by lane.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..runtime.hashing import fnv1a
from .messages import Kind, LedgerEntry, Message, QueueConfig, TenantConfig
from .schedule_rows import BackfillRow, ScheduleImage, ScheduleQuery, ScheduleReads, ScheduleRow, TickRow

_LANE_SHIFT: Final = 59


def lane_of(queue: str, tenant: str, priority: int, key: str) -> int:
    """Return a lane's number, 63 bits: 4 of priority, 59 of hash. `queue` is an address. Two lanes that collide are
    paged together, which costs time, never correctness."""
    return priority << _LANE_SHIFT | fnv1a(f"{queue}\0{tenant}\0{key}".encode()) >> 5


class TaskRow(Message, frozen=True):
    """A task as stored. `error` is an encoded TaskError or empty; `payload` may be None where the query left it out."""

    id: int
    template_id: int
    state: int
    priority: int
    attempt: int  # of the newest lease; 0 before the first
    spent: int  # attempts that count against max_attempts
    interruptions: int  # attempts lost with their worker since the last one that ended
    due_ms: int
    updated_ms: int
    lane: int
    key: str
    dedupe_key: str
    session: str  # holder of the newest lease
    cancelling: int  # 1: cancellation was asked for while it ran
    started_ms: int  # of the newest attempt that reported, 0 before
    ended_ms: int
    payload: bytes | None
    result: bytes
    error: bytes


class InboxMark(Message, frozen=True):
    """How far a shard has come in its inbox: in which life of the stream, the position of the last entry applied, and the
    newest stamp of all applied. An entry of that life with neither a later position nor a later stamp was applied before."""

    stream: str = ""
    position: int = 0
    stamp: int = 0

    def covers(self, stream: str, position: int, stamp: int) -> bool:
        """Tell whether an entry was applied before. A stream that has lost its end gives the positions again, to entries of
        a later stamp."""
        return stream == self.stream and position <= self.position and stamp <= self.stamp

    def passing(self, stream: str, position: int, stamp: int) -> InboxMark:
        """Return the mark once this entry is applied too. The newest stamp is kept, since those of entries in order need not
        be in order themselves where leaders of the stream changed."""
        newest = max(stamp, self.stamp) if stream == self.stream else stamp
        return InboxMark(stream, position, newest)


class ShardChanges:
    """The rows of one turn. The store writes them all or none, in the order of these fields."""

    __slots__ = (
        "attempts",
        "backfills",
        "calendars",
        "dedupe",
        "ended",
        "epoch",
        "events",
        "fence",
        "inbox",
        "inserted",
        "kinds",
        "leased",
        "ledger",
        "logs",
        "moved",
        "payloads",
        "progress",
        "purged",
        "queues",
        "requests",
        "revived",
        "schedule_moves",
        "schedules",
        "schedules_deleted",
        "shard",
        "tenants",
        "ticks",
        "ticks_ended",
    )

    def __init__(self, shard: int, epoch: int) -> None:
        self.shard = shard
        self.epoch = epoch
        self.kinds: list[Kind] = []
        """Templates to keep; one that is there already stays as it is."""
        self.inserted: list[tuple[int, int, int, int, int, int, int, str, str, bytes]] = []
        """(id, template_id, state, priority, due_ms, updated_ms, lane, key, dedupe_key, payload)"""
        self.leased: list[tuple[int, int, str, int]] = []
        """(id, attempt, session, updated_ms): the state becomes RUNNING."""
        self.moved: list[tuple[int, int, int, int, int, int, int]] = []
        """(id, state, due_ms, spent, interruptions, cancelling, updated_ms): between states that are not final, or
        out of a final one when a person retries; the session becomes empty unless the state is RUNNING."""
        self.ended: list[tuple[int, int, int, int, int, bytes, bytes]] = []
        """(id, state, spent, started_ms, ended_ms, result, error): the state is final."""
        self.attempts: list[tuple[int, int, int, str, int, int, bytes]] = []
        """(id, attempt, outcome kind or 0 if the worker died, session, started_ms, ended_ms, error): history of the
        attempts that did not complete."""
        self.payloads: list[tuple[int, bytes]] = []
        """(id, payload): replaced by a person's retry."""
        self.dedupe: list[tuple[str, str, int, int]] = []
        """(tenant, dedupe_key, task id, expires_ms): inserted or replaced."""
        self.requests: list[tuple[str, bytes, int]] = []
        """(tenant:request_id, encoded TasksSubmitted, expires_ms)"""
        self.progress: list[tuple[int, int, int, str, bytes | None, int]] = []
        """(id, attempt, permille, note, checkpoint or None to keep, updated_ms): replaced."""
        self.logs: list[tuple[int, int, int, bytes]] = []
        """(id, attempt, part, text)"""
        self.revived: list[int] = []
        """Ids of ended tasks that are moved out of their final state: if one was deleted meanwhile, nothing is written."""
        self.purged: list[int] = []
        """Ids to delete with all that hangs on them."""
        self.queues: list[QueueConfig] = []
        self.tenants: list[TenantConfig] = []
        self.schedules: list[ScheduleRow] = []
        """Inserted, or replaced whole where the id is there."""
        self.schedule_moves: list[tuple[int, int, int, bytes]] = []
        """(id, next_ms, calendars, state): what a tick changes of a schedule; the last one of an id counts."""
        self.schedules_deleted: list[int] = []
        """Ids to delete with their ticks and backfills."""
        self.ticks: list[TickRow] = []
        """Inserted: if one of them is there already, nothing of the turn is written."""
        self.ticks_ended: list[tuple[int, int, int, int]] = []
        """(schedule_id, tick_ms, source, outcome); of ticks inserted before, or in this turn."""
        self.backfills: list[BackfillRow] = []
        """Inserted or replaced."""
        self.calendars: list[tuple[str, str, bytes, int, int]] = []
        """(tenant, name, encoded Calendar or empty to delete it, epoch, number)"""
        self.ledger: dict[tuple[str, str, str], int] = {}
        """(tenant, queue, what) → difference. `what`: accepted, fired (by a tick, also accepted) or the label of a final
        state."""
        self.inbox: InboxMark | None = None
        """How far the shard has come in its inbox with this turn; None where that did not change."""
        self.events: list[tuple[int, str, int, int, int]] = []
        """(id, tenant, state before or 0, state after, attempt), in order, to be told once the turn is durable; no rows."""
        self.fence = False
        """Commit even if there are no rows: an answer is to leave only if the shard is still owned under this epoch."""

    def count(self, tenant: str, queue: str, what: str, by: int = 1) -> None:
        """Add to the ledger."""
        key = (tenant, queue, what)
        self.ledger[key] = self.ledger.get(key, 0) + by

    def __bool__(self) -> bool:
        return bool(
            self.inserted or self.leased or self.ended or self.moved or self.attempts or self.payloads or self.dedupe
            or self.requests or self.progress or self.logs or self.purged or self.queues
            or self.tenants or self.ledger or self.kinds or self.fence or self.schedules or self.schedule_moves
            or self.schedules_deleted or self.ticks or self.ticks_ended or self.backfills or self.calendars
            or self.inbox is not None
        )  # fmt: skip


class ShardImage(msgspec.Struct):
    """What a shard starts from: read in the same transaction that raised its epoch."""

    shard: int
    epoch: int
    last_id: int
    ledger: list[LedgerEntry]  # from the counters; running from the running rows, waiting is what remains
    running: list[TaskRow]  # without payloads
    kinds: list[Kind]
    queues: list[QueueConfig]  # all there are: each shard bounds its share of what waits
    tenants: list[TenantConfig]  # those this shard is the home of
    has_ready: bool  # any row in QUEUED
    schedules: ScheduleImage = msgspec.field(default_factory=ScheduleImage)
    inbox: InboxMark = InboxMark()


# -- queries of a shard; each answer repeats the query's token ---------------------------------------------------------


class ReadTimers(Message, frozen=True, tag=True):
    """Tasks in SCHEDULED or RETRYING after (after_due_ms, after_id) with due_ms ≤ until_ms, ascending by (due, id), at
    most `limit`. Answers: TimersRead."""

    token: int
    after_due_ms: int
    after_id: int
    until_ms: int
    limit: int


class TimersRead(Message, frozen=True, tag=True):
    """`next_due_ms`: of the first row beyond this page, 0 if there is none at all."""

    token: int
    rows: list[TaskRow]
    kinds: list[Kind]
    next_due_ms: int


class ReadLane(Message, frozen=True, tag=True):
    """Tasks in QUEUED of a lane after (after_due_ms, after_id), ascending, at most `limit`. Answers: LaneRead."""

    token: int
    lane: int
    after_due_ms: int
    after_id: int
    limit: int


class LaneRead(Message, frozen=True, tag=True):
    token: int
    lane: int
    rows: list[TaskRow]
    kinds: list[Kind]


class ReadLanes(Message, frozen=True, tag=True):
    """Numbers of lanes with QUEUED tasks, ascending, greater than `after`, at most `limit`. Answers: LanesRead."""

    token: int
    after: int
    limit: int


class LanesRead(Message, frozen=True, tag=True):
    token: int
    lanes: list[int]


class ReadTasks(Message, frozen=True, tag=True):
    """Tasks by id, in any order; missing ones are left out. Answers: TasksRead."""

    token: int
    ids: list[int]


class TasksRead(Message, frozen=True, tag=True):
    token: int
    rows: list[TaskRow]
    kinds: list[Kind]
    checkpoints: dict[int, bytes]  # of tasks that have one


class ReadKeys(Message, frozen=True, tag=True):
    """Who holds these dedupe keys, and which of these requests were answered before. Answers: KeysRead."""

    token: int
    tenant: str
    dedupe_keys: list[str]
    request_id: str


class KeysRead(Message, frozen=True, tag=True):
    """`held`: dedupe_key → (task id, expires_ms), expired ones included; `answer`: encoded TasksSubmitted or empty."""

    token: int
    held: dict[str, tuple[int, int]]
    answer: bytes


Answer = TimersRead | LaneRead | LanesRead | TasksRead | KeysRead | ScheduleReads
Query = ReadTimers | ReadLane | ReadLanes | ReadTasks | ReadKeys | ScheduleQuery


