"""The timer queue against a store that is a sorted list: nothing early, nothing skipped, whatever the pages do."""

from __future__ import annotations

from bisect import bisect_right

from foliot.actors.rows import ReadTimers
from foliot.actors.timers import TimerConfig, TimerQueue
from hypothesis import given, settings
from hypothesis import strategies as st


class PagedTimers:
    """A timer queue and the store behind it; a page is read at once but may arrive later."""

    def __init__(self, config: TimerConfig) -> None:
        self.queue = TimerQueue(config)
        self.stored: list[tuple[int, int]] = []
        self.alive: set[tuple[int, int]] = set()
        self.in_memory: set[int] = set()
        self.changed: set[int] = set()
        self.page: tuple[ReadTimers, list[tuple[int, int]], int] | None = None
        self.token = 0

    def add(self, due_ms: int, task_id: int, now_ms: int) -> None:
        key = (due_ms, task_id)
        self.alive.add(key)
        self.stored.insert(bisect_right(self.stored, key), key)
        self.changed.add(task_id)
        if self.queue.add(due_ms, task_id, now_ms):
            self.in_memory.add(task_id)

    def cancel(self, key: tuple[int, int]) -> None:
        self.alive.discard(key)
        self.stored.remove(key)
        self.changed.add(key[1])
        self.queue.discard(*key)
        self.in_memory.discard(key[1])

    def ask(self, now_ms: int) -> None:
        for task_id in self.queue.shed():
            self.in_memory.remove(task_id)
        self.token += 1
        query = self.queue.next_page(now_ms, self.token)
        if query is not None:
            rows = [key for key in self.stored if (query.after_due_ms, query.after_id) < key and key[0] <= query.until_ms]
            page = rows[: query.limit]
            last = page[-1] if page else (query.after_due_ms, query.after_id)
            beyond = [key for key in self.stored if key > last]
            self.page = query, page, beyond[0][0] if beyond else 0
            self.changed = set()

    def arrive(self) -> None:
        if self.page is None:
            return
        query, page, next_due_ms = self.page
        self.page = None
        keys = [key for key in page if key[1] not in self.changed and key[1] not in self.in_memory]
        dropped = self.queue.take_page(query.token, keys, page[-1] if page else None, next_due_ms)
        if dropped is None:
            return
        self.in_memory.update(key[1] for key in keys)
        for task_id in dropped:
            self.in_memory.remove(task_id)

    def fire(self, now_ms: int) -> list[int]:
        fired = self.queue.pop_due(now_ms, 1_000)
        for task_id in fired:
            key = next(key for key in self.alive if key[1] == task_id)
            assert key[0] <= now_ms, "a timer fired early"
            self.alive.discard(key)
            self.stored.remove(key)
            self.changed.add(task_id)
            self.in_memory.discard(task_id)
        return fired


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 400)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("ask"), st.just(0)),
        st.tuples(st.just("arrive"), st.just(0)),
        st.tuples(st.just("pass"), st.integers(1, 60)),
    ),
    max_size=120,
)


@settings(max_examples=400, deadline=None)
@given(steps=STEPS, horizon=st.sampled_from([10, 50, 200]), page=st.integers(1, 5), most=st.integers(4, 12))
def test_every_timer_fires_once_and_none_early(
    steps: list[tuple[str, int]], horizon: int, page: int, most: int
) -> None:  # fmt: skip
    timers = PagedTimers(TimerConfig(horizon_ms=horizon, page=page, in_memory_max=most))
    now_ms, next_id = 1_000, 0
    expected: set[int] = set()
    fired: list[int] = []
    for step, value in steps:
        if step == "add":
            next_id += 1
            timers.add(now_ms + value // 4 * 4, next_id, now_ms)  # many share an instant
            expected.add(next_id)
        elif step == "cancel" and timers.alive:
            key = sorted(timers.alive)[value % len(timers.alive)]
            timers.cancel(key)
            expected.discard(key[1])
        elif step == "ask":
            timers.ask(now_ms)
        elif step == "arrive":
            timers.arrive()
        elif step == "pass":
            now_ms += value
            fired += timers.fire(now_ms)
    for _ in range(5_000):  # then time goes on until nothing is left to do
        timers.arrive()
        timers.ask(now_ms)
        timers.arrive()
        due_ms = timers.queue.due_ms()
        if due_ms is None:
            break
        now_ms = max(now_ms, due_ms)
        fired += timers.fire(now_ms)
    assert sorted(fired) == sorted(expected)
    assert len(timers.in_memory) == 0


@given(count=st.integers(1, 60), page=st.integers(1, 7))
def test_timers_of_one_instant_survive_page_boundaries(count: int, page: int) -> None:
    timers = PagedTimers(TimerConfig(horizon_ms=100, page=page, in_memory_max=8))
    for task_id in range(1, count + 1):
        timers.add(5_000, task_id, 1_000)
    fired: list[int] = []
    now_ms = 1_000
    while (due_ms := timers.queue.due_ms()) is not None:
        now_ms = max(now_ms, due_ms)
        timers.ask(now_ms)
        timers.arrive()
        fired += timers.fire(now_ms)
    assert sorted(fired) == list(range(1, count + 1))


def test_far_timers_stay_in_the_store() -> None:
    timers = PagedTimers(TimerConfig(horizon_ms=60_000))
    timers.ask(0)
    timers.arrive()
    for task_id in range(1, 1_001):
        timers.add(10_000_000 + task_id, task_id, 0)
    assert len(timers.queue) == 0
    assert timers.queue.due_ms() == 10_000_001 - 30_000
