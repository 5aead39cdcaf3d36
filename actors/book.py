"""What a queue knows of its tasks: which wait in which lane, which run, and what all of them take of each limit.

An id is waiting or running, never both, and counted once in each limit it touches, so repeating an offer, a withdrawal or a
release changes nothing. What a shard says of everything it has puts right what was lost on the way; only grants that may
not have reached it yet are left alone. Only the queue actor that owns the book touches it.
"""

from __future__ import annotations

from typing import Final

from . import messages as m
from .credits import Credits
from .keys import KeyGate, KeyGates
from .lanes import Lane, LaneName, Line
from .permits import Permits
from .ready import Band, ReadyLanes

_LINES_KEPT: Final = 1_024
_SHARD_SHIFT: Final = 12  # of runtime.ids.shard_of, which is too slow to call for every id
_SHARD_MASK: Final = 1_023


class Grant:
    """Tasks of one kind granted to a session in one go: what its ids count as while they run. `number`: of the GrantLeases
    they were sent with, 0 if an earlier queue actor granted them; `left`: how many have not ended."""

    __slots__ = ("at_ms", "gate", "ids", "left", "line", "number", "session")

    def __init__(
        self, line: Line, gate: KeyGate | None, session: str, ids: list[int], at_ms: int, number: int
    ) -> None:  # fmt: skip
        self.line = line
        self.gate = gate
        self.session = session
        self.ids = ids
        self.left = len(ids)
        self.at_ms = at_ms
        self.number = number


