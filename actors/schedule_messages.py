"""The messages of schedules: part of the wire contract, beside `actors.messages`.

A schedule belongs to the shard its tenant and name hash to (`schedule_slot`), and so do its ticks and the tasks they make.
Instants are wall-clock milliseconds, spans are milliseconds. Commands name schedules by name; every answer has one word for
each, by position.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..runtime.hashing import slot_of
from .messages import Id, Message, Priority, TaskRefusal, Template
from .rules import Calendar, Rule

OVERLAPS: Final = ("skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other", "allow_all")
MISSED: Final = ("skip", "last", "first", "all")
REPROCESS: Final = ("none", "failed", "all")


def schedule_slot(tenant: str, name: str, shards: int) -> int:
    """Return the shard of a schedule."""
    return slot_of(f"schedule.{tenant}.{name}", shards)


class ScheduleSpec(Message, frozen=True):
    """A schedule as somebody wants it. `template`: an index into the templates of the request; where it is stored, 0.

    A tick that nobody could fire within `grace_ms` is missed; `missed` says which of those fire late: none, the last, the
    first or all; never one that is later than `max_lateness_ms` (0: however late) and at most the last `max_catchup`."""

    name: str
    template: int
    payload: bytes
    rule: Rule
    priority: int = int(Priority.NORMAL)
    key: str = ""  # concurrency key
    overlap: str = "skip"  # what becomes of a tick while the run of an earlier one is alive: one of OVERLAPS
    missed: str = "skip"  # one of MISSED
    grace_ms: int = 60_000
    max_lateness_ms: int = 0
    max_catchup: int = 100
    pause_after: int = 0  # pause after so many runs in a row that ended badly, 0: never
    note: str = ""
    declared_in: str = ""  # the app whose code declares it, empty: nobody's code does


class ScheduleState(msgspec.Struct, array_like=True, gc=False):
    """How a schedule stands; stored with every tick, and never sent to anybody as an object.

    `cursor_ms`: the next tick that is not decided yet, 0: there is none, or it is not known before a run ends. Of ticks up
    to `pass_until_ms` only `late_ticks` fire; all others are missed."""

    cursor_ms: int = 0
    decided_ms: int = 0  # the newest tick of the rule that was decided: no edit and no clock leads back behind it
    pass_until_ms: int = 0
    late_ticks: tuple[int, ...] = ()
    buffer: tuple[int, ...] = ()  # ticks that wait for a run to end, in order; those of people as negative numbers
    fired: int = 0  # ticks of the rule that made a task
    triggered: int = 0  # ticks of people that made one
    missed: int = 0  # ticks that passed while nobody could fire them, and that were not made up for
    skipped: int = 0  # ticks left out because an earlier run was alive
    buffered: int = 0  # ticks that had to wait for an earlier run
    late: int = 0  # ticks that fired later than their precision allows
    failures: int = 0  # runs in a row that ended badly
    paused: bool = False
    paused_by: str = ""
    paused_why: str = ""
    paused_at_ms: int = 0
    is_over: bool = False  # it never ticks again: its end has come, or it has fired as often as it may
    last_tick_ms: int = 0
    last_task: int = 0  # id of the task that the last tick made
    last_ended_ms: int = 0  # when the newest run ended
    last_outcome: int = 0  # the state in which it did
    trigger_ms: int = 0  # the newest tick of a person
    created_ms: int = 0
    updated_ms: int = 0  # when somebody last changed or paused it


class PutSchedules(Message, frozen=True, tag=True):
    """edge → shard. Create schedules or change those that are there, in one commit. Answers: SchedulesPut.

    `mode`: create (one that is there is left as it is) | replace (created or changed) | update (it must be there). A change
    counts from now on: what was due before fires by the old definition, and one that is paused stays so."""

    tenant: str
    templates: list[Template]
    schedules: list[ScheduleSpec]
    mode: str = "replace"


class SchedulesPut(Message, frozen=True, tag=True):
    """Durable. A word for each: created | replaced | unchanged | exists | not_found | refused; `refused` says why."""

    outcomes: list[str]
    refused: list[TaskRefusal] = msgspec.field(default_factory=list)


class CommandSchedules(Message, frozen=True, tag=True):
    """edge → shard. Answers: SchedulesAnswered.

    `action`: pause | resume | delete | trigger. `missed`: which ticks fire at a resumption that were passed over, "" means
    by the schedule's own rule. `overlap`: in place of the schedule's own for this trigger, "" means its own."""

    tenant: str
    names: list[str]
    action: str
    by: str = ""
    why: str = ""
    missed: str = "skip"
    overlap: str = ""


class SchedulesAnswered(Message, frozen=True, tag=True):
    """Durable. A word for each: paused | resumed | deleted | triggered | skipped | buffered | unchanged | not_found | over |
    impossible (its rule cannot be meant any more, since a calendar was deleted; it is paused and says so).
    `tasks`: ids of what a trigger made, 0 where nothing."""

    outcomes: list[str]
    tasks: list[int] = msgspec.field(default_factory=list)


class ConfigureCalendar(Message, frozen=True, tag=True):
    """edge → home shard (durable, which counts the version), then home shard and edge → every other shard, by the home
    shard until that is answered. Answers: CalendarConfigured.

    `epoch`, `number`: of the home shard; the highest is the newest. `number` 0: from the edge."""

    tenant: str
    calendar: Calendar
    epoch: int = 0
    number: int = 0


class CalendarConfigured(Message, frozen=True, tag=True):
    """`epoch`, `number`: of the ConfigureCalendar it answers, or that the home shard made of it."""

    tenant: str
    calendar: Calendar
    epoch: int = 0
    number: int = 0


class BackfillSpec(Message, frozen=True):
    """Fire the ticks of a schedule in [from_ms, until_ms), at most `concurrency` runs alive at a time.

    `reprocess`: none (ticks that have fired are left out) | failed (such whose run ended badly are fired again) | all.
    `priority`: -1 means one step less than the schedule's."""

    schedule: str
    from_ms: int
    until_ms: int
    reprocess: str = "none"
    concurrency: int = 1
    priority: int = -1
    is_backwards: bool = False
    by: str = ""
    rule: Rule = Rule()  # whose ticks: the schedule's when the backfill began, as its shard notes


