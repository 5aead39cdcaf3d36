"""Deciding ticks: which ones fire, which are missed, and what happens while an earlier run is alive.

A schedule's cursor is the next tick that is not decided. It only moves forward, and the same commit holds what the tick came
to: a task, a place in the buffer, or a count. So after any crash the next owner goes on where this one stopped.
Downtime, a pause, an edit and a slow machine are one case: ticks that passed while nobody could fire them (`pass_over`).
"""

from __future__ import annotations

from typing import Final

from ..runtime.actor import Turn
from .calendar_book import CalendarBook
from .commands import Commands
from .intake import Intake
from .rules import Rule
from .schedule import LATE_MS, Schedule, seed_of
from .schedule_rows import SOURCE_RULE, SOURCE_TRIGGER, TickRow
from .states import State
from .table import TaskTable
from .task import Task, Tick
from .ticks import Ticks

ALIVE_MAX: Final = 1_000  # runs of one schedule, and ticks in its buffer
LATE_TICKS_MAX: Final = 1_000  # ticks that are made up for after one absence
_SHARED_MAX: Final = 4_096
_BURST: Final = 16  # ticks of one schedule to a turn
_PASSED: Final = 256  # ticks counted as missed to a turn, but for intervals, whose number is computed
_BAD: Final = frozenset((State.FAILED, State.DEAD, State.EXPIRED))


