"""The store port: what survives, behind one contract that every database has to pass.

One writer commits groups of shard changes; readers are apart, so a query never waits for the writer. Every commit is
fenced by (shard, epoch). Errors are `runtime.errors.StoreError` (try again) or `StoreUnusableError`, `StoreInUseError`.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from ..actors.messages import Kind, LedgerEntry
from ..actors.rows import Answer, Query, ShardChanges, ShardImage, TaskRow
from ..actors.rules import Calendar
from ..actors.schedule_rows import BackfillRow, ScheduleRow, TickRow


class TaskFilter(msgspec.Struct, frozen=True):
    """Which tasks to list; empty fields match all. Newest first; `before`: ids below this one only (keyset paging)."""

    tenant: str = ""
    states: tuple[int, ...] = ()
    queue: str = ""
    handler: str = ""
    before: int = 0
    limit: int = 100


class AttemptRow(msgspec.Struct, frozen=True):
    """An attempt that did not complete. `kind`: an OutcomeKind, or 0 if its worker died. `error`: encoded TaskError."""

    attempt: int
    kind: int
    session: str
    started_ms: int
    ended_ms: int
    error: bytes


class TaskDetail(msgspec.Struct, frozen=True):
    """A task with all that hangs on it. `permille` is -1 where no progress was told."""

    row: TaskRow
    kind: Kind
    attempts: list[AttemptRow]
    permille: int
    note: str
    progress_at_ms: int


class ScheduleFilter(msgspec.Struct, frozen=True):
    """Which schedules of a tenant to list; empty fields match all. By name; `after`: names above this one only (keyset
    paging)."""

    tenant: str
    names: tuple[str, ...] = ()
    prefix: str = ""
    paused: bool | None = None
    after: str = ""
    limit: int = 100


class ScheduleDetail(msgspec.Struct, frozen=True):
    """A schedule with its kind."""

    row: ScheduleRow
    kind: Kind


class StoreStats(msgspec.Struct):
    """Since the store was opened: how the writer spent its time."""

    commits: int = 0  # groups
    shard_commits: int = 0  # changes of one shard's turn
    rows: int = 0
    busy_ns: int = 0  # in the writer thread
    encode_ns: int = 0  # preparing rows, on the event loop


class Store(Protocol):
    """A database. All methods may raise StoreError; none leaves anything half done."""

    stats: StoreStats

    async def claim(self, shard: int, node: str) -> ShardImage:
        """Raise the shard's epoch by one in the name of `node` and return what it starts from. From then on commits
        under older epochs are refused."""
        ...

    async def commit(self, changes: ShardChanges) -> None:
        """Write the changes, all or none, in a group with what other shards commit meanwhile. Durable on return.
        Raises: StaleEpochError; StoreError, DiskFullError (nothing was written)."""
        ...

    async def query(self, shard: int, query: Query) -> Answer:
        """Answer an actor's query; sees every commit that returned before the call."""
        ...

    async def tasks(self, ids: list[int]) -> list[TaskDetail]:
        """Return tasks by id, in the order asked, missing ones left out; payloads included."""
        ...

    async def logs(self, task_id: int, attempt: int = 0) -> list[tuple[int, bytes]]:
        """Return (attempt, text) in order; `attempt` 0: of all attempts."""
        ...

    async def schedules(self, filter: ScheduleFilter) -> list[ScheduleDetail]:
        """Return schedules by name. Pages are shorter than their limit only at the end, or where bodies are large: then
        what follows the last one is another page."""
        ...

    async def ticks(self, schedule_id: int, *, before_ms: int = 0, limit: int = 100) -> list[TickRow]:
        """Return ticks of a schedule, of any source, newest first, before the instant if one is given: `limit`, and those
        that share the last one's moment, so that a page before that moment goes on exactly."""
        ...

    async def backfills(
        self, tenant: str, *, schedule: str = "", limit: int = 100
    ) -> list[tuple[BackfillRow, str]]:
        """Return backfills of a tenant, or of its schedule of that name, newest first, each with the schedule's name."""
        ...

    async def calendars(self, tenant: str) -> list[Calendar]:
        """Return the calendars of a tenant by name."""
        ...

    async def ledger(self) -> tuple[list[LedgerEntry], list[LedgerEntry]]:
        """Return the counters and an independent recount from the rows (purged tasks added), summed over shards, both
        in one snapshot, each sorted by (tenant, queue). In the counters, waiting + running is derived from the rest and
        reported as waiting; in the recount both are counted."""
        ...

    async def configs(self) -> tuple[Any, Any]:
        """Return all QueueConfigs and TenantConfigs, each a list sorted by name."""
        ...

    async def set_aside(self, address: str, message: bytes, error: str, at_ms: int) -> None:
        """Keep a message that no actor could handle."""
        ...

    async def retain(self, before_ms: int, *, limit: int) -> int:
        """Delete up to `limit` ended tasks that ended before the instant, dead letters excepted, and expired dedupe
        keys and requests; as many ticks that fired before it and whose task has ended, and backfills that are over since
        then; count them as purged in the ledger. Returns how many tasks went."""
        ...

    async def close(self) -> None:
        """Finish what was begun, release the file."""
        ...

    # Last in the class: below this line the name `list` means the method to a type checker.
    async def list(self, filter: TaskFilter) -> tuple[list[TaskRow], dict[int, Kind]]:
        """Return tasks without payloads, newest first, and their kinds by template id."""
        ...
