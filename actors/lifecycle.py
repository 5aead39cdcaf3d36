"""The steps of a task's life: every change of state is made here, by the one table of legal transitions."""

from __future__ import annotations

import msgspec

from ..runtime.actor import Turn
from ..runtime.ids import time_of_ms
from .messages import Outcome, OutcomeKind, TaskEnd, TaskError
from .outgoing import Outgoing
from .retry import retry_delay_ms
from .states import State, check_transition
from .table import TaskTable
from .task import Task
from .timeouts import Timeouts, expiry_of
from .waiting import Waiting
from .watchers import Watchers

_QUEUED, _RUNNING, _COMPLETED = State.QUEUED, State.RUNNING, State.COMPLETED


class Lifecycle:
    """Moves tasks of one shard from state to state. `leases`: the running tasks by session."""

    def __init__(
        self, table: TaskTable, waiting: Waiting, timeouts: Timeouts, watchers: Watchers, out: Outgoing
    ) -> None:  # fmt: skip
        self._table = table
        self._waiting = waiting
        self._timeouts = timeouts
        self._watchers = watchers
        self._out = out
        self.leases: dict[str, dict[int, Task]] = {}

    def fire(self, task: Task) -> None:
        """Its time has come."""
        self._to(task, _QUEUED)
        self._waiting.place(task)

    def start(self, task: Task, session: str, now_ms: int) -> None:
        """An offered task becomes the session's next attempt."""
        self._waiting.leave_for_worker(task)
        before, task.state = task.state, _RUNNING
        task.attempt += 1
        if self._table.events is not None:
            self._table.tell(task, before)
        task.session = session
        task.leased_ms = now_ms
        self.leases[session][task.id] = task
        counts = task.kind.counts
        counts.waiting -= 1
        counts.running += 1
        self._timeouts.watch_attempt(task)
        self._table.touch(task)

    def complete(self, task: Task, outcome: Outcome, turn: Turn) -> None:
        """The attempt did what it was to do."""
        task.started_ms = outcome.started_ms
        task.result = outcome.result
        self.end(task, _COMPLETED, turn)

    def did_not_complete(self, task: Task, outcome: Outcome, turn: Turn) -> None:
        """The attempt failed, timed out, was cancelled, handed back or interrupted."""
        kind = OutcomeKind(outcome.kind)
        task.started_ms = outcome.started_ms
        once = task.kind.template.delivery == "at_most_once"
        error = outcome.error or TaskError(kind.name.lower(), "")
        if kind is not OutcomeKind.RETURNED:
            self._note_attempt(task, int(kind), outcome.started_ms, outcome.ended_ms, error, turn)
        if kind is OutcomeKind.CANCELLED or task.cancelling:
            self.end(task, State.CANCELLED, turn, error=error)
        elif kind is OutcomeKind.RETURNED or (kind is OutcomeKind.INTERRUPTED and not once):
            self.requeue(task)
        else:
            task.spent += 1
            task.interruptions = 0
            self._retry_or_end(task, error, outcome.retry_after_ms, turn, fatal=outcome.fatal or once)

    def interrupt(self, task: Task, why: str, turn: Turn) -> None:
        """The attempt was lost with its worker. It is not spent, but a task that keeps killing workers is set aside."""
        template = task.kind.template
        error = TaskError("WorkerLostError", f"attempt {task.attempt} was lost: {why}")
        self._note_attempt(task, 0, task.leased_ms, turn.now_ms, error, turn)
        task.interruptions += 1
        if task.cancelling:
            self.end(task, State.CANCELLED, turn, error=error)
        elif template.delivery == "at_most_once" or task.interruptions >= template.max_interruptions:
            self.end(task, State.DEAD if template.dead_letter else State.FAILED, turn, error=error)
        else:
            self.requeue(task)

    def requeue(self, task: Task) -> None:
        """The attempt is not spent: another may begin at once."""
        self._end_lease(task)
        self._to(task, _QUEUED)
        self._waiting.place(task)

    def revive(self, task: Task, turn: Turn) -> None:
        """A person wants an ended task to be tried again, attempts counted anew."""
        label = State(task.state).label
        counts = task.kind.counts
        setattr(counts, label, getattr(counts, label) - 1)
        counts.waiting += 1
        task.spent = task.interruptions = task.cancelling = 0
        task.due_ms = turn.now_ms
        turn.changes.revived.append(task.id)
        self._to(task, _QUEUED)
        self._waiting.place(task)

    def expire_if_late(self, task: Task, turn: Turn) -> bool:
        """End a waiting task that may not start any more. Returns whether it was."""
        error = expiry_of(task, turn.now_ms)
        if error is None:
            return False
        self.end(task, State.EXPIRED, turn, error=error)
        return True

    def overdue(self, task: Task, turn: Turn) -> None:
        """A deadline passed: the worker should have reported, or the task waited too long."""
        if task.state == _RUNNING:
            self._out.cancel(task, "timed_out")
            text = f"attempt {task.attempt} was not reported within its timeout and grace"
            outcome = Outcome(task.id, task.attempt, int(OutcomeKind.TIMED_OUT), task.leased_ms, turn.now_ms,
                              error=TaskError("TimeoutError", text))  # fmt: skip
            self.did_not_complete(task, outcome, turn)
        elif not self.expire_if_late(task, turn):
            self._timeouts.watch(task)

    def end(self, task: Task, state: State, turn: Turn, *, error: TaskError | None = None) -> None:
        """Move into a final state and let go of the task."""
        check_transition(task.id, task.state, state)
        counts = task.kind.counts
        if task.state == _RUNNING:
            self._end_lease(task)
            counts.running -= 1
        else:
            self._waiting.leave(task)
            self._timeouts.clear(task)
            counts.waiting -= 1
        if state is _COMPLETED:
            counts.completed += 1
        else:
            label = state.label
            setattr(counts, label, getattr(counts, label) + 1)
        before, task.state = task.state, state
        if self._table.events is not None:
            self._table.tell(task, before)
        task.ended_ms = turn.now_ms
        task.error = error
        self._table.tasks.pop(task.id, None)
        self._table.touch(task)
        if task.id in self._table.ticks:
            self._table.ended_ticks.append((task, self._table.ticks.pop(task.id)))
        if self._watchers.is_watched(task.id):
            end = TaskEnd(task.id, state, task.attempt, task.result, error)
            self._watchers.ended(end, task.kind.tenant, turn)

    def _retry_or_end(self, task: Task, error: TaskError, retry_after_ms: int, turn: Turn, *, fatal: bool) -> None:
        template = task.kind.template
        if fatal or task.spent >= template.max_attempts:
            self.end(task, State.DEAD if template.dead_letter else State.FAILED, turn, error=error)
            return
        delay_ms = retry_after_ms if retry_after_ms >= 0 else retry_delay_ms(template.retry, task.spent, turn.rng)
        due_ms = turn.now_ms + delay_ms
        if template.total_timeout_ms and due_ms > time_of_ms(task.id) + template.total_timeout_ms:
            self.end(task, State.EXPIRED, turn, error=error)
            return
        self._end_lease(task)
        self._to(task, State.RETRYING)
        task.due_ms = due_ms
        self._waiting.wait_until_due(task, turn.now_ms)

    def _to(self, task: Task, state: State) -> None:
        """Move into a state that is not final."""
        check_transition(task.id, task.state, state)
        if task.state == _RUNNING:
            task.kind.counts.running -= 1
            task.kind.counts.waiting += 1
        before, task.state = task.state, state
        if self._table.events is not None:
            self._table.tell(task, before)
        self._table.touch(task)

    def _end_lease(self, task: Task) -> None:
        """The attempt is over, one way or the other: its slot, keys and permits are free again."""
        held = self.leases.get(task.session)
        if held is not None:
            held.pop(task.id, None)
        task.session = ""
        self._timeouts.clear(task)
        self._out.release(task.kind.queue, task.id)

    def _note_attempt(
        self, task: Task, kind: int, started_ms: int, ended_ms: int, error: TaskError, turn: Turn
    ) -> None:  # fmt: skip
        turn.changes.attempts.append(
            (task.id, task.attempt, kind, task.session, started_ms, ended_ms, msgspec.msgpack.encode(error))
        )  # fmt: skip
