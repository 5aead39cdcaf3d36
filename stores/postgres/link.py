"""Connections to PostgreSQL: how each is set up, and what the server has to be.

Plans are pinned: a commit finds its rows by index whatever the statistics say at that moment, which after a burst are wrong.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import asyncpg

from ...runtime.errors import StoreUnusableError
from ..migrate import UnknownHistoryError, migrate_postgres, migrations_for, postgres_history
from .config import PostgresConfig, shown
from .failures import ReadOnlyStoreError

MIN_SERVER: Final = 140_000
_PINNED: Final = {
    "plan_cache_mode": "force_generic_plan", "enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off",
}  # fmt: skip
_CHECK: Final = """
select current_setting('server_version_num')::int, pg_is_in_recovery() or current_setting('transaction_read_only')::bool
"""

_IDENTITY: Final = """
insert into meta (name, value)
select
    'identity',
    1 + ('x' || substr(md5(random()::text || clock_timestamp()::text || pg_backend_pid()), 1, 15))::bit(60)::bigint
on conflict do nothing
"""


def settings(config: PostgresConfig, *, pinned: bool, timeout_s: float) -> dict[str, str]:
    """Return the server's settings for a connection."""
    return {
        "application_name": "foliot",
        "search_path": config.schema,
        "default_transaction_isolation": "read committed",
        "statement_timeout": str(int(timeout_s * 1000)),
        "lock_timeout": str(int(config.lock_timeout_s * 1000)),
        "idle_in_transaction_session_timeout": str(int(config.slow_timeout_s * 1000)),
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "client_min_messages": "warning",
        "jit": "off",
        **(_PINNED if pinned else {}),
    }


async def connect(dsn: str, config: PostgresConfig, *, pinned: bool, timeout_s: float) -> asyncpg.Connection:
    """Return a connection to a server that takes writes. Raises: StoreUnusableError, ReadOnlyStoreError; what
    asyncpg does."""
    connection = await asyncpg.connect(
        dsn, timeout=config.connect_timeout_s, command_timeout=timeout_s + config.lock_timeout_s,
        server_settings=settings(config, pinned=pinned, timeout_s=timeout_s),
    )  # fmt: skip
    try:
        version, is_read_only = await connection.fetchrow(_CHECK)
        if version < MIN_SERVER:
            raise StoreUnusableError(shown(dsn), f"is of PostgreSQL {version // 10_000}", "PostgreSQL 14 or later")
        if is_read_only:
            raise ReadOnlyStoreError(shown(dsn))
    except BaseException:
        connection.terminate()
        raise
    return connection


async def prepare(
    connection: asyncpg.Connection, dsn: str, config: PostgresConfig, *, shards: int, now_ms: int
) -> tuple[int, int]:  # fmt: skip
    """Create or check the schema, bring it up to date, and return its number of shards and what tells it from others, both
    fixed when it was made. Raises: StoreUnusableError."""
    path, migrations = shown(dsn), migrations_for("postgres")
    await connection.execute(f"set lock_timeout = {int(config.slow_timeout_s * 1000)}")  # another node may be at it
    if config.migrate and not await connection.fetchval("select to_regnamespace($1) is not null", config.schema):
        with contextlib.suppress(asyncpg.UniqueViolationError):  # another node made it at the same moment
            await connection.execute(f"create schema if not exists {config.schema}")
    history = await postgres_history(connection)
    if len(history) > len(migrations):
        raise StoreUnusableError(
            path, f"has schema version {len(history)}, made by a newer foliot",
            f"at most version {len(migrations)}; upgrade this foliot",
        )  # fmt: skip
    if len(history) < len(migrations) and not config.migrate:
        raise StoreUnusableError(
            path, f"has schema version {len(history)}", f"version {len(migrations)}; start a node that may migrate it"
        )
    if not history and await _is_foreign(connection, config.schema):
        raise StoreUnusableError(
            path, f"has a schema {config.schema!r} of another program", "an empty schema, or another name for it"
        )
    try:
        await migrate_postgres(connection, migrations, now_ms=now_ms)
    except UnknownHistoryError as error:
        raise StoreUnusableError(path, f"was made by another foliot: {error}", "the known migrations") from error
    await connection.execute("insert into meta (name, value) values ('shards', $1) on conflict do nothing", shards)
    await connection.execute(_IDENTITY)
    stored: int = await connection.fetchval("select value from meta where name = 'shards'")
    if config.shards_exactly and stored != shards:
        raise StoreUnusableError(
            path, f"was made with {stored} shards, not {shards}", f"the setting {stored}: the number cannot change later"
        )
    identity: int = await connection.fetchval("select value from meta where name = 'identity'")
    return stored, identity


async def _is_foreign(connection: asyncpg.Connection, schema: str) -> Any:
    """Return whether there are tables in the schema but no history; all of it in one snapshot."""
    return await connection.fetchval(
        "select count(*) > 0 and not bool_or(tablename = 'migrations') from pg_tables where schemaname = $1", schema
    )
