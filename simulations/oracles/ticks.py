"""Ticks as rows: each one once, with its task, at its time, counted; and whether what waits is ever decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ...actors.schedule_rows import SOURCE_RULE, SOURCE_TRIGGER, TickRow
from ..history import Committed, Observation
from ..history import Final as End
from .diary import Change, Page
from .steps import NS
from .watch import Watch

LOW_MS: Final = 10_000
"""What precision "low" may add to a tick's time."""


class Ticks(Watch):
    """A tick is one row with one task of its own, made no earlier than it says by the shard's own clock; counters are the
    rows; and in calm nothing that is due waits."""

    name = "ticks"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._first = (0, 0)  # what was due first, and since when it has been
        self._first_ns = 0
        return {Committed: self._committed}

    def _committed(self, seen: Committed) -> None:
        diary = self.tasks.diary
        for name, text in diary.doubles:
            self.violated("twice", seen.at_ns, name, f"tick {name} {text}")
        for text in diary.strays:
            self.violated("stray", seen.at_ns, seen.shard, f"shard {seen.shard} wrote {text}")
        if diary.changes:
            born = {step.task.id for step in self.tasks.steps if not step.before}
            for change in diary.changes:
                if change.after is not None:
                    for row in change.rows:
                        self._check_row(row, change, seen, born)
                    self._check_counts(change, seen)
                    self._check_next(change.after, seen)
        self._check_waiting(seen)

    def _broken(self, kind: str, seen: Observation, page: Page, text: str) -> None:
        name = "/".join(page.key)
        self.violated(kind, seen.at_ns, name, f"schedule {name} {text}")

    def _check_row(self, row: TickRow, change: Change, seen: Committed, born: set[int]) -> None:
        page = change.after
        assert page is not None
        if row.task_id:
            task = self.tasks.tasks.get(row.task_id)
            owner = page if row.revision == page.revision or change.before is None else change.before
            if task is None or row.task_id not in born:
                self._broken("no_task", seen, page, f"fired tick {row.tick_ms} without a task in the same commit")
            elif row.revision == owner.revision and (task.payload, task.kind) != (owner.spec.payload, owner.kind):
                self._broken("task", seen, page, f"fired tick {row.tick_ms} with a task that is not as it says")
        if row.source != SOURCE_RULE:
            return
        if row.at_ms < row.tick_ms:
            self._broken("early", seen, page, f"fired tick {row.tick_ms} {row.tick_ms - row.at_ms} ms early")
        if row.at_ms > seen.now_ms + self.bounds.skew_ms:
            text = f"fired tick {row.tick_ms} by a clock {row.at_ms - seen.now_ms} ms ahead of its node's"
            self._broken("clock", seen, page, text)

    def _check_counts(self, change: Change, seen: Committed) -> None:
        page = change.after
        assert page is not None
        old = change.before.state if change.before is not None else None
        made = [row for row in change.rows if row.task_id]
        for what, count in (
            ("fired", sum(1 for row in made if row.source == SOURCE_RULE)),
            ("triggered", sum(1 for row in made if row.source == SOURCE_TRIGGER)),
            ("skipped", sum(1 for row in change.rows if not row.task_id)),
        ):
            counted = getattr(page.state, what) - (getattr(old, what) if old is not None else 0)
            if counted != count:
                self._broken("count", seen, page, f"counts {counted:+} {what}, its rows say {count:+}")
        if old is not None and page.state.missed < old.missed:
            self._broken("count", seen, page, f"counts {page.state.missed - old.missed} missed")

    def _check_next(self, page: Page, seen: Committed) -> None:
        """The timers go by `next_ms`: it is there while there is a tick to wait for, and not before that."""
        state, rule = page.state, page.spec.rule
        waits = bool(state.cursor_ms) and not state.paused and not state.is_over
        latest_ms = state.cursor_ms + rule.jitter_ms + LOW_MS * (rule.precision == "low")
        is_right = max(state.cursor_ms, 1) <= page.next_ms <= max(latest_ms, 1) if waits else not page.next_ms
        if not is_right:
            self._broken("next", seen, page, f"has its next tick at {state.cursor_ms}, but waits for {page.next_ms}")

    def _check_waiting(self, seen: Committed) -> None:
        """What is due first is decided soon; it may have been due for long when it began to wait, after a pause."""
        due = self.tasks.diary.due
        calm_ms = min(self.tasks.calm_ms(seen.at_ns), self.bounds.quiet_ms(seen.at_ns // NS))
        if not due or calm_ms < self.bounds.take_over_ms:
            self._first = (0, 0)
            return
        first, patience_ms = due[0], self.bounds.undecided_ms
        if first != self._first:
            self._first, self._first_ns = first, seen.at_ns
        next_ms, id = first
        late_ms = seen.now_ms - self.bounds.skew_ms - next_ms
        if late_ms > patience_ms and (seen.at_ns - self._first_ns) // NS > patience_ms:
            page = self.tasks.diary.pages[id]
            text = f"waits for {next_ms}, {seen.now_ms - next_ms} ms ago, though its shard has long had an owner"
            self._broken("stuck", seen, page, text)

    def end(self, final: End) -> None:
        diary = self.tasks.diary
        if self.tasks.deadline_ns >= 0 and final.at_ns > self.tasks.deadline_ns + self.bounds.repair_ms * NS:
            return  # what goes on while the cluster is stopped comes after the rows were read
        for id, page in diary.pages.items():
            stored = final.schedules.get(id)
            if stored != (page.revision, page.next_ms, page.encoded):
                self._broken("differs", final, page, f"is stored as {stored}, but commits left it otherwise")
        for id in final.schedules:
            if id not in diary.pages:
                self.violated("differs", final.at_ns, id, f"schedule {id} is stored, but no commit explains it")
        for name, (task_id, outcome) in final.ticks.items():
            row = diary.ticks.get(name)
            if row is None or (row.task_id, diary.outcomes[name]) != (task_id, outcome):
                text = f"tick {name} is stored with task {task_id} and outcome {outcome}, but commits left it otherwise"
                self.violated("differs", final.at_ns, name, text)
        for name, outcome in diary.outcomes.items():
            if name not in final.ticks and name[0] in diary.pages and not outcome:
                self.violated("lost", final.at_ns, name, f"tick {name} is not there, though its task is not over")
