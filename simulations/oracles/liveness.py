"""Once the faults are over, everything comes to its end; what does not must say why."""

from __future__ import annotations

from ...actors.labels import InvalidLabelError, matches, parse_all
from ...actors.messages import Template
from ...actors.rows import TaskRow
from ...actors.states import FIRST_FINAL, State
from ..history import Final
from .steps import NS
from .watch import Watch


class Live(Watch):
    """At the end every task is over, but for those whose queue is paused, whom no worker fits, or whose time has not come;
    every shard has one owner, and nothing is leased or believed to run. Judged only if the run was healed."""

    name = "live"

    def end(self, final: Final) -> None:
        if self.tasks.healed_ns < 0:
            return
        reasons = {reason.id: reason.text for reason in final.reasons}
        wall_ns, wall_ms = self.tasks.wall
        now_ms = wall_ms + (min(final.at_ns, self.tasks.deadline_ns) - wall_ns) // NS
        for row in final.rows:
            kind = final.kinds.get(row.template_id)
            if row.state >= FIRST_FINAL or (kind is not None and self._may_wait(row, kind.template, now_ms)):
                continue
            what = "leased" if row.state == State.RUNNING else "unfinished"
            why = reasons.get(row.id, "the system gives no reason")
            self.broken(what, final.at_ns, row.id, f"is {State(row.state).label} in attempt {row.attempt} at the end: {why}")
        for shard in sorted({*final.epochs, *final.owners}):
            owners = final.owners.get(shard, [])
            if len(owners) != 1:
                text = f"shard {shard} has {len(owners)} owners at the end: {', '.join(owners) or 'none'}"
                self.violated("owners", final.at_ns, shard, text)
        for address, (running, _) in final.queues.items():
            if running:
                self.violated("phantoms", final.at_ns, address, f"{address} believes that {running} slots run at the end")

    def _may_wait(self, row: TaskRow, template: Template, now_ms: int) -> bool:
        if row.state in (State.SCHEDULED, State.RETRYING):
            return row.due_ms > now_ms - self.bounds.skew_ms - self.bounds.settle_ms
        if row.state != State.QUEUED:
            return False
        queue = self.tasks.queues.get((template.pool, template.queue))
        if queue is not None and queue.paused:
            return True
        if self.bounds.slots and template.cost > self.bounds.slots:
            return True
        try:
            required = parse_all(template.require)
        except InvalidLabelError:
            return True
        return not any(matches(required, dict(labels)) for labels in self.bounds.labels)
