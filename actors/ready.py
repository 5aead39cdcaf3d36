"""Who goes next: lanes that may run, by effective priority, then tenant in fair turns, then age.

    level (effective priority 0..9) → share (tenant, by stride) → band (shape) → lane (by when it came to the level)

Only what may run is here. A lane blocked by its key is parked at the key; a band that lacks permits, room or a worker is
parked with what it lacks, and costs nothing until that wakes it.

Ageing: a task that waited `ageing_ms` counts as one step higher, as if it had arrived there at that moment; a lane
stands where its oldest task stands, and gives out at that level only tasks that are as old.

Fairness: serving a tenant moves its pass by slots / weight and the least pass is served next, so two backlogged tenants'
passes never differ by more than one quantum each. A tenant that returns starts at the level's pass: idleness saves
nothing. One that was only held up, by a limit or for want of a large enough worker, keeps what it is behind, up to a few
quanta; else small tasks would take every slot just before it has gathered enough of them.
Source: Waldspurger and Weihl, Stride Scheduling, MIT/LCS/TM-528, 1995.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final

from .lanes import Lane, Shape
from .messages import LOWEST_PRIORITY

if TYPE_CHECKING:
    from .permits import Claim

QUANTUM: Final = 16  # slots served in one go where several tenants or shapes compete
HELD_UP_SLOTS: Final = 4 * QUANTUM  # what a tenant that was held up may be ahead of the others' turns
ORDER_SLACK_MS: Final = 20  # lanes of one tenant and level are served in order of age within this
SWEEP_INTERVAL_MS: Final = 100  # rises are looked at no more often than this
FOREVER_MS: Final = 1 << 62
_PASS_SCALE: Final = 1 << 24


class Band:
    """The lanes of one tenant, level and shape. Not kept when empty."""

    __slots__ = ("heap", "lanes", "parked_in", "shape", "share")

    def __init__(self, share: Share, shape: Shape) -> None:
        self.share = share
        self.shape = shape
        self.heap: list[tuple[int, int, Lane]] = []  # (came to this level, number, lane); stale entries are left in
        self.lanes = 0  # valid entries
        self.parked_in: dict[Band, None] | None = None


class Share:
    """One tenant at one level."""

    __slots__ = ("active", "bands", "claim", "in_line", "level", "passed")

    def __init__(self, claim: Claim, level: Level) -> None:
        self.claim = claim
        self.level = level
        self.passed = 0
        self.bands: dict[Shape, Band] = {}
        self.active: list[Band] = []  # those not parked
        self.in_line = False  # has an entry in the level's heap


class Level:
    """One effective priority."""

    __slots__ = ("heap", "number", "passed", "shares")

    def __init__(self, number: int) -> None:
        self.number = number
        self.heap: list[tuple[int, int, Share]] = []  # (pass, number, share)
        self.passed = 0  # where a tenant that comes now starts
        self.shares: dict[str, Share] = {}  # by tenant, those with bands


class ReadyLanes:
    """The order in which ready tasks run."""

    def __init__(self) -> None:
        self.levels = [Level(number) for number in range(LOWEST_PRIORITY + 1)]
        self._ageing_ms = 0
        self._lanes = 0
        self._number = 0
        self._rise_ms = 0  # no lane rises before; 0: none is known to rise
        self._swept_ms = 0

    # -- lanes in and out --------------------------------------------------------------------------------------------

    def place(self, lane: Lane, now_ms: int) -> None:
        """Let a lane take part, where its oldest task belongs. It is not empty and takes no part yet."""
        number, since_ms = self._standing(lane, now_ms)
        claim = lane.line.claim
        share = claim.shares[number]
        if share is None:
            share = claim.shares[number] = Share(claim, self.levels[number])
        shape = lane.line.shape
        band = share.bands.get(shape)
        if band is None:
            band = share.bands[shape] = Band(share, shape)
            share.level.shares[claim.tenant] = share
            self._activate(band)
        band.lanes += 1
        self._lanes += 1
        lane.band = band
        self._enter(band, lane, since_ms)

    def displace(self, lane: Lane) -> None:
        """Take a lane out."""
        band = lane.band
        assert band is not None
        lane.band = None
        lane.entry = 0
        self._lanes -= 1
        band.lanes -= 1
        heap = band.heap
        if not band.lanes:
            self._discard(band)
        elif heap[0][2] is lane:
            heappop(heap)
        elif len(heap) > 2 * band.lanes + 64:
            band.heap = [entry for entry in heap if entry[2].entry == entry[1]]
            heapify(band.heap)

    def reorder(self, lane: Lane, now_ms: int) -> None:
        """Put a lane where its new oldest task belongs."""
        band = lane.band
        assert band is not None
        number, since_ms = self._standing(lane, now_ms)
        if number != band.share.level.number:
            self.displace(lane)
            self.place(lane, now_ms)
        elif band.heap[0][2] is lane and band.heap[0][1] == lane.entry:
            self._number += 1
            lane.entry = self._number
            heapreplace(band.heap, (since_ms, lane.entry, lane))
            self._expect_rise(number, since_ms)
        else:
            self._enter(band, lane, since_ms)
            if len(band.heap) > 2 * band.lanes + 64:
                band.heap = [entry for entry in band.heap if entry[2].entry == entry[1]]
                heapify(band.heap)

    def _enter(self, band: Band, lane: Lane, since_ms: int) -> None:
        self._number += 1
        lane.entry = self._number
        heappush(band.heap, (since_ms, lane.entry, lane))
        self._expect_rise(band.share.level.number, since_ms)

    def _standing(self, lane: Lane, now_ms: int) -> tuple[int, int]:
        """Return a lane's effective priority and since when it has had it."""
        head_ms = lane.ready[lane.head]
        ageing_ms = self._ageing_ms
        if not ageing_ms or head_ms + ageing_ms > now_ms:
            return lane.priority, head_ms
        steps = min((now_ms - head_ms) // ageing_ms, lane.priority)
        return lane.priority - steps, head_ms + steps * ageing_ms

    # -- whose turn --------------------------------------------------------------------------------------------------

    def front(self) -> Band | None:
        """Return the band whose turn it is, or None if nothing may run."""
        for level in self.levels:
            heap = level.heap
            while heap:
                share = heap[0][2]
                active = share.active
                if active:
                    return active[0] if len(active) == 1 else min(active, key=self._age)
                share.in_line = False
                heappop(heap)
        return None

    def head(self, band: Band) -> Lane:
        """Return the lane of the band that goes first."""
        heap = band.heap
        while True:
            _, number, lane = heap[0]
            if lane.entry == number:
                return lane
            heappop(heap)

    def portion(self, band: Band, limit: int) -> int:
        """Return how many of at most `limit` tasks the band may give before others get a turn."""
        share = band.share
        if limit > 1 and (len(share.level.heap) > 1 or len(share.active) > 1):
            return min(limit, QUANTUM // band.shape.cost or 1)
        return limit

    def until_ms(self, band: Band) -> int:
        """Return until when tasks of a band came that may go before those of the tenant's other bands at its level."""
        active = band.share.active
        if len(active) == 1:
            return FOREVER_MS
        return min(self._age(other)[0] for other in active if other is not band) + ORDER_SLACK_MS

    def ripe(self, band: Band, lane: Lane, limit: int, until_ms: int, now_ms: int) -> int:
        """Return how many of at most `limit` tasks the lane, the first of its band, may give before another lane does."""
        limit = min(limit, lane.count)
        raised = lane.priority - band.share.level.number
        heap = band.heap
        if len(heap) > 1:
            next_ms = heap[1][0] if len(heap) == 2 or heap[1] < heap[2] else heap[2][0]
            until_ms = min(next_ms + ORDER_SLACK_MS, until_ms)
        if until_ms != FOREVER_MS:
            limit = lane.ripe(until_ms - raised * self._ageing_ms, limit)
        if raised:
            limit = lane.ripe(now_ms - raised * self._ageing_ms, limit)
        return limit

    def charge(self, band: Band, slots: int) -> None:
        """Count what the tenant whose turn it was has been given."""
        share = band.share
        level = share.level
        share.passed += slots * _PASS_SCALE // share.claim.weight
        self._number += 1
        heapreplace(level.heap, (share.passed, self._number, share))
        level.passed = max(level.passed, level.heap[0][0])

    def _age(self, band: Band) -> tuple[int, int]:
        self.head(band)
        return band.heap[0][:2]

    # -- parking -------------------------------------------------------------------------------------------------------

    def park(self, band: Band, where: dict[Band, None]) -> None:
        """Set a band aside, with what it lacks, until `wake`."""
        band.share.active.remove(band)
        band.parked_in = where
        where[band] = None

    def wake(self, where: dict[Band, None], max_cost: int) -> None:
        """Let the bands parked there take part again if a task of theirs costs at most `max_cost` slots."""
        for band in [band for band in where if band.shape.cost <= max_cost]:
            del where[band]
            band.parked_in = None
            self._activate(band, behind=HELD_UP_SLOTS * _PASS_SCALE // band.share.claim.weight)

    def _activate(self, band: Band, *, behind: int = 0) -> None:
        share = band.share
        share.active.append(band)
        if not share.in_line:
            share.in_line = True
            share.passed = max(share.passed, share.level.passed - behind)
            self._number += 1
            heappush(share.level.heap, (share.passed, self._number, share))

    def _discard(self, band: Band) -> None:
        band.heap.clear()
        share = band.share
        del share.bands[band.shape]
        if band.parked_in is not None:
            del band.parked_in[band]
            band.parked_in = None
        else:
            share.active.remove(band)
        if not share.bands:
            del share.level.shares[share.claim.tenant]

    # -- ageing --------------------------------------------------------------------------------------------------------

    def set_ageing(self, ageing_ms: int, now_ms: int) -> None:
        """Change the rule; every lane is put where it belongs now."""
        if ageing_ms == self._ageing_ms:
            return
        self._ageing_ms = ageing_ms
        self._rise_ms = 0
        for lane in [lane for level in self.levels for lane in self._lanes_of(level)]:
            self.displace(lane)
            self.place(lane, now_ms)

    def shift(self, by_ms: int) -> None:
        """The wall clock was set: rises are looked at as often as before."""
        self._swept_ms += by_ms

    def due_ms(self) -> int | None:
        """Return when a lane may rise, or None while none can."""
        return max(self._rise_ms, self._swept_ms + SWEEP_INTERVAL_MS) if self._rise_ms and self._lanes else None

    def rise(self, now_ms: int) -> None:
        """Move up what has waited long enough."""
        self._swept_ms = now_ms
        self._rise_ms = 0
        ageing_ms = self._ageing_ms
        if not ageing_ms:
            return
        for level in self.levels[1:]:
            for share in list(level.shares.values()):
                for band in list(share.bands.values()):
                    while band.lanes:
                        lane = self.head(band)
                        since_ms = band.heap[0][0]
                        if since_ms + ageing_ms > now_ms:
                            self._expect_rise(level.number, since_ms)
                            break
                        self.displace(lane)
                        self.place(lane, now_ms)

    def _expect_rise(self, number: int, since_ms: int) -> None:
        if number and self._ageing_ms:
            rise_ms = since_ms + self._ageing_ms
            if not self._rise_ms or rise_ms < self._rise_ms:
                self._rise_ms = rise_ms

    @staticmethod
    def _lanes_of(level: Level) -> list[Lane]:
        bands = [band for share in level.shares.values() for band in share.bands.values()]
        return [lane for band in bands for _, number, lane in sorted(band.heap) if lane.entry == number]
