"""Who goes next: priorities and tenants' shares, within bounds that follow from how a queue works.

A queue sees what shards offer it: of each lane of ready tasks (queue, tenant, priority) a window. It serves the best level
of priority first, where a task rises by one for each `ageing_ms` it has waited, and at a level tenants in turns, a quantum
each. So two things can be said for sure of a task that has been ready for `order_ms` in calm (no shard changed its owner,
no owner stood still, the queue's settings are as old, and what earlier faults had swallowed is long repaired), that nothing
but a worker can hold back (no key, no tenant's limit), and whose lane has long been within half a window, so that the queue
must know of it:

  * no task of the same shard, queue, tenant, labels and cost is leased from a level below the one it has been on;
  * while it waits, no other tenant gets much more than a few quanta at its level or below.

The levels allow for clocks that differ, and for the time between the queue's decision and the lease.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ...actors.messages import QueueConfig
from ...actors.states import State
from ...runtime.ids import to_text
from ..history import Committed, Observation, TakenBack
from .steps import NS, QueueName, Step, Task
from .watch import Watch

_QUEUED: Final = int(State.QUEUED)
_DECIDE_MS: Final = 1_000  # between a queue's decision and the commit of the lease, in calm
_IN_WINDOW_NS: Final = 5_000 * NS  # a lane that came within its window is in sight after so long
_DEFAULTS: Final = QueueConfig("", "")
_QUANTUM: Final = 16

Place = tuple[str, str, int, tuple[str, ...], tuple[str, ...], int]
"""(pool, queue, shard, required labels, preferred labels, cost): all of it can run on the same workers"""
LaneName = tuple[int, int]
"""(shard, lane)"""


class Lane:
    """The ready tasks of a lane. `over_ns`: when there were last more of them than surely are in sight."""

    __slots__ = ("count", "over_ns")

    def __init__(self) -> None:
        self.count = 0
        self.over_ns = -_IN_WINDOW_NS


class Order(Watch):
    """Higher priorities first, and no tenant is starved."""

    name = "order"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._waiting: dict[Place, dict[str, dict[int, dict[int, Task]]]] = {}  # by tenant, by priority, oldest first
        self._places: dict[tuple[int, int], Place] = {}  # by (template id, shard)
        self._lanes: dict[LaneName, Lane] = {}
        self._got: dict[QueueName, dict[str, dict[tuple[int, str], int]]] = {}
        """By tenant that waits: (its oldest task in sight, other tenant) → slots that one got meanwhile."""
        self._changed_ns: dict[QueueName, int] = {}  # when a queue's settings changed; "" "": when any tenant's did
        return {Committed: self._committed, TakenBack: self._taken_back}

    def _committed(self, seen: Committed) -> None:
        leased: list[Step] = []
        for step in self.tasks.steps:
            if step.before == _QUEUED:
                self._leave(step.task, seen.at_ns)
            if step.leased:
                leased.append(step)
            if step.after == _QUEUED and not step.purged:
                self._enter(step.task, seen.at_ns)
        for queue in seen.changes.queues:
            self._changed_ns[queue.pool, queue.queue] = seen.at_ns
        if seen.changes.tenants:
            self._changed_ns["", ""] = seen.at_ns
        if leased:
            self._check(leased, seen)

    # -- who waits -------------------------------------------------------------------------------------------------------

    def _enter(self, task: Task, at_ns: int) -> None:
        lane = self._lanes.get((task.shard, task.lane))
        if lane is None:
            lane = self._lanes[task.shard, task.lane] = Lane()
        lane.count += 1
        if lane.count > self.bounds.window // 2:
            lane.over_ns = at_ns
        if _is_free(task):
            tenants = self._waiting.setdefault(self._place(task), {})
            tenants.setdefault(task.kind.tenant, {}).setdefault(task.priority, {})[task.id] = task

    def _leave(self, task: Task, at_ns: int) -> None:
        lane = self._lanes[task.shard, task.lane]
        if lane.count > self.bounds.window // 2:
            lane.over_ns = at_ns
        lane.count -= 1
        if _is_free(task):
            by_priority = self._waiting[self._place(task)][task.kind.tenant]
            del by_priority[task.priority][task.id]
            if not by_priority[task.priority]:
                del by_priority[task.priority]

    def _place(self, task: Task) -> Place:
        place = self._places.get((task.kind.template_id, task.shard))
        if place is None:
            template = task.kind.template
            place = (template.pool, template.queue, task.shard, template.require, template.prefer, template.cost)
            self._places[task.kind.template_id, task.shard] = place
        return place

    # -- who was served --------------------------------------------------------------------------------------------------

    def _check(self, leased: list[Step], seen: Committed) -> None:
        order_ns = self.bounds.order_ms * NS
        quiet_ms = self.bounds.quiet_ms(seen.at_ns // NS)
        calm = self.tasks.calm_ms(seen.at_ns) >= self.bounds.order_ms and quiet_ms >= self.bounds.repair_ms
        for step in leased:
            task = step.task
            got = self._got.get(task.queue)
            if got:
                got.pop(task.kind.tenant, None)
            changed_ns = max(self._changed_ns.get(task.queue, -order_ns), self._changed_ns.get(("", ""), -order_ns))
            if not calm or seen.at_ns < changed_ns + order_ns:
                self._got.pop(task.queue, None)
                continue
            tenants = self._waiting.get(self._place(task))
            if not tenants or step.before != _QUEUED:
                continue
            ageing_ms = self.tasks.queues.get(task.queue, _DEFAULTS).ageing_ms
            slack_ms = self.bounds.skew_ms + _DECIDE_MS
            level = _level(task.priority, seen.now_ms - step.was_due_ms + slack_ms, ageing_ms)
            worst_ms = self.bounds.order_ms + slack_ms
            for tenant, by_priority in tenants.items():
                for priority, others in by_priority.items():
                    other = next(iter(others.values()))
                    if not self._is_in_sight(other, seen.at_ns):
                        continue
                    stood = _level(priority, seen.now_ms - other.due_ms - worst_ms, ageing_ms)
                    if tenant != task.kind.tenant:
                        if stood <= level:
                            self._count_for_other(task, other, seen.at_ns)
                            break
                    elif stood < level:
                        waits_ms = (seen.at_ns - other.queued_ns) // NS
                        text = (
                            f"was leased at level {level}, while task {to_text(other.id)} of the same tenant, queue and "
                            f"shard has waited {waits_ms} ms at level {stood}"
                        )
                        self.broken("priority", seen.at_ns, task.id, text)

    def _is_in_sight(self, task: Task, at_ns: int) -> bool:
        lane = self._lanes[task.shard, task.lane]
        if lane.count > self.bounds.window // 2:
            return False
        return at_ns >= task.queued_ns + self.bounds.order_ms * NS and at_ns >= lane.over_ns + _IN_WINDOW_NS

    def _count_for_other(self, task: Task, other: Task, at_ns: int) -> None:
        """Count what a tenant got while another tenant's task waited."""
        tenant, served = other.kind.tenant, task.kind.tenant
        ours, theirs = self.tasks.tenants.get(tenant), self.tasks.tenants.get(served)
        if ours is not None and ours.concurrency:
            return
        got = self._got.setdefault(task.queue, {}).setdefault(tenant, {})
        slots = got[other.id, served] = got.get((other.id, served), 0) + task.kind.template.cost
        ratio = -(-(theirs.weight if theirs else 1) // (ours.weight if ours else 1))
        if slots > self.bounds.fair_slots + _QUANTUM * ratio:
            queue = "/".join(task.queue)
            text = f"tenant {served} got {slots} slots in {queue} while task {to_text(other.id)} of {tenant} waited"
            self.violated("starved", at_ns, f"{queue}/{tenant}", text)

    def _taken_back(self, seen: TakenBack) -> None:
        self._waiting, self._lanes, self._got = {}, {}, {}
        waiting = [task for task in self.tasks.tasks.values() if task.state == _QUEUED]
        for task in sorted(waiting, key=lambda task: (task.queued_ns, task.id)):
            self._enter(task, seen.at_ns)


def _is_free(task: Task) -> bool:
    """Tell whether nothing of the task's own can hold it back."""
    template = task.kind.template
    return not (task.key and (template.key_limit or template.key_rate))


def _level(priority: int, waited_ms: int, ageing_ms: int) -> int:
    """Return a task's effective priority; 0 is the best."""
    if not ageing_ms or waited_ms <= 0:
        return priority
    return max(priority - waited_ms // ageing_ms, 0)
