"""Lanes: ready tasks alike in everything but their ids, in the order they became ready.

A lane holds ids and their ready times in two parallel lists with a moving head, so that giving out n tasks is one slice.
Withdrawn ids stay where they are as tombstones until half of a lane is gone, so a withdrawal never walks the lane.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from .messages import Kind

if TYPE_CHECKING:  # these own lanes; a lane only points back at them
    from .credits import Fit
    from .keys import KeyGate, RateLimit
    from .permits import Claim
    from .ready import Band

_COMPACT_AT: Final = 512  # ids given out before the lists are cut
_INSERT_MAX: Final = 16  # late comers that are inserted one by one rather than merged

LaneName = tuple[str, int, int, str]
"""(tenant, template id, priority, concurrency key)"""


class Shape:
    """What a task needs of a worker: labels and slots. All lanes of one shape can or cannot run together."""

    __slots__ = ("cost", "fit", "lines", "parked")

    def __init__(self, fit: Fit, cost: int) -> None:
        self.fit = fit
        self.cost = cost
        self.lines = 0  # kinds that have this shape
        self.parked: dict[Band, None] = {}  # bands that wait for a worker with enough free slots


class Line:
    """What all lanes of one kind share."""

    __slots__ = ("claim", "key_limit", "kind", "lanes", "shape")

    def __init__(self, kind: Kind, claim: Claim, shape: Shape) -> None:
        self.kind = kind
        self.claim = claim
        self.shape = shape
        self.key_limit = kind.template.key_limit
        self.lanes = 0  # how many there are now


class Lane:
    """Ready tasks of one kind, priority and key. Never kept empty."""

    __slots__ = (
        "band", "count", "entry", "gate", "gone", "head", "ids", "key", "line", "name", "priority", "rate", "ready"
    )  # fmt: skip

    def __init__(self, name: LaneName, line: Line, gate: KeyGate | None, rate: RateLimit | None) -> None:
        self.name = name
        self.line = line
        self.priority = name[2]
        self.key = name[3]
        self.gate = gate
        self.rate = rate
        self.ids: list[int] = []
        self.ready: list[int] = []
        self.head = 0
        self.count = 0  # tasks that wait here, tombstones excluded
        self.gone: set[int] | None = None
        self.band: Band | None = None  # None: parked at its gate
        self.entry = 0  # number of its valid entry in the band's heap

    @property
    def head_ms(self) -> int:
        """Since when its oldest task has been ready."""
        return self.ready[self.head]

    def add(self, ids: list[int], ready_ms: list[int]) -> None:
        """Put tasks in their place by ready time, behind equals. `ready_ms` ascends; no id is here already."""
        if self.gone is not None and not self.gone.isdisjoint(ids):
            self._compact()
        if not self.ready or ready_ms[0] >= self.ready[-1]:
            self.ids.extend(ids)
            self.ready.extend(ready_ms)
        elif len(ids) <= _INSERT_MAX:
            for task_id, at_ms in zip(ids, ready_ms, strict=True):
                position = bisect_right(self.ready, at_ms, self.head)
                self.ids.insert(position, task_id)
                self.ready.insert(position, at_ms)
        else:
            position = bisect_right(self.ready, ready_ms[0], self.head)
            times = self.ready[position:] + ready_ms
            tail = self.ids[position:] + ids
            order = sorted(range(len(times)), key=times.__getitem__)
            self.ids[position:] = [tail[i] for i in order]
            self.ready[position:] = [times[i] for i in order]
        self.count += len(ids)
        self._skip_tombstones()  # a late comer may stand before one, and one must never be the head

    def take(self, count: int) -> list[int]:
        """Give out the `count` oldest tasks; `count` is at most `self.count`."""
        head = self.head
        if self.gone is None:
            end = head + count
            taken = self.ids[head:end]
        else:
            taken, end = [], head
            while len(taken) < count:
                task_id = self.ids[end]
                end += 1
                if task_id in self.gone:
                    self.gone.remove(task_id)
                else:
                    taken.append(task_id)
        self.head = end
        self.count -= count
        self._skip_tombstones()
        if self.head >= _COMPACT_AT and self.head * 2 >= len(self.ids):
            del self.ids[: self.head]
            del self.ready[: self.head]
            self.head = 0
        return taken

    def remove(self, task_id: int) -> None:
        """Withdraw one task that is here."""
        if self.gone is None:
            self.gone = set()
        self.gone.add(task_id)
        self.count -= 1
        if len(self.gone) > self.count + 8:
            self._compact()
        else:
            self._skip_tombstones()

    def ripe(self, until_ms: int, limit: int) -> int:
        """Return how many tasks, of the `limit` oldest places, were ready by `until_ms`; at least 1."""
        head = self.head
        end = bisect_right(self.ready, until_ms, head, min(head + limit, len(self.ready)))
        gone = self.gone
        tombstones = 0 if gone is None else sum(task_id in gone for task_id in self.ids[head:end])
        return max(end - head - tombstones, 1)

    def ahead_of(self, task_id: int) -> int:
        """Return how many tasks of this lane stand before one that is here."""
        before = self.ids[self.head : self.ids.index(task_id, self.head)]
        return len(before) if self.gone is None else sum(other not in self.gone for other in before)

    def _skip_tombstones(self) -> None:
        gone = self.gone
        if gone is None:
            return
        ids = self.ids
        while self.head < len(ids) and ids[self.head] in gone:
            gone.remove(ids[self.head])
            self.head += 1
        if not gone:
            self.gone = None

    def _compact(self) -> None:
        gone = self.gone or set()
        kept = [i for i in range(self.head, len(self.ids)) if self.ids[i] not in gone]
        self.ids = [self.ids[i] for i in kept]
        self.ready = [self.ready[i] for i in kept]
        self.head = 0
        self.gone = None
