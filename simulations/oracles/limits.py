"""Limits, counted from durable leases: slots of a queue, slots of a tenant, tasks of a concurrency key.

A raised limit holds from the commit of its setting, which comes before anybody can act on it. A lowered one says that
nothing new may start above it; what runs already goes on. A grant that was under way when it was lowered was counted by
the queue under the old limit, so the ceiling comes down with each lease that ends, and by no other way: it starts to come
down once the setting has had `settle_ms` to reach the queue (`permits_settle_ms` for a tenant's, which travels to every
queue), free of trouble and in calm. Where there was no limit before, the ceiling is what runs `in_flight_ms` later; and
where there was no task either, what runs after `settle_ms`, whatever happens meanwhile: nothing older can be under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ...actors.messages import QueueConfig, TenantConfig
from ...actors.states import State
from ..history import BodyEnded, BodyStarted, Committed, Configured, Observation, TakenBack
from .bounds import Bounds
from .steps import NS, QueueName, Task
from .watch import Watch

_RUNNING, _QUEUED = int(State.RUNNING), int(State.QUEUED)
_BOUNDLESS: Final = 1 << 60
_SETTINGS_KEPT: Final = 64  # of each queue and tenant

KeyName = tuple[str, str, str, str]
"""(pool, queue, tenant, concurrency key)"""


class Gauge:
    """What runs against one limit, in slots. `ceiling`: what it may come to, which is the limit or above it."""

    __slots__ = ("bodies", "ceiling", "is_fresh", "is_used", "limit", "name", "running", "settled_ns", "what")

    def __init__(self, what: str, name: str) -> None:
        self.what = what
        self.name = name
        self.limit = self.ceiling = _BOUNDLESS
        self.settled_ns = 0
        self.is_used = False  # there has been a task that it limits
        self.is_fresh = False  # there had been none when the limit was set
        self.running = 0
        self.bodies = 0  # of these, whose handlers run

    def __str__(self) -> str:
        return f"{self.what} {self.name}"

    def set(self, limit: int, at_ns: int, bounds: Bounds) -> None:
        """Take in a setting; 0: no limit."""
        self.limit = limit or _BOUNDLESS
        if self.limit >= self.ceiling:
            self.ceiling = self.limit
            return
        self.is_fresh = not self.is_used
        if self.is_fresh:
            self.settled_ns = at_ns + bounds.settle_ms * NS
            return
        is_tenant = self.what == "tenant"
        span_ms = bounds.permits_settle_ms if is_tenant else bounds.settle_ms
        if self.ceiling == _BOUNDLESS:
            span_ms = max(span_ms, bounds.first_limit_ms if is_tenant else bounds.in_flight_ms)
        self.settled_ns = bounds.settled_ms(at_ns // NS, span_ms, repair=is_tenant) * NS

    def ended(self, slots: int, at_ns: int, *, calm: bool) -> None:
        """A lease ended."""
        self.settle(at_ns, calm=calm)
        self.running -= slots
        if self.limit < self.ceiling < _BOUNDLESS and calm and at_ns >= self.settled_ns:
            self.ceiling = max(self.limit, self.ceiling - slots)

    def settle(self, at_ns: int, *, calm: bool) -> None:
        """Find the ceiling of a limit that was set where there was none, or no task."""
        if self.limit >= self.ceiling or at_ns < self.settled_ns:
            return
        if self.is_fresh or (self.ceiling == _BOUNDLESS and calm):
            self.ceiling = max(self.limit, self.running)


class Limits(Watch):
    """No more runs than is allowed."""

    name = "limits"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._queues: dict[QueueName, Gauge] = {}
        self._tenants: dict[str, Gauge] = {}
        self._keys: dict[KeyName, int] = {}
        self._settings: dict[tuple[str, str], deque[tuple[int, QueueConfig | TenantConfig]]] = {}  # written lately
        self._bodies: dict[int, tuple[int, int]] = {}  # task → (attempt, bodies under its live lease)
        return {
            Committed: self._committed, BodyStarted: self._body_started, BodyEnded: self._body_ended,
            Configured: self._acknowledged, TakenBack: self._taken_back,
        }  # fmt: skip

    # -- leases ----------------------------------------------------------------------------------------------------------

    def _committed(self, seen: Committed) -> None:
        leased: list[Task] = []
        at_ns = seen.at_ns
        for step in self.tasks.steps:
            if not step.before:
                for gauge in self._gauges(step.task):
                    gauge.is_used = True
            if step.before == _RUNNING and (step.leased or step.after != _RUNNING):
                self._ended(step.task, at_ns)
            if step.leased and step.after == _RUNNING:
                leased.append(step.task)
        changes = seen.changes
        if changes.queues or changes.tenants:
            self._configured(seen)
        for task in leased:
            self._leased(task, at_ns)

    def _ended(self, task: Task, at_ns: int) -> None:
        template = task.kind.template
        queue, tenant = self._gauges(task)
        calm = (queue.limit < queue.ceiling or tenant.limit < tenant.ceiling) and self._is_calm(at_ns)
        queue.ended(template.cost, at_ns, calm=calm)
        tenant.ended(template.cost, at_ns, calm=calm)
        bodies = self._bodies.pop(task.id, None)
        if bodies is not None:
            queue.bodies -= bodies[1] * template.cost
            tenant.bodies -= bodies[1] * template.cost
        if task.key and template.key_limit:
            key = self._key(task)
            left = self._keys.get(key, 0) - 1
            if left > 0:
                self._keys[key] = left
            else:
                self._keys.pop(key, None)

    def _leased(self, task: Task, at_ns: int) -> None:
        template = task.kind.template
        for gauge in self._gauges(task):
            if gauge.limit < gauge.ceiling:
                gauge.settle(at_ns, calm=self._is_calm(at_ns))
            gauge.running += template.cost
            if gauge.running > gauge.ceiling:
                text = f"{gauge} runs {gauge.running} slots with a lease of shard {task.shard}, its limit is {gauge.limit}"
                self.violated(gauge.what, at_ns, gauge.name, text)
        if task.key and template.key_limit:
            key = self._key(task)
            running = self._keys[key] = self._keys.get(key, 0) + 1
            if running > template.key_limit:
                text = f"key {task.key!r} of {task.kind.tenant} runs {running} tasks, its limit is {template.key_limit}"
                self.violated("key", at_ns, f"{task.kind.tenant}/{task.key}", text)

    def _gauges(self, task: Task) -> tuple[Gauge, Gauge]:
        return self._queue(task.queue), self._tenant(task.kind.tenant)

    def _queue(self, name: QueueName) -> Gauge:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = Gauge("queue", "/".join(name))
        return queue

    def _tenant(self, name: str) -> Gauge:
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = Gauge("tenant", name)
        return tenant

    @staticmethod
    def _key(task: Task) -> KeyName:
        return (*task.queue, task.kind.tenant, task.key)

    # -- settings --------------------------------------------------------------------------------------------------------

    def _configured(self, seen: Committed) -> None:
        bounds = self.bounds
        for queue in seen.changes.queues:
            gauge = self._queue((queue.pool, queue.queue))
            gauge.set(queue.concurrency, seen.at_ns, bounds)
            self._kept("queue", queue.queue, queue, seen.at_ns)
        for tenant in seen.changes.tenants:
            gauge = self._tenant(tenant.tenant)
            gauge.set(tenant.concurrency, seen.at_ns, bounds)
            self._kept("tenant", tenant.tenant, tenant, seen.at_ns)

    def _kept(self, what: str, name: str, config: QueueConfig | TenantConfig, at_ns: int) -> None:
        recent = self._settings.get((what, name))
        if recent is None:
            recent = self._settings[what, name] = deque(maxlen=_SETTINGS_KEPT)
        recent.append((at_ns, config))

    def _acknowledged(self, seen: Configured) -> None:
        """What was acknowledged was written since it was asked for."""
        if seen.outcome != "ok" or self.tasks.has_taken_back:
            return
        recent = self._settings.get((seen.what, seen.name), ())
        if not any(at_ns >= seen.asked_ns and _agrees(config, seen.limits) for at_ns, config in recent):
            asked = ", ".join(f"{field} {value}" for field, value in sorted(seen.limits.items()))
            text = f"{seen.what} {seen.name} was acknowledged to be set to {asked}, which was not written"
            self.violated("setting_lost", seen.at_ns, f"{seen.what}/{seen.name}", text)

    def _is_calm(self, at_ns: int) -> bool:
        return self.tasks.calm_ms(at_ns) >= self.bounds.settle_ms and self.bounds.quiet_ms(at_ns // NS) > 0

    def _taken_back(self, seen: TakenBack) -> None:
        """Count anew; a limit that came back may be unknown to its queue for as long as one that was lowered."""
        self._queues, self._tenants, self._keys, self._bodies = {}, {}, {}, {}
        for task in self.tasks.tasks.values():
            for gauge in self._gauges(task):
                gauge.is_used = True
                gauge.running += task.kind.template.cost if task.state == _RUNNING else 0
            if task.state == _RUNNING and task.key and task.kind.template.key_limit:
                key = self._key(task)
                self._keys[key] = self._keys.get(key, 0) + 1
        for place, queue in self.tasks.queues.items():
            self._queue(place).set(queue.concurrency, seen.at_ns, self.bounds)
        for name, tenant in self.tasks.tenants.items():
            self._tenant(name).set(tenant.concurrency, seen.at_ns, self.bounds)

    # -- the witness -----------------------------------------------------------------------------------------------------

    def _body_started(self, seen: BodyStarted) -> None:
        """Handlers that really run under live leases."""
        task = self.tasks.tasks.get(seen.id)
        if task is None or task.state != _RUNNING or task.attempt != seen.attempt:
            return
        self._bodies[task.id] = (task.attempt, self._bodies.get(task.id, (0, 0))[1] + 1)
        for gauge in self._gauges(task):
            gauge.bodies += task.kind.template.cost
            if gauge.bodies > max(gauge.ceiling, gauge.running):  # too many leases are told of as such
                text = f"handlers of {gauge} take {gauge.bodies} slots, its limit is {gauge.limit}"
                self.violated(f"{gauge.what}_bodies", seen.at_ns, gauge.name, text)

    def _body_ended(self, seen: BodyEnded) -> None:
        attempt, bodies = self._bodies.get(seen.id, (0, 0))
        task = self.tasks.tasks.get(seen.id)
        if task is None or not bodies or attempt != seen.attempt:
            return
        for gauge in self._gauges(task):
            gauge.bodies -= task.kind.template.cost
        self._bodies[task.id] = (attempt, bodies - 1)


def _agrees(config: QueueConfig | TenantConfig, limits: dict[str, int]) -> bool:
    return all(getattr(config, field, value) == value for field, value in limits.items())
