"""Opening SQLite files: every way in which a file can be unusable gets its own sentence.

A connection is opened for one of three uses: the writer (one a file), a reader, or a checkpointer. All use write-ahead
logging, so that readers see a snapshot and never wait for the writer, nor the writer for them.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import Final

from ..runtime.errors import DiskFullError, FoliotError, OutdatedError, StoreError, StoreUnusableError
from ..runtime.ids import MAX_SHARDS
from .errors import InvalidStoreOptionError as InvalidStoreOptionError
from .errors import StatementError as StatementError
from .migrate import UnknownHistoryError, migrate_sqlite, migrations_for, schema_version
from .sqlite_schedule_turn import is_repeated_tick
from .sqlite_staged import GONE

APPLICATION_ID: Final = 0x466F6C74
"""Marks the file as Foliot's: "Folt"."""
MIN_SQLITE: Final = (3, 40, 0)
_HEADER: Final = b"SQLite format 3\0"
_QUICK_CHECK_MAX: Final = 64 << 20  # bytes: a check of a larger file would be felt at every start
_BUSY_MS: Final = 5_000
_SYNCHRONOUS: Final = ("off", "normal", "full", "extra")


def check_options(*, shards: int, synchronous: str, readers: int) -> None:
    """Raises: InvalidStoreOptionError; StoreUnusableError if this SQLite is too old."""
    if not 1 <= shards <= MAX_SHARDS:
        raise InvalidStoreOptionError("shards", shards, f"1 to {MAX_SHARDS}")
    if synchronous not in _SYNCHRONOUS:
        raise InvalidStoreOptionError("synchronous", synchronous, "one of " + ", ".join(_SYNCHRONOUS))
    if not 1 <= readers <= 16:
        raise InvalidStoreOptionError("readers", readers, "1 to 16")
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise StoreUnusableError("", f"needs a newer SQLite than {sqlite3.sqlite_version}", "SQLite 3.40 or later")


def check_path(path: str) -> None:
    """Look at the file before SQLite does. Raises: StoreUnusableError."""
    file = Path(path)
    expected = "a writable file, or a name in a writable directory for a new one"
    if path == ":memory:" or path.startswith("file:") or "\0" in path:
        raise StoreUnusableError(path, "is no file", expected)
    try:
        status = file.stat()
    except FileNotFoundError:
        if not file.parent.is_dir():
            raise StoreUnusableError(path, f"is in {str(file.parent)!r}, which is not a directory", expected) from None
        if not os.access(file.parent, os.W_OK):
            raise StoreUnusableError(path, "cannot be created: its directory is read-only", expected) from None
        return
    except OSError as error:
        raise StoreUnusableError(path, f"cannot be looked at: {error.strerror}", expected) from error
    if not stat.S_ISREG(status.st_mode):
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise StoreUnusableError(path, f"is {what}", expected)
    # A file without any write permission is meant to stay as it is, also where root could write it.
    if not status.st_mode & 0o222 or not os.access(file, os.W_OK):
        raise StoreUnusableError(path, "is read-only", expected)
    if not os.access(file.parent, os.W_OK):
        raise StoreUnusableError(path, "is in a read-only directory", "a directory that can take the log beside the file")
    if status.st_size:
        with file.open("rb") as content:
            if content.read(len(_HEADER)) != _HEADER:
                raise StoreUnusableError(path, "is not a database", "an SQLite file made by foliot")


