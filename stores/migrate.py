"""Numbered migrations: SQL files that bring a database to the newest schema, each in one transaction.

A file is named `NNN_what_it_does.sql`; numbers start at 1 and have no gaps. A migration that was released never changes.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from importlib import resources

_NAME = re.compile(r"(\d{3})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True)
class Migration:
    """One step. `number` is the schema version it leads to."""

    number: int
    name: str
    sql: str


def migrations_for(database: str) -> list[Migration]:
    """Return the migrations of a database ("sqlite"), in order."""
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


class UnknownHistoryError(Exception):
    """The database was migrated by steps that are not the known ones."""

    def __init__(self, newest: tuple[int, str] | None, version: int) -> None:
        super().__init__(f"its schema history ends with {newest} at version {version}")
