"""Backfills: a past window of a schedule's ticks, fired a few at a time beside the schedule itself.

A backfill is a row with a cursor, which moves in the commit that fires its ticks, so it goes on where it was after any
crash or take-over. Its ticks carry its id as their source, so none fires twice; the schedule's own overlap, pause and
counts have no part in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from ..runtime.actor import Turn
from ..runtime.errors import UsageError
from . import schedule_messages as sm
from .messages import LOWEST_PRIORITY
from .schedule import Schedule
from .schedule_rows import BackfillRow, ReadSchedules, ReadTicks, ScheduleImage, SchedulesRead, TicksRead
from .states import State
from .table import TaskTable
from .task import Tick

if TYPE_CHECKING:
    from .schedules import Schedules

BACKFILLS_MAX: Final = 256  # not over, in one shard
_CHUNK: Final = 64  # ticks looked at to a step
_TICKS_MAX: Final = 4_096  # rows of ticks to a page
_encode = msgspec.msgpack.Encoder().encode
_decode_spec = msgspec.msgpack.Decoder(sm.BackfillSpec).decode
_decode_state = msgspec.msgpack.Decoder(sm.BackfillState).decode


class TooManyBackfillsError(UsageError):
    """The shard has as many as it takes."""

    code = "too_many_backfills"

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} backfills are under way in this shard, expected fewer; wait for one or cancel one")
        self.count = count


class Backfill:
    """One backfill that is not over. `alive`: its tasks that are."""

    __slots__ = ("alive", "id", "is_asking", "schedule_id", "spec", "state", "tenant")

    def __init__(self, id: int, schedule: Schedule, spec: sm.BackfillSpec, state: sm.BackfillState) -> None:
        self.id = id
        self.schedule_id = schedule.id
        self.tenant = schedule.tenant
        self.spec = spec
        self.state = state
        self.alive = 0
        self.is_asking = False

    @property
    def is_covered(self) -> bool:
        """Tell whether every tick of the window is decided."""
        cursor_ms = self.state.cursor_ms
        return cursor_ms <= self.spec.from_ms if self.spec.is_backwards else cursor_ms >= self.spec.until_ms


class Backfills:
    """The backfills of one shard."""

    def __init__(self, image: ScheduleImage, table: TaskTable, schedules: Schedules) -> None:
        self._table = table
        self._schedules = schedules
        self._running: dict[int, Backfill] = {}
        self._changed: dict[int, Backfill] = {}
        for row in image.backfills:
            schedule = schedules.memory[row.schedule_id]
            self._running[row.id] = Backfill(row.id, schedule, _decode_spec(row.body), _decode_state(row.state))
        for tick in image.ticks:
            if tick.source in self._running:
                self._running[tick.source].alive += 1

    def start(self, spec: sm.BackfillSpec, schedule: Schedule, id: int, turn: Turn) -> int:
        """Begin. Returns its id. Raises: TooManyBackfillsError."""
        if len(self._running) >= BACKFILLS_MAX:
            raise TooManyBackfillsError(len(self._running))
        spec = msgspec.structs.replace(spec, rule=schedule.spec.rule)
        cursor_ms = spec.until_ms if spec.is_backwards else spec.from_ms
        backfill = Backfill(id, schedule, spec, sm.BackfillState(cursor_ms, created_ms=turn.now_ms))
        self._running[id] = self._changed[id] = backfill
        return id

    def command(self, message: sm.CommandBackfills, turn: Turn) -> sm.BackfillsAnswered:
        """Pause, resume or cancel. Those that are over are not known here any more."""
        outcomes: list[str] = []
        for id in message.ids:
            backfill = self._running.get(id)
            if backfill is None or backfill.tenant != message.tenant:
                outcomes.append("ended" if backfill is None else "not_found")
                continue
            state = backfill.state
            state.status = {"pause": "paused", "resume": "running", "cancel": "cancelled"}[message.action]
            outcomes.append({"running": "resumed"}.get(state.status, state.status))
            self._changed[id] = backfill
        return sm.BackfillsAnswered(outcomes, message.ids)

    def run_ended(self, tick: Tick, state: State, turn: Turn) -> None:
        """A task of a backfill ended. The backfill itself may be over, if it was cancelled."""
        backfill = self._running.get(tick.source)
        if backfill is None:
            return
        backfill.alive -= 1
        if state is not State.COMPLETED:
            backfill.state.failed += 1
        self._changed[backfill.id] = backfill

    def remove(self, schedule: Schedule) -> None:
        """Its schedule is deleted."""
        for backfill in [backfill for backfill in self._running.values() if backfill.schedule_id == schedule.id]:
            del self._running[backfill.id]
            self._changed.pop(backfill.id, None)

    def begin(self) -> None:
        """Go on with all of them, where the last owner stopped."""
        self._changed.update(self._running)

    def end_turn(self, turn: Turn) -> None:
        """Let those go on that can, and write those that changed."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        for backfill in changed.values():
            if backfill.id not in self._running:
                continue  # it was over in the turn in which it changed last
            self._step(backfill, turn)
            state = backfill.state
            is_over = state.status == "cancelled" or (backfill.is_covered and not backfill.alive)
            if is_over:
                state.status = "cancelled" if state.status == "cancelled" else "done"
                state.ended_ms = turn.now_ms
                del self._running[backfill.id]
            turn.changes.backfills.append(
                BackfillRow(backfill.id, backfill.schedule_id, is_over, _encode(backfill.spec), _encode(state))
            )  # fmt: skip

    def _step(self, backfill: Backfill, turn: Turn) -> None:
        """Look up the next ticks, if there is room for one."""
        is_running = backfill.state.status == "running" and not backfill.is_covered
        if not is_running or backfill.is_asking or backfill.alive >= backfill.spec.concurrency:
            return
        backfill.is_asking = True

        def with_schedule(schedule: Schedule, turn: Turn) -> None:
            try:
                chunk = self._chunk(backfill, schedule)
            except UsageError:  # its rule has become impossible, as the schedule itself says
                backfill.state.status = "cancelled"
                self._changed[backfill.id] = backfill
                return
            if backfill.spec.reprocess == "all" or not chunk:
                self._fire(backfill, schedule, chunk, {}, turn)
                return
            self._look_up(backfill, chunk, min(chunk), {}, turn)

        self._with_schedule(backfill, turn, with_schedule)

    def _look_up(self, backfill: Backfill, chunk: list[int], from_ms: int, before: dict[int, int], turn: Turn) -> None:
        """Fire what is left of a chunk, knowing what became of its ticks before: of each, the newest that made a task.
        People may have triggered any number between them, so it is read page by page."""

        def resume(answer: TicksRead, turn: Turn) -> None:
            rows = answer.rows
            before.update((row.tick_ms, row.outcome) for row in rows if row.task_id)
            if len(rows) < _TICKS_MAX:
                self._with_schedule(
                    backfill, turn, lambda schedule, turn: self._fire(backfill, schedule, chunk, before, turn)
                )  # fmt: skip
            elif backfill.id in self._running:
                self._look_up(backfill, chunk, max(rows[-1].tick_ms, from_ms + 1), before, turn)

        until_ms = max(chunk) + 1
        query = ReadTicks(self._table.next_token, backfill.schedule_id, from_ms, until_ms, _TICKS_MAX)
        self._table.ask(query, resume, turn)

    def _with_schedule(self, backfill: Backfill, turn: Turn, act: Callable[[Schedule, Turn], None]) -> None:
        known = self._schedules.memory.get(backfill.schedule_id)
        if known is not None:
            act(known, turn)
            return

        def resume(answer: SchedulesRead, turn: Turn) -> None:
            rows = self._table.rows_of(answer)
            if rows and backfill.id in self._running:
                act(self._schedules.of_row(rows[0]), turn)

        self._table.ask(ReadSchedules(self._table.next_token, [backfill.schedule_id]), resume, turn)

    def _chunk(self, backfill: Backfill, schedule: Schedule) -> list[int]:
        """Return the next ticks in the order in which they are to fire."""
        spec, cursor_ms = backfill.spec, backfill.state.cursor_ms
        firing = self._schedules.firing
        ticks = firing.ticks(schedule) if spec.rule == schedule.spec.rule else firing.ticks_by(spec.rule, schedule)
        if not spec.is_backwards:
            return ticks.between(cursor_ms, spec.until_ms, _CHUNK)
        chunk: list[int] = []
        tick_ms = ticks.last_before(cursor_ms - 1, spec.from_ms)
        while tick_ms is not None and len(chunk) < _CHUNK:
            chunk.append(tick_ms)
            tick_ms = ticks.last_before(tick_ms - 1, spec.from_ms)
        return chunk

    def _fire(
        self, backfill: Backfill, schedule: Schedule, chunk: list[int], before: dict[int, int], turn: Turn
    ) -> None:  # fmt: skip
        backfill.is_asking = False
        spec, state = backfill.spec, backfill.state
        if backfill.id not in self._running or state.status != "running":
            return
        self._changed[backfill.id] = backfill
        priority = spec.priority if spec.priority >= 0 else min(schedule.spec.priority + 1, LOWEST_PRIORITY)
        for tick_ms in chunk:
            outcome = before.get(tick_ms)
            if outcome is not None and not (spec.reprocess == "failed" and outcome and outcome != State.COMPLETED):
                state.left_out += 1
            elif backfill.alive >= spec.concurrency:
                return
            else:
                self._schedules.firing.make(schedule, tick_ms, backfill.id, priority, turn.now_ms, turn)
                backfill.alive += 1
                state.fired += 1
            state.cursor_ms = tick_ms if spec.is_backwards else tick_ms + 1
        if len(chunk) < _CHUNK:
            state.cursor_ms = spec.from_ms if spec.is_backwards else spec.until_ms
