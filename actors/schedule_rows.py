"""What a shard writes and reads of schedules: rows, and the queries to its store.

A schedule's definition (`body`) is an encoded `ScheduleSpec`, rewritten when somebody changes it; `state` is an encoded
`ScheduleState`, rewritten with every tick. A tick has its identity as its key in the store: (schedule, tick_ms, source), so
that no tick fires twice, whoever fires it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .messages import Kind, Message

SOURCE_RULE: Final = 0  # the schedule's own tick
SOURCE_TRIGGER: Final = 1  # a person's; any other source is the id of a backfill
TIER_HIGH: Final = 0
TIER_OTHERS: Final = 1


class ScheduleRow(Message, frozen=True):
    """A schedule as stored; its tenant is its kind's. Names are unique within a tenant."""

    id: int
    name: str
    tier: int  # ticks of high precision have a line of their own
    next_ms: int  # when its next tick is to fire, 0: it waits for nothing
    template_id: int
    revision: int  # counts definitions, from 1
    calendars: int  # a stamp of the calendars by which next_ms was computed, 0: it uses none
    body: bytes
    state: bytes


class TickRow(Message, frozen=True):
    """A tick that was decided. `task_id` 0: it made none. `outcome`: the state in which its task ended, State.SKIPPED where
    it made none, 0 while the task is alive."""

    schedule_id: int
    tick_ms: int
    source: int
    revision: int
    task_id: int
    at_ms: int  # when it fired
    outcome: int


class BackfillRow(Message, frozen=True):
    """A backfill as stored: `body` an encoded BackfillSpec, `state` an encoded BackfillState."""

    id: int
    schedule_id: int
    is_over: bool
    body: bytes
    state: bytes


class ScheduleImage(msgspec.Struct):
    """What the schedules of a shard start from: ticks whose task is alive, the schedules of those and of the backfills that
    are not over, and all calendars there are, as (tenant, encoded Calendar, epoch and number it was set with)."""

    ticks: list[TickRow] = msgspec.field(default_factory=list)
    schedules: list[ScheduleRow] = msgspec.field(default_factory=list)
    backfills: list[BackfillRow] = msgspec.field(default_factory=list)
    calendars: list[tuple[str, bytes, int, int]] = msgspec.field(default_factory=list)


# -- queries; each answer repeats the query's token --------------------------------------------------------------------


class ReadScheduleTimers(Message, frozen=True, tag=True):
    """Schedules of a tier with next_ms > 0 after (after_ms, after_id) and next_ms ≤ until_ms, ascending by (next_ms, id), at
    most `limit`. Answers: ScheduleTimersRead."""

    token: int
    after_ms: int
    after_id: int
    until_ms: int
    limit: int
    tier: int


class ScheduleTimersRead(Message, frozen=True, tag=True):
    """`next_due_ms`: of the first row beyond this page, 0 if there is none at all."""

    token: int
    rows: list[ScheduleRow]
    kinds: list[Kind]
    next_due_ms: int


class ReadSchedules(Message, frozen=True, tag=True):
    """Schedules by id, and by name within a tenant; missing ones are left out. Answers: SchedulesRead."""

    token: int
    ids: list[int]
    tenant: str = ""
    names: list[str] = msgspec.field(default_factory=list)


class ReadCalendared(Message, frozen=True, tag=True):
    """Schedules that use calendars with ids above `after`, ascending, at most `limit`. Answers: SchedulesRead."""

    token: int
    after: int
    limit: int


class SchedulesRead(Message, frozen=True, tag=True):
    token: int
    rows: list[ScheduleRow]
    kinds: list[Kind]


class ReadTicks(Message, frozen=True, tag=True):
    """Ticks of a schedule with tick_ms in [from_ms, until_ms), of any source, ascending, at most `limit`.
    Answers: TicksRead."""

    token: int
    schedule_id: int
    from_ms: int
    until_ms: int
    limit: int


class TicksRead(Message, frozen=True, tag=True):
    token: int
    rows: list[TickRow]


ScheduleQuery = ReadScheduleTimers | ReadSchedules | ReadCalendared | ReadTicks
ScheduleReads = ScheduleTimersRead | SchedulesRead | TicksRead
