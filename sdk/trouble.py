"""What a worker's log says of attempts that did not complete: enough to see that something is wrong, never a flood."""

from __future__ import annotations

from typing import Any, Final

import structlog

from ..actors.messages import OutcomeKind, TaskError
from ..runtime.ids import to_text
from .attempt import Attempt

log = structlog.get_logger("foliot.worker")

LINES_MAX: Final = 20  # within ...
WINDOW_MS: Final = 1_000
_ERROR_MAX: Final = 200  # characters
_EXPECTED: Final = (OutcomeKind.CANCELLED, OutcomeKind.RETURNED, OutcomeKind.INTERRUPTED)


class Trouble:
    """A line for each attempt, at most `LINES_MAX` a second; the others are counted and told with the next line."""

    def __init__(self) -> None:
        self._window_ms = 0
        self._lines = 0
        self._left_out = 0

    def tell(
        self, attempt: Attempt, kind: OutcomeKind, error: TaskError | None, *, now_ms: int, fatal: bool, killed: bool
    ) -> None:
        """Tell how an attempt ended that did not complete; what becomes of the task is its shard's affair."""
        if not 0 <= now_ms - self._window_ms < WINDOW_MS:
            self._window_ms, self._lines = now_ms, 0
        if self._lines >= LINES_MAX:
            self._left_out += 1
            return
        self._lines += 1
        body, route = attempt.body, attempt.route
        fields: dict[str, Any] = {
            "task_id": to_text(body.id), "handler": route.template.handler, "tenant": route.kind.tenant,
            "attempt": body.attempt,
        }  # fmt: skip
        if error is not None:
            fields["error"] = f"{error.type}: {error.message}"[:_ERROR_MAX]
        if fatal:
            fields["fatal"] = True
        if killed:
            fields["killed"] = True
        if self._left_out:
            fields["others_left_out"], self._left_out = self._left_out, 0
        tell = log.info if kind in _EXPECTED else log.warning
        tell(f"attempt_{kind.name.lower()}", **fields)
