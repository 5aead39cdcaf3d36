"""The schedules of one shard, on a real SQLite in memory: what a test puts, what ticks, what runs."""

from __future__ import annotations

from typing import Any

import msgspec
from foliot.actors import messages as m
from foliot.actors import schedule_messages as sm
from foliot.actors.rules import Calendar, Rule
from foliot.actors.states import State

from .harness_shard import START_MS, ShardHarness

TENANT = "acme"
SECOND = 1_000
MINUTE = 60_000
HOUR = 3_600_000
EVERY_MINUTE = Rule(every_ms=MINUTE)


class ScheduleHarness(ShardHarness):
    """A shard with words for schedules. It begins at a whole minute."""

    def put(self, *names: str, rule: Rule = EVERY_MINUTE, mode: str = "replace", queue: str = "default",
            tenant: str = TENANT, **fields: Any) -> list[str]:  # fmt: skip
        specs = [sm.ScheduleSpec(name, 0, b"p", rule, **fields) for name in names]
        template = m.Template("app.noop", queue=queue)
        (answer,) = self.deliver(sm.PutSchedules(tenant, [template], specs, mode))
        assert isinstance(answer, sm.SchedulesPut), answer
        self.refused = answer.refused
        return answer.outcomes

    def do(self, action: str, *names: str, tenant: str = TENANT, **fields: Any) -> list[str]:
        (answer,) = self.deliver(sm.CommandSchedules(tenant, list(names), action, **fields))
        assert isinstance(answer, sm.SchedulesAnswered), answer
        self.triggered = answer.tasks
        return answer.outcomes

    def calendar(self, calendar: Calendar, *, tenant: str = TENANT) -> Calendar:
        (answer,) = self.deliver(sm.ConfigureCalendar(tenant, calendar))
        assert isinstance(answer, sm.CalendarConfigured), answer
        return answer.calendar

    def state(self, name: str) -> sm.ScheduleState:
        """Return how a schedule stands, as the store has it."""
        row = self.connection.execute("select state from schedules where name = ?", (name,)).fetchone()
        return msgspec.msgpack.decode(row[0], type=sm.ScheduleState)

    def next_ms(self, name: str) -> int:
        row = self.connection.execute("select next_ms from schedules where name = ?", (name,)).fetchone()
        return int(row[0])

    def ticks(self, name: str, *, source: int | None = None) -> list[tuple[int, str]]:
        """Return (seconds since the start, what became of it) of a schedule's ticks, `alive` while its task is."""
        rows = self.connection.execute(
            "select tick_ms, outcome, source from ticks join schedules on schedules.id = schedule_id where name = ?"
            " order by tick_ms, source",
            (name,),
        ).fetchall()
        return [
            ((tick_ms - START_MS) // SECOND, State(outcome).label if outcome else "alive")
            for tick_ms, outcome, of in rows
            if source is None or of == source
        ]

    def alive(self) -> list[int]:
        """Return the tasks that are not over, oldest first."""
        rows = self.connection.execute("select id from tasks where state < 10 order by id").fetchall()
        return [id for (id,) in rows]

    def run_all(self, kind: m.OutcomeKind = m.OutcomeKind.COMPLETED) -> int:
        """Let a worker run everything that waits; returns how many tasks there were."""
        bodies = self.lease(*self.alive())
        for body in bodies:
            if kind is m.OutcomeKind.COMPLETED:
                self.report(body)
            else:
                self.report(body, kind, error=m.TaskError("ValueError", "no"), fatal=True)
        return len(bodies)

    def advance_to(self, second: int) -> None:
        self.advance_ms(START_MS + second * SECOND - self.now_ms)
