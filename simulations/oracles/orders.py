"""What clients were told about schedules: it is so, and what was paused or deleted ticks no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ...actors.schedule_rows import SOURCE_RULE
from ..history import Committed, Observation, ScheduleAsked, ScheduleTold, TakenBack
from .diary import Page
from .steps import NS
from .watch import Watch

_ONE_COPY_MS: Final = 3_900  # who waits longer may have asked again
_HARMLESS: Final = ("trigger", "backfill", "calendar")
Name = tuple[str, str]


class Orders(Watch):
    """An answer says what is durable. Judged where nothing else was asked of the schedule meanwhile: a request without an
    answer, or of which copies may be under way, may happen at any time after."""

    name = "orders"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._asked: dict[int, ScheduleAsked] = {}
        self._open: dict[Name, dict[int, bool]] = {}  # requests that may still happen, and whether each was alone
        self._still: dict[Name, tuple[str, int]] = {}  # by name: what must not tick, and since when
        self._is_over = False
        return {
            ScheduleAsked: self._ask, ScheduleTold: self._tell, Committed: self._committed, TakenBack: self._taken_back
        }  # fmt: skip

    def _taken_back(self, seen: TakenBack) -> None:
        self._is_over = True  # what was told need not be so any more

    def _ask(self, seen: ScheduleAsked) -> None:
        name = (seen.tenant, seen.name)
        self._asked[seen.number] = seen
        if seen.command in _HARMLESS:
            return
        others = self._open.setdefault(name, {})
        for number in others:
            others[number] = False
        others[seen.number] = not others
        if seen.command != "pause":
            self._still.pop(name, None)

    def _tell(self, seen: ScheduleTold) -> None:
        asked = self._asked.pop(seen.number)
        name = (asked.tenant, asked.name)
        open_ = self._open.get(name, {})
        was_alone = open_.get(seen.number, not open_)
        took_ms = (seen.at_ns - asked.at_ns) // NS
        is_closed = took_ms < _ONE_COPY_MS and self.bounds.quiet_ms(seen.at_ns // NS) > took_ms + _ONE_COPY_MS
        if seen.outcome != "unknown" and is_closed:
            open_.pop(seen.number, None)
        if seen.outcome != "ok" or not was_alone or self._is_over:
            return
        page = self._page(name)
        problem = self._wrong(asked, seen, page)
        if problem:
            text = f"was answered {seen.word!r} when {asked.client} asked to {asked.command} it, but it {problem}"
            self.violated(f"not_{asked.command}", seen.at_ns, "/".join(name), f"schedule {'/'.join(name)} {text}")
        if asked.command in ("pause", "delete") and is_closed:
            self._still[name] = (asked.command, seen.at_ns)

    def _wrong(self, asked: ScheduleAsked, told: ScheduleTold, page: Page | None) -> str:
        """Return what is not as it was told, empty if nothing is."""
        match asked.command:
            case "calendar":
                return "" if (asked.tenant, asked.name) in self.tasks.diary.calendars else "is not there"
            case "trigger" if told.word == "triggered":
                return "" if told.id in self.tasks.diary.of_tasks else "made no task"
            case "backfill":
                is_there = told.id in self.tasks.diary.backfills
                return "" if is_there or self._open.get((asked.tenant, asked.name)) else "is not there"
            case "put" if told.word in ("created", "replaced", "unchanged"):
                return "" if page is not None and page.spec == asked.spec else "is another one"
            case "delete":
                return "" if page is None else "is there"
        if told.word == "not_found":
            return "" if page is None else "is there"
        if page is None:
            return "is not there"
        if asked.command == "pause":
            return "" if page.state.paused else "is not paused"
        if asked.command == "resume" and page.state.paused and page.state.paused_by != "foliot":
            return "is paused"
        return ""

    def _committed(self, seen: Committed) -> None:
        for change in self.tasks.diary.changes:
            page = change.after
            if page is None or page.key not in self._still or self._is_over:
                continue
            command, at_ns = self._still[page.key]
            fired = [row.tick_ms for row in change.rows if row.source == SOURCE_RULE and row.task_id]
            if fired and seen.at_ns > at_ns:
                text = f"schedule {'/'.join(page.key)} fired tick {fired[0]} after its {command} had been acknowledged"
                self.violated("fired", seen.at_ns, "/".join(page.key), text)

    def _page(self, name: Name) -> Page | None:
        id = self.tasks.diary.names.get(name)
        return self.tasks.diary.pages[id] if id is not None else None