def identity(path: str) -> tuple[int, int]:
    """Return which file is at the path: device and number. Raises: OSError."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def prepare(path: str, *, shards: int, now_ms: int) -> int:
    """Create or check the file, bring its schema up to date, and return its number of shards, fixed when it was made.

    To be called by the holder of the file's lock. Raises: StoreUnusableError.
    """
    check_path(path)
    # Payloads are nobody else's business; SQLite gives the log and its index the mode of the file.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_MS / 1000)
    try:
        return _prepare(connection, path, shards, now_ms)
    except sqlite3.Error as error:
        raise unusable(error, path) from error
    finally:
        connection.close()


def _prepare(connection: sqlite3.Connection, path: str, shards: int, now_ms: int) -> int:
    migrations = migrations_for("sqlite")
    version = schema_version(connection)
    tables = connection.execute("select count(*) from sqlite_master").fetchone()[0]
    if tables or version:
        made_by = connection.execute("pragma application_id").fetchone()[0]
        if made_by != APPLICATION_ID:
            raise StoreUnusableError(path, "belongs to another program", "an SQLite file made by foliot")
    if version > len(migrations):
        raise StoreUnusableError(
            path, f"has schema version {version}, made by a newer foliot", f"at most version {len(migrations)}"
        )
    if Path(path).stat().st_size <= _QUICK_CHECK_MAX:
        [verdict] = connection.execute("pragma quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreUnusableError(path, f"is corrupt: {verdict}", "an intact file, from a backup say")
    connection.execute(f"pragma application_id = {APPLICATION_ID}")
    connection.execute("pragma journal_mode = wal")
    try:
        migrate_sqlite(connection, migrations, now_ms=now_ms)
    except UnknownHistoryError as error:
        raise StoreUnusableError(path, f"was made by another foliot: {error}", "the known migrations") from error
    connection.execute("insert into meta (name, value) values ('shards', ?) on conflict do nothing", (shards,))
    stored: int = connection.execute("select value from meta where name = 'shards'").fetchone()[0]
    return stored


def extend_log(path: str, *, size: int) -> None:
    """Make the write-ahead log `size` bytes long, in a transaction that is rolled back: it leaves unfinished pages in the
    log and nothing in the database. Commits then overwrite the file instead of lengthening it, which the disk makes
    durable about twice as fast."""
    connection = _connect(path, cache_kb=64)  # too small for the pages, so that they spill into the log
    try:
        connection.execute("pragma cache_spill = 1")
        connection.execute("begin immediate")
        connection.execute("create table extension (filler blob)")
        connection.execute("insert into extension values (zeroblob(?))", (size,))
        connection.execute("rollback")
    except sqlite3.OperationalError:
        pass  # no room for it: it is only a matter of speed
    finally:
        connection.close()


def connect_writer(path: str, *, synchronous: str = "full", cache_kb: int = 65_536) -> sqlite3.Connection:
    """Return the connection that writes. Checkpoints are somebody else's, up to a log of 256 MiB."""
    connection = _connect(path, cache_kb=cache_kb)
    connection.execute(f"pragma synchronous = {synchronous}")
    connection.execute("pragma wal_autocheckpoint = 65536")
    connection.execute("pragma journal_size_limit = 67108864")
    connection.execute("pragma secure_delete = off")
    return connection


def connect_reader(path: str, *, cache_kb: int = 16_384) -> sqlite3.Connection:
    """Return a connection that cannot write."""
    connection = _connect(path, cache_kb=cache_kb)
    connection.execute("pragma query_only = on")
    return connection


def connect_checkpointer(path: str) -> sqlite3.Connection:
    """Return a connection for copying the log into the database."""
    connection = _connect(path, cache_kb=1_024)
    connection.execute("pragma synchronous = full")
    return connection


def _connect(path: str, *, cache_kb: int) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=_BUSY_MS / 1000, cached_statements=64, check_same_thread=False
    )
    connection.execute("pragma temp_store = memory")
    connection.execute(f"pragma cache_size = -{cache_kb}")
    return connection


def unusable(error: sqlite3.Error, path: str) -> FoliotError:
    """Return the error that says why a file cannot be opened."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    match code:
        case sqlite3.SQLITE_NOTADB:
            return StoreUnusableError(path, "is not a database", "an SQLite file made by foliot")
        case sqlite3.SQLITE_CORRUPT:
            return StoreUnusableError(path, f"is corrupt: {error}", "an intact file, from a backup say")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreUnusableError(path, "is locked by another program", "a file that nothing else writes")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StoreUnusableError(path, "is read-only", "a writable file in a writable directory")
        case sqlite3.SQLITE_FULL:
            return DiskFullError(path)
        case _:
            return StoreUnusableError(path, f"cannot be opened: {error}", "an SQLite file made by foliot")


def refused(error: sqlite3.Error, path: str) -> FoliotError:
    """Return the error for a statement that failed on an open database."""
    if str(error) == GONE:
        return OutdatedError(GONE)
    if is_repeated_tick(str(error)):
        return OutdatedError("a tick was decided before")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    match code:
        case sqlite3.SQLITE_FULL:
            return DiskFullError(path)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreUnusableError(path, f"is corrupt: {error}", "an intact file, from a backup say")
        case sqlite3.SQLITE_ERROR | sqlite3.SQLITE_CONSTRAINT | sqlite3.SQLITE_MISMATCH | sqlite3.SQLITE_MISUSE:
            return StatementError(path, str(error))
        case _:
            return StoreError(f"database {path!r} failed: {error}; expected a disk that can be read and written")