class TaskBook:
    """The references of one queue."""

    def __init__(self, ready: ReadyLanes, credits: Credits, permits: Permits) -> None:
        self.known: dict[int, Lane | Grant] = {}  # by task id; a Lane: it waits, a Grant: it runs
        self.waiting = [0] * (m.LOWEST_PRIORITY + 1)  # tasks by priority
        self.waiting_total = 0
        self.running = 0  # slots
        self.gates = KeyGates()
        self.grants: dict[Grant, None] = {}  # those with tasks that have not ended, the oldest first
        self._ready = ready
        self._credits = credits
        self._permits = permits
        self._lanes: dict[LaneName, Lane] = {}
        self._lines: dict[tuple[str, int], Line] = {}
        self._lines_sweep_at = _LINES_KEPT

    @property
    def lanes(self) -> int:
        """How many lanes there are; empty ones are not kept."""
        return len(self._lanes)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def offer(self, lot: m.Lot, now_ms: int) -> None:
        """Take references that became ready; those known already are skipped."""
        ids, ready_ms = lot.ids, lot.ready_ms
        if len(ids) == 1:
            if ids[0] in self.known:
                return
        elif not self.known.keys().isdisjoint(ids) or len(set(ids)) != len(ids):
            ids, ready_ms = self._new_of(lot)
        if ids:
            self._add(lot, ids, ready_ms, now_ms)

    def _add(self, lot: m.Lot, ids: list[int], ready_ms: list[int], now_ms: int) -> None:
        """Put tasks that are new here into their lane."""
        kind = lot.kind
        priority = min(max(lot.priority, 0), m.LOWEST_PRIORITY)
        name = (kind.tenant, kind.template_id, priority, lot.key)
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._new_lane(name, kind, now_ms)
            line, gate = lane.line, lane.gate
            lane.add(ids, ready_ms)
            if gate is not None and self.gates.allowance(lane, gate, now_ms, 1) <= 0:
                self._park(lane, gate, now_ms)
            else:
                self._ready.place(lane, now_ms)
        else:
            line = lane.line
            head_ms = lane.ready[lane.head]
            lane.add(ids, ready_ms)
            if lane.band is None:
                line.claim.blocked += len(ids) * line.shape.cost
            elif lane.ready[lane.head] != head_ms:
                self._ready.reorder(lane, now_ms)
        count = len(ids)
        if count == 1:
            self.known[ids[0]] = lane
        else:
            self.known.update(dict.fromkeys(ids, lane))
        self.waiting[priority] += count
        self.waiting_total += count
        line.claim.waiting += count * line.shape.cost
        self._permits.changed(line.claim, now_ms)

    def _new_of(self, lot: m.Lot) -> tuple[list[int], list[int]]:
        """Return those of a lot that are not waiting or running yet. One that runs has been granted while the offer was
        under way."""
        fresh: dict[int, int] = {}
        for task_id, ready_ms in zip(lot.ids, lot.ready_ms, strict=True):
            if task_id not in self.known and task_id not in fresh:
                fresh[task_id] = ready_ms
        return list(fresh), list(fresh.values())

    def withdraw(self, ids: list[int], now_ms: int) -> None:
        """Forget references that wait. One that was granted meanwhile is refused, and so released, by its shard."""
        known = self.known
        for task_id in ids:
            lane = known.get(task_id)
            if not isinstance(lane, Lane):
                continue
            del known[task_id]
            head_ms = lane.ready[lane.head]
            lane.remove(task_id)
            self.waiting[lane.priority] -= 1
            self.waiting_total -= 1
            claim, cost = lane.line.claim, lane.line.shape.cost
            claim.waiting -= cost
            if lane.band is None:
                claim.blocked -= cost
            self._permits.changed(claim, now_ms)
            if not lane.count:
                self._drop(lane, now_ms)
            elif lane.band is not None and lane.ready[lane.head] != head_ms:
                self._ready.reorder(lane, now_ms)

    # -- running -------------------------------------------------------------------------------------------------------

    def serve(self, band: Band, session: str, limit: int, until_ms: int, now_ms: int, number: int) -> list[int]:
        """Take up to `limit` tasks that came until then from a band, in order, and count them as running. `number`: of the
        GrantLeases they will be sent with."""
        ready, gates, known, waiting = self._ready, self.gates, self.known, self.waiting
        served: list[int] = []
        while limit > 0 and band.lanes:
            lane = ready.head(band)
            if served and band.heap[0][0] > until_ms:
                break
            gate = lane.gate
            count = ready.ripe(band, lane, limit, until_ms, now_ms) if limit > 1 and lane.count > 1 else 1
            if gate is not None:
                count = gates.allowance(lane, gate, now_ms, count)
                if count <= 0:
                    ready.displace(lane)
                    self._park(lane, gate, now_ms)
                    continue
                gates.started(lane, gate, count, now_ms)
            ids = lane.take(count)
            grant = Grant(lane.line, gate, session, ids, now_ms, number)
            self.grants[grant] = None
            if count == 1:
                known[ids[0]] = grant
            else:
                known.update(dict.fromkeys(ids, grant))
            served += ids
            limit -= count
            waiting[lane.priority] -= count
            if not lane.count:
                self._drop(lane, now_ms)
            elif gate is not None and gates.allowance(lane, gate, now_ms, 1) <= 0:
                ready.displace(lane)
                self._park(lane, gate, now_ms)
            else:
                ready.reorder(lane, now_ms)
        self.waiting_total -= len(served)
        slots = len(served) * band.shape.cost
        self.running += slots
        claim = band.share.claim
        claim.running += slots
        claim.waiting -= slots
        self._permits.changed(claim, now_ms)
        return served

    def adopt(self, leased: m.LeasedLot, now_ms: int) -> None:
        """Count what runs already, by a lease older than this actor."""
        ids = [task_id for task_id in leased.ids if self.known.get(task_id).__class__ is not Grant]
        self.withdraw(ids, now_ms)
        line = self._line(leased.kind)
        gate, _ = self.gates.of(leased.kind.tenant, leased.key, leased.kind.template, now_ms)
        if not ids:
            return
        grant = Grant(line, gate, leased.session, ids, now_ms, 0)
        self.grants[grant] = None
        for task_id in ids:
            self.known[task_id] = grant
        slots = len(ids) * line.shape.cost
        self.running += slots
        line.claim.running += slots
        if gate is not None and line.key_limit:
            gate.running += len(ids)
        self._permits.changed(line.claim, now_ms)

    def end(self, ids: list[int], granted: int, now_ms: int) -> int:
        """Stop counting tasks as running; skipped are ids that do not run, and those granted with a number above `granted`,
        which whoever says so had not seen. Returns how many slots became free."""
        known = self.known
        grant: Grant | None = None
        count = freed = 0
        for task_id in ids:
            entry = known.get(task_id)
            if entry is grant and entry is not None:  # ids granted together mostly end together
                del known[task_id]
                count += 1
            elif isinstance(entry, Grant) and entry.number <= granted:
                if grant is not None:
                    freed += self._ended(grant, count, now_ms)
                del known[task_id]
                grant, count = entry, 1
        if grant is not None:
            freed += self._ended(grant, count, now_ms)
        return freed

    def _ended(self, grant: Grant, count: int, now_ms: int) -> int:
        grant.left -= count
        if not grant.left:
            del self.grants[grant]
        line = grant.line
        slots = count * line.shape.cost
        self.running -= slots
        claim = line.claim
        claim.running -= slots
        self._permits.changed(claim, now_ms)
        if claim.parked:
            self._ready.wake(claim.parked, claim.room())
        gate = grant.gate
        if gate is not None and line.key_limit:
            gate.running -= count
            if gate.parked:
                self.open(gate, now_ms)
            elif not gate.lanes:
                self.gates.discard_if_idle(gate, now_ms)
        return slots

    # -- putting right what was lost -------------------------------------------------------------------------------------

    def settle(self, message: m.OfferTasks, granted: int, now_ms: int) -> None:
        """Forget what a shard, which tells all it has, does not have: what waits, and what was granted with numbers up to
        `granted`."""
        running = {task_id for leased in message.leased for task_id in leased.ids}
        waiting = {task_id for lot in message.lots for task_id in lot.ids}
        gone: list[int] = []
        ended: list[int] = []
        for task_id, entry in self.known.items():
            if task_id >> _SHARD_SHIFT & _SHARD_MASK != message.shard or task_id in running:
                continue
            if entry.__class__ is Grant:
                ended.append(task_id)
            elif task_id not in waiting:
                gone.append(task_id)
        self.withdraw(gone, now_ms)
        self.end(ended, granted, now_ms)

    def granted_before(self, before_ms: int) -> dict[int, list[int]]:
        """Return by shard the tasks that were granted by then and have not ended."""
        known = self.known
        found: dict[int, list[int]] = {}
        for grant in self.grants:
            if grant.at_ms > before_ms:
                break
            for task_id in grant.ids:
                if known.get(task_id) is grant:
                    found.setdefault(task_id >> _SHARD_SHIFT & _SHARD_MASK, []).append(task_id)
        return found

    def shift(self, by_ms: int) -> None:
        """The wall clock was set."""
        for grant in self.grants:
            grant.at_ms += by_ms
        self.gates.shift(by_ms)

    # -- lanes ---------------------------------------------------------------------------------------------------------

    def _line(self, kind: m.Kind) -> Line:
        line = self._lines.get((kind.tenant, kind.template_id))
        if line is None:
            if len(self._lines) >= self._lines_sweep_at:
                self._sweep_lines()
            template = kind.template
            shape = self._credits.shape(template.require, template.prefer, max(template.cost, 1))
            shape.lines += 1
            line = self._lines[kind.tenant, kind.template_id] = Line(kind, self._permits.claim(kind.tenant), shape)
        elif not line.lanes:
            line.claim = self._permits.claim(kind.tenant)  # the old one was forgotten if it was idle
        line.claim.step = max(line.claim.step, line.shape.cost)
        return line

    def _new_lane(self, name: LaneName, kind: m.Kind, now_ms: int) -> Lane:
        line = self._line(kind)
        gate, rate = self.gates.of(kind.tenant, name[3], kind.template, now_ms)
        lane = self._lanes[name] = Lane(name, line, gate, rate)
        line.lanes += 1
        if gate is not None:
            gate.lanes += 1
        return lane

    def _park(self, lane: Lane, gate: KeyGate, now_ms: int) -> None:
        """Set a lane aside until its key lets it pass."""
        self.gates.park(lane, gate, now_ms)
        claim = lane.line.claim
        claim.blocked += lane.count * lane.line.shape.cost
        self._permits.changed(claim, now_ms)

    def open(self, gate: KeyGate, now_ms: int) -> None:
        """Let those lanes of a key take part again that may."""
        for lane in self.gates.woken(gate, now_ms):
            claim = lane.line.claim
            claim.blocked -= lane.count * lane.line.shape.cost
            self._permits.changed(claim, now_ms)
            self._ready.place(lane, now_ms)

    def _drop(self, lane: Lane, now_ms: int) -> None:
        """Forget a lane that has become empty."""
        del self._lanes[lane.name]
        lane.line.lanes -= 1
        if lane.band is not None:
            self._ready.displace(lane)
        gate = lane.gate
        if gate is not None:
            gate.parked.pop(lane, None)
            gate.lanes -= 1
            if not gate.lanes:
                self.gates.discard_if_idle(gate, now_ms)

    def _sweep_lines(self) -> None:
        for name, line in list(self._lines.items()):
            if not line.lanes:
                del self._lines[name]
                line.shape.lines -= 1
        self._lines_sweep_at = max(2 * len(self._lines), _LINES_KEPT)
