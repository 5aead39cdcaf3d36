"""The order of ready tasks: priority, ageing, fair shares, age; and the lanes they stand in."""

from __future__ import annotations

from foliot.actors.lanes import Lane
from foliot.actors.ready import QUANTUM, SWEEP_INTERVAL_MS
from hypothesis import given, settings
from hypothesis import strategies as st

from .harness_queue import START_MS, QueueHarness, kind


def test_a_higher_priority_goes_first_whoever_came_first() -> None:
    queue = QueueHarness(ageing_ms=0)
    offered = {priority: queue.offer(kind(), 2, priority=priority) for priority in (9, 5, 0, 2)}
    queue.credit("w1", 5)
    assert queue.granted_ids == [*offered[0], *offered[2], offered[5][0]]


def test_tasks_of_different_kinds_go_by_age() -> None:
    queue = QueueHarness()
    early = queue.offer(kind(handler="a"), ready_ms=START_MS)
    late = queue.offer(kind(handler="b"), 3, ready_ms=START_MS + 1_000)
    middle = queue.offer(kind(handler="a"), 3, ready_ms=START_MS + 500)
    latest = queue.offer(kind(handler="a"), 1, ready_ms=START_MS + 2_000)
    large = queue.offer(kind(handler="c", cost=2), 1, ready_ms=START_MS + 700)
    queue.now_ms += 2_000
    queue.credit("w1", 20)
    assert queue.granted_ids == [*early, *middle, *large, *late, *latest]


def test_tasks_of_different_keys_go_by_age() -> None:
    queue = QueueHarness()
    one = queue.offer(kind(), ready_ms=START_MS, key="a")
    three = queue.offer(kind(), ready_ms=START_MS + 1_000, key="a")
    two = queue.offer(kind(), ready_ms=START_MS + 500, key="b")
    queue.now_ms += 2_000
    queue.credit("w1", 20)
    assert queue.granted_ids == [*one, *two, *three]


def test_a_late_comer_with_an_earlier_time_takes_its_place() -> None:
    queue = QueueHarness()
    a = queue.offer(kind(), 40, ready_ms=START_MS + 10)
    b = queue.offer(kind(), 3, ready_ms=START_MS + 5)
    c = queue.offer(kind(), 30, ready_ms=START_MS + 7)
    queue.credit("w1", 100)
    assert queue.granted_ids == [*b, *c, *a]


def test_waiting_raises_a_task_one_step_at_a_time() -> None:
    queue = QueueHarness(ageing_ms=1_000)
    [old] = queue.offer(kind(), priority=7)
    queue.advance_ms(2_000)
    same = queue.offer(kind(), priority=5)
    [higher] = queue.offer(kind(), priority=4)
    assert queue.why(old).text == "no worker serves queue 'mail'"
    queue.credit("w1", 2)
    assert queue.granted_ids == [higher, old]  # it is at 5 now, and came there before the other
    assert queue.why(same[0]).reason == "no_free_slot"


def test_only_the_tasks_that_waited_rise_not_those_behind_them_in_the_lane() -> None:
    queue = QueueHarness(ageing_ms=1_000)
    old = queue.offer(kind(), 2, priority=5)
    queue.advance_ms(990)
    young = queue.offer(kind(), 2, priority=5)
    queue.advance_ms(SWEEP_INTERVAL_MS)
    higher = queue.offer(kind("other"), 2, priority=4)
    queue.credit("w1", 6)
    assert queue.granted_ids == [*old, *higher, *young]


def test_nothing_rises_with_ageing_off_and_no_timer_is_set() -> None:
    queue = QueueHarness(ageing_ms=0)
    [old] = queue.offer(kind(), priority=9)
    assert queue.queue.due_ms() is None
    queue.advance_ms(10**9)
    [new] = queue.offer(kind(), priority=8)
    queue.credit("w1", 1)
    assert queue.granted_ids == [new]
    queue.configure(ageing_ms=1_000)
    queue.offer(kind(), priority=1)
    queue.credit("w1", 1)
    assert queue.granted_ids[-1] == old


def test_tasks_that_can_rise_no_more_set_no_timer() -> None:
    queue = QueueHarness(ageing_ms=1_000)
    queue.offer(kind(), 3, priority=3)
    assert queue.queue.due_ms() == START_MS + 1_000
    queue.advance_ms(3_000)
    assert queue.queue.due_ms() is None


def test_ageing_never_starves_a_task_below_a_steady_stream() -> None:
    queue = QueueHarness(ageing_ms=1_000)
    [low] = queue.offer(kind("meek"), priority=9)
    for _ in range(40):
        queue.offer(kind("loud"), 4, priority=0)
        queue.credit("w1", 2)
        queue.release(*queue.granted_ids)
        queue.advance_ms(500)
        if low in queue.granted_ids:
            break
    assert queue.now_ms - START_MS <= 9_000 + 2 * 500 + SWEEP_INTERVAL_MS


