"""What a submission must look like before anything is done with it.

A batch as a whole is checked (names, templates, sizes), then every task in one tight loop: tasks are refused one by
one by position, so that one bad row does not hold up a million good ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..actors.addresses import check_handler, check_name
from ..actors.messages import LOWEST_PRIORITY, SubmitTasks, TaskRefusal, TaskSpec, Template
from ..runtime.errors import UsageError

_YEAR_MS: Final = 366 * 86_400_000  # as `sdk.durations` bounds a span
_DELIVERIES: Final = ("at_least_once", "at_most_once", "exactly_once")
_CONFLICTS: Final = ("return_existing", "reject", "replace")
_SPANS: Final = (
    "timeout_ms",
    "wait_timeout_ms",
    "total_timeout_ms",
    "heartbeat_timeout_ms",
    "cancel_grace_ms",
    "key_rate_ms",
    "dedupe_window_ms",
)
_COUNTS: Final = ("key_limit", "key_rate", "max_interruptions")


@dataclass(frozen=True)
class EdgeLimits:
    """The bounds of one request at the edge."""

    max_tasks: int = 1_000
    max_templates: int = 1_000
    max_payload: int = 1 << 20  # bytes, of one task
    max_batch_bytes: int = 32 << 20  # payloads of one batch together
    max_key: int = 256  # characters of a concurrency or dedupe key
    max_ids: int = 1_000
    max_page: int = 1_000
    horizon_ms: int = 100 * _YEAR_MS  # the furthest a due time may lie ahead
    max_wait_ms: int = 60_000  # of one WatchTasks
    max_text: int = 4_096  # characters of a reason or request id


class InvalidOptionError(UsageError):
    """An option of a task or of a request outside its range."""

    code = "invalid_option"

    def __init__(self, what: str, value: object, expected: str) -> None:
        super().__init__(f"{what} is {str(value)[:80]!r}, expected {expected}")
        self.what = what
        self.expected = expected


class TooLargeError(UsageError):
    """More than one request may carry."""

    code = "too_large"

    def __init__(self, what: str, size: int, bound: int) -> None:
        super().__init__(f"{what} is {size}, expected at most {bound}")
        self.what = what
        self.size = size
        self.bound = bound


def check_batch(request: SubmitTasks, limits: EdgeLimits) -> None:
    """Check all of a batch but its tasks. Raises: UsageError."""
    check_name("tenant", request.tenant)
    if not request.tasks:
        raise InvalidOptionError("the batch", "empty", "at least one task")
    if len(request.tasks) > limits.max_tasks:
        raise TooLargeError("the number of tasks in a batch", len(request.tasks), limits.max_tasks)
    if len(request.templates) > limits.max_templates:
        raise TooLargeError("the number of templates in a batch", len(request.templates), limits.max_templates)
    if len(request.request_id) > limits.max_key:
        raise TooLargeError("the length of the request id", len(request.request_id), limits.max_key)
    for template in request.templates:
        check_template(template, limits)


def check_template(template: Template, limits: EdgeLimits) -> None:
    """Raises: UsageError unless every option is within its range."""
    check_handler(template.handler)
    check_name("queue", template.queue)
    check_name("pool", template.pool)
    longest = limits.horizon_ms
    _within("cost", template.cost, 1, 1_000_000)
    _within("max_attempts", template.max_attempts, 1, 1_000_000)
    for name in _SPANS:
        if not 0 <= getattr(template, name) <= longest:
            raise InvalidOptionError(name, getattr(template, name), f"0 to {longest} ms")
    for name in _COUNTS:
        if not 0 <= getattr(template, name) <= 1_000_000_000:
            raise InvalidOptionError(name, getattr(template, name), "0 to 1000000000")
    if template.delivery not in _DELIVERIES:
        raise InvalidOptionError("delivery", template.delivery, " or ".join(_DELIVERIES))
    if template.on_conflict not in _CONFLICTS:
        raise InvalidOptionError("on_conflict", template.on_conflict, " or ".join(_CONFLICTS))
    retry = template.retry
    _within("retry.base_ms", retry.base_ms, 0, longest)
    _within("retry.cap_ms", retry.cap_ms, 0, longest)
    if not 1.0 <= retry.factor <= 1_000.0:  # NaN fails as well
        raise InvalidOptionError("retry.factor", retry.factor, "1 to 1000")
    for words in (template.require, template.prefer, retry.fatal, retry.retry_on):
        if len(words) > 32 or any(len(word) > 200 for word in words):
            raise InvalidOptionError("a list of labels or error types", words, "at most 32 of 200 characters")


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidOptionError(what, value, f"{low} to {high}")


def check_tasks(request: SubmitTasks, *, now_ms: int, limits: EdgeLimits) -> tuple[list[int], list[TaskRefusal], bool]:
    """Check every task of a batch.

    Returns: how many good tasks each template has, the refused ones, and whether any good one has a dedupe key.
    Raises: TooLargeError if the payloads together are over the bound.
    """
    counts = [0] * len(request.templates)
    refused: list[TaskRefusal] = []
    is_keyed = False
    total = 0
    max_payload, max_key, latest = limits.max_payload, limits.max_key, now_ms + limits.horizon_ms
    templates = len(counts)
    for position, spec in enumerate(request.tasks):
        size = len(spec.payload)
        template = spec.template
        if (
            size > max_payload
            or not 0 <= template < templates
            or not 0 <= spec.due_ms <= latest
            or not 0 <= spec.priority <= LOWEST_PRIORITY
        ):
            refused.append(_refusal(position, spec, templates, latest, limits))
            continue
        if spec.dedupe_key or spec.key:
            if (
                len(spec.key) > max_key
                or len(spec.dedupe_key) > max_key
                or not spec.key.isprintable()
                or not spec.dedupe_key.isprintable()
            ):
                refused.append(_refusal(position, spec, templates, latest, limits))
                continue
            is_keyed = is_keyed or spec.dedupe_key != ""
        counts[template] += 1
        total += size
    if total > limits.max_batch_bytes:
        raise TooLargeError("the size of the batch's payloads in bytes", total, limits.max_batch_bytes)
    return counts, refused, is_keyed


def _refusal(position: int, spec: TaskSpec, templates: int, latest: int, limits: EdgeLimits) -> TaskRefusal:
    error: UsageError
    if len(spec.payload) > limits.max_payload:
        error = TooLargeError("the payload's size in bytes", len(spec.payload), limits.max_payload)
    elif not 0 <= spec.template < templates:
        error = InvalidOptionError("template", spec.template, f"an index of the batch's {templates} templates")
    elif not 0 <= spec.due_ms <= latest:
        error = InvalidOptionError("due_ms", spec.due_ms, f"0 (now) to {latest}, 100 years ahead")
    elif not 0 <= spec.priority <= LOWEST_PRIORITY:
        error = InvalidOptionError("priority", spec.priority, f"0 to {LOWEST_PRIORITY}")
    elif len(spec.key) > limits.max_key or not spec.key.isprintable():
        error = InvalidOptionError("key", spec.key, f"at most {limits.max_key} printable characters")
    else:
        error = InvalidOptionError("dedupe_key", spec.dedupe_key, f"at most {limits.max_key} printable characters")
    return TaskRefusal(position=position, code=error.code, text=str(error))
