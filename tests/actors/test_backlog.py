"""The backlog's windows against a store that is a set of rows: every ready task is offered, in order, within its bounds."""

from __future__ import annotations

from foliot.actors.backlog import Backlog, BacklogConfig, Placed
from foliot.actors.messages import Kind, LedgerEntry, Template
from foliot.actors.rows import LaneRead, LanesRead, ReadLane, ReadLanes, TaskRow
from foliot.actors.task import Counts, KindState, Task
from hypothesis import given, settings
from hypothesis import strategies as st

KIND = KindState(Kind("acme", 1, Template("h")), Counts(LedgerEntry("acme", "default")))


class PagedBacklog:
    """A backlog and the store behind it; pages are read at once but may arrive later."""

    def __init__(self, config: BacklogConfig, *, stored: list[Task] | None = None) -> None:
        self.stored: dict[int, Task] = {task.id: task for task in stored or []}
        self.backlog = Backlog(config, has_ready=bool(stored))
        self.config = config
        self.memory: dict[int, Task] = {}
        self.offered: list[int] = []
        self.pages: list[tuple[ReadLane | ReadLanes, list[Task] | list[int]]] = []
        self.changed: dict[int, int] = {}
        self.turn = 0
        self.asked: dict[int, int] = {}
        self.token = 0

    def add(self, task: Task) -> None:
        self.stored[task.id] = task
        self.changed[task.id] = self.turn
        placed = self.backlog.add(task)
        if placed is not Placed.STORED:
            self.memory[task.id] = task
        if placed is Placed.OFFER:
            self.offer(task)

    def offer(self, task: Task) -> None:
        assert not task.offered, "offered twice"
        task.offered = True
        self.offered.append(task.id)

    def take(self, task_id: int) -> None:
        """The queue granted it."""
        task = self.memory.pop(task_id)
        del self.stored[task_id]
        self.changed[task_id] = self.turn
        self.backlog.leave(task)

    def ask(self) -> None:
        for query in self.backlog.next_loads(self.token + 1):
            self.token += 1
            assert query.token == self.token
            self.asked[query.token] = self.turn
            if isinstance(query, ReadLanes):
                numbers = sorted({task.lane for task in self.stored.values() if task.lane > query.after})
                self.pages.append((query, numbers[: query.limit]))
            else:
                after = (query.after_due_ms, query.after_id)
                rows = [t for t in self.stored.values() if t.lane == query.lane and (t.due_ms, t.id) > after]
                rows.sort(key=lambda task: (task.due_ms, task.id))
                self.pages.append((query, rows[: query.limit]))
        self.turn += 1

    def arrive(self) -> None:
        if not self.pages:
            return
        query, found = self.pages.pop(0)
        if isinstance(query, ReadLanes):
            self.backlog.take_lanes(LanesRead(query.token, found), query.limit)  # type: ignore[arg-type]
            return
        rows = [row_of(task) for task in found]  # type: ignore[arg-type]
        stale = {r.id for r in rows if r.id in self.memory or self.changed.get(r.id, -1) > self.asked[query.token]}
        kept, held, dropped = self.backlog.take_page(LaneRead(query.token, query.lane, rows, []), query.limit, stale)
        for row in kept:
            task = self.memory[row.id] = Task.of_row(row, KIND)
            self.stored[row.id] = task
            self.offer(task)
        for task in held:
            if task.id in self.memory:
                self.offer(task)
        for task in dropped:
            self.memory.pop(task.id)

    def drain(self, limit: int = 100_000) -> list[int]:
        """Grant everything that is or comes to be offered."""
        taken: list[int] = []
        for _ in range(limit):
            self.ask()
            while self.pages:
                self.arrive()
            ready = [task_id for task_id in self.memory if self.memory[task_id].offered]
            if not ready and not self.stored:
                return taken
            for task_id in ready[:3]:
                self.take(task_id)
                taken.append(task_id)
        raise AssertionError(f"stuck with {len(self.stored)} tasks in the store")


def task_in(lane: int, task_id: int, due_ms: int) -> Task:
    return Task(task_id, KIND, 2, 5, due_ms, lane, "", "", b"")


def row_of(task: Task) -> TaskRow:
    return TaskRow(task.id, 1, 2, 5, 0, 0, 0, task.due_ms, 0, task.lane, "", "", "", 0, 0, 0, b"", b"", b"")


CONFIGS = st.builds(
    BacklogConfig,
    lane_window=st.integers(2, 6),
    lane_floor=st.integers(1, 2),
    lane_page=st.integers(1, 4),
    window_max=st.integers(2, 8),
    lanes_max=st.integers(2, 5),
    lanes_page=st.integers(1, 3),
    loads_max=st.integers(1, 3),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5), st.integers(0, 3)),
        st.tuples(st.just("take"), st.integers(0, 20), st.just(0)),
        st.tuples(st.just("ask"), st.just(0), st.just(0)),
        st.tuples(st.just("arrive"), st.just(0), st.just(0)),
    ),
    max_size=150,
)


@settings(max_examples=400, deadline=None)
@given(steps=STEPS, config=CONFIGS, before=st.lists(st.integers(0, 5), max_size=12))
def test_every_ready_task_is_offered_once_it_is_its_turn(
    steps: list[tuple[str, int, int]], config: BacklogConfig, before: list[int]
) -> None:  # fmt: skip
    backlog = PagedBacklog(config, stored=[task_in(lane, n + 1, n) for n, lane in enumerate(before)])
    next_id = 100
    for step, value, early in steps:
        if step == "add":
            next_id += 1
            backlog.add(task_in(value, next_id, next_id - 20 * early))  # some have waited before, as after a retry
        elif step == "take":
            ready = [task_id for task_id in backlog.memory if backlog.memory[task_id].offered]
            if ready:
                backlog.take(ready[value % len(ready)])
        elif step == "ask":
            backlog.ask()
        else:
            backlog.arrive()
    backlog.drain()
    assert backlog.memory == {}
    assert backlog.backlog.count == 0


def test_a_full_window_leaves_the_rest_to_the_store() -> None:
    backlog = PagedBacklog(BacklogConfig(lane_window=10, lane_page=4))
    for task_id in range(1, 101):
        backlog.add(task_in(7, task_id, task_id))
    assert len(backlog.memory) == 10
    assert backlog.drain() == list(range(1, 101))


def test_one_lane_cannot_shut_out_another() -> None:
    backlog = PagedBacklog(BacklogConfig(lane_window=50, window_max=50, lane_floor=2))
    for task_id in range(1, 101):
        backlog.add(task_in(7, task_id, task_id))
    backlog.add(task_in(8, 500, 500))
    assert 500 in backlog.memory


def test_what_comes_in_droves_while_a_page_is_read_is_not_forgotten() -> None:
    backlog = PagedBacklog(BacklogConfig(lane_window=8, lane_page=2), stored=[task_in(7, 1, 1)])
    backlog.ask()
    backlog.arrive()  # the walk finds the lane
    backlog.ask()  # its page is being read
    for task_id in range(10, 20):
        backlog.add(task_in(7, task_id, task_id))
    backlog.arrive()
    assert backlog.drain() == [1, *range(10, 20)]
