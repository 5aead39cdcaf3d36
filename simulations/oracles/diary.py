"""The schedules as the store has them, rebuilt from its commits alone, and what each commit did to them.

Shared by the oracles of a set, as the tasks are (`Tasks.diary`). What always holds: after a commit each page is as its row
is, and a change tells what the page was before. Pages are replaced, never altered, so that a loss of power undoes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from sortedcontainers import SortedList

from ...actors.messages import Kind
from ...actors.rules import Calendar
from ...actors.schedule_messages import BackfillSpec, BackfillState, ScheduleSpec, ScheduleState
from ...actors.schedule_rows import SOURCE_RULE, SOURCE_TRIGGER, BackfillRow, TickRow
from ..history import Committed, ScheduleAsked, ScheduleTold

TickName = tuple[int, int, int]
"""(schedule, tick_ms, source)"""
_decode_spec = msgspec.msgpack.Decoder(ScheduleSpec).decode
_decode_state = msgspec.msgpack.Decoder(ScheduleState).decode
_decode_calendar = msgspec.msgpack.Decoder(Calendar).decode
_decode_backfill = msgspec.msgpack.Decoder(BackfillSpec).decode
_decode_progress = msgspec.msgpack.Decoder(BackfillState).decode
_RUNS: Final = (SOURCE_RULE, SOURCE_TRIGGER)


class Page(msgspec.Struct, frozen=True):
    """One schedule. `alive`: tasks of its rule and of people that are not over, by id. `resumed_ms`: when it was last."""

    id: int
    shard: int
    kind: Kind
    spec: ScheduleSpec
    revision: int
    state: ScheduleState
    next_ms: int
    stamp: int
    encoded: bytes = b""  # the state as stored
    alive: dict[int, TickRow] = {}
    resumed_ms: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.kind.tenant, self.spec.name

    @property
    def waiting(self) -> list[int]:
        """The rule's ticks in the buffer."""
        return [tick_ms for tick_ms in self.state.buffer if tick_ms > 0]


class Change(msgspec.Struct):
    """What one commit did to one schedule. `before` None: it was created; `after` None: it was deleted."""

    before: Page | None
    after: Page | None
    rows: list[TickRow]


class BackfillPage(msgspec.Struct, frozen=True):
    """One backfill."""

    id: int
    schedule_id: int
    is_over: bool
    spec: BackfillSpec
    state: BackfillState


class Version(msgspec.Struct):
    """A calendar as it was from `at_ns` on. `until_ns`: when another took its place, -1: none has."""

    calendar: Calendar | None
    at_ns: int
    until_ns: int = -1


