"""Bugs in schedules: which ticks fire, when, beside what, and what is known of them after a crash."""

from __future__ import annotations

from typing import Final

from foliot.actors.backfills import Backfills
from foliot.actors.firing import Firing
from foliot.actors.schedule_desk import ScheduleDesk
from foliot.actors.schedules import Schedules
from foliot.actors.ticks import Ticks

from .bug import Bug
from .patching import Edit

_MOVE: Final = "            turn.changes.schedule_moves.append(schedule.move())\n"

BUGS: Final = (
    Bug(
        "cursor not moved with its tick",
        "a tick and the schedule's next one are not rows of the same commit",
        (Edit(Schedules, "end_turn", _MOVE, "            if not turn.changes.ticks:\n    " + _MOVE),),
        ("ticks:twice", "ticks:count", "decided:unknown", "decided:undecided"),
        profiles=("schedules",),
    ),
    Bug(
        "tick fires early",
        "a tick is fired up to 400 ms before its time",
        (
            Edit(Firing, "decide", "if due_ms > turn.now_ms:", "if due_ms > turn.now_ms + 400:"),
            Edit(
                Schedules,
                "point",
                "self.firing.ticks(schedule).due(state.cursor_ms), 1)",
                "self.firing.ticks(schedule).due(state.cursor_ms) - 400, 1)",
            ),
        ),
        ("ticks:early",),
        profiles=("schedules",),
    ),
    Bug(
        "missed ticks fire at the resumption",
        "who resumes a schedule and wants nothing made up gets every tick of the pause",
        (
            Edit(
                Firing,
                "resume",
                "self.pass_over(schedule, missed or schedule.spec.missed, turn.now_ms, turn.now_ms)",
                'self.pass_over(schedule, "all", turn.now_ms, turn.now_ms)',
            ),
        ),
        ("decided:choice",),
        profiles=("schedules",),
    ),
    Bug(
        "overlap ignored after take-over",
        "a shard that starts does not know which runs are alive",
        (
            Edit(Schedules, "__init__", "schedule.alive[tick.task_id] = tick.tick_ms", "pass"),
            Edit(Firing, "run_ended", "del schedule.alive[task.id]", "schedule.alive.pop(task.id, None)"),
        ),
        ("overlaps:together",),
        profiles=("schedules",),
    ),
    Bug(
        "calendar edit forgotten",
        "schedules go on by the calendars there were when their next tick was computed",
        (
            Edit(
                Schedules,
                "end_turn",
                "self.book.changed, self._swept = False, 0",
                "self.book.changed = False",
            ),
            Edit(Schedules, "settle", "if schedule.stamp and schedule.stamp != ", "if False and schedule.stamp != "),
        ),
        ("decided",),
        profiles=("dst", "schedules"),
    ),
    Bug(
        "changed definition not written",
        "what somebody makes of a schedule lives in the memory of its shard only",
        (Edit(ScheduleDesk, "_replace", "        turn.changes.schedules.append(old.row())\n", ""),),
        ("orders:not_put",),
        profiles=("schedules",),
    ),
    Bug(
        "missed not counted",
        "ticks that passed are left out without a word",
        (Edit(Firing, "_count_missed", "state.missed += count", "pass"),),
        ("decided:undecided",),
        profiles=("schedules",),
    ),
    Bug(
        "limit without the buffer",
        "ticks that wait do not count, so more fire than may",
        (Edit(Firing, "_is_used_up", "state.fired + waiting >= limit", "state.fired >= limit"),),
        ("overlaps:limit",),
        profiles=("schedules",),
        seeds=150,
    ),
    Bug(
        "backfill cursor runs ahead",
        "a backfill takes the last of a step's ticks for decided, whether there was room or not",
        (Edit(Backfills, "_fire", "                return\n            else:", "                break\n            else:"),),
        ("backfills:undecided",),
        profiles=("schedules",),
    ),
    Bug(
        "repeated hour by halves",
        "of a local time that comes twice only the first fires, whatever the rule says",
        (Edit(Ticks, "__init__", "rule.dst_gap, rule.dst_overlap)", 'rule.dst_gap, "first")'),),
        ("decided",),
        profiles=("dst",),
    ),
)