class BackfillState(msgspec.Struct, array_like=True, gc=False):
    """`cursor_ms`: forwards, ticks before it are decided; backwards, ticks at or after it are."""

    cursor_ms: int
    fired: int = 0
    left_out: int = 0
    failed: int = 0  # runs that ended badly
    status: str = "running"  # running | paused | done | cancelled
    created_ms: int = 0
    ended_ms: int = 0


class StartBackfill(Message, frozen=True, tag=True):
    """edge → shard. Answers: BackfillsAnswered with the id."""

    tenant: str
    backfill: BackfillSpec


class CommandBackfills(Message, frozen=True, tag=True):
    """edge → shard. `action`: pause | resume | cancel (what runs goes on). Answers: BackfillsAnswered."""

    tenant: str
    ids: list[Id]
    action: str


class BackfillsAnswered(Message, frozen=True, tag=True):
    """Durable. A word for each: started | paused | resumed | cancelled | ended | not_found; `ids` by position."""

    outcomes: list[str]
    ids: list[int] = msgspec.field(default_factory=list)


class HoldSchedules(Message, frozen=True, tag=True):
    """scheduler → shard. All workers there are go away with this process: let nothing tick any more as long as it lives,
    since what ticked now would start after the next start, however late that is. What comes due meanwhile is decided then,
    by the rule for missed ticks, as after a crash. No answer."""


ScheduleMessage = (
    PutSchedules | CommandSchedules | ConfigureCalendar | CalendarConfigured | StartBackfill | CommandBackfills
    | HoldSchedules
)  # fmt: skip
ScheduleAnswer = SchedulesPut | SchedulesAnswered | CalendarConfigured | BackfillsAnswered
