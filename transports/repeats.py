"""Requests that were sent more than once, and what a refusal of a repetition says: nothing about the first.

A repetition may be refused (the shard's store is stalled, its mailbox is full, it is moving) while the first copy is still
on its way and is carried out a moment later. So until a repeated request gets an answer that is good for all copies, its
outcome is unknown.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..actors.messages import SubmitTasks, TasksSubmitted, WatchTasks
from ..actors.schedule_messages import CommandBackfills, CommandSchedules, PutSchedules
from ..runtime.bus import Refusal
from . import api
from . import schedule_api as schedules

REPEATABLE: Final = (
    WatchTasks, api.Hello, api.GetTasks, api.ListTasks, api.ReadLogs, api.WhyTasks, api.ListQueues, api.SetQueue,
    api.ListWorkers, api.ListTenants, api.SetTenant, api.Verify, api.ReadStats, api.ListMembers,
    CommandBackfills, schedules.GetSchedules, schedules.ListSchedules, schedules.ListTicks, schedules.ListBackfills,
    schedules.ListCalendars, schedules.SetCalendar, schedules.PreviewSchedule, schedules.DiffSchedule,
    schedules.DryRunBackfill,
)  # fmt: skip
"""Requests whose repetition changes nothing; a submission is one if it has a request id. A schedule that is created, deleted
or triggered again gets another answer, or runs twice; one that is replaced, paused or resumed again does not."""

RETRYABLE: Final = (
    "overloaded", "rate_limited", "unavailable", "no_such_actor", "deadline", "store", "disk_full", "no_members",
    "store_unreachable", "store_read_only", "commit_unknown", "disconnected",
)  # fmt: skip
"""Codes of single refused tasks after which the same task may pass a little later."""


def may_repeat(message: Any) -> bool:
    """Tell whether the request may be sent again."""
    match message:
        case SubmitTasks():
            return message.request_id != ""
        case PutSchedules():
            return message.mode != "create"
        case CommandSchedules():
            return message.action in ("pause", "resume")
        case _:
            return isinstance(message, REPEATABLE)


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
