"""Refusals say what the error says, and travel."""

from __future__ import annotations

import msgspec
import pytest
from foliot.runtime.bus import Envelope, Refusal, RefusedError
from foliot.runtime.errors import (
    DeadlineError,
    DiskFullError,
    FoliotError,
    MailboxFullError,
    NoSuchActorError,
    StaleEpochError,
    StoreUnusableError,
)


@pytest.mark.parametrize(
    ("error", "code", "retry_after_ms"),
    [
        (MailboxFullError("shard.1", 512), "overloaded", 200),
        (DiskFullError("foliot.db"), "disk_full", 2_000),
        (NoSuchActorError("shard.9"), "no_such_actor", 1_000),
        (DeadlineError("submit", 500), "deadline", 1_000),
        (StaleEpochError(1, 4, 5), "stale_epoch", -1),
        (StoreUnusableError("a.db", "is not a database", "a file of Foliot"), "store_unusable", -1),
    ],
)
def test_a_refusal_says_what_its_error_says(error: FoliotError, code: str, retry_after_ms: int) -> None:
    refusal = Refusal.of(error)

    assert refusal == Refusal(code, str(error), retry_after_ms)
    assert str(RefusedError(refusal)) == str(error)
    assert RefusedError(refusal).refusal is refusal


def test_an_envelope_and_a_refusal_survive_the_wire() -> None:
    refusal = Refusal("duplicate", "a task has this key", -1, {"task_id": "0000000000001"})
    envelope = Envelope("client.1", refusal, "shard.1", 7)

    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(envelope), type=Envelope)

    assert (decoded.to, decoded.sender, decoded.request) == ("client.1", "shard.1", 7)
    assert msgspec.convert(decoded.message, Refusal) == refusal
