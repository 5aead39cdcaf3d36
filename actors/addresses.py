"""Addresses of the cast: `kind.key`, which is also the NATS subject an owner subscribes to.

Tenants, queues and pools are names of 1 to 64 letters, digits, `_` and `-`; handlers may also contain dots.
"""

from __future__ import annotations

import re

from ..runtime.errors import UsageError
from ..runtime.hashing import slot_of

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HANDLER = re.compile(r"[A-Za-z0-9_.<>-]{1,200}")


class InvalidNameError(UsageError):
    """A tenant, queue, pool or handler name that cannot be an address."""

    code = "invalid_name"

    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"{what} {name[:80]!r} is not a name, expected 1 to 64 letters, digits, '_' and '-'")
        self.what = what
        self.name = name


def check_name(what: str, name: str) -> str:
    """Return `name`. Raises: InvalidNameError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidNameError(what, str(name))
    return name


def check_handler(name: str) -> str:
    """Return the handler name. Raises: InvalidNameError."""
    if not isinstance(name, str) or not _HANDLER.fullmatch(name):
        raise InvalidNameError("handler", str(name))
    return name


def shard_address(shard: int) -> str:
    return f"shard.{shard}"


def queue_address(pool: str, queue: str) -> str:
    return f"queue.{pool}.{queue}"


def tenant_address(tenant: str) -> str:
    return f"tenant.{tenant}"


def worker_address(session: str) -> str:
    """The WorkerActor that watches a session."""
    return f"worker.{session}"


def session_address(session: str) -> str:
    """The worker process's own end of a session."""
    return f"session.{session}"


def slot_of_address(address: str, slots: int) -> int | None:
    """Return the slot an actor lives in: shard N in slot N, the others where their address hashes to. None: it is not an
    actor's address, but a session's, say, which is bound by itself."""
    kind, _, key = address.partition(".")
    if kind == "shard":
        return int(key)
    return slot_of(address, slots) if kind in ("queue", "tenant", "worker") else None


def key_of(address: str) -> str:
    """Return the part of an address after its kind."""
    return address.partition(".")[2]
