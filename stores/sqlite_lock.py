"""One scheduler to a database file: an operating system's lock beside it, which dies with its process.

It lies beside the file itself, so that a symbolic link to it is no way around. The lock file stays when the lock is
gone, since removing it would let two processes each lock a file of their own.
A process forked without `exec` shares the lock and keeps it alive; so children are to be spawned.
"""

from __future__ import annotations

import fcntl
import os
import socket

import msgspec

from ..runtime.errors import StoreInUseError


class Owner(msgspec.Struct, frozen=True):
    """Who holds the lock, as the file says. `since_ms`: wall clock."""

    pid: int
    host: str
    since_ms: int


class FileLock:
    """The right to open a database as its scheduler, held until `release` or the end of the process."""

    def __init__(self, database: str, *, now_ms: int) -> None:
        """Take the lock. Raises: StoreInUseError naming the process that has it; OSError."""
        self._descriptor = os.open(os.path.realpath(database) + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            owner = Owner(os.getpid(), socket.gethostname(), now_ms)
            os.pwrite(self._descriptor, msgspec.json.encode(owner), 0)
        except BlockingIOError:
            text = _describe(os.pread(self._descriptor, 4096, 0))
            self.release()
            raise StoreInUseError(database, text) from None
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let others have it; harmless if that was done before."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _describe(content: bytes) -> str:
    try:
        owner = msgspec.json.decode(content, type=Owner)
    except msgspec.DecodeError:  # the owner is just writing it
        return "another process"
    return f"process {owner.pid} on {owner.host}"
