"""What a JetStream server keeps: streams, their entries and their consumers, as plain values.

Modelled on nats-server 2.15 as far as one-way submissions and the event feed use it; a suite runs the same tests against
this and against a real server. Nothing here travels, waits or reads a clock. What holds: the same calls lead to the same
state, so that a server that loses power can do again what its disk had.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..runtime.hashing import slot_of
from ..transports.nats.errors import ApiError
from ..transports.nats.port import ConsumerConfig, NotStoredError, StreamConfig, StreamFullError

_PARTITION = re.compile(r"\{\{partition\((\d+),(\d+)\)\}\}")
_WILDCARD = re.compile(r"\{\{wildcard\((\d+)\)\}\}")
_MS = 1_000_000


def matches(pattern: str, subject: str) -> bool:
    """Tell whether a subject is one of a pattern's."""
    wanted, found = pattern.split("."), subject.split(".")
    for at, token in enumerate(wanted):
        if token == ">":
            return len(found) > at
        if at >= len(found) or token not in ("*", found[at]):
            return False
    return len(wanted) == len(found)


def overlap(one: str, other: str) -> bool:
    """Tell whether a subject can be of both patterns."""
    for mine, theirs in zip(one.split("."), other.split("."), strict=False):
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs):
            return False
    return one.count(".") == other.count(".")


def transformed(subject: str, transform: tuple[str, str] | None) -> str:
    """Return what an entry is stored as."""
    if transform is None or not matches(transform[0], subject):
        return subject
    tokens = subject.split(".")
    wild = [token for token, wanted in zip(tokens, transform[0].split("."), strict=True) if wanted == "*"]
    stored = _PARTITION.sub(lambda found: str(slot_of(wild[int(found[2]) - 1], int(found[1]))), transform[1])
    return _WILDCARD.sub(lambda found: wild[int(found[1]) - 1], stored)


@dataclass(frozen=True)
class Stored:
    """An entry as a stream has it. `stamp`: nanoseconds since 1970."""

    position: int
    stamp: int
    subject: str
    data: bytes


@dataclass
class Consumer:
    """`after`: the position it has come to; `unacked`: by position, until when an acknowledgement is waited for, nanoseconds
    of simulated time; `again`: what was not acknowledged in time, in the order it will come again."""

    config: ConsumerConfig
    after: int = 0
    number: int = 0  # of the last entry handed over
    unacked: dict[int, int] = field(default_factory=dict)
    again: list[int] = field(default_factory=list)

    def copy(self) -> Consumer:
        return replace(self, unacked=dict(self.unacked), again=list(self.again))


