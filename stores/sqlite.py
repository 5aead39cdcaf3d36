"""The SQLite store: one file, one process, one writer thread, and readers that never wait for it.

This shell only schedules: what it runs are the functions of `sqlite_group`, `sqlite_rows`, `sqlite_lists` and
`sqlite_upkeep`, which know no threads. One task takes all turns that wait, of any shards, writes them as one group in
the writer's thread, and wakes whoever waits; meanwhile the next group gathers. So the busier, the larger the groups.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import aiosqlite

from ..actors.messages import Kind, LedgerEntry
from ..actors.rows import Answer, Query, ShardChanges, ShardImage, TaskRow
from ..actors.rules import Calendar
from ..actors.schedule_rows import BackfillRow, TickRow
from ..runtime.clock import Clock
from ..runtime.errors import StaleEpochError, StoreError, StoreUnusableError
from . import sqlite_file, sqlite_lists, sqlite_rows, sqlite_schedule_lists, sqlite_upkeep
from .port import ScheduleDetail, ScheduleFilter, StoreStats, TaskDetail, TaskFilter
from .sqlite_group import GroupWriter
from .sqlite_lock import FileLock
from .sqlite_turn import Turn

R = TypeVar("R")
Ids = list[int]  # named here: within the class, `list` is its method
Tasks = list[TaskRow]
Details = list[TaskDetail]
Logs = list[tuple[int, bytes]]
Ledger = list[LedgerEntry]
Schedules = list[ScheduleDetail]
Ticks = list[TickRow]
Backfills = list[tuple[BackfillRow, str]]
Calendars = list[Calendar]
Turns = list[Turn]
Connections = list[aiosqlite.Connection]
Group = list[tuple[Turn, asyncio.Future[None]]]
Refused = list[StaleEpochError | None]
Written = tuple[Group, Refused | Exception, int]  # with the ns it took


@dataclass(frozen=True)
class SqliteConfig:
    """The bounds of one store."""

    synchronous: str = "full"  # of the write-ahead log: full survives power loss, normal may lose the last commits
    readers: int = 2  # the last one is left to slow questions, so that shards need not wait behind them
    group_rows_max: int = 8_192  # staged rows to a transaction
    writer_cache_kb: int = 65_536
    reader_cache_kb: int = 16_384
    checkpoint_rows: int = 8_192  # copy the log into the database after so many rows, beside the writer ...
    checkpoint_commits: int = 512  # ... or so many groups
    small_groups: bool = True  # write groups of a few rows by a statement each
    log_bytes_min: int = 32 << 20  # the log is made this long at once
    wal_pages_max: int = 16_384  # a log that stays longer is finished by the writer itself, so that it starts anew


class SqliteStore:
    """`stores.port.Store` on one SQLite file; made by `open_sqlite`."""

    def __init__(
        self,
        path: str,
        *,
        clock: Clock,
        config: SqliteConfig,
        shards: int,
        lock: FileLock,
        writer: aiosqlite.Connection,
        group: GroupWriter,
        readers: Connections,
        checkpointer: aiosqlite.Connection,
    ) -> None:
        self.path = path
        self.shards = shards
        """How many there are; fixed when the file was made."""
        self.stats = StoreStats()
        self._clock = clock
        self._config = config
        self._lock = lock
        self._writer = writer
        self._group = group
        self._readers = readers
        self._checkpointer = checkpointer
        self._identity = sqlite_file.identity(path)
        self._pending: deque[tuple[Turn, asyncio.Future[None]]] = deque()
        self._writer_asked = False  # a job is in the writer's queue that has not begun
        self._jobs: dict[asyncio.Future[Any], None] = {}  # under way, in order
        self._next_reader = 0
        self._rows_unchecked = 0
        self._commits_unchecked = 0
        self._checkpointing: asyncio.Task[None] | None = None
        self._log_too_long = False
        self._closed = False

    # -- commits -----------------------------------------------------------------------------------------------------

    async def claim(self, shard: int, node: str) -> ShardImage:
        assert 0 <= shard < self.shards, f"shard {shard} of {self.shards}"
        return await self._write(sqlite_upkeep.claim, shard, node)

    async def commit(self, changes: ShardChanges) -> None:
        self._check_open()
        start = self._clock.mono_ns()
        turn = Turn(changes)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((turn, done))
        self.stats.encode_ns += self._clock.mono_ns() - start
        if not self._writer_asked:
            self._ask_writer()
        await done

    def _ask_writer(self) -> None:
        """Put a job into the writer's queue that takes whatever waits when its turn comes. So the next group is ready
        the moment the last one is written, however busy the event loop is."""
        self._writer_asked = True
        job: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self._jobs[job] = None
        job.add_done_callback(self._group_written)
        self._writer._tx.put_nowait((job, self._write_group))

    def _write_group(self) -> Written:
        """Write one group. Runs in the writer's thread."""
        self._writer_asked = False  # whoever comes from now on asks again; at worst that job finds nothing
        group = self._take_group()
        start = self._clock.mono_ns()
        try:
            refused: Refused | Exception = self._group.write([turn for turn, _ in group])
        except Exception as error:
            refused = error
        return group, refused, self._clock.mono_ns() - start

    def _group_written(self, job: asyncio.Future[Written]) -> None:
        del self._jobs[job]
        group, refused, busy_ns = job.result()
        if isinstance(refused, Exception):
            self._begin(self._group_failed(group, refused))
        elif group:
            self._count([turn for turn, _ in group], busy_ns)
            for (_, done), stale in zip(group, refused, strict=True):
                _resolve(done, stale)
        if self._log_too_long:
            self._log_too_long = False
            self._begin(self._finish_log())
        if self._pending and not self._writer_asked:
            self._ask_writer()

    def _begin(self, upkeep: Coroutine[Any, Any, None]) -> None:
        """Do something beside the commits; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(upkeep)
        self._jobs[task] = None
        task.add_done_callback(self._jobs.pop)

    def _take_group(self) -> Group:
        """Take turns in order, at most one of a shard: within a group, rows are applied kind by kind."""
        group: Group = []
        shards: set[int] = set()
        rows = 0
        while self._pending:
            turn, _ = self._pending[0]
            rows += turn.rows
            if group and (turn.shard in shards or rows > self._config.group_rows_max):
                break
            shards.add(turn.shard)
            group.append(self._pending.popleft())
        return group

    def _timed(self, turns: Turns) -> tuple[Refused, int]:
        start = self._clock.mono_ns()
        refused = self._group.write(turns)
        return refused, self._clock.mono_ns() - start

    async def _group_failed(self, group: Group, error: Exception) -> None:
        """Nothing was written. Rows that cannot be are one shard's bug: write the others without it."""
        if len(group) > 1 and not isinstance(error, sqlite3.OperationalError):
            for turn, done in group:
                try:
                    [stale], busy_ns = await _run(self._writer, self._timed, [turn])
                except Exception as own:
                    _resolve(done, self._error(own))
                else:
                    self._count([turn], busy_ns)
                    _resolve(done, stale)
            return
        for _, done in group:
            _resolve(done, self._error(error))

    def _count(self, turns: Turns, busy_ns: int) -> None:
        rows = sum([turn.rows for turn in turns])
        self.stats.commits += 1
        self.stats.shard_commits += len(turns)
        self.stats.rows += rows
        self.stats.busy_ns += busy_ns
        self._rows_unchecked += rows
        self._commits_unchecked += 1
        if self._checkpointing is None and (
            self._rows_unchecked >= self._config.checkpoint_rows
            or self._commits_unchecked >= self._config.checkpoint_commits
        ):
            self._rows_unchecked = self._commits_unchecked = 0
            self._checkpointing = asyncio.get_running_loop().create_task(self._checkpoint(), name="foliot-checkpoint")

    async def _checkpoint(self) -> None:
        """Copy the log into the database beside the writer. A full disk or the like shows in the next commit."""
        try:
            pages = await _run(self._checkpointer, sqlite_upkeep.checkpoint, _connection(self._checkpointer))
            self._log_too_long = pages > self._config.wal_pages_max
        except sqlite3.Error:
            self._log_too_long = False
        finally:
            self._checkpointing = None

    async def _finish_log(self) -> None:
        """Copy the little that was written since the last checkpoint began, with no commit in between: only a log
        that was copied whole can start anew."""
        try:
            await _run(self._writer, sqlite_upkeep.checkpoint, _connection(self._writer))
        except sqlite3.Error:
            return

    # -- reads -------------------------------------------------------------------------------------------------------

    async def query(self, shard: int, query: Query) -> Answer:
        return sqlite_rows.answer_of(query, await self._read(sqlite_rows.statement_of(shard, query)))

    async def tasks(self, ids: Ids) -> Details:
        return sqlite_lists.details_of(await self._read(sqlite_lists.details(ids)))

    async def list(self, filter: TaskFilter) -> tuple[Tasks, dict[int, Kind]]:
        return sqlite_lists.listed_of(await self._read(sqlite_lists.listed(filter), slow=True))

    async def logs(self, task_id: int, attempt: int = 0) -> Logs:
        return sqlite_lists.logs_of(await self._read(sqlite_lists.logs(task_id, attempt), slow=True))

    async def schedules(self, filter: ScheduleFilter) -> Schedules:
        listing = sqlite_schedule_lists.ScheduleListing(filter)
        while (statement := listing.next()) is not None:
            listing.take(await self._read(statement, slow=True))
        return listing.found

    async def ticks(self, schedule_id: int, *, before_ms: int = 0, limit: int = 100) -> Ticks:
        statement = sqlite_schedule_lists.ticks(schedule_id, before_ms, limit)
        return sqlite_schedule_lists.listed_ticks(await self._read(statement, slow=True))

    async def backfills(self, tenant: str, *, schedule: str = "", limit: int = 100) -> Backfills:
        statement = sqlite_schedule_lists.backfills(tenant, schedule, limit)
        return sqlite_schedule_lists.listed_backfills(await self._read(statement, slow=True))

    async def calendars(self, tenant: str) -> Calendars:
        statement = sqlite_schedule_lists.calendars(tenant)
        return sqlite_schedule_lists.listed_calendars(await self._read(statement, slow=True))

    async def ledger(self) -> tuple[Ledger, Ledger]:
        return sqlite_lists.ledger_of(await self._read(sqlite_lists.LEDGER, slow=True))

    async def configs(self) -> tuple[Any, Any]:
        return sqlite_lists.configs_of(await self._read(sqlite_lists.CONFIGS, slow=True))

    async def _read(self, statement: sqlite_rows.Statement, *, slow: bool = False) -> Any:
        self._check_open()
        if slow or len(self._readers) == 1:
            reader = self._readers[-1]
        else:
            self._next_reader = (self._next_reader + 1) % (len(self._readers) - 1)
            reader = self._readers[self._next_reader]
        try:
            return await _run(reader, sqlite_rows.fetch, _connection(reader), statement)
        except sqlite3.Error as error:
            raise sqlite_file.refused(error, self.path) from error

    # -- upkeep ------------------------------------------------------------------------------------------------------

    async def set_aside(self, address: str, message: bytes, error: str, at_ms: int) -> None:
        await self._write(sqlite_upkeep.set_aside, address, message, error, at_ms)

    def check_file(self) -> None:
        """Look whether the database is still the file that was opened. What is written to one that was removed is gone with
        this process. Raises: StoreUnusableError."""
        try:
            now = sqlite_file.identity(self.path)
        except OSError:
            now = None
        if now != self._identity:
            what = "was removed" if now is None else "was replaced by another file"
            raise StoreUnusableError(self.path, f"{what} while it was in use", "the file that was opened, in its place")

    async def retain(self, before_ms: int, *, limit: int) -> int:
        """See the port. In small transactions, so that commits go on in between."""
        gone = 0
        while gone < limit:
            size = min(limit - gone, sqlite_upkeep.RETAIN_BATCH)
            found = await self._write(sqlite_upkeep.retain, before_ms, size)
            gone += found
            if found < size:
                break
        for function, instant_ms in (
            (sqlite_upkeep.retain_ticks, before_ms),
            (sqlite_upkeep.retain_backfills, before_ms),
            (sqlite_upkeep.retain_keys, self._clock.now_ms()),
        ):
            for _ in range(max(limit // sqlite_upkeep.RETAIN_BATCH, 1)):
                if not await self._write(function, instant_ms, sqlite_upkeep.RETAIN_BATCH):
                    break
        return gone

    async def limit_size(self, max_bytes: int) -> None:
        """Let the file grow no further than that, whole pages, and never below what it has: beyond, commits raise
        DiskFullError. For one run: a limit is not kept in the file."""

        def limit(connection: sqlite3.Connection) -> None:
            page_size = connection.execute("pragma page_size").fetchone()[0]
            connection.execute(f"pragma max_page_count = {max(max_bytes // page_size, 1)}")

        await self._write(limit)

    async def _write(self, function: Callable[..., R], *arguments: Any) -> R:
        self._check_open()
        try:
            return await _run(self._writer, function, _connection(self._writer), *arguments)
        except sqlite3.Error as error:
            raise sqlite_file.refused(error, self.path) from error

    async def close(self) -> None:
        """See the port. Harmless the second time."""
        if self._closed:
            return
        self._closed = True
        while self._jobs or self._checkpointing is not None:
            await asyncio.wait([*self._jobs, *([self._checkpointing] if self._checkpointing is not None else [])])
        try:
            for reader in self._readers:
                await reader.close()
            await self._checkpointer.close()
            await _run(self._writer, sqlite_upkeep.checkpoint, _connection(self._writer), "truncate")
        except sqlite3.OperationalError:
            pass  # the log stays beside the file, and the next start reads it
        finally:
            await self._writer.close()
            self._lock.release()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"database {self.path!r} is closed; expected a store in use")

    def _error(self, error: Exception) -> BaseException:
        if isinstance(error, sqlite3.Error):
            refused = sqlite_file.refused(error, self.path)
            refused.__cause__ = error
            return refused
        return error


async def open_sqlite(
    path: str | os.PathLike[str], *, clock: Clock, shards: int, config: SqliteConfig | None = None
) -> SqliteStore:
    """Open a database file as its one scheduler, and create it if it is not there.

    `shards`: for a new file; an old one keeps its number, see `SqliteStore.shards`.
    Raises: StoreInUseError, StoreUnusableError, InvalidStoreOptionError, DiskFullError.
    """
    config = config or SqliteConfig()
    name = os.fspath(path)
    sqlite_file.check_options(shards=shards, synchronous=config.synchronous, readers=config.readers)
    sqlite_file.check_path(name)
    now_ms = clock.now_ms()
    try:
        lock = FileLock(name, now_ms=now_ms)
    except OSError as error:
        raise StoreUnusableError(name, f"cannot be locked: {error.strerror}", "a writable directory") from error
    opened: list[aiosqlite.Connection] = []

    async def connect(function: Callable[[], sqlite3.Connection]) -> aiosqlite.Connection:
        connection = aiosqlite.Connection(function, 64)
        connection._thread.daemon = True  # a process that fails elsewhere must not wait for its store to be closed
        await connection
        opened.append(connection)
        return connection

    try:
        stored = await asyncio.to_thread(sqlite_file.prepare, name, shards=shards, now_ms=now_ms)
        writer = await connect(partial(
            sqlite_file.connect_writer, name, synchronous=config.synchronous, cache_kb=config.writer_cache_kb
        ))  # fmt: skip
        await asyncio.to_thread(sqlite_file.extend_log, name, size=config.log_bytes_min)
        return SqliteStore(
            name,
            clock=clock,
            config=config,
            shards=stored,
            lock=lock,
            writer=writer,
            group=await _run(writer, partial(GroupWriter, small=config.small_groups), _connection(writer)),
            readers=[
                await connect(partial(sqlite_file.connect_reader, name, cache_kb=config.reader_cache_kb))
                for _ in range(config.readers)
            ],
            checkpointer=await connect(partial(sqlite_file.connect_checkpointer, name)),
        )
    except BaseException as error:
        for connection in opened:
            await connection.close()
        lock.release()
        if isinstance(error, sqlite3.Error):
            raise sqlite_file.unusable(error, name) from error
        raise


def _resolve(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.done():  # its waiter was cancelled
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _connection(connection: aiosqlite.Connection) -> sqlite3.Connection:
    return connection._conn


async def _run(connection: aiosqlite.Connection, function: Callable[..., R], *arguments: Any) -> R:
    """Run a function in the connection's thread: all its steps in one go, where the public methods would take a trip
    to the thread and back for each."""
    result: R = await connection._execute(function, *arguments)  # type: ignore[no-untyped-call]
    return result
