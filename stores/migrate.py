"""Numbered migrations: SQL files that bring a database to the newest schema, each in one transaction.

A file is named `NNN_what_it_does.sql`; numbers start at 1 and have no gaps. A migration that was released never changes.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncpg

_LOCK: Final = 0x466F6C74
"""Of PostgreSQL's advisory locks the one that whoever migrates holds: "Folt"."""
_NAME = re.compile(r"(\d{3})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True)
class Migration:
    """One step. `number` is the schema version it leads to."""

    number: int
    name: str
    sql: str


def migrations_for(database: str) -> list[Migration]:
    """Return the migrations of a database ("sqlite", "postgres"), in order."""
    found = []
    for file in resources.files(__package__).joinpath("migrations", database).iterdir():
        match = _NAME.fullmatch(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    assert [migration.number for migration in found] == list(range(1, len(found) + 1)), "migrations have a gap"
    return found


def statements(sql: str) -> list[str]:
    """Return the statements of an SQLite script, one by one: `executescript` would end the transaction it runs in."""
    found: list[str] = []
    pending = ""
    for line in sql.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    rest = [line for line in pending.splitlines() if line.strip() and not line.lstrip().startswith("--")]
    assert not rest, f"a migration ends within a statement: {rest[0]!r}"
    return found


def migrate_sqlite(connection: sqlite3.Connection, migrations: list[Migration], *, now_ms: int) -> int:
    """Apply what is missing and return how many were. The version is `pragma user_version`, the history a table.
    Raises: UnknownHistoryError if what was applied before is not what is known here."""
    version = schema_version(connection)
    if version:
        applied = connection.execute("select number, name from migrations order by number").fetchall()
        known = [(migration.number, migration.name) for migration in migrations[:version]]
        if applied != known:
            raise UnknownHistoryError(applied[-1] if applied else None, version)
    for migration in migrations[version:]:
        connection.execute("begin immediate")
        try:
            for statement in statements(migration.sql):
                connection.execute(statement)
            row = (migration.number, migration.name, now_ms)
            connection.execute("insert into migrations (number, name, applied_ms) values (?, ?, ?)", row)
            connection.execute(f"pragma user_version = {migration.number}")
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise
    return len(migrations) - version


def schema_version(connection: sqlite3.Connection) -> int:
    """Return the schema version of the database, 0 for a new one."""
    version: int = connection.execute("pragma user_version").fetchone()[0]
    return version


async def migrate_postgres(connection: asyncpg.Connection, migrations: list[Migration], *, now_ms: int) -> int:
    """Apply what is missing, to the connection's schema, and return how many were. Of several that start at once one does it
    and the others wait. Raises: UnknownHistoryError if what was applied before is not what is known here."""
    known = [(each.number, each.name) for each in migrations]
    # Not within the transactions: one that began before it got the lock need not see the tables that were made meanwhile.
    await connection.execute("select pg_advisory_lock($1)", _LOCK)
    try:
        history = await postgres_history(connection)
        if history != known[: len(history)]:
            raise UnknownHistoryError(history[-1], len(history))
        for migration in migrations[len(history) :]:
            async with connection.transaction(isolation="read_committed"):
                await connection.execute(migration.sql)
                await connection.execute(
                    "insert into migrations (number, name, applied_ms) values ($1, $2, $3)",
                    migration.number, migration.name, now_ms,
                )  # fmt: skip
    finally:
        await connection.execute("select pg_advisory_unlock($1)", _LOCK)
    return len(migrations) - len(history)


async def postgres_history(connection: asyncpg.Connection) -> list[tuple[int, str]]:
    """Return the number and name of each migration that was applied, in order; none for a new database."""
    if await connection.fetchval("select to_regclass('migrations')") is None:
        return []
    return [(number, name) for number, name in await connection.fetch("select number, name from migrations order by number")]


class UnknownHistoryError(Exception):
    """The database was migrated by steps that are not the known ones."""

    def __init__(self, newest: tuple[int, str] | None, version: int) -> None:
        super().__init__(f"its schema history ends with {newest} at version {version}")
