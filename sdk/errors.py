"""The errors a client raises: what a refusal means as a class, and how a task can end without a result.

A refusal travels as a code and a sentence; `error_of` turns it into the class of its code. The tree is that of
`runtime.errors`: what to do next follows from the base class.
"""

from __future__ import annotations

from typing import Final

from ..actors.messages import TaskError, TaskRefusal
from ..runtime.bus import Refusal, RefusedError
from ..runtime.errors import FoliotError, NotFoundError, UnavailableError, UsageError
from ..runtime.ids import to_text
from ..transports.repeats import RETRYABLE
from ..transports.views import span_text
from .app import UnknownTaskError as UnknownTaskError
from .context import TaskCancelledError as TaskCancelledError


def _span(span_ms: int) -> str:
    return f"{span_ms} ms" if span_ms < 1_000 else span_text(span_ms)


class InvalidRequestError(UsageError):
    """The scheduler refused the call as wrong: a name, an option, a size. `reason`: the refusal's code."""

    code = "usage"

    def __init__(self, text: str, reason: str = "usage") -> None:
        super().__init__(text)
        self.reason = reason


class DuplicateTaskError(UsageError):
    """The dedupe key is held by an earlier task: `existing_id`."""

    code = "duplicate"

    def __init__(self, text: str, existing_id: str) -> None:
        super().__init__(f"{text}: task {existing_id}")
        self.existing_id = existing_id


class PastDueError(UsageError):
    """The moment to run at has passed, and `past="refuse"` was asked for."""

    code = "past_due"

    def __init__(self, late_ms: int) -> None:
        super().__init__(f"the task was due {_span(late_ms)} ago, expected a moment to come (or past='run')")
        self.late_ms = late_ms


class AddressError(UsageError):
    """An address no transport understands."""

    code = "address"

    def __init__(self, address: str) -> None:
        before, _, rest = address.rpartition("://")
        shown = rest.rpartition("@")[2]  # what stands before it may be a password
        fix = f": for a cluster write nats://{shown}, for a socket of that name ./{shown}"
        shown, fix = (f"{before}://{shown}", "") if before else (shown, fix)
        super().__init__(f"cannot connect to {shown!r}, expected the path of a scheduler's socket, or nats://host:port{fix}")
        self.address = address


class TaskNotFoundError(NotFoundError):
    """No such task, or not of this tenant."""

    code = "not_found"

    def __init__(self, task_id: str, tenant: str) -> None:
        super().__init__(f"there is no task {task_id!r} of tenant {tenant!r}")
        self.task_id = task_id
        self.tenant = tenant


class OverloadedError(UnavailableError):
    """A queue or a mailbox is full; nothing was taken."""

    code = "overloaded"


class RateLimitedError(UnavailableError):
    """The tenant submits faster than it may; nothing was taken."""

    code = "rate_limited"


class QuotaExceededError(UnavailableError):
    """The tenant has as many waiting tasks as it may have; nothing was taken."""

    code = "quota_exceeded"


class NoRoomError(UnavailableError):
    """The scheduler's disk is full: it takes nothing new, has lost nothing, and goes on when there is room."""

    code = "disk_full"


class BulkStoppedError(UnavailableError):
    """A bulk submission could not go on. `accepted` tasks are safe; of `unknown` nobody can say."""

    code = "bulk_stopped"

    def __init__(self, accepted: int, unknown: int, cause: FoliotError) -> None:
        super().__init__(f"the bulk submission stopped after {accepted} accepted tasks, {unknown} unknown: {cause}")
        self.accepted = accepted
        self.unknown = unknown
        self.cause = cause


# -- how a task can end without a result -------------------------------------------------------------------------------


class TaskEndedError(FoliotError):
    """The task is over and has no result."""

    code = "task_ended"

    def __init__(self, text: str, task_id: str, state: str) -> None:
        FoliotError.__init__(self, text)  # not the next in line, which words its own message
        self.task_id = task_id
        self.state = state


class TaskFailedError(TaskEndedError):
    """The task failed for good. `state`: failed, or dead where it is kept as a dead letter."""

    code = "task_failed"

    def __init__(self, task_id: str, state: str, attempts: int, error: TaskError) -> None:
        what = "is a dead letter" if state == "dead" else "failed"
        message = f": {error.message}" if error.message else ""
        count = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(f"task {task_id} {what} after {count}: {error.type}{message}", task_id, state)
        self.attempts = attempts
        self.error_type = error.type
        self.error_message = error.message
        self.traceback = error.traceback


class CancelledTaskError(TaskEndedError, TaskCancelledError):
    """The task was cancelled. `TaskCancelledError` is what its handler sees, so one `except` serves both."""

    code = "task_cancelled"

    def __init__(self, task_id: str, reason: str = "cancelled") -> None:
        super().__init__(f"task {task_id} was cancelled", task_id, "cancelled")
        self.task = task_id
        self.reason = reason


class TaskExpiredError(TaskEndedError):
    """The task waited or lived longer than it was allowed to."""

    code = "task_expired"

    def __init__(self, task_id: str, error: TaskError | None) -> None:
        super().__init__(f"task {task_id} expired{': ' + error.message if error else ''}", task_id, "expired")


class TaskSkippedError(TaskEndedError):
    """The task was skipped by a rule."""

    code = "task_skipped"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id} was skipped", task_id, "skipped")


class ResultTimeoutError(UnavailableError):
    """The task is not over yet; it goes on."""

    code = "result_timeout"

    def __init__(self, task_id: str, timeout_ms: int) -> None:
        super().__init__(f"task {task_id} is not over after {_span(timeout_ms)}; it goes on, ask again later")
        self.task_id = task_id
        self.timeout_ms = timeout_ms


class NotIdleError(UnavailableError):
    """Tasks still wait or run."""

    code = "not_idle"

    def __init__(self, waiting: int, running: int, timeout_ms: int) -> None:
        super().__init__(f"{waiting} tasks wait and {running} run after {_span(timeout_ms)}, expected none")
        self.waiting = waiting
        self.running = running
        self.timeout_ms = timeout_ms


# -- from the wire -----------------------------------------------------------------------------------------------------

_UNAVAILABLE: Final[dict[str, type[UnavailableError]]] = {
    kind.code: kind for kind in (OverloadedError, RateLimitedError, QuotaExceededError, NoRoomError)
}
_USAGE: Final = ("usage", "payload", "invalid_option", "invalid_name", "invalid_id", "too_large", "malformed", "version")
def error_of(refusal: Refusal) -> FoliotError:
    """Return the error a refusal means."""
    code, text = refusal.code, refusal.text
    if code == UnknownTaskError.code:
        known = refusal.details.get("known", "")
        return UnknownTaskError(refusal.details.get("handler", ""), known.split(",") if known else [])
    if code == NotFoundError.code:
        return NotFoundError(text)
    if code in _USAGE:
        return InvalidRequestError(text, code)
    if code in _UNAVAILABLE or refusal.retry_after_ms >= 0:
        kind = _UNAVAILABLE.get(code, UnavailableError)
        return kind(text, retry_after_ms=refusal.retry_after_ms if refusal.retry_after_ms >= 0 else 60_000)
    return RefusedError(refusal)


def error_of_task(refusal: TaskRefusal) -> FoliotError:
    """Return the error that one task's refusal means."""
    if refusal.code == DuplicateTaskError.code:
        return DuplicateTaskError(refusal.text, to_text(refusal.existing_id))
    retry_after_ms = 1_000 if refusal.code in RETRYABLE else -1
    return error_of(Refusal(refusal.code, refusal.text, retry_after_ms))
