"""What PostgreSQL's errors mean to a caller: a bug, a moment's trouble, or a connection that is gone.

What holds: `is_lost` says so whenever the server may have gone on without this connection; then a commit's outcome
has to be looked up. Everything else was answered by a living server, so nothing of it was written.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from ...runtime.errors import DiskFullError, FoliotError, OutdatedError, StoreError, StoreUnusableError
from ..errors import StatementError

STALE: Final = "FO001"
GONE: Final = "FO002"
REPLACED: Final = "FO003"
_BUGS: Final = ("21", "22", "23", "42", "P0")
_LOST: Final = ("08", "57P", "XX", "58")
_ROLES: Final = ("42501", "28", "3D")


class ReadOnlyStoreError(StoreError):
    """The server takes no writes: a standby, or one that was made read-only."""

    code = "store_read_only"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"database {path!r} is read-only, a standby perhaps; name the server that takes writes (target_session_attrs in"
            f" the address finds it), or wait until it does"
        )
        self.path = path


class UnreachableStoreError(StoreError):
    """No connection at this moment; nothing was written. `is_open`: the store is in use, and tries again of itself."""

    code = "store_unreachable"

    def __init__(self, path: str, reason: str, *, is_open: bool = True) -> None:
        goes_on = "; work goes on when it can" if is_open else ""
        super().__init__(f"database {path!r} cannot be reached: {reason}{goes_on}")
        self.path = path
        self.reason = reason


def is_lost(error: BaseException) -> bool:
    """Return whether the connection is gone, or has to be given up."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state.startswith(_LOST) or state in (REPLACED, "25P03")
    if isinstance(error, (asyncpg.DataError, asyncpg.UnsupportedClientFeatureError)):
        return False
    return isinstance(error, (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError, EOFError))


def refused(error: BaseException, path: str) -> FoliotError:
    """Return the error for a statement that failed, or was not answered, on an open database."""
    if isinstance(error, FoliotError):
        return error
    if isinstance(error, asyncpg.DataError) and not isinstance(error, asyncpg.PostgresError):
        return StatementError(path, str(error))  # found on this side, when the rows were encoded
    if is_lost(error) or not isinstance(error, asyncpg.PostgresError):
        return UnreachableStoreError(path, reason_of(error))
    state = error.sqlstate or ""
    if state == GONE:
        return OutdatedError("a task to be revived was deleted")
    if state == "23505" and getattr(error, "constraint_name", "") == "ticks_pkey":
        return OutdatedError("a tick was decided before")
    if state == "53100":
        return DiskFullError(path)
    if state == "25006":
        return ReadOnlyStoreError(path)
    if state.startswith(_ROLES):
        return StoreError(f"database {path!r} refused the user: {error}; expected one that may read and write its tables")
    if state.startswith(_BUGS):
        return StatementError(path, str(error))
    return StoreError(f"database {path!r} failed: {reason_of(error)}; expected a server that answers in time")


def unusable(error: BaseException, path: str) -> FoliotError:
    """Return the error that says why a database cannot be opened."""
    if isinstance(error, UnreachableStoreError):
        return UnreachableStoreError(path, error.reason, is_open=False)
    if isinstance(error, FoliotError):
        return error
    state = getattr(error, "sqlstate", None) or ""
    if state.startswith("28"):
        return StoreUnusableError(path, f"refuses the user: {reason_of(error)}", "the right user and password")
    if state == "3D000":
        return StoreUnusableError(path, "does not exist", "a database made with createdb")
    if state == "42501":
        return StoreUnusableError(
            path, f"gives the user too few rights: {reason_of(error)}", "a user that may make a schema, or owns Foliot's"
        )
    if isinstance(error, (OSError, TimeoutError)) or state.startswith(("57", "53", "55")) or is_lost(error):
        return UnreachableStoreError(path, reason_of(error), is_open=False)
    return StoreUnusableError(path, f"cannot be opened: {reason_of(error)}", "PostgreSQL 14 or later")


def away(error: BaseException, path: str) -> StoreError:
    """Return the error for a connection that could not be made again while the store is in use: it may come back."""
    found = unusable(error, path)
    if isinstance(found, UnreachableStoreError):
        return UnreachableStoreError(path, found.reason)
    return found if isinstance(found, StoreError) else UnreachableStoreError(path, str(found))


def reason_of(error: BaseException) -> str:
    """Return one line."""
    return " ".join(str(error).split()) or type(error).__name__
