"""What a client hands to people: tasks with names, datetimes and decoded payloads instead of numbers and bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from ..actors.messages import TaskEnd, TaskError
from ..actors.states import State
from ..runtime.errors import FoliotError
from ..runtime.ids import to_text
from ..transports.api import AttemptView, TaskView, Why
from .errors import CancelledTaskError, TaskExpiredError, TaskFailedError, TaskNotFoundError, TaskSkippedError


class AttemptInfo(msgspec.Struct, frozen=True):
    """An attempt that did not complete. `outcome`: failed, timed_out, cancelled, returned, interrupted, worker_died."""

    attempt: int
    outcome: str
    worker: str
    started_at: datetime | None
    ended_at: datetime | None
    error: TaskError | None


class TaskInfo(msgspec.Struct, frozen=True):
    """A task as it stands. Moments that have not come are None; `progress` is None or 0.0 to 1.0.

    In lists, `payload` and `attempts` are left out."""

    id: str
    tenant: str
    handler: str
    queue: str
    state: str
    priority: int
    attempt: int
    max_attempts: int
    created_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    updated_at: datetime | None
    worker: str
    key: str
    dedupe_key: str
    is_cancelling: bool
    payload: Any
    result: Any
    error: TaskError | None
    attempts: list[AttemptInfo]
    progress: float | None
    note: str
    pool: str = "default"


class WhyInfo(msgspec.Struct, frozen=True):
    """Why a task is where it is. `ahead`: tasks before it in its line, None if unknown."""

    id: str
    state: str
    reason: str
    text: str
    ahead: int | None
    at: datetime | None


def moment(at_ms: int) -> datetime | None:
    """Return an instant as an aware datetime in UTC, None for 0 and for what the calendar does not have."""
    if not at_ms:
        return None
    try:
        return datetime.fromtimestamp(at_ms / 1000, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return None


def decoded(data: bytes) -> Any:
    """Return a payload's or result's value; None for no bytes; the bytes themselves where they are not msgpack."""
    if not data:
        return None
    try:
        return msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data


def state_label(state: int) -> str:
    """Return the name of a state's number; `not_found` for 0."""
    try:
        return State(state).label
    except ValueError:
        return "not_found" if state == 0 else str(state)


def info_of(view: TaskView) -> TaskInfo:
    """Return a task for people."""
    created_at = moment(view.created_ms)
    assert created_at is not None
    return TaskInfo(
        id=to_text(view.id),
        tenant=view.tenant,
        handler=view.handler,
        queue=view.queue,
        state=state_label(view.state),
        priority=view.priority,
        attempt=view.attempt,
        max_attempts=view.max_attempts,
        created_at=created_at,
        due_at=moment(view.due_ms),
        started_at=moment(view.started_ms),
        ended_at=moment(view.ended_ms),
        updated_at=moment(view.updated_ms),
        worker=view.session,
        key=view.key,
        dedupe_key=view.dedupe_key,
        is_cancelling=view.is_cancelling,
        payload=decoded(view.payload),
        result=decoded(view.result),
        error=view.error,
        attempts=[_attempt(attempt) for attempt in view.attempts],
        progress=view.permille / 1000 if view.permille >= 0 else None,
        note=view.note,
        pool=view.pool,
    )


def _attempt(view: AttemptView) -> AttemptInfo:
    started_at, ended_at = moment(view.started_ms), moment(view.ended_ms)
    return AttemptInfo(view.attempt, view.outcome, view.session, started_at, ended_at, view.error)


def why_of(why: Why) -> WhyInfo:
    ahead = why.ahead if why.ahead >= 0 else None
    return WhyInfo(to_text(why.id), state_label(why.state), why.reason, why.text, ahead, moment(why.retry_at_ms))


def error_of_end(end: TaskEnd, tenant: str) -> FoliotError | None:
    """Return the error an end means, or None if the task completed."""
    task_id = to_text(end.id)
    match end.state:
        case State.COMPLETED:
            return None
        case State.FAILED | State.DEAD:
            error = end.error or TaskError("UnknownError", "")
            return TaskFailedError(task_id, state_label(end.state), end.attempt, error)
        case State.CANCELLED:
            return CancelledTaskError(task_id, end.error.message if end.error else "cancelled")
        case State.EXPIRED:
            return TaskExpiredError(task_id, end.error)
        case State.SKIPPED:
            return TaskSkippedError(task_id)
        case _:
            return TaskNotFoundError(task_id, tenant)
