"""Runs of one schedule at a time: what the overlap policy and the limit allow, recomputed from rows of ticks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ...actors.schedule_rows import SOURCE_RULE
from ..history import Committed, Observation
from .diary import Change, Page
from .watch import Watch

_ALONE: Final = ("skip", "buffer_one", "buffer_all", "cancel_other")
_ROOM: Final = {"skip": 0, "buffer_one": 1, "cancel_other": 1}


class Overlaps(Watch):
    """A tick fires beside a run that is alive only if the policy says so, and is left out or waits only if one is; what
    waits goes on when the run ends; no schedule fires more often than its limit."""

    name = "overlaps"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        return {Committed: self._committed}

    def _committed(self, seen: Committed) -> None:
        for change in self.tasks.diary.changes:
            if change.after is not None:
                self._check(change, change.after, seen)

    def _check(self, change: Change, page: Page, seen: Committed) -> None:
        before = change.before
        policies = {page.spec.overlap, *([before.spec.overlap] if before is not None else [])}
        was_alive = before.alive if before is not None else {}
        fired = [row for row in change.rows if row.task_id and row.source == SOURCE_RULE]
        if fired and policies <= set(_ALONE):
            others = [id for id in was_alive if id in page.alive]
            together = [row for row in fired if row.task_id in page.alive]
            if others or len(together) > 1:
                text = f"fired tick {fired[0].tick_ms} beside a run that is alive, its overlap is {page.spec.overlap}"
                self._broken("together", seen, page, text)
        had_run = bool(was_alive) or any(row.task_id for row in change.rows)
        left_out = [row for row in change.rows if not row.task_id]
        if left_out and not had_run and not (before is not None and before.state.buffer):
            self._broken("left_out", seen, page, f"left out tick {left_out[0].tick_ms}, though no run was alive")
        self._check_buffer(change, page, seen, had_run=had_run)
        limit = page.spec.rule.limit
        if limit and fired and page.state.fired > limit:
            self._broken("limit", seen, page, f"fired {page.state.fired} ticks, its limit is {limit}")

    def _check_buffer(self, change: Change, page: Page, seen: Committed, *, had_run: bool) -> None:
        old = change.before.state.buffer if change.before is not None else ()
        new = [tick for tick in page.state.buffer if tick not in old]
        if new and not had_run:
            self._broken("waits", seen, page, f"lets tick {abs(new[0])} wait, though no run was alive")
        if page.state.buffer and not page.alive and not page.state.paused:
            self._broken("forgotten", seen, page, f"lets tick {abs(page.state.buffer[0])} wait, and no run is alive")
        room = _ROOM.get(page.spec.overlap)
        has_rule = any(tick > 0 for tick in new)
        if new and has_rule and room is not None and len(page.state.buffer) > max(room, len(old)):
            text = f"lets {len(page.state.buffer)} ticks wait, its overlap is {page.spec.overlap}"
            self._broken("crowded", seen, page, text)

    def _broken(self, kind: str, seen: Observation, page: Page, text: str) -> None:
        name = "/".join(page.key)
        self.violated(kind, seen.at_ns, name, f"schedule {name} {text}")
