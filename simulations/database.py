"""The database of a run: the real SQL on a real SQLite in memory, run in place, and what a crash does to it.

It lives on a machine of its own (`db`), or on the node's in the embedded form. With `synchronous` = normal the newest
commits are only in the machine's memory until the next checkpoint: a loss of power takes back a part of them, always the
newest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final, TypeVar

from ..actors.messages import Kind
from ..actors.rows import ReadTasks, ShardChanges, ShardImage, TaskRow, TasksRead
from ..runtime.errors import StaleEpochError
from ..stores import sqlite_lists, sqlite_rows, sqlite_upkeep
from ..stores.migrate import migrate_sqlite, migrations_for
from ..stores.sqlite_group import GroupWriter
from ..stores.sqlite_turn import Turn

R = TypeVar("R")
_CHECKPOINT: Final = 64  # writes


def empty_database(slots: int, *, start_ms: int) -> bytes:
    """Return the image of a new database, to begin runs from."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate_sqlite(connection, migrations_for("sqlite"), now_ms=start_ms)
    connection.execute("insert into meta (name, value) values ('shards', ?)", (slots,))
    image = connection.serialize()
    connection.close()
    return image


class Database:
    """`image`: what it begins with. `is_lazy`: whether commits are durable only later."""

    def __init__(self, image: bytes, *, is_lazy: bool = False, reverse_selects: bool = False) -> None:
        self.kinds: dict[int, Kind] = {}
        self.commits = 0
        self.rows = 0
        self._is_lazy = is_lazy
        self._reverse = reverse_selects
        self._image = image
        self._since: list[Callable[[Database], object]] = []  # writes since the image, to be done again
        self._open(image)

    def _open(self, image: bytes) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.deserialize(image)
        self.connection.execute("pragma temp_store = memory")
        if self._reverse:
            self.connection.execute("pragma reverse_unordered_selects = 1")
        self._writer = GroupWriter(self.connection)

    def close(self) -> None:
        self.connection.close()

    def _write(self, action: Callable[[Database], R]) -> R:
        result = action(self)
        if self._is_lazy:
            self._since.append(action)
            if len(self._since) >= _CHECKPOINT:
                self._image = self.connection.serialize()
                self._since.clear()
        return result

    def lose_power(self, draw: int) -> int:
        """Take back what was not durable: a part of the newest writes, by `draw`. Returns: how many."""
        if not self._since:
            return 0
        keep = draw % (len(self._since) + 1)
        since, self._since = self._since, []
        self.connection.close()
        self._open(self._image)
        for action in since[:keep]:
            self._write(action)
        return len(since) - keep

    # -- writing -----------------------------------------------------------------------------------------------------

    def claim(self, shard: int, node: str) -> ShardImage:
        return self._write(lambda self: sqlite_upkeep.claim(self.connection, shard, node))

    def commit(self, changes: ShardChanges, turn: Turn) -> None:
        """Write a turn. Raises: StaleEpochError, sqlite3.Error."""
        [refused] = self._writer.write([turn])
        if refused is not None:
            raise StaleEpochError(refused.shard, refused.epoch, refused.current)
        if self._is_lazy:
            self._since.append(lambda self: self._writer.write([turn]))
            if len(self._since) >= _CHECKPOINT:
                self._image = self.connection.serialize()
                self._since.clear()
        self.commits += 1
        self.rows += turn.rows
        for kind in changes.kinds:
            self.kinds[kind.template_id] = kind

    def set_aside(self, address: str, message: bytes, error: str, at_ms: int) -> None:
        self._write(lambda self: sqlite_upkeep.set_aside(self.connection, address, message, error, at_ms))

    def retain(self, before_ms: int, now_ms: int, limit: int) -> int:
        gone = self._write(lambda self: sqlite_upkeep.retain(self.connection, before_ms, limit))
        self._write(lambda self: sqlite_upkeep.retain_ticks(self.connection, before_ms, limit))
        self._write(lambda self: sqlite_upkeep.retain_backfills(self.connection, before_ms, limit))
        self._write(lambda self: sqlite_upkeep.retain_keys(self.connection, now_ms, limit))
        return gone

    # -- reading -----------------------------------------------------------------------------------------------------

    def fetch(self, statement: sqlite_rows.Statement) -> Any:
        return sqlite_rows.fetch(self.connection, statement)

    def ids(self) -> list[int]:
        return [row[0] for row in self.connection.execute("select id from tasks order by id")]

    def epochs(self) -> dict[int, int]:
        return dict(self.connection.execute("select shard, epoch from shards order by shard"))

    def attempts(self) -> dict[int, list[tuple[int, int]]]:
        """Return, by task, (attempt, outcome kind) of the attempts that did not complete."""
        found: dict[int, list[tuple[int, int]]] = {}
        for id, attempt, kind in self.connection.execute("select id, attempt, kind from attempts order by id, attempt"):
            found.setdefault(id, []).append((attempt, kind))
        return found

    def task_rows(self) -> list[TaskRow]:
        """Return all tasks there are, ascending."""
        rows: list[TaskRow] = []
        ids = self.ids()
        for start in range(0, len(ids), 500):
            query = ReadTasks(1, ids[start : start + 500])
            found = sqlite_rows.answer_of(query, self.fetch(sqlite_rows.statement_of(0, query)))
            assert isinstance(found, TasksRead)
            rows += found.rows
        return sorted(rows, key=lambda row: row.id)

    def schedules(self) -> dict[int, tuple[int, int, bytes]]:
        """Return, by schedule, its revision, when it is due, and its state."""
        rows = self.connection.execute("select id, revision, next_ms, state from schedules order by id")
        return {id: (revision, next_ms, state) for id, revision, next_ms, state in rows}

    def ticks(self) -> dict[tuple[int, int, int], tuple[int, int]]:
        """Return, by (schedule, tick, source), the task and its outcome."""
        rows = self.connection.execute("select schedule_id, tick_ms, source, task_id, outcome from ticks order by 1, 2, 3")
        return {(schedule, tick_ms, source): (task, outcome) for schedule, tick_ms, source, task, outcome in rows}

    def ledger(self) -> Any:
        return sqlite_lists.ledger_of(self.fetch(sqlite_lists.LEDGER))

    def purged(self) -> int:
        [count] = self.connection.execute(
            "select coalesce(sum(count), 0) from ledger where what like 'purged_%'"
        ).fetchone()
        return int(count)
