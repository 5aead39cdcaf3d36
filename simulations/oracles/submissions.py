"""What clients were told of their submissions, compared with what became durable: nothing lost, nothing made up, no key used
twice.

A submission whose outcome the client does not know may have happened: its tasks may be there, each at most once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...actors.messages import Kind, TaskSpec
from ...actors.states import FIRST_FINAL, State
from ...runtime.ids import to_text
from ..history import Commanded, Committed, Final, Observation, Submitted
from .steps import Task
from .watch import Watch

Print = tuple[str, str, str, str, int, str, str, bytes]
"""What of a task can be compared with its specification."""


class Lost(Watch):
    """Every acknowledged task is there until it is purged, as it was asked for; and nobody's task is there: it was
    submitted, or a tick made it."""

    name = "lost"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._claimed: dict[int, int] = {}  # acknowledged id → when
        self._maybe: dict[Print, int] = {}  # how many of these may be there
        return {Submitted: self._submitted, Commanded: self._commanded, Committed: self._committed}

    def _submitted(self, seen: Submitted) -> None:
        for position, spec in enumerate(seen.specs):
            kind, task_id = seen.kinds[position], seen.ids[position]
            if not task_id:
                if seen.outcome == "unknown":
                    asked = _print_of_spec(seen.tenant, kind, spec)
                    self._maybe[asked] = self._maybe.get(asked, 0) + 1
                continue
            task = self.tasks.find(task_id)
            if not seen.existing[position]:
                self._claimed[task_id] = seen.at_ns
                if task is not None and _print_of_task(task) != _print_of_spec(seen.tenant, kind, spec):
                    self.broken("changed", seen.at_ns, task_id, f"is not what {seen.client} asked for under that id")
            if task is None and not self._is_forgiven(task_id):
                self.broken("lost", seen.at_ns, task_id, f"was acknowledged to {seen.client}, but it is not durable")

    def _commanded(self, seen: Commanded) -> None:
        if seen.word == "not_found" and seen.id in self._claimed and seen.id in self.tasks.tasks:
            self.broken("not_found", seen.at_ns, seen.id, f"is there, but {seen.command} was answered 'not_found'")

    def _committed(self, seen: Committed) -> None:
        for step in self.tasks.steps:
            if step.purged and step.before < FIRST_FINAL:
                text = f"was purged while it was {State(step.before).label}" if step.before else "was purged at birth"
                self.broken("purged_alive", seen.at_ns, step.task.id, text)

    def end(self, final: Final) -> None:
        tasks = self.tasks
        stored = {row.id: row for row in final.rows}
        for task_id, at_ns in self._claimed.items():
            if task_id not in stored and task_id not in tasks.gone and not self._is_forgiven(task_id):
                self.broken("lost", final.at_ns, task_id, f"was acknowledged at {at_ns} ns and is not there at the end")
        for task_id in tasks.tasks:
            if task_id not in stored:
                text = "was committed and never deleted, but the store has no such row"
                self.broken("row_lost", final.at_ns, task_id, text)
        for row in final.rows:
            if row.id not in tasks.tasks and not (tasks.has_taken_back and row.id in tasks.gone):
                self.broken("row_unknown", final.at_ns, row.id, "has a row that no commit explains")
        left = dict(self._maybe)
        for table in (tasks.tasks, tasks.gone):
            for task in table.values():
                if task.id in self._claimed or task.id in tasks.diary.of_tasks:
                    continue
                asked = _print_of_task(task)
                left[asked] = left.get(asked, 0) - 1
                if left[asked] < 0:
                    text = f"of {task.kind.template.handler!r} is there, but nobody's submission accounts for it"
                    self.broken("unexpected", final.at_ns, task.id, text)

    def _is_forgiven(self, task_id: int) -> bool:
        return self.bounds.may_lose and task_id in self.tasks.taken_back


class Dedupe(Watch):
    """A dedupe key has one task within its window, and answers name that one."""

    name = "dedupe"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._holders: dict[tuple[str, str], tuple[int, int]] = {}  # (tenant, key) → (task id, expires_ms)
        return {Committed: self._committed, Submitted: self._submitted}

    def _committed(self, seen: Committed) -> None:
        kept = {(task_id, tenant, key): expires_ms for tenant, key, task_id, expires_ms in seen.changes.dedupe}
        for step in self.tasks.steps:
            task = step.task
            if step.before or not task.dedupe_key:
                continue
            key = (task.kind.tenant, task.dedupe_key)
            self._check_holder(task, key, step.turn_ms, seen.at_ns)
            expires_ms = kept.get((task.id, *key))
            if expires_ms is None:
                self.broken("unkept", seen.at_ns, task.id, f"has dedupe key {task.dedupe_key!r}, which was not written")
                expires_ms = step.turn_ms + task.kind.template.dedupe_window_ms
            elif expires_ms != step.turn_ms + task.kind.template.dedupe_window_ms:
                text = f"keeps dedupe key {task.dedupe_key!r} for {expires_ms - step.turn_ms} ms, not its window"
                self.broken("window", seen.at_ns, task.id, text)
            self._holders[key] = (task.id, expires_ms)

    def _check_holder(self, task: Task, key: tuple[str, str], turn_ms: int, at_ns: int) -> None:
        holder_id, expires_ms = self._holders.get(key, (0, 0))
        if not holder_id or holder_id in self.tasks.taken_back or expires_ms - self.bounds.skew_ms <= turn_ms:
            return
        name = to_text(holder_id)
        if task.kind.template.on_conflict != "replace":
            text = f"has dedupe key {key[1]!r}, which task {name} holds for another {expires_ms - turn_ms} ms"
            self.broken("second", at_ns, task.id, text)
            return
        holder = self.tasks.tasks.get(holder_id)
        if holder is not None and holder.state < FIRST_FINAL:
            text = f"took dedupe key {key[1]!r} of task {name}, which is still {State(holder.state).label}"
            self.broken("not_replaced", at_ns, task.id, text)

    def _submitted(self, seen: Submitted) -> None:
        for position, existing in enumerate(seen.existing):
            task_id, spec = seen.ids[position], seen.specs[position]
            if not existing or not task_id:
                continue
            task = self.tasks.find(task_id) or self.tasks.taken_back.get(task_id)
            if task is None or (task.kind.tenant, task.dedupe_key) != (seen.tenant, spec.dedupe_key):
                text = f"was named to {seen.client} as the holder of dedupe key {spec.dedupe_key!r}, which it is not"
                self.broken("wrong_existing", seen.at_ns, task_id, text)


def _print_of_task(task: Task) -> Print:
    kind, template = task.kind, task.kind.template
    return (
        kind.tenant, template.handler, template.pool, template.queue, task.priority, task.key, task.dedupe_key, task.payload
    )  # fmt: skip


def _print_of_spec(tenant: str, kind: Kind, spec: TaskSpec) -> Print:
    template = kind.template
    return (
        tenant, template.handler, template.pool, template.queue, spec.priority, spec.key, spec.dedupe_key, spec.payload
    )  # fmt: skip
