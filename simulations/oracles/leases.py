"""Leases: one at a time for a task, and whatever a worker does or reports is under one.

A body that starts late, under a lease that has ended meanwhile, is no violation: what it reports must be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ...actors.states import State
from ...runtime.ids import to_text
from ..history import BodyEnded, BodyStarted, Committed, Observation, ProcessChanged, TakenBack
from ..history import Final as End
from .steps import NS, Step
from .watch import Watch

_RUNNING, _COMPLETED = int(State.RUNNING), int(State.COMPLETED)
_LOOK_NS: Final = 1_000 * NS  # leases of the dead are looked at no more often than this

Process = tuple[str, int]
"""(process, boot)"""


class Leases(Watch):
    """A task has one live lease; a body runs under a durable one, each attempt once; only the newest attempt completes a
    task; and leases of dead workers end."""

    name = "leases"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._started: dict[tuple[int, int], None] = {}  # (task, attempt) whose body started
        self._done: dict[int, int] = {}  # task → newest attempt whose body ended well
        self._sessions: dict[str, Process] = {}
        self._dead: dict[Process, int] = {}  # when it died; a later boot is another worker
        self._live: dict[str, dict[int, None]] = {}  # session → tasks leased to it
        self._look_ns = 0
        return {
            Committed: self._committed, BodyStarted: self._body_started, BodyEnded: self._body_ended,
            ProcessChanged: self._process, TakenBack: self._taken_back,
        }  # fmt: skip

    # -- commits ---------------------------------------------------------------------------------------------------------

    def _committed(self, seen: Committed) -> None:
        for step in self.tasks.steps:
            task = step.task
            if step.before == _RUNNING and (step.leased or step.after != _RUNNING):
                self._forget(step.was_session, task.id)
                if step.leased:
                    self._check_second(step, seen)
                elif step.after == _COMPLETED:
                    self._check_completed(step, seen)
            if step.leased and step.after == _RUNNING:
                self._live.setdefault(task.session, {})[task.id] = None
                if not task.session:
                    self.broken("no_session", seen.at_ns, task.id, f"was leased as attempt {task.attempt} to nobody")
        self._look_for_dead(seen.at_ns)

    def _check_second(self, step: Step, seen: Committed) -> None:
        """A lease over a live one: only if the old one ended in the same turn, which an attempt that has started does not
        without a note."""
        task, attempt = step.task, step.was_attempt
        if (task.id, attempt) in self._started and not any(noted == attempt for noted, _ in step.notes):
            text = f"was leased to {task.session} while attempt {attempt} still runs at {step.was_session}"
            self.broken("two", seen.at_ns, task.id, text)

    def _check_completed(self, step: Step, seen: Committed) -> None:
        task = step.task
        if self._started and not task.is_shaken and self._done.get(task.id) != step.was_attempt:
            done = self._done.get(task.id)
            what = "no attempt has" if done is None else f"only attempt {done} has"
            text = f"completed in attempt {step.was_attempt}, but of its bodies {what} ended well"
            self.broken("not_done", seen.at_ns, task.id, text)

    def _forget(self, session: str, task_id: int) -> None:
        held = self._live.get(session)
        if held is not None:
            held.pop(task_id, None)
            if not held:
                del self._live[session]

    # -- bodies ----------------------------------------------------------------------------------------------------------

    def _body_started(self, seen: BodyStarted) -> None:
        self._sessions[seen.session] = (seen.process, seen.boot)
        task = self.tasks.find(seen.id)
        if seen.id in self.tasks.taken_back:
            return
        if task is None:
            self.broken("no_task", seen.at_ns, seen.id, f"started at {seen.session}, but there is no such task")
            return
        if not task.is_shaken and (seen.attempt, seen.session) not in task.leases:
            text = f"started attempt {seen.attempt} at {seen.session} without a durable lease"
            self.broken("no_lease", seen.at_ns, seen.id, text)
        if not task.is_shaken and (seen.id, seen.attempt) in self._started:
            self.broken("attempt_twice", seen.at_ns, seen.id, f"started attempt {seen.attempt} a second time")
        self._started[seen.id, seen.attempt] = None

    def _body_ended(self, seen: BodyEnded) -> None:
        if seen.how == "ok":
            self._done[seen.id] = max(seen.attempt, self._done.get(seen.id, 0))

    # -- the dead --------------------------------------------------------------------------------------------------------

    def _process(self, seen: ProcessChanged) -> None:
        if seen.what in ("killed", "powered_off", "stopped"):
            self._dead.setdefault((seen.process, seen.boot), seen.at_ns)

    def _look_for_dead(self, at_ns: int) -> None:
        if at_ns < self._look_ns:
            return
        self._look_ns = at_ns + _LOOK_NS
        calm_ns = at_ns - min(self.tasks.calm_ms(at_ns), self.bounds.quiet_ms(at_ns // NS)) * NS
        for session, held in self._live.items():
            dead_ns = self._dead.get(self._sessions.get(session, ("", 0)))
            if dead_ns is None:
                continue
            for task_id in held:
                since_ns = max(dead_ns, calm_ns, self.tasks.tasks[task_id].leased_ns)
                if at_ns > since_ns + self.bounds.dead_ms * NS:
                    text = f"is still leased to {session}, which died {(at_ns - dead_ns) // NS} ms ago"
                    self.broken("dead", at_ns, task_id, text)

    def _taken_back(self, seen: TakenBack) -> None:
        self._live.clear()
        for task in self.tasks.tasks.values():
            if task.state == _RUNNING:
                self._live.setdefault(task.session, {})[task.id] = None
        self._started = {key: None for key in self._started if key[0] not in self.tasks.taken_back}

    def end(self, final: End) -> None:
        self._look_ns = 0
        self._look_for_dead(final.at_ns)
        running = {row.id: row for row in final.rows if row.state == _RUNNING}
        for session, held in self._live.items():
            for task_id in held:
                row = running.get(task_id)
                if row is not None and row.session != session:
                    text = f"is leased to {session}, but task {to_text(task_id)} is stored as that of {row.session!r}"
                    self.broken("session", final.at_ns, task_id, text)
