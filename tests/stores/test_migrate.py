"""Migrations are applied once, in order, and each whole or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import msgspec
import pytest
from foliot.actors.messages import Kind, Template
from foliot.actors.schedule_rows import ScheduleImage
from foliot.stores import sqlite_upkeep
from foliot.stores.migrate import (
    Migration,
    UnknownHistoryError,
    migrate_sqlite,
    migrations_for,
    schema_version,
    statements,
)

_FIRST = migrations_for("sqlite")[:1]
_SECOND = Migration(2, "second", "create table more (a);\ncreate index more_a on more (a);\n")


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def test_missing_migrations_are_applied_in_order_and_recorded(connection: sqlite3.Connection) -> None:
    assert migrate_sqlite(connection, _FIRST, now_ms=1) == 1
    assert migrate_sqlite(connection, [*_FIRST, _SECOND], now_ms=2) == 1
    assert migrate_sqlite(connection, [*_FIRST, _SECOND], now_ms=3) == 0

    assert schema_version(connection) == 2
    history = connection.execute("select number, name, applied_ms from migrations order by number").fetchall()
    assert history == [(1, "initial", 1), (2, "second", 2)]


def test_a_database_without_schedules_gets_them_and_keeps_its_tasks(connection: sqlite3.Connection) -> None:
    migrate_sqlite(connection, _FIRST, now_ms=1)
    connection.execute("insert into shards (shard, epoch, node, last_id) values (1, 4, 'a', 4099)")
    connection.execute(
        "insert into tasks (id, shard, state, template_id, due_ms, lane, priority, attempt, spent, interruptions,"
        " cancelling, updated_ms, started_ms, ended_ms, key, dedupe_key, session, result, error)"
        " values (4099, 1, 3, 7, 5, 6, 5, 2, 1, 0, 0, 9, 0, 0, 'k', '', 's1', x'', x'')"
    )
    connection.execute("insert into payloads (id, payload) values (4099, x'00ff')")
    connection.execute(
        "insert into kinds (template_id, tenant, handler, queue, pool, body) values (7, 'acme', 'h', 'q', 'p', ?)",
        (msgspec.json.encode(Kind("acme", 7, Template("h", queue="q"))).decode(),),
    )
    connection.execute("insert into ledger (shard, tenant, queue, what, count) values (1, 'acme', 'q', 'accepted', 1)")
    before = connection.execute("select * from tasks join payloads using (id)").fetchall()

    assert migrate_sqlite(connection, migrations_for("sqlite"), now_ms=2) == len(migrations_for("sqlite")) - 1

    assert connection.execute("select * from tasks join payloads using (id)").fetchall() == before
    image = sqlite_upkeep.claim(connection, 1, "b")
    assert (image.epoch, image.last_id, [row.id for row in image.running]) == (5, 4099, [4099])
    assert (image.ledger[0].accepted, image.ledger[0].fired, image.schedules) == (1, 0, ScheduleImage())


def test_a_migration_that_fails_leaves_nothing(connection: sqlite3.Connection) -> None:
    broken = Migration(2, "broken", "create table more (a);\ncreate table tasks (b);\n")
    migrate_sqlite(connection, _FIRST, now_ms=1)

    with pytest.raises(sqlite3.OperationalError, match="table tasks already exists"):
        migrate_sqlite(connection, [*_FIRST, broken], now_ms=2)

    assert schema_version(connection) == 1
    assert connection.execute("select count(*) from sqlite_master where name = 'more'").fetchone() == (0,)


def test_a_history_of_other_migrations_is_refused(connection: sqlite3.Connection) -> None:
    migrate_sqlite(connection, [*_FIRST, _SECOND], now_ms=1)
    other = Migration(2, "another", "create table other (a);")

    with pytest.raises(UnknownHistoryError, match="second"):
        migrate_sqlite(connection, [*_FIRST, other], now_ms=2)


def test_scripts_are_cut_into_statements() -> None:
    script = (
        "-- a comment; with a semicolon\ncreate table a (b text default ';');\n\n"
        "create trigger t after insert on a begin\n  delete from a;\n  delete from a;\nend;\n-- the end\n"
    )

    found = statements(script)

    assert len(found) == 2
    assert found[0].endswith("create table a (b text default ';');")
    assert found[1].endswith("end;")


def test_a_script_that_ends_within_a_statement_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="within a statement"):
        statements("create table a (b);\ncreate table c (d)\n")
