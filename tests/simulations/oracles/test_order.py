"""Priorities and shares are kept, as far as a queue can be expected to keep them."""

from __future__ import annotations

import pytest
from foliot.simulations.history import TakenBack
from foliot.simulations.oracles.bounds import Bounds
from foliot.simulations.oracles.order import Order

from .builder import Story

BOUNDS = Bounds(order_ms=15_000, fair_slots=20)


def queue_with(*, waited_ms: int = 20_000, **high: object) -> tuple[Story, int]:
    """A task of priority 2 that has waited, and one of priority 5 that came just now."""
    story = Story()
    story.submit(**{"priority": 2, **high})  # type: ignore[arg-type]
    story.advance(waited_ms)
    return story, story.submit(priority=5)


def test_a_lower_priority_that_overtakes_is_found() -> None:
    story, low = queue_with()
    story.lease(low)

    oracle = Order(BOUNDS)
    assert story.verdict(oracle) == ["priority"]
    assert "was leased at level 5, while task" in oracle.violations[0].text
    assert oracle.violations[0].text.endswith("of the same tenant, queue and shard has waited 20000 ms at level 2")


def test_the_highest_first_is_well() -> None:
    story, low = queue_with()
    story.lease(next(iter(story.rows)))
    story.lease(low)

    assert story.verdict(Order, BOUNDS) == []


def test_a_task_that_has_not_waited_long_may_be_out_of_sight() -> None:
    story, low = queue_with(waited_ms=14_999)
    story.lease(low)

    assert story.verdict(Order, BOUNDS) == []


def test_other_workers_keys_tenants_and_queues_are_another_matter() -> None:
    for other in (
        {"require": ("gpu",)}, {"cost": 2}, {"key": "k", "key_limit": 1}, {"key": "k", "key_rate": 1}, {"tenant": "other"},
        {"queue": "mail"}, {"priority": 5},
    ):  # fmt: skip
        story, low = queue_with(**other)
        story.lease(low)

        assert story.verdict(Order, BOUNDS) == [], other


def test_ageing_lets_a_low_priority_rise() -> None:
    for ageing_ms, expected in ((60_000, []), (0, ["priority"])):
        story = Story()
        story.configure(ageing_ms=ageing_ms)
        low = story.submit(priority=5)
        story.advance(200_000)
        story.submit(priority=3)
        story.advance(15_000)
        story.lease(low)

        assert story.verdict(Order, BOUNDS) == expected


@pytest.mark.parametrize("disturbance", ["take-over", "pause", "setting", "power"])
def test_order_is_judged_in_calm_only(disturbance: str) -> None:
    story, low = queue_with()
    if disturbance == "take-over":
        story.claim("n2")
    elif disturbance == "pause":
        story.process_is("paused", "n1")
    elif disturbance == "setting":
        story.configure(concurrency=50)
    else:
        story.add(TakenBack(story.at_ns, 0))
    story.lease(low)

    assert story.verdict(Order, BOUNDS) == []


def test_after_trouble_what_was_swallowed_has_to_be_repaired_first() -> None:
    for until_ms, expected in ((10_000, ["priority"]), (10_001, [])):
        story, low = queue_with(waited_ms=40_000)
        story.lease(low)

        assert story.verdict(Order, Bounds(troubles=((5_000, until_ms),), repair_ms=30_000)) == expected


def test_a_task_beyond_its_lane_s_window_may_be_out_of_sight() -> None:
    for waiting, expected in ((4, ["priority"]), (5, [])):
        story = Story()
        story.submit(priority=2, count=waiting)
        story.advance(20_000)
        story.lease(story.submit(priority=5))

        assert story.verdict(Order, Bounds(order_ms=15_000, window=8)) == expected


def test_a_lane_that_came_within_its_window_lately_is_not_judged_yet() -> None:
    for since_ms, expected in ((4_000, []), (5_000, ["priority"])):
        story = Story()
        first = story.submit(priority=2, count=5)
        story.advance(20_000)
        story.lease(first)
        story.advance(since_ms)
        story.lease(story.submit(priority=5))

        assert story.verdict(Order, Bounds(order_ms=15_000, window=8)) == expected


def served(count: int, *, meanwhile: int = 0, **limit: int) -> list[str]:
    """One tenant's task waits while another tenant gets so many slots; `meanwhile`: it is served one after so many."""
    story = Story()
    story.configure_tenant("quiet", weight=1, **limit)
    waiting = story.submit(tenant="quiet", count=2)
    story.advance(20_000)
    for number in range(count):
        if meanwhile and number == meanwhile:
            story.lease(waiting)
        story.lease(story.submit(tenant="loud"))
    return story.verdict(Order, BOUNDS)


def test_a_tenant_that_gets_nothing_while_another_is_served_is_found() -> None:
    assert served(36) == []
    assert served(37) == ["starved"]


def test_a_tenant_that_had_its_turn_is_not_starved() -> None:
    assert served(60, meanwhile=30) == []


def test_a_tenant_with_a_limit_of_its_own_may_wait_for_that() -> None:
    assert served(60, concurrency=1) == []
