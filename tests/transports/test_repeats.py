"""What a repetition may be, and what its answer says about the copies sent before."""

from __future__ import annotations

from typing import Any

import pytest
from foliot.actors import messages as m
from foliot.actors.messages import SubmitTasks, TaskRefusal, TasksSubmitted
from foliot.runtime.bus import Refusal
from foliot.runtime.errors import (
    CommitUnknownError,
    DeadlineError,
    DiskFullError,
    MailboxFullError,
    NoMembersError,
    NoSuchActorError,
    StoreError,
    UnavailableError,
)
from foliot.sdk.errors import error_of_task
from foliot.stores.postgres.failures import ReadOnlyStoreError, UnreachableStoreError
from foliot.transports import api
from foliot.transports.nats.errors import LinkDownError, OutboundFullError
from foliot.transports.repeats import as_unknown, is_settled, may_repeat

HELD = TaskRefusal(0, "duplicate", "held", 9)
LATER = ("overloaded", "rate_limited", "unavailable", "no_such_actor", "deadline", "store", "disk_full", "no_members")


def submission(request_id: str = "r") -> SubmitTasks:
    return SubmitTasks("acme", [m.Template("h")], [m.TaskSpec(0, b""), m.TaskSpec(0, b"")], request_id)


def test_what_changes_nothing_and_what_has_a_name_may_be_repeated() -> None:
    assert may_repeat(submission("r"))
    assert may_repeat(m.WatchTasks("acme", [1], 5))
    assert may_repeat(api.GetTasks("acme", [1]))
    assert not may_repeat(submission(""))
    assert not may_repeat(m.CancelTasks("acme", [1]))


@pytest.mark.parametrize(
    "answer",
    [TasksSubmitted([7, 8]), *[TasksSubmitted([0, 8], [], [refusal]) for refusal in (HELD, TaskRefusal(0, "payload", "no"))],
     Refusal("invalid_name", "bad"), Refusal("permission", "no")],
)  # fmt: skip
def test_what_no_copy_would_be_answered_otherwise_settles_a_submission(answer: Any) -> None:
    assert is_settled(submission(), answer)


@pytest.mark.parametrize(
    "answer",
    [*[Refusal(code, "later", 5) for code in LATER], *[Refusal("quota_exceeded", "full", wait_ms) for wait_ms in (-1, 5)],
     *[TasksSubmitted([7, 0], [], [TaskRefusal(1, code, "later")]) for code in LATER],
     TasksSubmitted([0, 0], [], [HELD, TaskRefusal(1, "overloaded", "later")])],
)  # fmt: skip
def test_what_refuses_a_repetition_alone_settles_nothing(answer: Any) -> None:
    """The copy before it may be carried out a moment later, or have been before."""
    assert not is_settled(submission(), answer)


@pytest.mark.parametrize("answer", [m.TasksAnswered(["cancelled"]), Refusal("overloaded", "later", 5)])
def test_every_answer_settles_what_changes_nothing(answer: Any) -> None:
    assert is_settled(api.GetTasks("acme", [1]), answer)


def test_at_the_deadline_only_what_is_certain_is_said() -> None:
    later = TaskRefusal(1, "overloaded", "its queue is full")

    answer = as_unknown(TasksSubmitted([0, 0], [], [HELD, later]))

    unknown = TaskRefusal(1, "deadline", "its outcome is unknown; a repetition said: its queue is full")
    assert answer == TasksSubmitted([0, 0], [], [HELD, unknown])
    assert as_unknown(Refusal("overloaded", "full", 5)) is None
    assert as_unknown(None) is None


@pytest.mark.parametrize(
    "kind",
    [
        UnavailableError, MailboxFullError, DeadlineError, NoSuchActorError, NoMembersError, StoreError, CommitUnknownError,
        DiskFullError, UnreachableStoreError, ReadOnlyStoreError, LinkDownError, OutboundFullError,
    ],
)  # fmt: skip
def test_whatever_a_shard_or_a_bus_may_be_unable_to_do_now_says_nothing_of_an_earlier_copy(
    kind: type[UnavailableError],
) -> None:
    answer = TasksSubmitted([0], refused=[TaskRefusal(0, kind.code, "not now")])

    assert not is_settled(SubmitTasks("acme", [], [], "r1"), answer)
    assert as_unknown(answer).refused[0].code == "deadline"
    assert isinstance(error_of_task(answer.refused[0]), UnavailableError)
