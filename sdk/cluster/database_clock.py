"""What time the database says it is, over a connection of its own, so that a busy writer does not make the answer late."""

from __future__ import annotations

from typing import Final

import asyncpg

from ...runtime.errors import StoreError

_ANSWER_S: Final = 5.0
_NOW: Final = "select (extract(epoch from clock_timestamp()) * 1000)::bigint"


async def database_now_ms(dsn: str) -> int:
    """Raises: StoreError."""
    try:
        connection = await asyncpg.connect(dsn, timeout=_ANSWER_S, command_timeout=_ANSWER_S)
        try:
            now_ms: int = await connection.fetchval(_NOW)
        finally:
            connection.terminate()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StoreError(f"the database's clock cannot be read: {error or type(error).__name__}") from error
    return now_ms
