"""The bounds of a store on PostgreSQL, and how its address is shown: without the password."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from ...runtime.errors import StoreUnusableError
from ...runtime.ids import MAX_SHARDS
from ..errors import InvalidStoreOptionError

_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True)
class PostgresConfig:
    """The bounds of one store. Each wait ends: by the server's own limit, and a little later by this side's."""

    schema: str = "foliot"  # everything lies in it
    migrate: bool = True  # bring an older or empty database up to date; else it is refused
    shards_exactly: bool = False  # refuse a database of another number of shards, instead of taking over its number
    readers: int = 4  # connections that answer queries
    keepers: int = 4  # connections for claims, retention and the like
    group_rows_max: int = 8_192  # rows of turns to a transaction
    connect_timeout_s: float = 5.0
    commit_timeout_s: float = 10.0  # then the connection is given up, and its outcome looked up over a new one
    resolve_timeout_s: float = 30.0  # how long that may take, before the outcome counts as unknown
    statement_timeout_s: float = 8.0  # the server's: for commits and a shard's queries
    slow_timeout_s: float = 60.0  # the server's: for lists, recounts, retention
    lock_timeout_s: float = 5.0  # the server's: for a shard's row that another node holds
    reconnect_ms: int = 50  # before the first try, doubling ...
    reconnect_max_ms: int = 1_000  # ... up to this
    lease_ids_min: int = 4_096  # leased tasks of a shard after which its list of leases is made shorter
    partition_hours: int = 24  # of tasks that one partition holds, by when they were made; 0: none are made
    partitions_ahead: int = 3
    stayers_max: int = 20_000  # tasks that may be moved out of a partition, so that it can be dropped

    def check(self, dsn: str, shards: int) -> None:
        """Raises: InvalidStoreOptionError; StoreUnusableError for what is no address of PostgreSQL."""
        if urlsplit(dsn).scheme not in ("postgres", "postgresql"):
            raise StoreUnusableError(shown(dsn), "is no address of PostgreSQL", "postgresql://user@host:port/database")
        if not 1 <= shards <= MAX_SHARDS:
            raise InvalidStoreOptionError("shards", shards, f"1 to {MAX_SHARDS}")
        if not _SCHEMA.fullmatch(self.schema):
            raise InvalidStoreOptionError("schema", self.schema, "a lower-case name")
        for name, lowest, highest in (("readers", 1, 64), ("keepers", 1, 16), ("partition_hours", 0, 24 * 366)):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise InvalidStoreOptionError(name, value, f"{lowest} to {highest}")


def shown(dsn: str) -> str:
    """Return the address without user and password."""
    parts = urlsplit(dsn)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
