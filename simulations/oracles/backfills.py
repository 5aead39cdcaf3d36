"""Backfills: each tick of the window is decided once, by rows that say so, and all of it in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...actors.schedule_rows import TickRow
from ..history import Committed, Final, Observation
from .diary import BackfillPage, TickName
from .reference import reference
from .versions import Versions
from .watch import Watch


class Backfills(Watch):
    """Between the cursor a backfill had and the one it has, each reference tick of its window was fired or left out; no more
    of its runs are alive than it may have; and once the faults are over it comes to its end."""

    name = "backfills"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._versions = Versions(self.bounds, self.tasks)
        self._made: dict[int, dict[TickName, None]] = {}  # ticks of each
        return {Committed: self._committed}

    def _committed(self, seen: Committed) -> None:
        diary = self.tasks.diary
        rows: dict[int, list[TickRow]] = {}
        for row in seen.changes.ticks:
            rows.setdefault(row.source, []).append(row)
        changed = {page.id for _, page in diary.backfill_changes}
        for source, made in rows.items():
            if source > 1 and source not in changed:
                self.violated("alone", seen.at_ns, source, f"tick {made[0].tick_ms} of backfill {source} moved no cursor")
        for before, page in diary.backfill_changes:
            if page.schedule_id in diary.pages:
                self._check(before, page, rows.get(page.id, []), seen)

    def _check(self, before: BackfillPage | None, page: BackfillPage, rows: list[TickRow], seen: Committed) -> None:
        spec, state = page.spec, page.state
        old = before.state if before is not None else None
        start_ms = spec.until_ms if spec.is_backwards else spec.from_ms
        was_ms = old.cursor_ms if old is not None else start_ms
        if (state.cursor_ms > was_ms) if spec.is_backwards else (state.cursor_ms < was_ms):
            self._broken("backwards", seen, page, f"had decided up to {was_ms}, and now up to {state.cursor_ms}")
        fired = state.fired - (old.fired if old is not None else 0)
        left_out = state.left_out - (old.left_out if old is not None else 0)
        if fired != len(rows) or any(not row.task_id for row in rows):
            self._broken("count", seen, page, f"counts {fired:+} fired, its rows are {len(rows)}")
        if left_out and spec.reprocess == "all":
            self._broken("left_out", seen, page, f"left out {left_out} ticks, though it is to fire all")
        low_ms, high_ms = sorted((was_ms, state.cursor_ms))
        schedule = self.tasks.diary.pages[page.schedule_id]
        problems: list[str] = []
        for calendars in self._versions.named(schedule.key[0], spec.rule.calendar):
            window = reference(spec.rule, calendars).ticks(low_ms, high_ms) if not spec.rule.after_ms else []
            strangers = [row.tick_ms for row in rows if row.tick_ms not in window]
            if strangers:
                problems.append(f"fired tick {strangers[0]}, which is none of its window")
            elif len(window) != fired + left_out:
                problems.append(f"passed {len(window)} ticks, fired {fired} and left out {left_out}")
            else:
                problems.append("")
        if problems and "" not in problems:
            self._broken("undecided", seen, page, problems[0])
        if rows:
            self._check_alive(page, rows, seen)
        is_short = state.cursor_ms > spec.from_ms if spec.is_backwards else state.cursor_ms < spec.until_ms
        if page.is_over and state.status == "done" and is_short:
            self._broken("unfinished", seen, page, f"is done, but has decided only up to {state.cursor_ms}")

    def _check_alive(self, page: BackfillPage, rows: list[TickRow], seen: Committed) -> None:
        outcomes = self.tasks.diary.outcomes
        made = self._made.setdefault(page.id, {})
        made.update(((row.schedule_id, row.tick_ms, row.source), None) for row in rows)
        alive = sum(1 for name in made if not outcomes.get(name, 1))
        if alive > page.spec.concurrency:
            self._broken("together", seen, page, f"has {alive} runs alive, may have {page.spec.concurrency}")

    def _broken(self, kind: str, seen: Observation, page: BackfillPage, text: str) -> None:
        self.violated(kind, seen.at_ns, page.id, f"backfill {page.id} of {page.spec.schedule} {text}")

    def end(self, final: Final) -> None:
        if self.tasks.healed_ns < 0:
            return
        for page in self.tasks.diary.backfills.values():
            if not page.is_over and page.schedule_id in self.tasks.diary.pages and page.state.status == "running":
                self._broken("live", final, page, f"is not over at the end, and has decided up to {page.state.cursor_ms}")

