"""What the edge says of schedules and calendars that are not there, or cannot go."""

from __future__ import annotations

from collections.abc import Sequence

from ..runtime.errors import NotFoundError, UsageError


class ScheduleNotFoundError(NotFoundError):
    """No such schedule, or not of this tenant."""

    code = "schedule_not_found"

    def __init__(self, name: str, tenant: str) -> None:
        super().__init__(f"there is no schedule {name!r} of tenant {tenant!r}")
        self.name = name
        self.tenant = tenant


class CalendarNotFoundError(NotFoundError):
    """No such calendar, or not of this tenant."""

    code = "calendar_not_found"

    def __init__(self, name: str, tenant: str) -> None:
        super().__init__(f"there is no calendar {name!r} of tenant {tenant!r}")
        self.name = name
        self.tenant = tenant


class CalendarInUseError(UsageError):
    """A calendar that schedules name cannot be deleted."""

    code = "calendar_in_use"

    def __init__(self, name: str, schedules: Sequence[str]) -> None:
        shown = ", ".join(map(repr, schedules))
        super().__init__(f"calendar {name!r} is named by {shown}, expected no schedule; change or delete those first")
        self.name = name
        self.schedules = list(schedules)


class CalendarEndsSchedulesError(UsageError):
    """A calendar cannot become what lets schedules that name it never tick again, unless that is forced."""

    code = "calendar_ends_schedules"

    def __init__(self, name: str, schedules: Sequence[str]) -> None:
        shown = ", ".join(map(repr, schedules))
        super().__init__(
            f"calendar {name!r} would let {shown} never tick again, expected one that allows ticks of the schedules that "
            "name it; force=True or --force sets it and ends them"
        )
        self.name = name
        self.schedules = list(schedules)


class UnknownHandlerError(UsageError):
    """No worker here has a handler of that name. `known`: those that are most like it, and others."""

    code = "unknown_task"

    def __init__(self, handler: str, known: Sequence[str]) -> None:
        super().__init__(f"handler {handler[:200]!r} is unknown, expected one of {', '.join(known) or 'none at all'}")
        self.handler = handler
        self.known = list(known)
