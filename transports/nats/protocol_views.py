"""Tasks as the public protocol shows them, made from the edge's views, and templates made from what it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ...actors.messages import (
    Body,
    Kind,
    Outcome,
    OutcomeKind,
    Priority,
    RetryPolicy,
    TaskEnd,
    TaskError,
    TaskSpec,
    Template,
)
from ...actors.states import State
from ...runtime.bus import Refusal
from ...runtime.ids import from_text, to_text
from ..admission import EdgeLimits, InvalidOptionError, check_template
from ..api import TaskView
from . import protocol as p
from .protocol_codec import Format, result_to_store, to_store, to_wire

_OPTIONS: Final = (
    "queue", "on_conflict", "cost", "max_attempts", "timeout_ms", "wait_timeout_ms", "total_timeout_ms",
    "cancel_grace_ms", "delivery", "require", "prefer", "key_limit", "key_rate", "key_rate_ms", "dead_letter",
    "dedupe_window_ms",
)  # fmt: skip
_TYPE_MAX: Final = 200  # characters of a failure that are kept
_MESSAGE_MAX: Final = 8_192
_TRACEBACK_MAX: Final = 65_536
_KINDS: Final[Mapping[str, int]] = {kind.name.lower(): int(kind) for kind in OutcomeKind}


def error_of(refusal: Refusal) -> p.Error:
    return p.Error(
        code=refusal.code, text=refusal.text, retry_after_ms=refusal.retry_after_ms, details=dict(refusal.details)
    )


def state_name(state: int) -> str:
    return State(state).label if state else "not_found"


def failure_of(error: TaskError | None) -> p.Failure | None:
    return None if error is None else p.Failure(type=error.type, message=error.message, traceback=error.traceback)


def template_of(task: p.TaskIn, tenant: str, known: Template | None) -> Template:
    """Return the template of a task: its handler's own where that is known, changed by what the task says."""
    base = known if known is not None else Template(task.handler, pool=tenant)
    changes: dict[str, Any] = {}
    for name in _OPTIONS:
        value = getattr(task, name)
        if value is not None:
            changes[name] = value
    if task.pool is not None:
        changes["pool"] = task.pool
    if task.retry is not None:
        changes["retry"] = RetryPolicy(**msgspec.structs.asdict(task.retry))
    return msgspec.structs.replace(base, **changes) if changes else base


def spec_of(
    task: p.TaskIn, tenant: str, templates: dict[Template, int], form: Format, *, now_ms: int,
    known: Mapping[str, tuple[Template, int]], limits: EdgeLimits,
) -> TaskSpec:  # fmt: skip
    """Return a task as shards take it; a template that is new is put among `templates`. `known`: handlers' own templates and
    priorities. `now_ms`: from when a delay counts. Raises: UsageError."""
    own, priority = known.get(task.handler, (None, int(Priority.NORMAL)))
    template = template_of(task, tenant, own)
    index = templates.get(template)
    if index is None:
        check_template(template, limits)
        index = templates[template] = len(templates)
    if task.due_ms and task.delay_ms:
        raise InvalidOptionError("delay_ms", task.delay_ms, "either a delay or a moment, not both")
    due_ms = now_ms + task.delay_ms if task.delay_ms else task.due_ms
    if task.priority is not None:
        priority = task.priority
    return TaskSpec(index, to_store(task.payload, form), due_ms, priority, task.key, task.dedupe_key)


def info_of(view: TaskView, form: Format) -> p.TaskInfo:
    """Return a task as a client reads it."""
    attempts = [
        p.AttemptInfo(
            attempt=at.attempt, outcome=at.outcome, session=at.session, started_ms=at.started_ms, ended_ms=at.ended_ms,
            error=failure_of(at.error),
        )
        for at in view.attempts
    ]  # fmt: skip
    return p.TaskInfo(
        id=to_text(view.id), handler=view.handler, queue=view.queue, pool=view.pool, state=state_name(view.state),
        priority=view.priority, attempt=view.attempt, max_attempts=view.max_attempts, created_ms=view.created_ms,
        due_ms=view.due_ms, started_ms=view.started_ms, ended_ms=view.ended_ms, key=view.key, dedupe_key=view.dedupe_key,
        session=view.session, is_cancelling=view.is_cancelling, payload=to_wire(view.payload, form),
        result=to_wire(view.result, form), error=failure_of(view.error), attempts=attempts, permille=view.permille,
        note=view.note,
    )  # fmt: skip


def end_of(end: TaskEnd, form: Format) -> p.End:
    return p.End(
        id=to_text(end.id), state=state_name(end.state), attempt=end.attempt, result=to_wire(end.result, form),
        error=failure_of(end.error),
    )  # fmt: skip


def body_of(body: Body, kind: Kind, form: Format) -> p.TaskBody:
    """Return an attempt as a worker reads it."""
    template = kind.template
    return p.TaskBody(
        id=to_text(body.id), attempt=body.attempt, handler=template.handler, queue=template.queue, pool=template.pool,
        cost=template.cost, payload=to_wire(body.payload, form), priority=body.priority, key=body.key,
        timeout_ms=template.timeout_ms, deadline_ms=body.deadline_ms, cancel_grace_ms=template.cancel_grace_ms,
        max_attempts=template.max_attempts, delivery=template.delivery, checkpoint=to_wire(body.checkpoint, form),
        schedule=body.schedule, tick_ms=body.tick_ms,
    )  # fmt: skip


def outcome_of(told: p.OutcomeIn, form: Format, now_ms: int) -> Outcome:
    """Return an outcome as shards take it. Raises: InvalidIdError, DocumentError."""
    error = None
    if told.error is not None:
        failed = told.error
        error = TaskError(failed.type[:_TYPE_MAX], failed.message[:_MESSAGE_MAX], failed.traceback[-_TRACEBACK_MAX:])
    ended_ms = told.ended_ms or now_ms
    return Outcome(
        from_text(told.id), told.attempt, _KINDS[told.outcome], told.started_ms or ended_ms, ended_ms,
        result_to_store(told.result, form), error, told.retry_after_ms, told.fatal,
    )  # fmt: skip
