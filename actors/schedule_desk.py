"""What people ask of a shard's schedules: create, change, pause, resume, trigger, delete; and backfills.

Requests are taken one at a time: each looks up, after the commit of the one before, what is not in memory, and then decides
with all it names in hand. So two requests for one name come out as if the later one had come after the answer to the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from ..runtime.actor import Turn
from ..runtime.bus import Refusal
from ..runtime.errors import UsageError
from ..runtime.ids import IdSource
from . import schedule_messages as sm
from .messages import TaskRefusal, Template
from .rule_errors import InvalidRuleError
from .schedule import Schedule, encode_spec, seed_of, tier_of
from .schedule_rows import ReadSchedules, SchedulesRead
from .schedules import Schedules
from .table import TaskTable
from .task import KindState
from .ticks import check

_WAITING_MAX: Final = 64  # requests
Request = sm.PutSchedules | sm.CommandSchedules | sm.StartBackfill | sm.CommandBackfills
Found = dict[str, Schedule]


class ScheduleDesk:
    """Answers requests about the schedules of one shard."""

    def __init__(self, table: TaskTable, schedules: Schedules, ids: IdSource) -> None:
        self._table = table
        self._schedules = schedules
        self._ids = ids
        self._waiting: deque[tuple[Request, str, int]] = deque()  # with whom to answer
        self._is_busy = False

    def take(self, message: Request, turn: Turn) -> None:
        """Take a request; it is answered when its turn has come."""
        if len(self._waiting) >= _WAITING_MAX:
            text = f"{len(self._waiting)} requests about schedules wait at shard {self._table.shard}; retry later"
            turn.reply(Refusal("overloaded", text, retry_after_ms=500))
            return
        self._waiting.append((message, turn.sender, turn.request))
        self._go_on(turn)

    def _go_on(self, turn: Turn) -> None:
        while self._waiting and not self._is_busy:
            message, turn.sender, turn.request = self._waiting.popleft()
            match message:
                case sm.PutSchedules():
                    names = [spec.name for spec in message.schedules]
                    self._with(message.tenant, names, turn, partial(self._put, message))
                case sm.CommandSchedules():
                    self._with(message.tenant, message.names, turn, partial(self._command, message))
                case sm.StartBackfill():
                    self._with(message.tenant, [message.backfill.schedule], turn, partial(self._backfill, message))
                case sm.CommandBackfills():
                    turn.changes.fence = True
                    turn.reply(self._schedules.backfills.command(message, turn))

    def _with(self, tenant: str, names: list[str], turn: Turn, act: Callable[[Found, Turn], None]) -> None:
        """Call `act` with the schedules of these names that there are."""
        known = self._schedules.by_name
        absent = [name for name in dict.fromkeys(names) if (tenant, name) not in known]
        if not absent:
            act({name: known[tenant, name] for name in names}, turn)
            return
        sender, request = turn.sender, turn.request
        self._is_busy = True

        def resume(answer: SchedulesRead, turn: Turn) -> None:
            rows = self._table.rows_of(answer)
            self._is_busy = False
            turn.sender, turn.request = sender, request
            asked = set(absent)
            has_left = any((tenant, name) not in known for name in names if name not in asked)
            if has_left or any(row.id not in self._schedules.memory and self._table.is_stale(row.id) for row in rows):
                self._with(tenant, names, turn, act)  # it ticked or ended meanwhile, and is in the store again
                return
            found = {row.name: self._schedules.of_row(row) for row in rows}
            found |= {name: known[tenant, name] for name in names if (tenant, name) in known}
            act(found, turn)
            self._go_on(turn)

        self._table.ask(ReadSchedules(self._table.next_token, [], tenant, absent), resume, turn)

    # -- create and change -------------------------------------------------------------------------------------------------

    def _put(self, message: sm.PutSchedules, found: Found, turn: Turn) -> None:
        outcomes: list[str] = []
        refused: list[TaskRefusal] = []
        stored = [msgspec.structs.replace(spec, template=0) if spec.template else spec for spec in message.schedules]
        kinds: list[KindState | None] = [None] * len(message.templates)
        for position, spec in enumerate(stored):
            old = found.get(spec.name)
            if (old is None) if message.mode == "update" else (old is not None and message.mode == "create"):
                outcomes.append("not_found" if old is None else "exists")
                continue
            try:
                at = message.schedules[position].template
                kind = kinds[at]
                if kind is None:
                    template: Template = message.templates[at]
                    kind = kinds[at] = self._table.kind_for(message.tenant, template, turn)
                if old is None:
                    found[spec.name] = self._create(spec, kind, turn)
                    outcomes.append("created")
                else:
                    outcomes.append(self._replace(old, spec, kind, turn))
            except UsageError as error:
                outcomes.append("refused")
                refused.append(TaskRefusal(position, error.code, str(error)))
        turn.changes.fence = True
        turn.reply(sm.SchedulesPut(outcomes, refused))

    def _create(self, spec: sm.ScheduleSpec, kind: KindState, turn: Turn) -> Schedule:
        now_ms, schedules = turn.now_ms, self._schedules
        state = sm.ScheduleState(created_ms=now_ms, updated_ms=now_ms)
        schedule = Schedule(self._ids.next_id(now_ms), kind, spec, state)
        schedules.firing.start(schedule, now_ms)
        if not state.cursor_ms:
            self._check(schedule, now_ms)
        elif spec.rule.at_ms and spec.rule.at_ms[-1] < now_ms - spec.grace_ms and spec.missed == "skip":
            expected = "an instant from now on, or missed='last' to run it at once"
            raise InvalidRuleError("at_ms", spec.rule.at_ms[-1], "is past", expected)
        schedules.point(schedule, now_ms)
        self._table.note_change(schedule.id)
        turn.changes.schedules.append(schedule.row())
        return schedule

    def _replace(self, old: Schedule, spec: sm.ScheduleSpec, kind: KindState, turn: Turn) -> str:
        """Go on by another definition: what was due by the old one fires first, what runs goes on."""
        body = encode_spec(spec)
        if body == old.body and kind is old.kind:
            return "unchanged"
        schedules, state, now_ms = self._schedules, old.state, turn.now_ms
        self._check(Schedule(old.id, kind, spec, state), now_ms)
        if not state.paused:
            schedules.decide(old, turn)
        has_rule_changed = spec.rule != old.spec.rule
        schedules.retier(old, tier_of(spec))
        old.kind, old.spec, old.body = kind, spec, body
        old.revision += 1
        old.ticks = None
        state.updated_ms = now_ms
        if has_rule_changed:
            schedules.go_on(old, state.paused_at_ms if state.paused else now_ms, turn)
        else:
            schedules.settle(old, turn)
        turn.changes.schedules.append(old.row())
        return "replaced"

    def _check(self, schedule: Schedule, now_ms: int) -> None:
        """Raises: UsageError unless the rule can be meant and will tick."""
        if self._schedules.firing.ticks(schedule).first(now_ms) is not None:
            return
        calendars = self._schedules.book.of(schedule.tenant)
        check(schedule.spec.rule, calendars, now_ms, seed=seed_of(schedule.tenant, schedule.name))

    # -- commands ----------------------------------------------------------------------------------------------------------

    def _command(self, message: sm.CommandSchedules, found: Found, turn: Turn) -> None:
        outcomes: list[str] = []
        tasks: list[int] = []
        for name in message.names:
            schedule = found.get(name)
            word, task_id = "not_found", 0
            if schedule is not None:
                try:
                    word, task_id = self._carry_out(message, schedule, turn)
                except UsageError as error:
                    self._schedules.firing.pause(schedule, "foliot", str(error), turn.now_ms)
                    self._schedules.settle(schedule, turn)
                    word = "impossible"
                if word == "deleted":
                    del found[name]
            outcomes.append(word)
            tasks.append(task_id)
        turn.changes.fence = True
        turn.reply(sm.SchedulesAnswered(outcomes, tasks if message.action == "trigger" else []))

    def _carry_out(self, message: sm.CommandSchedules, schedule: Schedule, turn: Turn) -> tuple[str, int]:
        schedules, firing, state = self._schedules, self._schedules.firing, schedule.state
        word, task_id = "unchanged", 0
        if message.action == "delete":
            schedules.remove(schedule, turn)
            return "deleted", 0
        if message.action == "trigger":
            word, task_id = firing.trigger(schedule, message.overlap, turn)
        elif message.action == "pause" and not state.paused:
            schedules.decide(schedule, turn)  # what was due before the pause fires
            firing.pause(schedule, message.by, message.why, turn.now_ms)
            word = "paused"
        elif message.action == "pause" and message.why and (message.why, message.by) != (state.paused_why, state.paused_by):
            state.paused_why, state.paused_by, state.updated_ms = message.why, message.by, turn.now_ms
            word = "paused"  # for another reason, since when stays
        elif message.action == "resume" and state.paused:
            firing.resume(schedule, message.missed, turn)
            word = "over" if state.is_over else "resumed"
        if word != "unchanged":
            schedules.settle(schedule, turn)
        return word, task_id

    def _backfill(self, message: sm.StartBackfill, found: Found, turn: Turn) -> None:
        schedule = found.get(message.backfill.schedule)
        turn.changes.fence = True
        if schedule is None:
            turn.reply(sm.BackfillsAnswered(["not_found"], [0]))
            return
        try:
            id = self._schedules.backfills.start(message.backfill, schedule, self._ids.next_id(turn.now_ms), turn)
        except UsageError as error:
            turn.reply(Refusal(error.code, str(error)))
            return
        turn.reply(sm.BackfillsAnswered(["started"], [id]))
