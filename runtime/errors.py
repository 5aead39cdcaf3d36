"""The errors Foliot raises, as one tree that follows what the caller does next.

A class builds its message from its fields and keeps them as attributes: the fact and the values first, then what
was expected. `code` is the name an error travels under on the wire.
"""

from __future__ import annotations

from typing import ClassVar


class FoliotError(Exception):
    """The root of every error raised on purpose."""

    code: ClassVar[str] = "internal"


class UsageError(FoliotError):
    """The call itself is wrong: change the call."""

    code = "usage"


class NotFoundError(FoliotError):
    """What the call names is not there."""

    code = "not_found"


class LeaseError(FoliotError):
    """The right to run or to write is gone: stop, it is not yours."""

    code = "lease"


class NodeReplacedError(LeaseError):
    """Another process is in the cluster under this node's name, and it began later: this one must stop."""

    code = "node_replaced"

    def __init__(self, node: str, boot: str, other: str) -> None:
        super().__init__(f"node {node!r} of boot {boot} was replaced by boot {other}; give each node its own name")
        self.node = node
        self.boot = boot
        self.other = other


class ForeignNodeError(UsageError):
    """Nodes of another cluster speak where this node would."""

    code = "foreign_node"

    def __init__(self, node: str, other: str) -> None:
        super().__init__(
            f"node {node!r} has another database than node {other[:80]!r}, which is there already, expected the same one for"
            " all nodes of a broker: check the address of the database, or that of the broker"
        )
        self.node = node
        self.other = other


class UnavailableError(FoliotError):
    """Nothing is wrong with the call: try again later.

    `retry_after_ms`: when a retry is likely to pass, milliseconds from now.
    """

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_ms: int = 1_000) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class NoMembersError(UnavailableError):
    """The ring is empty, so nobody owns the key."""

    code = "no_members"

    def __init__(self) -> None:
        super().__init__("the ring has no members, expected at least one live node")


class MailboxFullError(UnavailableError):
    """An actor's mailbox is full; the message was not taken."""

    code = "overloaded"

    def __init__(self, address: str, capacity: int, *, retry_after_ms: int = 200) -> None:
        super().__init__(
            f"mailbox of {address!r} holds {capacity} messages, its bound; retry in {retry_after_ms} ms",
            retry_after_ms=retry_after_ms,
        )
        self.address = address
        self.capacity = capacity


class DeadlineError(UnavailableError):
    """No answer came in time; the outcome is unknown."""

    code = "deadline"

    def __init__(self, what: str, timeout_ms: int) -> None:
        super().__init__(f"{what} was not answered within {timeout_ms} ms; its outcome is unknown")
        self.what = what
        self.timeout_ms = timeout_ms


class NoSuchActorError(UnavailableError):
    """Nobody hosts the address at this moment."""

    code = "no_such_actor"

    def __init__(self, address: str) -> None:
        super().__init__(f"no actor at {address!r} at this moment, expected a node that hosts it")
        self.address = address


class StaleEpochError(LeaseError):
    """A commit by a node that no longer owns the shard."""

    code = "stale_epoch"

    def __init__(self, shard: int, epoch: int, current: int) -> None:
        super().__init__(f"shard {shard} is owned under epoch {current}, got a commit of epoch {epoch}")
        self.shard = shard
        self.epoch = epoch
        self.current = current


class StoreError(UnavailableError):
    """The store cannot take or give rows now; nothing of the refused group was written, except where a subclass says
    that this is unknown."""

    code = "store"


class CommitUnknownError(StoreError):
    """The connection broke during a commit: it may have been written. It must not be repeated, since it could then be
    applied twice."""

    code = "commit_unknown"

    def __init__(self, shard: int, epoch: int) -> None:
        super().__init__(f"a commit of shard {shard} under epoch {epoch} was not answered; it may have been written")
        self.shard = shard
        self.epoch = epoch


class OutdatedError(FoliotError):
    """What an actor wanted to write builds on rows that were deleted meanwhile. Nothing was written."""

    code = "outdated"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; nothing was written, and the actor has to read the store again")
        self.what = what


class DiskFullError(StoreError):
    """No room for new rows. Nothing accepted is lost; work goes on when there is room."""

    code = "disk_full"

    def __init__(self, path: str) -> None:
        super().__init__(f"no room to write to {path!r}; free space and work goes on", retry_after_ms=2_000)
        self.path = path


class StoreInUseError(UsageError):
    """Another process has the database open as its scheduler."""

    code = "store_in_use"

    def __init__(self, path: str, owner: str) -> None:
        super().__init__(f"database {path!r} is in use by {owner}; stop that process or choose another file")
        self.path = path
        self.owner = owner


class StoreUnusableError(UsageError):
    """The database file cannot be used as it is: corrupt, read-only, not a database, or too new."""

    code = "store_unusable"

    def __init__(self, path: str, reason: str, expected: str) -> None:
        super().__init__(f"database {path!r} {reason}; expected {expected}")
        self.path = path
        self.reason = reason


class EscalationError(FoliotError):
    """An actor failed too often in its window; its supervisor gave up on it."""

    code = "escalation"

    def __init__(self, address: str, failures: int, window_ms: int) -> None:
        super().__init__(f"actor {address!r} failed {failures} times within {window_ms} ms, its supervisor's bound")
        self.address = address
        self.failures = failures
