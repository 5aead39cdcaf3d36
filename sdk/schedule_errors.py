"""What can go wrong with schedules, as a client raises it."""

from __future__ import annotations

from typing import Final

from ..actors.messages import TaskRefusal
from ..runtime.bus import Refusal
from ..runtime.errors import FoliotError, NotFoundError, UsageError
from ..transports.repeats import RETRYABLE
from ..transports.schedule_errors import CalendarNotFoundError, ScheduleNotFoundError
from .errors import InvalidRequestError, error_of

__all__ = [
    "BackfillNotFoundError", "CalendarNotFoundError", "ScheduleBusyError", "ScheduleExistsError", "ScheduleNotFoundError",
    "error_of_definition", "error_of_schedules",
]  # fmt: skip

_USAGE: Final = (
    "invalid_rule", "invalid_cron", "invalid_zone", "invalid_calendar", "never_ticks", "invalid_words", "calendar_in_use",
    "calendar_ends_schedules", "too_many_backfills", "unknown_task",
)  # fmt: skip


class ScheduleExistsError(UsageError):
    """A schedule of that name is there already."""

    code = "schedule_exists"

    def __init__(self, name: str, tenant: str, *, how: str = "put") -> None:
        """`how`: what replaces it."""
        there = f"schedule {name!r} of tenant {tenant!r} is there already"
        super().__init__(f"{there}, expected a new name; `{how}` replaces it")
        self.name = name
        self.tenant = tenant


class ScheduleBusyError(UsageError):
    """A trigger was left out, since an earlier run is alive."""

    code = "schedule_busy"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"schedule {name!r} was not triggered: a run of it is alive and its overlap policy leaves others out; "
            "expected that run to end, or overlap='allow_all' or another policy"
        )
        self.name = name


class BackfillNotFoundError(NotFoundError):
    """No such backfill, or not of this tenant."""

    code = "backfill_not_found"

    def __init__(self, id: str, tenant: str) -> None:
        super().__init__(f"there is no backfill {id!r} of tenant {tenant!r}")
        self.id = id
        self.tenant = tenant


def error_of_schedules(refusal: Refusal, name: str, tenant: str) -> FoliotError:
    """Return the error that a refusal about the schedule or calendar `name` means."""
    if refusal.code == ScheduleNotFoundError.code:
        return ScheduleNotFoundError(name, tenant)
    if refusal.code == CalendarNotFoundError.code:
        return CalendarNotFoundError(name, tenant)
    if refusal.code in _USAGE:
        return InvalidRequestError(refusal.text, refusal.code)
    return error_of(refusal)


def error_of_definition(refusal: TaskRefusal, name: str, tenant: str) -> FoliotError:
    """Return the error that the refusal of one definition means."""
    retry_after_ms = 1_000 if refusal.code in RETRYABLE else -1
    return error_of_schedules(Refusal(refusal.code, refusal.text, retry_after_ms), name, tenant)
