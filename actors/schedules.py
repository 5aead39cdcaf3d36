"""The schedules of one shard: which are in memory, when they are looked at, and what is written of them.

What always holds: the tick that fired, its task and the schedule's next tick are rows of one turn; a schedule is in memory
while it is in the timers or a run of it is alive, and only then; every other one is a row in the store, found by its time or
by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ..runtime.actor import Turn
from ..runtime.errors import UsageError
from .backfills import Backfills
from .calendar_book import CalendarBook
from .commands import Commands
from .firing import Firing
from .intake import Intake
from .rows import ShardImage
from .schedule import Schedule
from .schedule_rows import (
    SOURCE_RULE,
    SOURCE_TRIGGER,
    TIER_HIGH,
    TIER_OTHERS,
    ReadCalendared,
    ReadScheduleTimers,
    ScheduleRow,
    SchedulesRead,
    ScheduleTimersRead,
)
from .states import State
from .table import TaskTable
from .task import Tick
from .timers import TimerConfig, TimerQueue

FIRE_MAX: Final = 256  # schedules to a turn
_LEAD_MS: Final = 50  # by so much ticks of other precision stay behind those of high precision that fire meanwhile
_SWEEP: Final = 16
_TIERS: Final = 2


class Schedules:
    """The memory of one shard's schedules, and their timers."""

    def __init__(
        self, image: ShardImage, table: TaskTable, intake: Intake, commands: Commands, book: CalendarBook,
        timers: TimerConfig,
    ) -> None:  # fmt: skip
        self.book = book
        self.firing = Firing(table, intake, commands, book)
        self.memory: dict[int, Schedule] = {}
        self.by_name: dict[tuple[str, str], Schedule] = {}
        self._table = table
        self._timers = [TimerQueue(timers, _pages_of(tier)) for tier in range(_TIERS)]
        self._lead_until_ms = 0
        self._is_held = False
        self._changed: dict[int, Schedule] = {}  # their rows are to be moved
        self._swept: int | None = 0 if book.changed else None  # up to which id the calendars' users were looked at again
        self._is_sweeping = False
        for row in image.schedules.schedules:
            self.remember(Schedule.of_row(row, table.kind_of_id(row.template_id)))
        self.backfills = Backfills(image.schedules, table, self)
        for tick in image.schedules.ticks:
            schedule = self.memory[tick.schedule_id]
            table.ticks[tick.task_id] = Tick(schedule.id, tick.tick_ms, tick.source, schedule.name)
            if tick.source in (SOURCE_RULE, SOURCE_TRIGGER):
                schedule.alive[tick.task_id] = tick.tick_ms

    # -- the shard's turn --------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Let nothing tick any more as long as this shard lives here: nobody would run it. What waits in line for a run to
        end, which was in time, stays there."""
        self._is_held = True

    def due_ms(self) -> int | None:
        if self._is_held:
            return None
        first_ms, others_ms = self._timers[TIER_HIGH].due_ms(), self._timers[TIER_OTHERS].due_ms()
        if others_ms is None:
            return first_ms
        if others_ms < self._lead_until_ms:
            others_ms = min(others_ms + _LEAD_MS, self._lead_until_ms)
        return others_ms if first_ms is None else min(first_ms, others_ms)

    def on_time(self, turn: Turn) -> None:
        """Decide the ticks whose time has come, those of high precision first: they are to be on their way to the workers
        before thousands of others keep everybody busy."""
        if self._is_held:
            return
        now_ms = turn.now_ms
        ids = self._timers[TIER_HIGH].pop_due(now_ms, FIRE_MAX)
        if ids:
            self._lead_until_ms = now_ms + _LEAD_MS
        until_ms = now_ms - _LEAD_MS if now_ms < self._lead_until_ms else now_ms
        for id in [*ids, *self._timers[TIER_OTHERS].pop_due(until_ms, FIRE_MAX - len(ids))]:
            schedule = self.memory[id]
            schedule.in_timers = False
            self.decide(schedule, turn)

    def end_turn(self, turn: Turn) -> None:
        """Let go on what waited for tasks that have ended, write what changed, ask for what is wanted."""
        table = self._table
        while table.ended_ticks:
            ended, table.ended_ticks = table.ended_ticks, []
            for task, tick in ended:
                turn.changes.ticks_ended.append((tick.schedule_id, tick.tick_ms, tick.source, int(task.state)))
                if tick.source not in (SOURCE_RULE, SOURCE_TRIGGER):
                    self.backfills.run_ended(tick, State(task.state), turn)
                    continue
                schedule = self.memory[tick.schedule_id]
                self._carefully(schedule, turn, self.firing.run_ended, task)
        self.backfills.end_turn(turn)
        for schedule in self._changed.values():
            turn.changes.schedule_moves.append(schedule.move())
        self._changed = {}
        for tier, timers in enumerate(self._timers):
            for id in timers.shed():
                self._out_of_timers(id)
            page = timers.next_page(turn.now_ms, table.next_token)
            if page is not None:
                table.ask(page, partial(self._take_page, tier), turn)
        if self.book.changed:
            self.book.changed, self._swept = False, 0
        if self._swept is not None and not self._is_sweeping:
            self._is_sweeping = True
            table.ask(ReadCalendared(table.next_token, self._swept, _SWEEP), self._sweep, turn)

    # -- one schedule ------------------------------------------------------------------------------------------------------

    def decide(self, schedule: Schedule, turn: Turn) -> None:
        """Decide its ticks whose time has come, unless they are held: then the next owner does, by its clock."""
        if not self._is_held:
            self._carefully(schedule, turn, self.firing.decide)

    def _carefully(self, schedule: Schedule, turn: Turn, step: Callable[..., None], *more: Any) -> None:
        """Take a step of a schedule; one that has become impossible is paused, with the reason."""
        try:
            step(schedule, *more, turn)
        except UsageError as error:
            self.firing.pause(schedule, "foliot", str(error), turn.now_ms)
        self.settle(schedule, turn)

    def go_on(self, schedule: Schedule, after_ms: int, turn: Turn) -> None:
        """Let it tick on behind an instant, by a rule that has changed."""
        self._carefully(schedule, turn, lambda schedule, turn: self.firing.go_on(schedule, after_ms))

    def settle(self, schedule: Schedule, turn: Turn) -> None:
        """See to it that the timers and the store know when it is due, and that it is in memory only while it must be. One
        whose rule or calendar has become impossible is paused, with the reason: no look at it may end a turn."""
        try:
            if schedule.stamp and schedule.stamp != self.book.stamp(schedule.tenant, schedule.spec.rule.calendar):
                self._recompute(schedule, turn.now_ms)
            self.point(schedule, turn.now_ms)
        except UsageError as error:
            self.firing.pause(schedule, "foliot", str(error), turn.now_ms)
            self.point(schedule, turn.now_ms)  # which asks a paused one for no tick
        self._table.note_change(schedule.id)
        self._changed[schedule.id] = schedule

    def point(self, schedule: Schedule, now_ms: int) -> None:
        """Put it into the timers by its cursor."""
        state, timers = schedule.state, self._timers[schedule.tier]
        next_ms = 0
        if state.cursor_ms and not state.paused and not state.is_over:
            is_passing = state.cursor_ms <= state.pass_until_ms
            next_ms = max(state.cursor_ms if is_passing else self.firing.ticks(schedule).due(state.cursor_ms), 1)
        if schedule.in_timers and next_ms != schedule.next_ms:
            timers.discard(schedule.next_ms, schedule.id)
            schedule.in_timers = False
        schedule.next_ms = next_ms
        schedule.stamp = self.book.stamp(schedule.tenant, schedule.spec.rule.calendar)
        if next_ms and not schedule.in_timers:
            schedule.in_timers = timers.add(next_ms, schedule.id, now_ms)
        if schedule.in_timers or schedule.alive:
            self.remember(schedule)
        else:
            self.forget(schedule)

    def remember(self, schedule: Schedule) -> None:
        self.memory[schedule.id] = schedule
        self.by_name[schedule.tenant, schedule.name] = schedule

    def forget(self, schedule: Schedule) -> None:
        if self.memory.pop(schedule.id, None) is not None:
            del self.by_name[schedule.tenant, schedule.name]

    def remove(self, schedule: Schedule, turn: Turn) -> None:
        """Delete it. Tasks of it that are alive go on as tasks of nobody."""
        if schedule.in_timers:
            self._timers[schedule.tier].discard(schedule.next_ms, schedule.id)
            schedule.in_timers = False
        table = self._table
        for task_id in [id for id, tick in table.ticks.items() if tick.schedule_id == schedule.id]:
            del table.ticks[task_id]
        table.ended_ticks = [each for each in table.ended_ticks if each[1].schedule_id != schedule.id]
        schedule.alive = {}
        self.backfills.remove(schedule)
        self.forget(schedule)
        self._changed.pop(schedule.id, None)
        self._table.note_change(schedule.id)
        turn.changes.schedules_deleted.append(schedule.id)

    def retier(self, schedule: Schedule, tier: int) -> None:
        """Its rule is about to change: it leaves the line it waits in, if it is to wait in another one."""
        if schedule.in_timers and tier != schedule.tier:
            self._timers[schedule.tier].discard(schedule.next_ms, schedule.id)
            schedule.in_timers = False

    def of_row(self, row: ScheduleRow) -> Schedule:
        """Return the schedule of a row: the one in memory, if it is there."""
        return self.memory.get(row.id) or Schedule.of_row(row, self._table.kind_of_id(row.template_id))

    # -- pages -------------------------------------------------------------------------------------------------------------

    def _take_page(self, tier: int, answer: ScheduleTimersRead, turn: Turn) -> None:
        table = self._table
        last = (answer.rows[-1].next_ms, answer.rows[-1].id) if answer.rows else None
        rows = []
        for row in table.rows_of(answer):
            schedule = self.memory.get(row.id)
            if schedule is None:
                if not table.is_stale(row.id):
                    rows.append(row)
            elif schedule.next_ms == row.next_ms and schedule.tier == tier and not schedule.in_timers:
                rows.append(row)
        keys = [(row.next_ms, row.id) for row in rows]
        dropped = self._timers[tier].take_page(answer.token, keys, last, answer.next_due_ms)
        if dropped is None:
            return
        for row in rows:
            schedule = self.of_row(row)
            schedule.in_timers = True
            self.remember(schedule)
        for id in dropped:
            self._out_of_timers(id)

    def _out_of_timers(self, id: int) -> None:
        schedule = self.memory[id]
        schedule.in_timers = False
        if not schedule.alive:
            self.forget(schedule)

    # -- calendars ---------------------------------------------------------------------------------------------------------

    def _sweep(self, answer: SchedulesRead, turn: Turn) -> None:
        """Compute the next tick again of schedules whose calendars have changed, page after page."""
        self._is_sweeping = False
        rows = self._table.rows_of(answer)
        if self.book.changed:
            return  # again, from the beginning
        self._swept = rows[-1].id if len(rows) == _SWEEP else None
        for row in rows:
            if row.id not in self.memory and self._table.is_stale(row.id):
                continue  # what changed it knew the calendars
            schedule = self.of_row(row)
            if schedule.stamp == self.book.stamp(schedule.tenant, schedule.spec.rule.calendar):
                continue
            made = self.firing.made
            self.settle(schedule, turn)
            is_moved = self.firing.made > made and schedule.spec.rule.excluded != "skip"
            if is_moved or not schedule.state.cursor_ms:
                self._swept = row.id  # it may have taken half a second: others have their turn
                break

    def _recompute(self, schedule: Schedule, now_ms: int) -> None:
        """Compute its next tick by the calendars of now. Whoever comes first does it, the sweep or what happens to the
        schedule meanwhile: with its row goes the stamp of the calendars its next tick was computed by."""
        state = schedule.state
        schedule.ticks = None
        try:
            if state.paused:
                self.firing.go_on(schedule, state.paused_at_ms)
            elif not state.cursor_ms or state.cursor_ms > now_ms:
                self.firing.go_on(schedule, now_ms)  # else it is about to be decided, and goes on by the calendars of now
        except UsageError as error:
            self.firing.pause(schedule, "foliot", str(error), now_ms)


def _pages_of(tier: int) -> Any:
    def query(token: int, after_ms: int, after_id: int, until_ms: int, limit: int) -> ReadScheduleTimers:
        return ReadScheduleTimers(token, after_ms, after_id, until_ms, limit, tier)

    return query
