"""JetStream as the inbox and the event feed need it: few calls, so that a model can stand in for the servers.

What holds of whatever implements it: an entry that was confirmed is in the stream, unless the stream loses it, which it may;
a consumer hands entries over in the order of their positions, numbered without a gap, and ends where it cannot go on so;
what is not acknowledged comes again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

import msgspec

from ...runtime.errors import FoliotError, UnavailableError, UsageError


class JetStreamMissingError(UsageError):
    """The servers keep no streams for this user."""

    code: ClassVar[str] = "jetstream_missing"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the NATS servers offer no JetStream: {reason}; start nats-server with -js, or set jetstream {{}}")
        self.reason = reason


class StreamMismatchError(UsageError):
    """A stream of that name is there, and it cannot be made what it should be."""

    code: ClassVar[str] = "stream_mismatch"

    def __init__(self, stream: str, reason: str) -> None:
        super().__init__(f"stream {stream} is not as it should be: {reason}; change it, or delete it once it is empty")
        self.stream = stream
        self.reason = reason


class StreamFullError(UnavailableError):
    """The stream takes no more at this moment: all of it, or for this subject. Nothing was stored."""

    code: ClassVar[str] = "overloaded"

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"the stream of {subject!r} is full: {reason}; retry in 1000 ms", retry_after_ms=1_000)
        self.subject = subject
        self.reason = reason


class NotStoredError(FoliotError):
    """The stream refused an entry for good. Nothing was stored."""

    code: ClassVar[str] = "not_stored"

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"an entry to {subject!r} was refused by its stream: {reason}")
        self.subject = subject
        self.reason = reason


@dataclass(frozen=True)
class StreamConfig:
    """A stream. A limit of 0 is none; `max_consumers` has none that is safe, since servers take 1,000 for none.

    `transform`: (from, to), how the subject of an entry is changed as it is stored."""

    name: str
    subjects: tuple[str, ...]
    max_consumers: int
    retention: str = "limits"  # or workqueue: what is acknowledged goes
    discard: str = "old"  # or new: a full stream refuses
    replicas: int = 1
    max_bytes: int = 0
    max_entries: int = 0
    max_per_subject: int = 0
    max_entry_bytes: int = 0
    max_age_ms: int = 0
    dedupe_ms: int = 100  # how long an entry's id is remembered; the least there is
    compression: str = "none"
    transform: tuple[str, str] | None = None

    def body(self) -> dict[str, Any]:
        """Return it as the JSON API takes it."""
        body: dict[str, Any] = {
            "name": self.name,
            "subjects": list(self.subjects),
            "retention": self.retention,
            "storage": "file",
            "discard": self.discard,
            "discard_new_per_subject": self.discard == "new" and self.max_per_subject > 0,
            "num_replicas": self.replicas,
            "max_consumers": self.max_consumers,
            "max_bytes": self.max_bytes or -1,
            "max_msgs": self.max_entries or -1,
            "max_msgs_per_subject": self.max_per_subject or -1,
            "max_msg_size": self.max_entry_bytes or -1,
            "max_age": self.max_age_ms * 1_000_000,
            "duplicate_window": self.dedupe_ms * 1_000_000,
            "compression": self.compression,
            "deny_delete": True,
        }
        if self.transform is not None:
            body["subject_transform"] = {"src": self.transform[0], "dest": self.transform[1]}
        return body


@dataclass(frozen=True)
class ConsumerConfig:
    """A consumer that is pulled from. `since_ms`: begin with entries stored at that instant or later; `after`: with those
    beyond that position. `batch`, `batch_bytes`: of one pull, of which two are under way at once."""

    name: str
    filter: str
    acknowledges: bool = True
    since_ms: int = 0
    after: int = 0
    ack_wait_ms: int = 30_000
    max_unacked: int = 1_024
    inactive_ms: int = 3_600_000  # then the server forgets it
    replicas: int = 0  # 0: as the stream
    batch: int = 256
    batch_bytes: int = 1 << 20

    def body(self) -> dict[str, Any]:
        """Return it as the JSON API takes it."""
        body: dict[str, Any] = {
            "name": self.name,
            "filter_subject": self.filter,
            "ack_policy": "explicit" if self.acknowledges else "none",
            "deliver_policy": "all",
            "replay_policy": "instant",
            "max_waiting": 8,
            "num_replicas": self.replicas,
            "inactive_threshold": self.inactive_ms * 1_000_000,
        }
        if self.acknowledges:
            body |= {
                "durable_name": self.name,
                "ack_wait": self.ack_wait_ms * 1_000_000,
                "max_deliver": -1,
                "max_ack_pending": self.max_unacked,
            }
        else:
            body["mem_storage"] = True
        if self.after:
            body |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self.after + 1}
        elif self.since_ms:
            body |= {"deliver_policy": "by_start_time", "opt_start_time": _rfc3339(self.since_ms)}
        return body


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An entry of a stream, as a consumer hands it over. `stamp`: when it was stored, nanoseconds since 1970. `number`: of
    this consumer, from 1 without a gap. `ack_to`: what acknowledges it."""

    subject: str
    data: bytes
    position: int
    stamp: int
    number: int
    ack_to: str = ""


class Consumption(Protocol):
    """A consumer at work."""

    def release(self, entry: Entry) -> None:
        """The taker keeps this entry no longer; others may come in its place."""
        ...

    def close(self) -> None:
        """Ask for no more. The consumer stays. What was under way may still be handed over."""
        ...


Take = Callable[[Entry], None]
Ended = Callable[[str], None]


class Publishing(Protocol):
    """Where entries can be stored."""

    async def publish(self, subject: str, data: bytes, *, message_id: str = "") -> int:
        """Store an entry and return its position. One of an id that was stored within the dedupe window is not stored again.
        Raises: StreamFullError, NotStoredError; DeadlineError, after which it may be stored or not; UnavailableError."""
        ...


class JetStream(Publishing, Protocol):
    """The servers' streams. All calls may raise UnavailableError: try again later."""

    async def ensure(self, config: StreamConfig) -> str:
        """See to it that the stream is there as configured. Returns: which life of it this is; one that was deleted or lost
        and made again has another. Raises: JetStreamMissingError, StreamMismatchError."""
        ...

    async def consumers(self, stream: str) -> list[str]:
        """Return the names of a stream's consumers. Raises: ApiError if the stream is gone."""
        ...

    async def consume(self, stream: str, config: ConsumerConfig, take: Take, ended: Ended) -> Consumption:
        """Make a consumer and begin: `take` is called with each entry, `ended` once, with the reason, when no more will
        come. Both are plain calls and must not block. Raises: ApiError if the stream is gone, or consumed already."""
        ...

    async def forget(self, stream: str, consumer: str) -> None:
        """Delete a consumer: whoever pulls from it is told. Harmless if it is gone."""
        ...

    def ack(self, entry: Entry) -> None:
        """Acknowledge an entry. It may be lost: then the entry comes again."""
        ...


def _rfc3339(at_ms: int) -> str:
    """Return an instant as RFC 3339 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(at_ms // 1_000, UTC)
    milli = f".{at_ms % 1_000:03}".rstrip("0").rstrip(".")  # as the servers write it back
    return f"{moment:%Y-%m-%dT%H:%M:%S}{milli}Z"
