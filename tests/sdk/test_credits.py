"""Sharing free slots between queues."""

from __future__ import annotations

import pytest
from foliot.sdk.credits import ACTIVE_MS, HOLD_MS, IDLE_HOLD_MS, STARVED_MS, TICK_MS, QueueLine, hold_ms, share
from hypothesis import given
from hypothesis import strategies as st


def lines(count: int) -> list[QueueLine]:
    return [QueueLine(f"queue.default.q{number}") for number in range(count)]


def shared(free: int, queues: list[QueueLine], now_ms: int = 10_000, rooms: list[int] | None = None) -> list[int]:
    share(free, queues, rooms or [free] * len(queues), now_ms, slots=256)
    return [line.free for line in queues]


def test_one_queue_gets_everything() -> None:
    assert shared(7, lines(1)) == [7]
    assert shared(7, lines(1), rooms=[3]) == [3]
    assert shared(-2, lines(1)) == [0]


def test_idle_queues_share_evenly() -> None:
    assert shared(256, lines(4)) == [64, 64, 64, 64]
    assert shared(10, lines(3)) == [4, 3, 3]


def test_credit_moves_to_the_queue_that_uses_it_and_a_little_stays() -> None:
    queues = lines(4)
    queues[2].active_until_ms = 10_000 + ACTIVE_MS

    assert shared(256, queues) == [8, 8, 232, 8]


def test_what_a_busy_queue_has_no_room_for_is_left_to_the_others() -> None:
    queues = lines(3)
    queues[0].active_until_ms = 10_001

    assert shared(100, queues, rooms=[20, 100, 100]) == [20, 40, 40]
    assert shared(100, queues, rooms=[0, 100, 100]) == [0, 50, 50]


def test_of_busy_queues_the_one_that_holds_less_gets_what_is_over() -> None:
    queues = lines(2)
    for line, held in zip(queues, (30, 20), strict=True):
        line.active_until_ms = 10_001
        line.held = held

    assert shared(5, queues) == [2, 3]


def test_an_idle_worker_gives_each_queue_enough_for_its_dearest_task() -> None:
    queues = lines(3)
    queues[0].cost = 4

    assert shared(8, queues) == [5, 2, 1]
    queues[1].active_until_ms = 10_001
    assert shared(8, queues) == [4, 2, 2]


def test_a_dear_task_gets_its_turn_where_the_slots_do_not_suffice_for_all() -> None:
    queues = lines(3)
    queues[2].cost = 3
    asked = [shared(3, queues, now_ms=10_000 + step * HOLD_MS) for step in range(8)]

    assert [0, 0, 3] in asked
    assert [1, 1, 1] in asked


def test_with_fewer_slots_than_queues_each_is_asked_in_turn() -> None:
    queues = lines(3)
    asked = [shared(1, queues, now_ms=10_000 + step * HOLD_MS) for step in range(6)]

    assert asked == [[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 2


def test_a_queue_that_was_just_asked_has_a_moment_to_answer() -> None:
    queues = lines(2)

    moments = (0, HOLD_MS - 1, HOLD_MS, 2 * HOLD_MS - 1, 2 * HOLD_MS)
    asked = [shared(1, queues, now_ms=10_000 + after_ms) for after_ms in moments]

    assert asked == [[1, 0], [1, 0], [0, 1], [0, 1], [1, 0]]


def test_it_is_shared_again_soon_where_the_slots_do_not_suffice_for_the_dearest_tasks() -> None:
    queues = lines(3)
    queues[2].cost = 4

    assert [hold_ms(free, queues, 10_000) for free in (5, 6)] == [IDLE_HOLD_MS, 0]
    queues[0].active_until_ms = 10_001
    assert [hold_ms(free, queues, 10_000) for free in (5, 6)] == [HOLD_MS, TICK_MS]


def test_a_queue_at_work_keeps_the_slot_but_others_are_asked_before_long() -> None:
    queues = lines(2)
    shared(1, queues, now_ms=0)
    served = [0, 0]
    for now_ms in range(0, 5 * STARVED_MS, 10):
        free = shared(1, queues, now_ms=now_ms)
        served = [count + credit for count, credit in zip(served, free, strict=True)]
        if free[0]:  # the first queue uses each slot it gets, the second never
            queues[0].active_until_ms = now_ms + ACTIVE_MS
            queues[0].free = 0

    assert served[0] > 9 * served[1] > 0


@given(
    free=st.integers(-5, 300),
    queues=st.lists(
        st.tuples(st.booleans(), st.integers(0, 50), st.integers(-3, 300), st.integers(0, 3), st.integers(1, 9)), min_size=1
    ),
)
def test_credits_never_exceed_the_free_slots_or_the_room(free: int, queues: list[tuple[bool, int, int, int, int]]) -> None:
    made = lines(len(queues))
    for line, (active, held, _, before, cost) in zip(made, queues, strict=True):
        line.active_until_ms = 10_001 if active else 0
        line.held, line.free, line.cost = held, before, cost
    rooms = [room for _, _, room, _, _ in queues]

    credits = shared(free, made, rooms=rooms)

    assert sum(credits) <= max(free, 0)
    assert all(0 <= credit <= max(room, 0) for credit, room in zip(credits, rooms, strict=True))
    if free >= len(made) and sum(max(room, 0) for room in rooms) >= free:
        assert sum(credits) == free  # nothing is wasted


@pytest.mark.parametrize("free", [1, 2, 5])
def test_every_queue_is_served_within_a_while_whatever_the_others_do(free: int) -> None:
    queues = lines(6)
    had: set[int] = set()
    for now_ms in range(0, 3 * STARVED_MS, 10):
        for index, credit in enumerate(shared(free, queues, now_ms=now_ms)):
            if credit:
                had.add(index)
            if credit and index < 3:  # half of them are always busy
                queues[index].active_until_ms = now_ms + ACTIVE_MS
                queues[index].free = 0
    assert had == set(range(6))
