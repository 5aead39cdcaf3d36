"""What people see of rows: the edge's views made from the store's rows, and sentences that say why a task waits."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from ..actors.messages import Kind, OutcomeKind, TaskError, TaskInMemory
from ..actors.rows import TaskRow
from ..actors.states import State
from ..runtime.ids import time_of_ms
from ..stores.port import AttemptRow, TaskDetail
from .api import AttemptView, TaskView, Why

_decode_error = msgspec.msgpack.Decoder(TaskError).decode
_OUTCOMES: Final = {0: "worker_died", **{int(kind): kind.name.lower() for kind in OutcomeKind}}


def error_of(data: bytes) -> TaskError | None:
    """Return a stored error; one that cannot be read is shown as such, since a look must not fail for it."""
    if not data:
        return None
    try:
        return _decode_error(data)
    except msgspec.DecodeError as error:
        return TaskError("UnreadableError", f"the stored error cannot be read: {error}")


def view_of_row(row: TaskRow, kind: Kind | None) -> TaskView:
    """Return a listed task, without its history."""
    template = kind.template if kind else None
    return TaskView(
        id=row.id,
        tenant=kind.tenant if kind else "",
        handler=template.handler if template else "",
        queue=template.queue if template else "",
        pool=template.pool if template else "",
        state=row.state,
        priority=row.priority,
        attempt=row.attempt,
        spent=row.spent,
        max_attempts=template.max_attempts if template else 0,
        created_ms=time_of_ms(row.id),
        due_ms=row.due_ms,
        updated_ms=row.updated_ms,
        started_ms=row.updated_ms if row.state == State.RUNNING else row.started_ms,  # leased, while it runs
        ended_ms=row.ended_ms,
        key=row.key,
        dedupe_key=row.dedupe_key,
        session=row.session,
        is_cancelling=bool(row.cancelling),
        payload=row.payload or b"",
        result=row.result,
        error=error_of(row.error),
    )


def view_of_detail(detail: TaskDetail) -> TaskView:
    """Return a task with its history and progress."""
    return msgspec.structs.replace(
        view_of_row(detail.row, detail.kind),
        attempts=[_attempt(attempt) for attempt in detail.attempts],
        permille=detail.permille,
        note=detail.note,
        progress_at_ms=detail.progress_at_ms,
    )


def _attempt(row: AttemptRow) -> AttemptView:
    outcome = _OUTCOMES.get(row.kind, str(row.kind))
    return AttemptView(row.attempt, outcome, row.session, row.started_ms, row.ended_ms, error_of(row.error))


# -- why ---------------------------------------------------------------------------------------------------------------


def span_text(span_ms: int) -> str:
    """Return a span in the two largest units that matter: `1d 4h`, `9m 50s`, `350ms`."""
    if span_ms < 1_000:
        return f"{max(span_ms, 0)}ms"
    seconds = span_ms // 1_000
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def instant_text(at_ms: int) -> str:
    """Return an instant as ISO 8601 in UTC, to the second."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms"


def why_without_queue(view: TaskView, memory: TaskInMemory | None, now_ms: int) -> Why | None:
    """Return why a task is where it is, or None if it is queued, which its queue has to explain.

    `memory`: what its shard holds, which is newer than the stored row, if it holds it.
    """
    state = memory.state if memory else view.state
    due_ms = memory.due_ms if memory else view.due_ms
    attempt = memory.attempt if memory else view.attempt
    match state:
        case State.QUEUED:
            return None
        case State.SCHEDULED:
            text = f"it is due in {span_text(due_ms - now_ms)}, at {instant_text(due_ms)}"
            return Why(view.id, state, "scheduled", text, retry_at_ms=due_ms)
        case State.RETRYING:
            last = view.error or next((at.error for at in reversed(view.attempts) if at.error), None)
            cause = f" after {last.type}: {last.message[:200]}" if last else ""
            text = (
                f"attempt {attempt} of {view.max_attempts} did not succeed{cause}; "
                f"the next is due in {span_text(due_ms - now_ms)}, at {instant_text(due_ms)}"
            )
            return Why(view.id, state, "retrying", text, retry_at_ms=due_ms)
        case State.RUNNING:
            session = memory.session if memory else view.session
            text = f"attempt {attempt} runs on worker session {session!r} since {instant_text(view.updated_ms)}"
            if view.permille >= 0:
                text += f", {view.permille / 10:g} % done{': ' + view.note if view.note else ''}"
            if view.is_cancelling:
                text += ", and was asked to stop"
            return Why(view.id, state, "running", text)
        case State.BLOCKED:
            return Why(view.id, state, "blocked", "it waits for upstream tasks")
        case State.AWAITING_APPROVAL:
            return Why(view.id, state, "awaiting_approval", "it waits for a person's approval")
        case _:
            text = f"it is over: {State(state).label} at {instant_text(view.ended_ms or view.updated_ms)}"
            if view.error:
                text += f" with {view.error.type}: {view.error.message[:200]}"
            return Why(view.id, state, "ended", text)


def views_of_rows(rows: Iterable[TaskRow], kinds: dict[int, Kind]) -> list[TaskView]:
    """Return listed tasks in the order of their rows."""
    return [view_of_row(row, kinds.get(row.template_id)) for row in rows]
