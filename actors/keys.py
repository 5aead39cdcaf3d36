"""Concurrency keys: how many tasks of a key run, and how often they start.

A key belongs to a tenant within one queue. Its running count covers every task whose template limits the key, whatever its
handler; each template's own `key_limit` is what its tasks are held to. A start rate is a token bucket for each rule
(starts per span) of a key. Lanes that may not start are parked at the key, and woken by a release or by the clock.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final

from .lanes import Lane
from .limits import TokenBucket
from .messages import Template

_SWEEP_FLOOR: Final = 1_024  # keys kept before idle ones are looked for

KeyName = tuple[str, str]
"""(tenant, key)"""


class RateLimit:
    """One rule of one key."""

    __slots__ = ("bucket",)

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket


class KeyGate:
    """One key. `wake_ms`: when the clock looks at it again, 0 if nobody asked."""

    __slots__ = ("lanes", "name", "parked", "rates", "running", "wake_ms")

    def __init__(self, name: KeyName) -> None:
        self.name = name
        self.running = 0
        self.lanes = 0
        self.parked: dict[Lane, None] = {}
        self.rates: dict[tuple[int, int], RateLimit] | None = None
        self.wake_ms = 0


class KeyGates:
    """All keys of one queue that have something waiting, running, or a rate to remember."""

    def __init__(self) -> None:
        self._gates: dict[KeyName, KeyGate] = {}
        self._wakes: list[tuple[int, int, KeyGate]] = []
        self._number = 0
        self._sweep_at = _SWEEP_FLOOR

    def __len__(self) -> int:
        return len(self._gates)

    def of(self, tenant: str, key: str, template: Template, now_ms: int) -> tuple[KeyGate | None, RateLimit | None]:
        """Return the gate tasks of that key pass, and its start rate, where the template has such limits."""
        if not key or not (template.key_limit or template.key_rate):
            return None, None
        name = (tenant, key)
        gate = self._gates.get(name)
        if gate is None:
            if len(self._gates) >= self._sweep_at:
                self._sweep(now_ms)
            gate = self._gates[name] = KeyGate(name)
        if not template.key_rate:
            return gate, None
        rule = (template.key_rate, max(template.key_rate_ms, 1))
        if gate.rates is None:
            gate.rates = {}
        rate = gate.rates.get(rule)
        if rate is None:
            rate = gate.rates[rule] = RateLimit(TokenBucket(*rule, now_ms=now_ms))
        return gate, rate

    def allowance(self, lane: Lane, gate: KeyGate, now_ms: int, limit: int) -> int:
        """Return how many of `limit` tasks of a lane its gate lets start now; 0 or less: none."""
        key_limit = lane.line.key_limit
        if key_limit and key_limit - gate.running < limit:
            limit = key_limit - gate.running
        if lane.rate is not None and limit > 0:
            limit = min(limit, lane.rate.bucket.tokens(now_ms))
        return limit

    def started(self, lane: Lane, gate: KeyGate, count: int, now_ms: int) -> None:
        """Count tasks that start; the allowance covers them."""
        if lane.line.key_limit:
            gate.running += count
        if lane.rate is not None:
            lane.rate.bucket.take(count, now_ms)

    def park(self, lane: Lane, gate: KeyGate, now_ms: int) -> None:
        """Keep a lane, which takes no part now, until its gate may let it pass."""
        gate.parked[lane] = None
        self._plan_wake(lane, gate, now_ms)

    def woken(self, gate: KeyGate, now_ms: int) -> list[Lane]:
        """Return the parked lanes that may pass now; they are parked no longer."""
        passing = []
        for lane in list(gate.parked):
            if self.allowance(lane, gate, now_ms, 1) > 0:
                del gate.parked[lane]
                passing.append(lane)
            else:
                self._plan_wake(lane, gate, now_ms)
        return passing

    def discard_if_idle(self, gate: KeyGate, now_ms: int) -> None:
        """Forget a gate nobody needs: nothing waits or runs, and its buckets are full again."""
        if not gate.lanes and gate.running <= 0 and (gate.rates is None or self._is_full(gate, now_ms)):
            self._gates.pop(gate.name, None)

    def shift(self, by_ms: int) -> None:
        """The wall clock was set: nobody waits any longer or shorter for that."""
        self._wakes = [(at_ms + by_ms, number, gate) for at_ms, number, gate in self._wakes]
        for gate in self._gates.values():
            if gate.wake_ms:
                gate.wake_ms += by_ms
            for rate in gate.rates.values() if gate.rates else ():
                rate.bucket.shift(by_ms)

    def due_ms(self) -> int | None:
        """Return when a parked lane may start, or None."""
        return self._wakes[0][0] if self._wakes else None

    def due(self, now_ms: int) -> list[KeyGate]:
        """Return the gates to look at now."""
        gates = []
        while self._wakes and self._wakes[0][0] <= now_ms:
            _, _, gate = heappop(self._wakes)
            gate.wake_ms = 0
            if gate.parked:
                gates.append(gate)
        return gates

    def _plan_wake(self, lane: Lane, gate: KeyGate, now_ms: int) -> None:
        if lane.rate is None:
            return
        wait_ms = lane.rate.bucket.wait_ms(1, now_ms)
        at_ms = now_ms + wait_ms
        if wait_ms and (not gate.wake_ms or at_ms < gate.wake_ms):
            gate.wake_ms = at_ms
            self._number += 1
            heappush(self._wakes, (at_ms, self._number, gate))

    def _sweep(self, now_ms: int) -> None:
        for gate in list(self._gates.values()):
            self.discard_if_idle(gate, now_ms)
        self._sweep_at = max(2 * len(self._gates), _SWEEP_FLOOR)

    @staticmethod
    def _is_full(gate: KeyGate, now_ms: int) -> bool:
        return gate.rates is None or all(rate.bucket.is_full(now_ms) for rate in gate.rates.values())
