"""The edge's own messages about schedules, backfills and calendars.

Creating, changing and commanding schedules and backfills travel as the shard messages of `actors.schedule_messages`, which
the edge checks, cuts up by shard and puts together again. Looks are answered from the store, so they never wait for a
shard. All commands and looks name one tenant.
"""

from __future__ import annotations

import msgspec

from ..actors.messages import Message, Template
from ..actors.rules import Calendar, Rule
from ..actors.schedule_messages import (
    BackfillsAnswered,
    BackfillSpec,
    BackfillState,
    CalendarConfigured,
    CommandBackfills,
    CommandSchedules,
    PutSchedules,
    SchedulesAnswered,
    ScheduleSpec,
    SchedulesPut,
    ScheduleState,
    StartBackfill,
)

# -- questions and commands --------------------------------------------------------------------------------------------


class GetSchedules(Message, frozen=True, tag=True):
    """Read schedules by name. Answers: SchedulesFound."""

    tenant: str
    names: list[str]


class ListSchedules(Message, frozen=True, tag=True):
    """In the order of their names, without payloads; `after`: names behind this one only; `paused` None: whether or not.
    Answers: SchedulesFound."""

    tenant: str
    prefix: str = ""
    paused: bool | None = None
    after: str = ""
    limit: int = 100


class ListTicks(Message, frozen=True, tag=True):
    """What became of a schedule's ticks, the latest first; `before_ms`: earlier ones only, 0: all. Answers: TicksListed."""

    tenant: str
    name: str
    before_ms: int = 0
    limit: int = 100


class ListBackfills(Message, frozen=True, tag=True):
    """Newest first; `schedule` empty: of all, `id` not 0: that one only. Answers: BackfillsListed."""

    tenant: str
    schedule: str = ""
    id: int = 0
    limit: int = 100


class ListCalendars(Message, frozen=True, tag=True):
    """Answers: CalendarsListed."""

    tenant: str


class SetCalendar(Message, frozen=True, tag=True):
    """Create or replace a calendar; its version is counted by the scheduler. Answers: CalendarConfigured, when the shards
    that could be reached know it.

    `ending`: what if schedules that name it would never tick again: "refuse" (as `calendar_ends_schedules`), "tell" (set it
    and log which), or "let" (set it unlooked)."""

    tenant: str
    calendar: Calendar
    ending: str = "refuse"


class DeleteCalendar(Message, frozen=True, tag=True):
    """Refused as `calendar_in_use` while a schedule names it. Answers: CalendarConfigured."""

    tenant: str
    name: str


class PreviewSchedule(Message, frozen=True, tag=True):
    """Which ticks come next? Of the stored schedule `name`, or of `rule` as if it were that schedule's.

    `from_ms` 0: from now on; `until_ms` 0: without end. Answers: SchedulePreviewed."""

    tenant: str
    name: str = ""
    rule: Rule | None = None
    count: int = 10
    from_ms: int = 0
    until_ms: int = 0


class DiffSchedule(Message, frozen=True, tag=True):
    """What would change if the schedule had this rule? Answers: ScheduleCompared."""

    tenant: str
    name: str
    rule: Rule
    count: int = 20


class DryRunBackfill(Message, frozen=True, tag=True):
    """Which ticks would this backfill fire? Answers: BackfillForeseen with at most `limit`."""

    tenant: str
    backfill: BackfillSpec
    limit: int = 1_000


# -- answers -----------------------------------------------------------------------------------------------------------


class ScheduleView(Message, frozen=True):
    """A schedule as people see it. `next_ms`: when its next tick is to fire, jitter included; 0: it waits for nothing.
    Where schedules are listed the payload is empty."""

    id: int
    tenant: str
    revision: int
    next_ms: int
    template: Template
    spec: ScheduleSpec
    state: ScheduleState


class SchedulesFound(Message, frozen=True, tag=True):
    """In the order asked, or of their names; missing ones are left out. `next_after`: where the next page begins, empty at
    the end."""

    schedules: list[ScheduleView]
    next_after: str = ""


class TickView(Message, frozen=True):
    """A tick that was decided. `source`: 0 the rule, 1 a person, else the id of a backfill. `task_id` 0: it made none.
    `outcome`: the state in which its task ended, 0 while that is alive."""

    tick_ms: int
    source: int
    revision: int
    task_id: int
    at_ms: int
    outcome: int


class TicksListed(Message, frozen=True, tag=True):
    """`next_before_ms`: where the next page begins, 0 at the end."""

    ticks: list[TickView]
    next_before_ms: int = 0


class Forecast(Message, frozen=True):
    """A tick to come. `due_ms`: when it fires, jitter included. `notes`: as `actors.ticks.Ticks.notes` says them."""

    tick_ms: int
    due_ms: int
    notes: tuple[str, ...] = ()


class SchedulePreviewed(Message, frozen=True, tag=True):
    """`is_paused`: none of it fires before somebody resumes the schedule."""

    ticks: list[Forecast]
    rule: Rule
    is_paused: bool = False


class ScheduleCompared(Message, frozen=True, tag=True):
    """Ticks from now until `until_ms`: those that only the old rule has, only the new one, and both. `until_ms`: the earlier
    of the two rules' last tick asked for, 0 if neither has so many: then these are all there are."""

    gone: list[Forecast]
    come: list[Forecast]
    stay: list[Forecast]
    until_ms: int


class BackfillForeseen(Message, frozen=True, tag=True):
    """`ticks` in the order in which they would fire; `left_out`: how many of the window would not, as they have fired
    before. `has_more`: there are more than were asked for."""

    ticks: list[Forecast]
    left_out: int
    has_more: bool


class BackfillView(Message, frozen=True):
    id: int
    spec: BackfillSpec
    state: BackfillState


class BackfillsListed(Message, frozen=True, tag=True):
    backfills: list[BackfillView]


class CalendarsListed(Message, frozen=True, tag=True):
    """Sorted by name; those built in are not among them."""

    calendars: list[Calendar] = msgspec.field(default_factory=list)


ScheduleRequest = (
    PutSchedules | CommandSchedules | StartBackfill | CommandBackfills | GetSchedules | ListSchedules | ListTicks
    | ListBackfills | ListCalendars | SetCalendar | DeleteCalendar | PreviewSchedule | DiffSchedule | DryRunBackfill
)  # fmt: skip
EdgeAnswer = (
    SchedulesPut | SchedulesAnswered | BackfillsAnswered | CalendarConfigured | SchedulesFound | TicksListed
    | BackfillsListed | CalendarsListed | SchedulePreviewed | ScheduleCompared | BackfillForeseen
)  # fmt: skip
