"""Hand-made histories of schedules: a shard that does everything right, unless told to do it wrong.

Each verb appends the commit a good shard would make. `tick` decides the next tick, by an interval that the story keeps by
itself; keywords change what is written, so that a test says in one word what is wrong.
"""

from __future__ import annotations

from typing import Any

import msgspec
from foliot.actors import schedule_messages as sm
from foliot.actors.rows import ShardChanges
from foliot.actors.rules import Calendar, Rule
from foliot.actors.schedule_rows import BackfillRow, ScheduleRow, TickRow
from foliot.actors.states import State
from foliot.simulations import history as h

from .builder import START_MS, Row, Story

EVERY_MS = 10_000
SCHEDULE = 77


class ScheduleStory(Story):
    """One schedule that ticks every ten seconds from the start on, unless it has another rule."""

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.rule = Rule(**{"every_ms": EVERY_MS, "anchor_ms": START_MS, **fields.pop("rule", {})})
        self.spec = sm.ScheduleSpec("r", 0, b"p", self.rule, **fields)
        self.state = sm.ScheduleState(cursor_ms=START_MS, created_ms=START_MS, updated_ms=START_MS)
        self.revision = 1
        self.stamp = 0
        self.runs: dict[int, TickRow] = {}
        self.requests = 0

    def create(self, **state: Any) -> None:
        self.set(**state)
        self.commit(self._whole(self.changes()))

    def set(self, **state: Any) -> None:
        for name, value in state.items():
            setattr(self.state, name, value)

    def replace(self, *, cursor_ms: int, **fields: Any) -> None:
        """Somebody changes the definition."""
        rule = msgspec.structs.replace(self.rule, **fields.pop("rule", {}))
        self.spec = msgspec.structs.replace(self.spec, rule=rule, **fields)
        self.rule = rule
        self.revision += 1
        self.set(cursor_ms=cursor_ms, updated_ms=self.now_ms)
        changes = self._whole(self.changes())
        changes.schedule_moves.append(self._move())
        self.commit(changes)

    def _whole(self, changes: ShardChanges, *, next_ms: int = -1) -> ShardChanges:
        kind = self.kind()
        state = msgspec.msgpack.encode(self.state)
        changes.schedules.append(
            ScheduleRow(
                SCHEDULE, "r", 1, self._next() if next_ms < 0 else next_ms, kind.template_id, self.revision, self.stamp,
                msgspec.msgpack.encode(self.spec), state,
            )
        )  # fmt: skip
        return changes

    def _next(self) -> int:
        waits = self.state.cursor_ms and not self.state.paused and not self.state.is_over
        return self.state.cursor_ms if waits else 0

    def _move(self, next_ms: int = -1) -> tuple[int, int, int, bytes]:
        return SCHEDULE, self._next() if next_ms < 0 else next_ms, self.stamp, msgspec.msgpack.encode(self.state)

    def move(self, *, next_ms: int = -1, **state: Any) -> None:  # type: ignore[override]
        """Write the state, and nothing else."""
        self.set(**state)
        self.commit(schedule_moves=[self._move(next_ms)])

    def tick(
        self, *, fires: bool = True, source: int = 0, tick_ms: int = -1, at_ms: int = 0, cursor_ms: int = -1,
        count: bool = True, row: bool = True, payload: bytes = b"p", task: bool = True, moves: bool = True,
    ) -> int:  # fmt: skip
        """Decide the tick of the cursor. Returns the task's id."""
        state, changes = self.state, self.changes()
        tick_ms = state.cursor_ms if tick_ms < 0 else tick_ms
        made: Row | None = self.insert(changes, payload=payload) if fires and task else None
        id = made.id if made is not None else 12345 if fires else 0
        if row:
            outcome = 0 if fires else int(State.SKIPPED)
            changes.ticks.append(TickRow(SCHEDULE, tick_ms, source, self.revision, id, at_ms or self.now_ms, outcome))
            self.runs[id] = changes.ticks[-1]
        if made is not None:
            changes.count("acme", "default", "fired")
        if source == 0:
            state.cursor_ms = tick_ms + EVERY_MS if cursor_ms < 0 else cursor_ms
        if count:
            name = ("fired" if source == 0 else "triggered") if fires else "skipped"
            setattr(state, name, getattr(state, name) + 1)
        if moves:
            changes.schedule_moves.append(self._move())
        self.commit(changes)
        return id

    def miss(self, many: int, *, counted: int = -1, moves: int = -1) -> None:
        """Ticks that nobody could fire are counted."""
        state = self.state
        state.pass_until_ms = state.cursor_ms + (many - 1) * EVERY_MS
        state.missed += many if counted < 0 else counted
        state.cursor_ms += (many if moves < 0 else moves) * EVERY_MS
        self.commit(schedule_moves=[self._move()])

    def run_over(self, id: int, **state: Any) -> None:
        """The task of a tick ends."""
        changes = self.changes()
        row = self.runs.pop(id)
        changes.ticks_ended.append((SCHEDULE, row.tick_ms, row.source, int(State.COMPLETED)))
        changes.ended.append((id, int(State.COMPLETED), 0, 0, self.now_ms, b"", b""))
        changes.count("acme", "default", "completed")
        self.rows[id].state = int(State.COMPLETED)
        self.set(last_ended_ms=self.now_ms, **state)
        changes.schedule_moves.append(self._move())
        self.commit(changes)

    def pause(self) -> None:
        self.move(paused=True, paused_by="somebody", paused_at_ms=self.now_ms, updated_ms=self.now_ms)

    def resume(self, *, pass_until_ms: int = 0, late: tuple[int, ...] = ()) -> None:
        fields: dict[str, Any] = {"pass_until_ms": pass_until_ms, "late_ticks": late} if pass_until_ms else {}
        self.move(paused=False, paused_by="", paused_at_ms=0, updated_ms=self.now_ms, **fields)

    def remove(self) -> None:
        self.commit(schedules_deleted=[SCHEDULE])

    # -- what people ask -------------------------------------------------------------------------------------------------

    def ask(self, command: str, **said: Any) -> int:
        self.requests += 1
        said.setdefault("spec", self.spec if command == "put" else None)
        self.add(h.ScheduleAsked(self.at_ns, self.requests, "client", "acme", "r", command, **said))
        return self.requests

    def hear(self, word: str, *, number: int = 0, outcome: str = "ok", id: int = 0) -> None:
        self.add(h.ScheduleTold(self.at_ns, number or self.requests, outcome, word if outcome == "ok" else "", id))

    # -- calendars and backfills -----------------------------------------------------------------------------------------

    def calendar(self, calendar: Calendar) -> None:
        self.commit(calendars=[("acme", calendar.name, msgspec.msgpack.encode(calendar), self.epoch, 1)])

    def backfill(
        self, spec: sm.BackfillSpec, state: sm.BackfillState, *ticks: int, is_over: bool = False, id: int = 99
    ) -> list[int]:
        """Write a backfill, and the ticks it fires in that commit."""
        spec = msgspec.structs.replace(spec, rule=self.rule)
        changes = self.changes()
        made = []
        for tick_ms in ticks:
            row = self.insert(changes)
            changes.ticks.append(TickRow(SCHEDULE, tick_ms, id, self.revision, row.id, self.now_ms, 0))
            self.runs[row.id] = changes.ticks[-1]
            changes.count("acme", "default", "fired")
            made.append(row.id)
        changes.backfills.append(
            BackfillRow(id, SCHEDULE, is_over, msgspec.msgpack.encode(spec), msgspec.msgpack.encode(state))
        )
        self.commit(changes)
        return made

    def final(self, **fields: Any) -> h.Final:
        schedules = {SCHEDULE: (self.revision, self._next(), msgspec.msgpack.encode(self.state))}
        alive = {(SCHEDULE, row.tick_ms, row.source): (id, 0) for id, row in self.runs.items() if id and not row.outcome}
        return super().final(**{"schedules": schedules, "ticks": alive, **fields})
