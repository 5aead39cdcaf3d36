"""The backlog of a shard: which ready tasks are offered to queues now, and which wait in the store.

Ready tasks form lanes (`rows.lane_of`). Of each lane a window is in memory and offered; the rest is paged in, in order of
(due_ms, id), as the window drains. What always holds: of a lane known here, everything at or before `last` is in memory;
if the lane is `complete`, so is everything else. Lanes that are not known here have no ready tasks at all, unless
`unlisted`: then they are found again by walking the store's lane numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .rows import LaneRead, LanesRead, ReadLane, ReadLanes, TaskRow
from .task import Task

Key = tuple[int, int]
_PRIORITY_SHIFT = 59


class Placed(Enum):
    """What became of a task that was added."""

    OFFER = 1  # in memory: offer it to its queue
    HELD = 2  # in memory until the page under way says whether it is its turn
    STORED = 3  # in the store only: let go of it


@dataclass(frozen=True)
class BacklogConfig:
    """Bounds of what is held in memory, in tasks."""

    lane_window: int = 8_192
    key_window: int = 256  # of a lane with a concurrency key
    lane_floor: int = 16  # a lane may hold this many even when the whole window is full, so that none is shut out
    lane_page: int = 4_096
    window_max: int = 32_768  # of each priority
    lanes_max: int = 20_000
    lanes_page: int = 256
    loads_max: int = 8


class Lane:
    """One lane's window."""

    __slots__ = ("complete", "count", "last", "limit", "loading", "missed", "missed_over", "number")

    def __init__(self, number: int, *, complete: bool, limit: int) -> None:
        self.number = number
        self.complete = complete
        self.limit = limit
        self.count = 0
        self.last: Key = (0, 0)
        self.loading = 0  # token of the page under way
        self.missed: list[Task] = []  # added beyond `last` while a page was under way
        self.missed_over: Key | None = None  # the first of those that did not fit into `missed`


