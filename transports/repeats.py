"""Requests that were sent more than once, and what a refusal of a repetition says: nothing about the first.

A repetition may be refused (the shard's store is stalled, its mailbox is full, it is moving) while the first copy is still
on its way and is carried out a moment later. So until a repeated request gets an answer that is good for all copies, its
outcome is unknown.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..actors.messages import SubmitTasks, TasksSubmitted, WatchTasks
from ..runtime.bus import Refusal
from . import api

REPEATABLE: Final = (
    WatchTasks, api.Hello, api.GetTasks, api.ListTasks, api.ReadLogs, api.WhyTasks, api.ListQueues, api.SetQueue,
    api.ListWorkers, api.ListTenants, api.SetTenant, api.Verify, api.ReadStats,
)  # fmt: skip
"""Requests whose repetition changes nothing; a submission is one if it has a request id."""

RETRYABLE: Final = (
    "overloaded", "rate_limited", "unavailable", "no_such_actor", "deadline", "store", "disk_full", "no_members",
)  # fmt: skip
"""Codes of single refused tasks after which the same task may pass a little later."""


def may_repeat(message: Any) -> bool:
    """Tell whether the request may be sent again."""
    return isinstance(message, REPEATABLE) or (isinstance(message, SubmitTasks) and message.request_id != "")


def is_settled(message: Any, answer: Any) -> bool:
    """Tell whether the answer to a repetition is good for the earlier copies too."""
    if not isinstance(message, SubmitTasks):
        return True
    if isinstance(answer, Refusal):
        return answer.retry_after_ms < 0 and answer.code != "quota_exceeded"  # the first may have been within the quota
    return not isinstance(answer, TasksSubmitted) or all(refusal.code not in RETRYABLE for refusal in answer.refused)


def as_unknown(answer: Any) -> Any:
    """Return what can be said at the deadline: tasks whose refusal settles nothing have an unknown outcome."""
    if not isinstance(answer, TasksSubmitted):
        return None
    refused = [
        msgspec.structs.replace(refusal, code="deadline", text=f"its outcome is unknown; a repetition said: {refusal.text}")
        if refusal.code in RETRYABLE else refusal
        for refusal in answer.refused
    ]  # fmt: skip
    return msgspec.structs.replace(answer, refused=refused)