@dataclass
class Stream:
    """`life`: when it was made, which tells it from one that had its name before."""

    config: StreamConfig
    life: str
    entries: dict[int, Stored] = field(default_factory=dict)  # by position, ascending
    last: int = 0  # the newest position that was given
    ids: dict[str, tuple[int, int]] = field(default_factory=dict)  # id → (position, stamp), within the dedupe window
    consumers: dict[str, Consumer] = field(default_factory=dict)

    def copy(self) -> Stream:
        return replace(
            self, entries=dict(self.entries), ids=dict(self.ids),
            consumers={name: consumer.copy() for name, consumer in self.consumers.items()},
        )  # fmt: skip

    # -- entries -----------------------------------------------------------------------------------------------------

    def append(self, subject: str, data: bytes, message_id: str, stamp: int) -> tuple[int, bool]:
        """Store an entry. Returns: its position, and whether it was there already. Raises: StreamFullError,
        NotStoredError."""
        config = self.config
        self._expire(stamp)
        if message_id in self.ids:
            return self.ids[message_id][0], True
        if config.max_entry_bytes and len(data) > config.max_entry_bytes:
            raise NotStoredError(subject, "message size exceeds maximum allowed (10054)")
        stored = transformed(subject, config.transform)
        self._make_room(subject, stored, len(data))
        self.last += 1
        self.entries[self.last] = Stored(self.last, stamp, stored, data)
        if message_id:
            self.ids[message_id] = self.last, stamp
        return self.last, False

    def _expire(self, stamp: int) -> None:
        self.ids = {name: seen for name, seen in self.ids.items() if stamp - seen[1] <= self.config.dedupe_ms * _MS}
        if self.config.max_age_ms:
            for entry in list(self.entries.values()):
                if stamp - entry.stamp <= self.config.max_age_ms * _MS:
                    break
                del self.entries[entry.position]

    def _make_room(self, subject: str, stored: str, size: int) -> None:
        """Raises: StreamFullError, NotStoredError."""
        config = self.config
        of_subject = [entry.position for entry in self.entries.values() if entry.subject == stored]
        taken = sum(len(entry.data) for entry in self.entries.values())
        if config.discard == "new":
            if config.max_per_subject and len(of_subject) >= config.max_per_subject:
                raise StreamFullError(subject, "maximum messages per subject exceeded (10077)")
            if config.max_entries and len(self.entries) >= config.max_entries:
                raise StreamFullError(subject, "maximum messages exceeded (10077)")
            if config.max_bytes and taken + size > config.max_bytes:
                raise StreamFullError(subject, "maximum bytes exceeded (10077)")
            return
        while config.max_per_subject and len(of_subject) >= config.max_per_subject:
            del self.entries[of_subject.pop(0)]
        while self.entries and (
            (config.max_entries and len(self.entries) >= config.max_entries)
            or (config.max_bytes and sum(len(entry.data) for entry in self.entries.values()) + size > config.max_bytes)
        ):
            del self.entries[next(iter(self.entries))]

    # -- consumers ---------------------------------------------------------------------------------------------------

    def add_consumer(self, config: ConsumerConfig) -> None:
        """Raises: ApiError where there are too many, or another one has these entries already."""
        op = f"CONSUMER.CREATE.{self.config.name}.{config.name}"
        held = self.consumers.get(config.name)
        if held is not None:
            if held.config != config:
                raise ApiError(op, 400, 10148, "consumer already exists")
            return
        if len(self.consumers) >= self.config.max_consumers:
            raise ApiError(op, 400, 10026, "maximum consumers limit reached")
        if self.config.retention == "workqueue":
            if not config.acknowledges:
                raise ApiError(op, 400, 10098, "workqueue stream requires explicit ack")
            if any(overlap(config.filter, each.config.filter) for each in self.consumers.values()):
                raise ApiError(op, 400, 10100, "filtered consumer not unique on workqueue stream")
        after = config.after
        if not after and config.since_ms:
            older = [entry.position for entry in self.entries.values() if entry.stamp < config.since_ms * _MS]
            after = older[-1] if older else 0
        self.consumers[config.name] = Consumer(config, after)

    def next_for(self, consumer: Consumer) -> Stored | None:
        """Return what a consumer hands over next: what comes again first."""
        if consumer.config.acknowledges and len(consumer.unacked) >= consumer.config.max_unacked:
            return None
        for position in list(consumer.again):
            if position in self.entries:
                return self.entries[position]
            consumer.again.remove(position)  # it is gone meanwhile
        return next(self._new_for(consumer), None)

    def _new_for(self, consumer: Consumer) -> Iterator[Stored]:
        for position, entry in self.entries.items():
            if position > consumer.after and matches(consumer.config.filter, entry.subject):
                yield entry

    def hand_over(self, consumer: Consumer, entry: Stored, until_ns: int) -> int:
        """Note that an entry leaves. Returns: its number."""
        if entry.position in consumer.again:
            consumer.again.remove(entry.position)
        else:
            consumer.after = entry.position
        consumer.number += 1
        if consumer.config.acknowledges:
            consumer.unacked[entry.position] = until_ns
        return consumer.number

    def overdue(self, consumer: Consumer, now_ns: int) -> None:
        """Have come again what was not acknowledged in time."""
        for position in sorted(at for at, until_ns in consumer.unacked.items() if until_ns <= now_ns):
            del consumer.unacked[position]
            consumer.again.append(position)

    def ack(self, name: str, position: int) -> None:
        """An acknowledgement has come. One for a consumer that is gone, or for what it does not wait for, means nothing."""
        consumer = self.consumers.get(name)
        if consumer is None or (position not in consumer.unacked and position not in consumer.again):
            return
        consumer.unacked.pop(position, None)
        if position in consumer.again:
            consumer.again.remove(position)
        if self.config.retention == "workqueue":
            self.entries.pop(position, None)