@settings(max_examples=50)
@given(
    weights=st.lists(st.integers(1, 8), min_size=2, max_size=5),
    batches=st.lists(st.integers(1, 40), min_size=3, max_size=12),
    cost=st.integers(1, 3),
    keyed=st.booleans(),
)
def test_backlogged_tenants_get_their_weighted_share_of_any_window(
    weights: list[int], batches: list[int], cost: int, keyed: bool
) -> None:
    """Over any window of grants, the slots of two backlogged tenants, each divided by its weight, differ by at most one
    quantum of each at either end."""
    queue = QueueHarness(ageing_ms=0)
    tenants = [f"t{number}" for number in range(len(weights))]
    queue.weights = dict(zip(tenants, weights, strict=True))
    owner: dict[int, int] = {}
    for number, tenant in enumerate(tenants):
        for chunk in range(5):
            ids = queue.offer(kind(tenant, cost=cost), 100, key=f"k{chunk}" if keyed else "")
            owner |= dict.fromkeys(ids, number)
    for batch in batches:
        queue.credit("w1", batch * cost)
    marks = [[0] * len(weights)]
    for task_id in queue.granted_ids:
        number = owner[task_id]
        marks.append([have + (cost if n == number else 0) for n, have in enumerate(marks[-1])])
    for begin in range(0, len(marks), 13):
        for end in range(begin, len(marks), 17):
            got = [b - a for a, b in zip(marks[begin], marks[end], strict=True)]
            for i, one in enumerate(weights):
                for j, two in enumerate(weights):
                    assert abs(got[i] / one - got[j] / two) <= 2 * QUANTUM * (1 / one + 1 / two)


def test_large_tasks_of_one_tenant_are_not_starved_by_small_ones_of_another() -> None:
    queue = QueueHarness(ageing_ms=0)
    small, large = kind("small"), kind("large", cost=3)
    owner = dict.fromkeys(queue.offer(small, 1_000), "small") | dict.fromkeys(queue.offer(large, 1_000), "large")
    for batch in (1, 18, 2, 18, 4, 1, 18, 5, 18, 18, 7, 18):
        queue.credit("w1", batch)
    slots = {"small": 0, "large": 0}
    for task_id in queue.granted_ids:
        slots[owner[task_id]] += queue.costs[task_id]
    assert sum(slots.values()) == 128
    assert abs(slots["small"] - slots["large"]) <= 2 * QUANTUM


def test_a_tenant_that_comes_back_gets_no_credit_for_its_absence() -> None:
    queue = QueueHarness()
    busy = queue.offer(kind("busy"), 3_000)
    queue.credit("w1", 1_000)
    late = queue.offer(kind("late"), 500)
    queue.take_granted()
    queue.credit("w1", 200)
    granted = queue.take_granted()
    assert len(granted) == 200
    assert abs(len(set(granted) & set(busy)) - len(set(granted) & set(late))) <= 2 * QUANTUM


def test_twenty_thousand_keys_wait_and_run() -> None:
    queue = QueueHarness(ageing_ms=60_000)
    limited = kind(key_limit=1)
    count = 20_000
    for number in range(count):
        queue.offer(limited, 1, key=f"k{number}")
    blocked = queue.offer(limited, 50, key="k0")
    queue.credit("w1", count + 50)
    assert len(queue.granted_ids) == count
    queue.release(queue.granted_ids[0])
    assert queue.granted_ids[-1] == blocked[0]


class LaneModel:
    """A lane as a plain sorted list."""

    def __init__(self) -> None:
        self.tasks: list[tuple[int, int]] = []  # (ready, id)

    def add(self, ids: list[int], times: list[int]) -> None:
        self.tasks += zip(times, ids, strict=True)
        self.tasks.sort(key=lambda task: task[0])


@settings(max_examples=200)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.lists(st.integers(0, 50), min_size=1, max_size=40)),
            st.tuples(st.just("take"), st.integers(1, 30)),
            st.tuples(st.just("remove"), st.integers(0, 1_000)),
            st.tuples(st.just("again"), st.integers(0, 50)),
        ),
        max_size=60,
    )
)
def test_a_lane_gives_out_by_ready_time_whatever_is_added_and_withdrawn(
    steps: list[tuple[str, list[int] | int]],
) -> None:
    lane = Lane(("t", 1, 5, ""), None, None, None)  # type: ignore[arg-type]
    model = LaneModel()
    removed: list[int] = []
    next_id = 1
    for what, value in steps:
        if isinstance(value, list):
            times = sorted(value)
            ids = list(range(next_id, next_id + len(times)))
            next_id += len(times)
            lane.add(ids, times)
            model.add(ids, times)
        elif what == "take" and lane.count:
            count = min(value, lane.count)
            taken = lane.take(count)
            assert taken == [task_id for _, task_id in model.tasks[:count]]
            del model.tasks[:count]
        elif what == "remove" and lane.count:
            _, task_id = model.tasks.pop(value % len(model.tasks))
            lane.remove(task_id)
            removed.append(task_id)
        elif what == "again" and removed:
            task_id = removed.pop()
            lane.add([task_id], [value])
            model.add([task_id], [value])
        assert lane.count == len(model.tasks)
        if model.tasks:
            assert lane.head_ms == model.tasks[0][0]
            middle = len(model.tasks) // 2
            assert lane.ahead_of(model.tasks[middle][1]) == middle
            assert lane.ripe(25, lane.count) <= max(sum(at <= 25 for at, _ in model.tasks), 1)
