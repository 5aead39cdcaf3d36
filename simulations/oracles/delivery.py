"""What handlers did, against what was promised: effects once, starts at most once, no start after a cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...actors.states import FIRST_FINAL, State
from ..history import BodyStarted, Commanded, Committed, Effect, Final, Observation, TakenBack
from .steps import NS, Step, Task
from .watch import Watch

_COMPLETED, _CANCELLED, _RUNNING = int(State.COMPLETED), int(State.CANCELLED), int(State.RUNNING)


class Once(Watch):
    """Of an exactly-once task the outside world takes each effect once, and a completed one has had all it tried; an
    at-most-once task starts at most once, and once more for each time a person retries it."""

    name = "once"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._effects: dict[int, dict[int, list[int]]] = {}  # task → number → [accepted, newest attempt that tried]
        self._starts: dict[int, int] = {}  # at-most-once task → bodies
        return {Effect: self._effect, BodyStarted: self._started, Committed: self._committed, TakenBack: self._taken_back}

    def _effect(self, seen: Effect) -> None:
        effects = self._effects.setdefault(seen.id, {})
        tried = effects.setdefault(seen.number, [0, 0])
        tried[0] += seen.accepted
        tried[1] = max(tried[1], seen.attempt)
        if seen.accepted and tried[0] > 1:
            task = self.tasks.find(seen.id)
            if task is not None and task.kind.template.delivery == "exactly_once" and not task.is_shaken:
                self.broken("effect_twice", seen.at_ns, seen.id, f"had effect {seen.number} accepted {tried[0]} times")

    def _started(self, seen: BodyStarted) -> None:
        if seen.kind.template.delivery != "at_most_once":
            return
        starts = self._starts[seen.id] = self._starts.get(seen.id, 0) + 1
        task = self.tasks.find(seen.id)
        if task is not None and starts > 1 + task.revivals and not task.is_shaken:
            self.broken("started_twice", seen.at_ns, seen.id, f"may start once and was started {starts} times")

    def _committed(self, seen: Committed) -> None:
        for step in self.tasks.steps:
            task = step.task
            if step.after != _COMPLETED or step.before == _COMPLETED or task.is_shaken:
                continue
            if task.kind.template.delivery != "exactly_once":
                continue
            for number, (accepted, attempt) in self._effects.get(task.id, {}).items():
                if attempt == task.attempt and not accepted:
                    text = f"completed, but its effect {number} was never accepted"
                    self.broken("effect_missing", seen.at_ns, task.id, text)

    def _taken_back(self, seen: TakenBack) -> None:
        for task_id in self.tasks.taken_back:  # its number may be given to another task
            self._effects.pop(task_id, None)
            self._starts.pop(task_id, None)


class Cancelled(Watch):
    """After an acknowledged cancel nothing of the task starts any more, unless a person retries it: `cancelled` is its end,
    and what answered `cancelling` ends cancelled, or completed if it was faster."""

    name = "cancelled"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._acknowledged: dict[int, tuple[int, int]] = {}  # task → (when, retries by people until then)
        self._retries: dict[int, list[int]] = {}  # task → when people asked, unless refused
        self._revived: list[tuple[int, int]] = []  # (task, when)
        return {Commanded: self._commanded, Committed: self._committed, BodyStarted: self._started}

    def _commanded(self, seen: Commanded) -> None:
        if seen.command == "retry" and seen.outcome != "refused":
            self._retries.setdefault(seen.id, []).append(seen.asked_ns)
        task = self.tasks.tasks.get(seen.id)
        if seen.outcome != "ok" or task is None or task.is_shaken or task.revived_ns >= seen.asked_ns:
            return
        if seen.word == "retried":
            text = f"was answered 'retried' to {seen.client}, but it was not queued again"
            self.broken("not_retried", seen.at_ns, seen.id, text)
        elif seen.word == "cancelled" and task.state != _CANCELLED:
            text = f"was answered 'cancelled' to {seen.client}, but it is {State(task.state).label}"
            self.broken("not_cancelled", seen.at_ns, seen.id, text)
        elif seen.word == "cancelling" and not (task.cancelling and task.state == _RUNNING) and task.state < FIRST_FINAL:
            text = f"was answered 'cancelling' to {seen.client}, but it is {State(task.state).label} and goes on"
            self.broken("not_cancelling", seen.at_ns, seen.id, text)
        elif seen.word == "ended" and task.state < FIRST_FINAL:
            text = f"was answered 'ended' to {seen.client}, but it is {State(task.state).label}"
            self.broken("not_ended", seen.at_ns, seen.id, text)
        if seen.word in ("cancelled", "cancelling"):
            self._acknowledged.setdefault(seen.id, (seen.at_ns, task.revivals))

    def _committed(self, seen: Committed) -> None:
        for step in self.tasks.steps:
            task = step.task
            if task.is_shaken:
                continue
            if step.revived:
                self._revived.append((task.id, seen.at_ns))
            elif step.was_cancelling and step.before == _RUNNING:
                self._check_cancelling(step, seen)
            if step.leased and self._is_cancelled(task):
                self.broken("leased", seen.at_ns, task.id, "was leased after its cancel had been acknowledged")

    def _check_cancelling(self, step: Step, seen: Committed) -> None:
        """It was running and told to stop."""
        after = step.after
        if after not in (_RUNNING, _CANCELLED, _COMPLETED) or step.leased:
            text = f"was being cancelled while it ran, and became {State(after).label}"
            self.broken("went_on", seen.at_ns, step.task.id, text)

    def _started(self, seen: BodyStarted) -> None:
        task = self.tasks.find(seen.id)
        acknowledged = self._acknowledged.get(seen.id)
        if task is None or acknowledged is None or not self._is_cancelled(task) or task.is_shaken:
            return
        if task.leased_ns > acknowledged[0] and seen.attempt == task.attempt:
            ago_ms = (seen.at_ns - acknowledged[0]) // NS
            self.broken("started", seen.at_ns, seen.id, f"started {ago_ms} ms after its cancel had been acknowledged")

    def _is_cancelled(self, task: Task) -> bool:
        acknowledged = self._acknowledged.get(task.id)
        if acknowledged is None:
            return False
        if task.revivals > acknowledged[1]:
            del self._acknowledged[task.id]
            return False
        return True

    def end(self, final: Final) -> None:
        for task_id, at_ns in self._revived:
            if not any(asked_ns <= at_ns for asked_ns in self._retries.get(task_id, [])):
                self.broken("revived", at_ns, task_id, "had ended and was queued again, though nobody asked for that")