class Firing:
    """Decides the ticks of one shard's schedules. What it changes of a schedule, the caller writes."""

    def __init__(self, table: TaskTable, intake: Intake, commands: Commands, book: CalendarBook) -> None:
        self._table = table
        self._intake = intake
        self._commands = commands
        self._book = book
        self.made = 0  # ticks of rules, which may have cost a search over years
        self._shared: dict[tuple[Rule, str, int], Ticks] = {}  # of rules that are alike for whoever has them

    def ticks(self, schedule: Schedule) -> Ticks:
        """Return the ticks of its rule. Raises: UsageError if it has become impossible, since a calendar was deleted."""
        found = schedule.ticks
        if found is None:
            found = schedule.ticks = self.ticks_by(schedule.spec.rule, schedule)
        return found

    def ticks_by(self, rule: Rule, schedule: Schedule) -> Ticks:
        """Return the ticks that a rule gives the schedule. Raises: UsageError."""
        tenant = schedule.tenant
        if rule.jitter_ms or rule.precision == "low" or "h" in rule.cron.lower():  # drawn from its name
            return self._made(rule, schedule)
        key = (rule, tenant if rule.calendar else "", self._book.stamp(tenant, rule.calendar))
        found = self._shared.get(key)
        if found is None:
            if len(self._shared) >= _SHARED_MAX:
                self._shared.clear()
            found = self._shared[key] = self._made(rule, schedule)
        return found

    def _made(self, rule: Rule, schedule: Schedule) -> Ticks:
        self.made += 1
        return Ticks(rule, self._book.of(schedule.tenant), seed=seed_of(schedule.tenant, schedule.name))

    # -- the rule's ticks --------------------------------------------------------------------------------------------------

    def decide(self, schedule: Schedule, turn: Turn) -> None:
        """Decide the ticks whose time has come, a bounded number of them. Raises: UsageError."""
        ticks, state, spec = self.ticks(schedule), schedule.state, schedule.spec
        for _ in range(_BURST):
            tick_ms = state.cursor_ms
            if not tick_ms or state.is_over or state.paused:
                return
            if tick_ms <= state.pass_until_ms:
                if not state.late_ticks or state.late_ticks[0] != tick_ms:
                    self._count_missed(schedule, ticks)
                    return
                state.late_ticks = state.late_ticks[1:]
                self._fire(schedule, tick_ms, SOURCE_RULE, spec.overlap, turn.now_ms, turn)
            else:
                due_ms = ticks.due(tick_ms)
                if due_ms > turn.now_ms:
                    return
                if turn.now_ms - due_ms > spec.grace_ms and not spec.rule.after_ms:
                    self.pass_over(schedule, spec.missed, turn.now_ms - spec.grace_ms, turn.now_ms)
                    continue
                self._fire(schedule, tick_ms, SOURCE_RULE, spec.overlap, due_ms, turn)
            self._advance(schedule, ticks, tick_ms, turn.now_ms)

    def pass_over(self, schedule: Schedule, missed: str, before_ms: int, now_ms: int) -> None:
        """Ticks that were due before this passed while nobody could fire them: say which of them shall fire late."""
        ticks, state, spec = self.ticks(schedule), schedule.state, schedule.spec
        first = state.cursor_ms
        if not first or ticks.due(first) >= before_ms:
            return
        last = ticks.last_before(before_ms - 1, first) or first
        if last > first and ticks.due(last) >= before_ms:
            last = ticks.last_before(last - 1, first) or first  # the newest alone can be due so much later than it says
        state.pass_until_ms = last
        oldest = now_ms - spec.max_lateness_ms if spec.max_lateness_ms else 0
        chosen: list[int] = []
        if missed == "last":
            chosen = [last]
        elif missed == "first":
            chosen = ticks.between(max(first, oldest), last + 1, 1)
        elif missed == "all":
            most = min(spec.max_catchup, LATE_TICKS_MAX)
            tick_ms: int | None = last
            while tick_ms is not None and len(chosen) < most and tick_ms >= oldest:
                chosen.append(tick_ms)
                tick_ms = ticks.last_before(tick_ms - 1, first)
            chosen.reverse()
        state.late_ticks = tuple(tick for tick in chosen if tick >= oldest)

    def start(self, schedule: Schedule, now_ms: int) -> None:
        """Set the cursor of a schedule that is new, or whose rule is. Raises: UsageError."""
        self._point_at(schedule, self.ticks(schedule).first(now_ms))

    def go_on(self, schedule: Schedule, after_ms: int) -> None:
        """Set the cursor behind an instant, by a rule or calendars that have changed. Raises: UsageError."""
        if schedule.spec.rule.after_ms and schedule.alive:
            schedule.state.cursor_ms = 0
        else:
            self._point_at(schedule, self.ticks(schedule).after(max(after_ms, schedule.state.decided_ms)))

    def _point_at(self, schedule: Schedule, tick_ms: int | None) -> None:
        state = schedule.state
        state.pass_until_ms, state.late_ticks = 0, ()
        state.cursor_ms = tick_ms or 0
        state.is_over = tick_ms is None or self._is_used_up(schedule)

    def _after_run(self, schedule: Schedule, ended_ms: int) -> int | None:
        """Return the tick of a fixed delay that follows a run which ended. A clock that was set back leads to none that was
        decided before."""
        earliest_ms = schedule.state.decided_ms + 1 - schedule.spec.rule.after_ms
        return self.ticks(schedule).after_end(max(ended_ms, earliest_ms))

    def _is_used_up(self, schedule: Schedule) -> bool:
        limit = schedule.spec.rule.limit
        if not limit:
            return False
        waiting = sum(1 for tick_ms in schedule.state.buffer if tick_ms > 0)
        return schedule.state.fired + waiting >= limit

    def _count_missed(self, schedule: Schedule, ticks: Ticks) -> None:
        """Count ticks that will not fire, up to the next one that will."""
        state = schedule.state
        if state.late_ticks and state.late_ticks[0] < state.cursor_ms:  # calendars have changed, and it is none any more
            state.late_ticks = tuple(tick for tick in state.late_ticks if tick >= state.cursor_ms)
        until = state.late_ticks[0] if state.late_ticks else state.pass_until_ms + 1
        count, last_ms = ticks.passed(state.cursor_ms, until, _PASSED)
        state.missed += count
        state.decided_ms = last_ms if count else state.decided_ms
        next_ms = ticks.after(last_ms) if count else ticks.after(until - 1)
        state.cursor_ms = next_ms or 0
        state.is_over = next_ms is None

    def _advance(self, schedule: Schedule, ticks: Ticks, tick_ms: int, now_ms: int) -> None:
        state = schedule.state
        state.decided_ms = tick_ms
        if self._is_used_up(schedule):
            state.cursor_ms, state.is_over = 0, True
        elif schedule.spec.rule.after_ms:
            next_ms = None if schedule.alive else self._after_run(schedule, now_ms)
            state.cursor_ms = next_ms or 0
            state.is_over = next_ms is None and not schedule.alive
        else:
            next_ms = ticks.after(tick_ms)
            state.cursor_ms = next_ms or 0
            state.is_over = next_ms is None

    # -- one tick ----------------------------------------------------------------------------------------------------------

    def trigger(self, schedule: Schedule, overlap: str, turn: Turn) -> tuple[str, int]:
        """Fire now because a person wants it. Returns a word of `SchedulesAnswered` and the task's id."""
        state = schedule.state
        state.trigger_ms = max(turn.now_ms, state.trigger_ms + 1)
        return self._fire(schedule, state.trigger_ms, SOURCE_TRIGGER, overlap or schedule.spec.overlap, turn.now_ms, turn)

    def _fire(
        self, schedule: Schedule, tick_ms: int, source: int, overlap: str, due_ms: int, turn: Turn
    ) -> tuple[str, int]:  # fmt: skip
        """Fire a tick, unless a run that is alive is in its way. Returns a word of `SchedulesAnswered` and the task's id."""
        alive, state = schedule.alive, schedule.state
        if alive:
            room = {"skip": 0, "buffer_one": 1, "buffer_all": ALIVE_MAX}.get(overlap)
            if overlap == "cancel_other":
                self._leave_out_buffer(schedule, turn)
                self._commands.cancel_all(list(alive), f"schedule {schedule.name!r} ticked again", turn)
                room = 1
            if room is not None and len(state.buffer) < room:
                state.buffered += 1
                state.buffer = (*state.buffer, tick_ms if source == SOURCE_RULE else -tick_ms)
                return "buffered", 0
            if room is not None or len(alive) >= ALIVE_MAX:
                self._leave_out(schedule, tick_ms, source, turn)
                return "skipped", 0
            if overlap == "terminate_other":
                self._commands.terminate_all(list(alive), f"schedule {schedule.name!r} ticked again", turn)
        return "triggered", self._run(schedule, tick_ms, source, due_ms, turn).id

    def _run(self, schedule: Schedule, tick_ms: int, source: int, due_ms: int, turn: Turn) -> Task:
        state, spec = schedule.state, schedule.spec
        task = self.make(schedule, tick_ms, source, spec.priority, min(due_ms, turn.now_ms), turn)
        schedule.alive[task.id] = tick_ms
        if spec.rule.after_ms:
            state.cursor_ms = 0  # a fixed delay counts from the end of this run, whoever began it
        if source == SOURCE_RULE:
            state.fired += 1
        else:
            state.triggered += 1
        if turn.now_ms - due_ms > LATE_MS[spec.rule.precision]:
            state.late += 1
        state.last_tick_ms, state.last_task = tick_ms, task.id
        return task

    def make(self, schedule: Schedule, tick_ms: int, source: int, priority: int, due_ms: int, turn: Turn) -> Task:
        """Make the task of a tick, whosever it is."""
        spec = schedule.spec
        task = self._intake.make(schedule.kind, spec.payload, priority, spec.key, due_ms, turn)
        schedule.kind.counts.fired += 1
        self._table.ticks[task.id] = Tick(schedule.id, tick_ms, source, spec.name)
        turn.changes.ticks.append(TickRow(schedule.id, tick_ms, source, schedule.revision, task.id, turn.now_ms, 0))
        return task

    def _leave_out(self, schedule: Schedule, tick_ms: int, source: int, turn: Turn) -> None:
        schedule.state.skipped += 1
        turn.changes.ticks.append(
            TickRow(schedule.id, tick_ms, source, schedule.revision, 0, turn.now_ms, int(State.SKIPPED))
        )  # fmt: skip

    def _leave_out_buffer(self, schedule: Schedule, turn: Turn) -> None:
        for tick_ms in schedule.state.buffer:
            self._leave_out(schedule, abs(tick_ms), _source_of(tick_ms), turn)
        schedule.state.buffer = ()

    # -- a run's end -------------------------------------------------------------------------------------------------------

    def run_ended(self, schedule: Schedule, task: Task, turn: Turn) -> None:
        """The task of a tick ended: what waited for that goes on. Raises: UsageError."""
        state = schedule.state
        del schedule.alive[task.id]
        state.last_ended_ms, state.last_outcome = turn.now_ms, int(task.state)
        if task.state == State.COMPLETED:
            state.failures = 0
        elif task.state in _BAD:
            state.failures += 1
            if schedule.spec.pause_after and state.failures >= schedule.spec.pause_after and not state.paused:
                self.pause(schedule, "foliot", f"{state.failures} runs in a row ended badly", turn.now_ms)
        if state.buffer and not schedule.alive and not state.paused:
            self.fire_buffered(schedule, turn)
        if schedule.spec.rule.after_ms and not schedule.alive and not state.is_over:
            next_ms = self._after_run(schedule, turn.now_ms)
            state.cursor_ms = next_ms or 0
            state.is_over = next_ms is None or self._is_used_up(schedule)

    def fire_buffered(self, schedule: Schedule, turn: Turn) -> None:
        """Fire the first tick of the buffer. It was due when it was put there."""
        state = schedule.state
        tick_ms, state.buffer = state.buffer[0], state.buffer[1:]
        self._run(schedule, abs(tick_ms), _source_of(tick_ms), turn.now_ms, turn)

    def pause(self, schedule: Schedule, by: str, why: str, now_ms: int) -> None:
        """No tick fires until somebody resumes it."""
        state = schedule.state
        state.paused, state.paused_by, state.paused_why = True, by, why
        state.paused_at_ms = state.updated_ms = now_ms

    def resume(self, schedule: Schedule, missed: str, turn: Turn) -> None:
        """Tick again. Of the ticks that passed, those fire that `missed` says. Raises: UsageError."""
        state = schedule.state
        state.paused, state.paused_by, state.paused_why, state.paused_at_ms = False, "", "", 0
        state.updated_ms, state.failures = turn.now_ms, 0
        if not schedule.spec.rule.after_ms:
            self.pass_over(schedule, missed or schedule.spec.missed, turn.now_ms, turn.now_ms)
        elif state.cursor_ms and state.cursor_ms < turn.now_ms and (missed or schedule.spec.missed) == "skip":
            state.cursor_ms = self._after_run(schedule, turn.now_ms) or 0
            state.is_over = not state.cursor_ms
        if state.buffer and not schedule.alive:
            self.fire_buffered(schedule, turn)


def _source_of(buffered: int) -> int:
    """Return whose tick this is: those that people triggered are in the buffer as negative numbers."""
    return SOURCE_RULE if buffered > 0 else SOURCE_TRIGGER