class Backlog:
    """All lanes of a shard."""

    def __init__(self, config: BacklogConfig, *, has_ready: bool) -> None:
        self._config = config
        self._lanes: dict[int, Lane] = {}
        self._wanting: dict[int, Lane] = {}  # incomplete lanes whose window has drained
        self._counts = [0] * 16  # by priority
        self._loads = 0
        self._unlisted = has_ready
        self._walk_from = -1
        self._walking = 0  # token of the walk under way
        self._walk_again = False

    @property
    def count(self) -> int:
        """Tasks in all windows."""
        return sum(self._counts)

    def add(self, task: Task) -> Placed:
        """Take in a task that became ready."""
        number = task.lane
        lane = self._lanes.get(number)
        if lane is None:
            lane = self._open(number, keyed=bool(task.key), complete=not self._unlisted)
            if lane is None:
                return Placed.STORED
        key = (task.due_ms, task.id)
        placed = Placed.OFFER
        if lane.complete:
            if key > lane.last:
                if not self._has_room(lane):
                    lane.complete = False
                    self._want(lane)
                    return Placed.STORED
                lane.last = key
        elif key > lane.last:
            if not lane.loading:
                self._want(lane)
                return Placed.STORED
            if len(lane.missed) >= self._config.lane_page:
                lane.missed_over = key if lane.missed_over is None else min(lane.missed_over, key)
                return Placed.STORED
            lane.missed.append(task)
            placed = Placed.HELD
        lane.count += 1
        self._counts[number >> _PRIORITY_SHIFT] += 1
        return placed

    def leave(self, task: Task) -> None:
        """A task in a window is no longer ready."""
        lane = self._lanes[task.lane]
        lane.count -= 1
        self._counts[lane.number >> _PRIORITY_SHIFT] -= 1
        if lane.missed:
            lane.missed = [missed for missed in lane.missed if missed is not task]
        if not lane.complete:
            self._want(lane)
        elif lane.count == 0 and not lane.loading:
            del self._lanes[lane.number]

    def next_loads(self, token: int) -> list[ReadLane | ReadLanes]:
        """Return the queries to ask now; each gets its own token, counting up from `token`."""
        config = self._config
        queries: list[ReadLane | ReadLanes] = []
        if self._unlisted and not self._walking and len(self._lanes) < config.lanes_max:
            self._walking = token
            queries.append(ReadLanes(token, self._walk_from, config.lanes_page))
        if self._wanting and self._loads < config.loads_max:
            for lane in list(self._wanting.values())[: 4 * config.loads_max]:
                if self._loads >= config.loads_max:
                    break
                del self._wanting[lane.number]
                if lane.complete or lane.loading:
                    continue
                if not self._has_room(lane):
                    self._wanting[lane.number] = lane  # to the end of the line
                    continue
                self._loads += 1
                lane.loading = token + len(queries)
                after_due_ms, after_id = lane.last
                limit = min(config.lane_page, lane.limit - lane.count)
                queries.append(ReadLane(lane.loading, lane.number, after_due_ms, after_id, limit))
        return queries

    def take_page(self, answer: LaneRead, limit: int, skip: set[int]) -> tuple[list[TaskRow], list[Task], list[Task]]:
        """Take the page of a lane that was asked for with `limit`; rows in `skip` have changed meanwhile.

        Returns (rows to keep, held tasks to offer, held tasks to let go of).
        """
        lane = self._lanes[answer.lane]
        assert lane.loading == answer.token
        lane.loading = 0
        self._loads -= 1
        rows = answer.rows
        missed, over = lane.missed, lane.missed_over
        lane.missed, lane.missed_over = [], None
        if over is not None:
            rows = [row for row in rows if (row.due_ms, row.id) < over]
        if rows:
            lane.last = (rows[-1].due_ms, rows[-1].id)
        kept, dropped = missed, []
        if over is None and len(answer.rows) < limit:
            lane.complete = True
            if missed:
                lane.last = max(lane.last, max((task.due_ms, task.id) for task in missed))
        elif missed:
            kept = [task for task in missed if (task.due_ms, task.id) <= lane.last]
            dropped = [task for task in missed if (task.due_ms, task.id) > lane.last]
        waiting = {task.id for task in missed}
        rows = [row for row in rows if row.id not in skip and row.id not in waiting]
        change = len(rows) - len(dropped)
        lane.count += change
        self._counts[lane.number >> _PRIORITY_SHIFT] += change
        if not lane.complete:
            self._want(lane)
        elif lane.count == 0:
            del self._lanes[lane.number]
        return rows, kept, dropped

    def take_lanes(self, answer: LanesRead, limit: int) -> None:
        """Take a step of the walk that was asked for with `limit`."""
        assert answer.token == self._walking
        self._walking = 0
        for number in answer.lanes:
            if number not in self._lanes:
                lane = self._open(number, keyed=False, complete=False)
                if lane is None:
                    return
            self._walk_from = number
        if len(answer.lanes) < limit:
            self._walk_from = -1
            self._unlisted, self._walk_again = self._walk_again, False

    def _open(self, number: int, *, keyed: bool, complete: bool) -> Lane | None:
        if len(self._lanes) >= self._config.lanes_max:
            self._unlisted = self._walk_again = True
            return None
        limit = self._config.key_window if keyed else self._config.lane_window
        lane = self._lanes[number] = Lane(number, complete=complete, limit=limit)
        if not complete:
            self._wanting[number] = lane
        return lane

    def _has_room(self, lane: Lane) -> bool:
        if lane.count >= lane.limit:
            return False
        return self._counts[lane.number >> _PRIORITY_SHIFT] < self._config.window_max or (
            lane.count < self._config.lane_floor
        )

    def _want(self, lane: Lane) -> None:
        if not lane.loading and lane.count <= lane.limit // 2:
            self._wanting[lane.number] = lane
