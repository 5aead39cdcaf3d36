"""The tasks as the store has them, rebuilt from its commits alone, and what each commit did to them.

All oracles of a set share one of these: an observation is taken in once, by whoever comes first, and the steps it led to
are there for the others. What always holds: after a commit, each task is as its row is; a step tells what it was before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ...actors.messages import QueueConfig, TenantConfig
from ...actors.states import FIRST_FINAL, State
from ..history import (
    Claimed,
    ClockChanged,
    Committed,
    Healed,
    Observation,
    ProcessChanged,
    Retained,
    ScheduleAsked,
    ScheduleTold,
    TakenBack,
)
from .diary import Diary
from .steps import NS, QueueName, Step, Task

UNDO_MAX: Final = 20_000  # commits that can be taken back
_QUEUED, _RUNNING = int(State.QUEUED), int(State.RUNNING)

class Tasks:
    """All tasks of a run, and how calm it has been."""

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.diary = Diary()
        self.gone: dict[int, Task] = {}  # purged, or deleted by retention
        self.taken_back: dict[int, Task] = {}  # power was lost, and with it the commit that made them
        self.steps: list[Step] = []
        """What the last commit did, in the order of its rows."""
        self.strays: list[tuple[int, str]] = []
        """(id, row) of the last commit's rows that belong to no task."""
        self.queues: dict[QueueName, QueueConfig] = {}
        self.tenants: dict[str, TenantConfig] = {}
        self.wall: tuple[int, int] = (0, 0)
        """(at_ns, wall clock) of the last commit."""
        self.has_taken_back = False
        self.healed_ns = -1
        self.deadline_ns = -1
        """By when everything has to have ended; -1 if the run was not healed."""
        self._disturbed_ns = 0
        self._paused: dict[str, None] = {}
        self._nodes: dict[str, None] = {}  # processes that ever owned a shard
        self._undo: deque[Callable[[], None]] = deque(maxlen=UNDO_MAX)  # one for each write to the store
        self._seen: Observation | None = None
        self._reactions: dict[type[Observation], Callable[[Any], None]] = {
            Committed: self._commit, TakenBack: self._take_back, Retained: self._retain, Claimed: self._claim,
            ProcessChanged: self._process, ClockChanged: self._disturb, Healed: self._heal,
            ScheduleAsked: self.diary.ask, ScheduleTold: self.diary.tell,
        }  # fmt: skip

    @property
    def kinds_taken(self) -> tuple[type[Observation], ...]:
        """The kinds of observations that change anything here."""
        return tuple(self._reactions)

    def take(self, seen: Observation) -> None:
        """Take in an observation, unless it is the one taken in last."""
        if seen is self._seen:
            return
        self._seen = seen
        react = self._reactions.get(type(seen))
        if react is not None:
            react(seen)

    def calm_ms(self, at_ns: int) -> int:
        """Return for how long no owner of a shard has changed, died, stood still or had its clock set."""
        return 0 if self._paused else (at_ns - self._disturbed_ns) // NS

    def find(self, task_id: int) -> Task | None:
        """Return a task that is or was there."""
        return self.tasks.get(task_id) or self.gone.get(task_id)

    # -- commits ---------------------------------------------------------------------------------------------------------

    def _commit(self, seen: Committed) -> None:
        changes, at_ns = seen.changes, seen.at_ns
        steps: dict[int, Step] = {}
        self.strays = []
        notes: dict[int, list[tuple[int, int]]] = {}
        ends: dict[int, int] = {}
        for task_id, attempt, kind, _, _, ended_ms, _ in changes.attempts:
            notes.setdefault(task_id, []).append((attempt, kind))
            ends[task_id] = max(ended_ms, ends.get(task_id, 0))
        for id, template_id, state, priority, due_ms, updated_ms, lane, key, dedupe_key, payload in changes.inserted:
            if id in self.tasks:
                self.strays.append((id, "inserted"))
                continue
            task = Task(
                id, changes.shard, seen.kinds[template_id], priority, lane, key, dedupe_key, payload, at_ns, state, due_ms
            )
            self.tasks[id] = task
            task.changed_ns = at_ns
            task.is_shaken = id in self.taken_back  # the number has had another owner
            if state == _QUEUED:
                task.queued_ns = at_ns
            steps[id] = Step(task, 0, state, updated_ms, 0, "", 0, 0, due_ms, 0, 0, 0, 0, -1, born=state)
        for id, attempt, session, updated_ms in changes.leased:
            step = self._step(id, updated_ms, at_ns, steps, "leased")
            if step is None:
                continue
            task = step.task
            if task.state != _RUNNING or (task.attempt, task.session) != (attempt, session):
                step.leased = True
                task.attempt, task.session, task.leased_ns = attempt, session, at_ns
                task.leases.append((attempt, session))
            task.state = step.after = _RUNNING
        for id, state, due_ms, spent, interruptions, cancelling, updated_ms in changes.moved:
            step = self._step(id, updated_ms, at_ns, steps, "moved")
            if step is None:
                continue
            task = step.task
            self._revive(step, at_ns)
            task.due_ms, task.spent, task.interruptions, task.cancelling = due_ms, spent, interruptions, cancelling
            if state == _QUEUED:
                task.queued_ns = at_ns
            task.state = step.after = state
        for id, state, spent, _, ended_ms, _, error in changes.ended:
            step = self._step(id, ended_ms, at_ns, steps, "ended")
            if step is None:
                continue
            task = step.task
            self._revive(step, at_ns)
            task.spent = spent
            task.state = step.after = state
            step.error = error
        for id in changes.purged:
            step = self._step(id, 0, at_ns, steps, "purged")
            if step is not None:
                step.purged = True
                self.gone[id] = self.tasks.pop(id)
        for id, noted in notes.items():
            step = steps.get(id)
            if step is not None:
                step.notes, step.noted_ms = noted, ends[id]
                step.task.noted += noted
            else:
                self.strays.append((id, "attempts"))
        self.steps = done = list(steps.values())
        self.wall = (at_ns, seen.now_ms)
        settings = self._configure(seen) if changes.queues or changes.tenants else None
        undo_diary = self.diary.commit(seen)
        self._undo.append(lambda: self._undo_commit(done, settings, undo_diary))

    def _step(self, id: int, turn_ms: int, at_ns: int, steps: dict[int, Step], row: str) -> Step | None:
        step = steps.get(id)
        if step is not None:
            return step
        task = self.tasks.get(id)
        if task is None:
            self.strays.append((id, row))
            return None
        step = steps[id] = Step(
            task, task.state, task.state, turn_ms, task.attempt, task.session, task.spent, task.interruptions, task.due_ms,
            task.cancelling, task.leased_ns, task.queued_ns, task.revivals, task.revived_ns,
        )  # fmt: skip
        task.changed_ns = at_ns
        return step

    @staticmethod
    def _revive(step: Step, at_ns: int) -> None:
        if step.before >= FIRST_FINAL and not step.revived:
            step.revived = True
            step.task.revivals += 1
            step.task.revived_ns = at_ns

    def _configure(self, seen: Committed) -> tuple[dict[QueueName, QueueConfig], dict[str, TenantConfig]]:
        """Take in settings, and return those there were."""
        before = dict(self.queues), dict(self.tenants)
        self.queues.update(((queue.pool, queue.queue), queue) for queue in seen.changes.queues)
        self.tenants.update((tenant.tenant, tenant) for tenant in seen.changes.tenants)
        return before

    # -- what undoes and deletes -----------------------------------------------------------------------------------------

    def _take_back(self, seen: TakenBack) -> None:
        self.has_taken_back = True
        self._disturbed_ns = seen.at_ns
        self.steps = []
        for _ in range(min(seen.count, len(self._undo))):
            self._undo.pop()()

    def _undo_commit(
        self, steps: list[Step], settings: tuple[dict[QueueName, QueueConfig], dict[str, TenantConfig]] | None,
        undo_diary: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        if undo_diary is not None:
            undo_diary()
        if settings is not None:
            self.queues, self.tenants = settings
        for step in reversed(steps):
            self._undo_step(step)

    def _undo_step(self, step: Step) -> None:
        task = step.task
        task.is_shaken = True
        if step.purged and task.id in self.gone:
            self.tasks[task.id] = self.gone.pop(task.id)
        if not step.before:
            self.tasks.pop(task.id, None)
            self.gone.pop(task.id, None)
            self.taken_back[task.id] = task
            return
        task.state, task.attempt, task.session, task.spent = step.before, step.was_attempt, step.was_session, step.was_spent
        task.interruptions, task.due_ms, task.cancelling = step.was_interruptions, step.was_due_ms, step.was_cancelling
        task.leased_ns, task.queued_ns = step.was_leased_ns, step.was_queued_ns
        task.revivals, task.revived_ns = step.was_revivals, step.was_revived_ns
        if step.leased:
            task.leases.pop()
        if step.notes:
            del task.noted[-len(step.notes) :]

    def _retain(self, seen: Retained) -> None:
        """Retention writes four times: the tasks, then ticks, backfills, and the keys that expired."""
        gone = [task_id for task_id in seen.ids if task_id in self.tasks]
        for task_id in gone:
            self.gone[task_id] = self.tasks.pop(task_id)
        self._undo.append(lambda: self._undo_retain(gone))
        self._undo += [_nothing] * 3

    def _undo_retain(self, gone: list[int]) -> None:
        for task_id in gone:
            if task_id in self.gone:
                self.tasks[task_id] = self.gone.pop(task_id)

    # -- calm ------------------------------------------------------------------------------------------------------------

    def _claim(self, seen: Claimed) -> None:
        self._nodes[seen.process] = None
        self._disturbed_ns = seen.at_ns
        self._undo.append(_nothing)

    def _process(self, seen: ProcessChanged) -> None:
        if seen.process not in self._nodes:
            return
        self._disturbed_ns = seen.at_ns
        if seen.what == "paused":
            self._paused[seen.process] = None
        else:
            self._paused.pop(seen.process, None)

    def _disturb(self, seen: Observation) -> None:
        self._disturbed_ns = seen.at_ns

    def _heal(self, seen: Healed) -> None:
        self.healed_ns = seen.at_ns
        self.deadline_ns = seen.at_ns + seen.within_ms * NS


def _nothing() -> None:
    """What is not seen here needs no undoing."""
