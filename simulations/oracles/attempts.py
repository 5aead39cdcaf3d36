"""Retries: how many, when, and what is left of those that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...actors.messages import RetryPolicy
from ...actors.states import FIRST_FINAL, State
from ..history import Committed, Final, Observation, Retained
from .steps import Step
from .watch import Watch

_RUNNING, _QUEUED, _RETRYING = int(State.RUNNING), int(State.QUEUED), int(State.RETRYING)
_COMPLETED, _CANCELLED = int(State.COMPLETED), int(State.CANCELLED)
_DEAD, _FAILED, _EXPIRED = int(State.DEAD), int(State.FAILED), int(State.EXPIRED)


class Retries(Watch):
    """Attempts are counted, noted and bounded, and the next one waits for its back-off."""

    name = "retries"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        return {Committed: self._committed}

    def _committed(self, seen: Committed) -> None:
        for step in self.tasks.steps:
            if step.before and not step.purged and not step.task.is_shaken:
                self._check_counts(step, seen)
                if step.before == _RUNNING and step.after != _RUNNING:
                    self._check_end(step, seen)

    def _check_counts(self, step: Step, seen: Committed) -> None:
        task = step.task
        template = task.kind.template
        if task.spent > template.max_attempts:
            text = f"has spent {task.spent} attempts of {template.max_attempts}"
            self.broken("too_many", seen.at_ns, task.id, text)
        if step.after < FIRST_FINAL:
            if step.leased and step.task.spent >= template.max_attempts:
                text = f"was leased with {task.spent} attempts of {template.max_attempts} spent"
                self.broken("too_many", seen.at_ns, task.id, text)
            if task.interruptions >= max(template.max_interruptions, 1):
                text = f"goes on after {task.interruptions} lost workers of {template.max_interruptions}"
                self.broken("interrupted", seen.at_ns, task.id, text)
        grown = task.spent - step.was_spent
        if (grown < 0 and not step.revived) or grown > 1 or (grown == 1 and step.before != _RUNNING):
            text = f"had {step.was_spent} attempts spent and now {task.spent}, as {State(step.before).label}"
            self.broken("miscounted", seen.at_ns, task.id, text)
        elif grown == 1 and not any(attempt == step.was_attempt and kind for attempt, kind in step.notes):
            self.broken("unnoted", seen.at_ns, task.id, f"spent attempt {step.was_attempt}, of which nothing is noted")
        lost = task.interruptions - step.was_interruptions
        noted = sum(not kind for _, kind in step.notes)
        is_same_life = grown < 1 and not step.revived  # else they may have been set back to 0
        if lost > noted or (is_same_life and (lost < 0 or (step.after < FIRST_FINAL and lost < noted))):
            text = f"counts {task.interruptions} lost workers after {step.was_interruptions}, with {step.notes} noted"
            self.broken("interruptions", seen.at_ns, task.id, text)

    def _check_end(self, step: Step, seen: Committed) -> None:
        """An attempt is over."""
        task, after = step.task, step.after
        if after >= FIRST_FINAL:
            noted = any(attempt == step.was_attempt for attempt, _ in step.notes)
            was_handed_back = after == _EXPIRED and task.spent == step.was_spent  # before it began, and then was too late
            if after not in (_COMPLETED, _CANCELLED) and not noted and not was_handed_back:
                text = f"became {State(after).label} by attempt {step.was_attempt}, of which nothing is noted"
                self.broken("unnoted", seen.at_ns, task.id, text)
        elif task.spent > step.was_spent:
            delay_ms = task.due_ms - step.turn_ms
            if not self._is_allowed(task.kind.template.retry, task.spent, delay_ms):
                text = f"waits {delay_ms} ms after failure {task.spent}, policy says {task.kind.template.retry}"
                self.broken("back_off", seen.at_ns, task.id, text)
            if task.due_ms < step.noted_ms - self.bounds.skew_ms:
                text = f"is due again {step.noted_ms - task.due_ms} ms before its failed attempt ended"
                self.broken("before_end", seen.at_ns, task.id, text)
        elif after == _RETRYING:
            self.broken("unspent", seen.at_ns, task.id, "waits for a retry without an attempt spent")

    def _is_allowed(self, policy: RetryPolicy, spent: int, delay_ms: int) -> bool:
        if delay_ms in self.bounds.retry_after_ms:
            return True
        most_ms = float(policy.base_ms)
        for _ in range(spent - 1):
            most_ms *= policy.factor
            if most_ms >= policy.cap_ms:
                break
        most_ms = min(most_ms, policy.cap_ms)
        return 0 <= delay_ms <= most_ms if policy.jitter else abs(delay_ms - most_ms) < 1

    def end(self, final: Final) -> None:
        for row in final.rows:
            task = self.tasks.tasks.get(row.id)
            if task is None or task.is_shaken:
                continue
            stored = sorted(final.attempts.get(row.id, []))
            if stored != sorted(task.noted):
                text = f"has {len(stored)} attempts noted in the store, its commits noted {len(task.noted)}"
                self.broken("history", final.at_ns, row.id, text)


class DeadLetters(Watch):
    """A task whose attempts are used up becomes a dead letter, with an error, and stays one; where none are wanted, it ends
    as failed."""

    name = "deadletters"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        return {Committed: self._committed, Retained: self._retained}

    def _committed(self, seen: Committed) -> None:
        for step in self.tasks.steps:
            task, after = step.task, step.after
            template = task.kind.template
            if after in (_DEAD, _FAILED) and step.before != after:
                if (after == _DEAD) != template.dead_letter:
                    wanted = "a dead letter" if template.dead_letter else "failed"
                    text = f"ended as {State(after).label}, its policy says {wanted}"
                    self.broken("kind", seen.at_ns, task.id, text)
                if not step.error:
                    self.broken("no_error", seen.at_ns, task.id, f"ended as {State(after).label} without an error")
                if not task.noted and not task.is_shaken:
                    self.broken("no_attempt", seen.at_ns, task.id, f"ended as {State(after).label} without an attempt")
            elif after in (_RETRYING, _QUEUED) and step.before == _RUNNING and task.spent >= template.max_attempts:
                text = f"goes on as {State(after).label} with {task.spent} attempts of {template.max_attempts} spent"
                self.broken("not_ended", seen.at_ns, task.id, text)

    def _retained(self, seen: Retained) -> None:
        for task_id in seen.ids:
            task = self.tasks.gone.get(task_id)
            if task is not None and (task.state == _DEAD or task.state < FIRST_FINAL):
                text = f"was deleted by retention, though it is {State(task.state).label}"
                self.broken("deleted", seen.at_ns, task_id, text)

    def end(self, final: Final) -> None:
        for row in final.rows:
            if row.state in (_DEAD, _FAILED) and not row.error:
                self.broken("no_error", final.at_ns, row.id, f"is stored as {State(row.state).label} without an error")