class Diary:
    """All schedules of a run."""

    def __init__(self) -> None:
        self.pages: dict[int, Page] = {}
        self.names: dict[tuple[str, str], int] = {}
        self.ticks: dict[TickName, TickRow] = {}
        self.outcomes: dict[TickName, int] = {}
        self.of_tasks: dict[int, TickName] = {}
        """The tick that made a task."""
        self.backfills: dict[int, BackfillPage] = {}
        self.calendars: dict[tuple[str, str], list[Version]] = {}
        self.due: SortedList[tuple[int, int]] = SortedList()
        """(next_ms, id) of all that wait for a tick."""
        self.asked: dict[int, ScheduleAsked] = {}  # by number: what has not been answered
        self.answered: ScheduleAsked | None = None  # what was asked of the last answer
        self.resumes: dict[tuple[str, str], list[str]] = {}  # which missed ticks people ever wanted

        self.changes: list[Change] = []
        """What the last commit did, by schedule in the order of its rows."""
        self.backfill_changes: list[tuple[BackfillPage | None, BackfillPage]] = []
        self.doubles: list[tuple[TickName, str]] = []
        """Ticks of the last commit that were there before, or whose task has another one, and what is wrong."""
        self.strays: list[str] = []
        """Rows of the last commit that fit no schedule."""

    # -- what people ask -------------------------------------------------------------------------------------------------

    def ask(self, seen: ScheduleAsked) -> None:
        self.asked[seen.number] = seen
        if seen.command == "resume":
            self.resumes.setdefault((seen.tenant, seen.name), []).append(seen.missed)

    def tell(self, seen: ScheduleTold) -> None:
        """Where the answer is unknown it stays asked."""
        self.answered = self.asked.get(seen.number)
        if seen.outcome != "unknown":
            self.asked.pop(seen.number, None)

    # -- commits ---------------------------------------------------------------------------------------------------------

    def commit(self, seen: Committed) -> Callable[[], None] | None:
        """Take in the rows of a turn. Returns what takes them back; None if there are none."""
        changes = seen.changes
        self.changes, self.backfill_changes, self.doubles, self.strays = [], [], [], []
        if not (
            changes.schedules or changes.schedule_moves or changes.schedules_deleted or changes.ticks or changes.ticks_ended
            or changes.backfills or changes.calendars
        ):  # fmt: skip
            return None
        before: dict[int, Page | None] = {}
        now: dict[int, Page] = {}

        def page_of(id: int, what: str) -> Page | None:
            page = now.get(id) or self.pages.get(id)
            if page is None:
                self.strays.append(f"{what} of schedule {id}, which is not there")
            else:
                before.setdefault(id, self.pages.get(id))
            return page

        for row in changes.schedules:
            page = self.pages.get(row.id)
            before.setdefault(row.id, page)
            kind = seen.kinds[row.template_id]
            now[row.id] = Page(
                row.id, changes.shard, kind, _decode_spec(row.body), row.revision, _decode_state(row.state), row.next_ms,
                row.calendars, row.state, page.alive if page else {}, page.resumed_ms if page else 0,
            )  # fmt: skip
        for id, next_ms, stamp, state in changes.schedule_moves:
            page = page_of(id, "a move")
            if page is not None:
                now[id] = msgspec.structs.replace(
                    page, next_ms=next_ms, stamp=stamp, state=_decode_state(state), encoded=state
                )  # fmt: skip
        taken = self._take_ticks(seen, page_of, now)
        taken_backfills = self._take_backfills(changes.backfills)
        deleted = {id: page for id in changes.schedules_deleted if (page := page_of(id, "a deletion")) is not None}
        for id, page in now.items():
            was = before[id]
            if was is not None and was.state.paused and not page.state.paused:
                now[id] = msgspec.structs.replace(page, resumed_ms=page.state.updated_ms)
        rows: dict[int, list[TickRow]] = {}
        for tick in changes.ticks:
            rows.setdefault(tick.schedule_id, []).append(tick)
        for id, was in before.items():
            after = None if id in deleted else now.get(id, was)
            self._put(was, after)
            self.changes.append(Change(was, after, rows.get(id, [])))
        self._take_calendars(seen)
        calendars = list(changes.calendars)
        done = list(self.changes)

        def undo() -> None:
            for change in done:
                self._put(change.after, change.before)
            for name, outcome in taken.items():
                if outcome is None:
                    row = self.ticks.pop(name, None)
                    self.outcomes.pop(name, None)
                    if row is not None:
                        self.of_tasks.pop(row.task_id, None)
                else:
                    self.outcomes[name] = outcome
            for id, backfill in taken_backfills.items():
                if backfill is None:
                    self.backfills.pop(id, None)
                else:
                    self.backfills[id] = backfill
            for tenant, calendar_name, _, _, _ in calendars:
                versions = self.calendars[tenant, calendar_name]
                versions.pop()
                if versions:
                    versions[-1].until_ns = -1

        return undo

    def _put(self, was: Page | None, page: Page | None) -> None:
        if was is not None:
            self.due.discard((was.next_ms, was.id))
            if page is None:
                self.pages.pop(was.id, None)
                if self.names.get(was.key) == was.id:
                    del self.names[was.key]
        if page is not None:
            self.pages[page.id] = page
            self.names[page.key] = page.id
            if page.next_ms:
                self.due.add((page.next_ms, page.id))

    def _take_ticks(
        self, seen: Committed, page_of: Callable[[int, str], Page | None], now: dict[int, Page]
    ) -> dict[TickName, int | None]:
        """Returns the outcome each tick had before, None of those that are new."""
        taken: dict[TickName, int | None] = {}
        alive: dict[int, dict[int, TickRow]] = {}

        def alive_of(page: Page) -> dict[int, TickRow]:
            return alive.setdefault(page.id, dict(page.alive))

        for row in seen.changes.ticks:
            name = (row.schedule_id, row.tick_ms, row.source)
            page = page_of(row.schedule_id, "a tick")
            if name in self.ticks:
                self.doubles.append((name, "was decided before"))
                continue
            if row.task_id and row.task_id in self.of_tasks:
                self.doubles.append((name, f"has the task of tick {self.of_tasks[row.task_id]}"))
            taken[name] = None
            self.ticks[name] = row
            self.outcomes[name] = row.outcome
            if row.task_id:
                self.of_tasks[row.task_id] = name
                if page is not None and row.source in _RUNS:
                    alive_of(page)[row.task_id] = row
        for schedule_id, tick_ms, source, outcome in seen.changes.ticks_ended:
            name = (schedule_id, tick_ms, source)
            tick = self.ticks.get(name)
            page = page_of(schedule_id, "the end of a tick")
            if tick is None:
                self.strays.append(f"the end of tick {name}, which is not there")
                continue
            taken.setdefault(name, self.outcomes[name])
            self.outcomes[name] = outcome
            if page is not None and source in _RUNS:
                alive_of(page).pop(tick.task_id, None)
        for id, runs in alive.items():
            page = now.get(id) or self.pages[id]
            now[id] = msgspec.structs.replace(page, alive=runs)
        return taken

    def _take_backfills(self, rows: list[BackfillRow]) -> dict[int, BackfillPage | None]:
        before: dict[int, BackfillPage | None] = {}
        for row in rows:
            old = self.backfills.get(row.id)
            before.setdefault(row.id, old)
            self.backfills[row.id] = BackfillPage(
                row.id, row.schedule_id, row.is_over, _decode_backfill(row.body), _decode_progress(row.state)
            )
        self.backfill_changes = [(old, self.backfills[id]) for id, old in before.items()]
        return before

    def _take_calendars(self, seen: Committed) -> None:
        for tenant, name, body, _, _ in seen.changes.calendars:
            versions = self.calendars.setdefault((tenant, name), [])
            if versions:
                versions[-1].until_ns = seen.at_ns
            versions.append(Version(_decode_calendar(body) if body else None, seen.at_ns))
