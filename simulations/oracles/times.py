"""Nothing starts early, and nothing starts that waited longer than it was allowed to.

Due times are wall-clock times, so they are compared with the clock of the node that grants the lease. Where another node set
the time, the two clocks may differ by the bound on skew, and by no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...actors.states import FIRST_FINAL, State
from ...runtime.ids import time_of_ms
from ..history import Committed, Observation, Submitted
from .steps import NS, Step
from .watch import Watch

_SCHEDULED, _RETRYING, _QUEUED, _RUNNING, _EXPIRED = (
    int(state) for state in (State.SCHEDULED, State.RETRYING, State.QUEUED, State.RUNNING, State.EXPIRED)
)
_DECIDE_MS = 2_000  # between a turn and its commit where nothing delays it


class Early(Watch):
    """No task becomes ready or is leased before it is due, and its due time is never brought forward."""

    name = "early"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        return {Committed: self._committed, Submitted: self._submitted}

    def _committed(self, seen: Committed) -> None:
        latest_ms = seen.now_ms + self.bounds.skew_ms
        for step in self.tasks.steps:
            task = step.task
            if step.leased and task.due_ms > latest_ms:
                text = f"was leased {task.due_ms - seen.now_ms} ms before it is due"
                self.broken("lease", seen.at_ns, task.id, text)
            elif step.after == _QUEUED and step.before != _QUEUED and task.due_ms > latest_ms:
                text = f"was taken for ready {task.due_ms - seen.now_ms} ms before it is due"
                self.broken("ready", seen.at_ns, task.id, text)
            if task.due_ms < step.was_due_ms and not step.revived and not self._may_shorten(step):
                text = f"was brought forward by {step.was_due_ms - task.due_ms} ms while it was {State(step.before).label}"
                self.broken("shortened", seen.at_ns, task.id, text)

    def _may_shorten(self, step: Step) -> bool:
        """A retry counts from the clock of the node that decides it, which may be behind that of the submission."""
        return step.before == _RUNNING and step.task.due_ms >= step.was_due_ms - self.bounds.skew_ms

    def _submitted(self, seen: Submitted) -> None:
        for position, spec in enumerate(seen.specs):
            task = self.tasks.tasks.get(seen.ids[position])
            if task is None or seen.existing[position] or task.attempt or task.revivals or task.state >= FIRST_FINAL:
                continue
            if task.due_ms < spec.due_ms:
                text = f"is due {spec.due_ms - task.due_ms} ms before the time {seen.client} asked for"
                self.broken("asked", seen.at_ns, task.id, text)


class Expiry(Watch):
    """A task whose wait or total time-out has passed is not leased any more; and only such a task expires."""

    name = "expiry"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        return {Committed: self._committed}

    def _committed(self, seen: Committed) -> None:
        for step in self.tasks.steps:
            template = step.task.kind.template
            if not (template.wait_timeout_ms or template.total_timeout_ms):
                if step.after == _EXPIRED != step.before:
                    self.broken("unfounded", seen.at_ns, step.task.id, "expired, though it has no time-out")
            elif step.leased:
                self._check_lease(step, seen)
            elif step.after == _EXPIRED != step.before and not step.revived:
                self._check_expired(step, seen)

    def _check_lease(self, step: Step, seen: Committed) -> None:
        task = step.task
        template = task.kind.template
        ends: list[tuple[int, str]] = []
        if template.wait_timeout_ms and not step.was_attempt and not task.noted:
            ends.append((task.due_ms + template.wait_timeout_ms, "wait"))
        if template.total_timeout_ms:
            ends.append((time_of_ms(task.id) + template.total_timeout_ms, "total"))
        for end_ms, which in ends:
            # By the shard's own word exactly, by the committing node's clock within what may lie between.
            late_ms = step.turn_ms - end_ms
            if self.bounds.quiet_ms(seen.at_ns // NS) > _DECIDE_MS:
                late_ms = max(late_ms, seen.now_ms - end_ms - self.bounds.skew_ms - _DECIDE_MS)
            if late_ms > 0:
                self.broken(which, seen.at_ns, task.id, f"was leased {late_ms} ms after its {which} time-out had passed")

    def _check_expired(self, step: Step, seen: Committed) -> None:
        task = step.task
        template = task.kind.template
        if template.total_timeout_ms and (
            step.before == _RUNNING or step.turn_ms > time_of_ms(task.id) + template.total_timeout_ms
        ):
            return  # a retry that would come too late ends the task while it still has time
        waited_ms = step.turn_ms - step.was_due_ms
        if template.wait_timeout_ms and not step.was_attempt and waited_ms > template.wait_timeout_ms:
            return
        self.broken("too_soon", seen.at_ns, task.id, f"expired after {waited_ms} ms of waiting, within its time-outs")
