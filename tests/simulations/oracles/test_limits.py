"""Limits of queues, tenants and keys."""

from __future__ import annotations

from foliot.actors.messages import QueueConfig
from foliot.simulations.history import Configured, TakenBack
from foliot.simulations.oracles.bounds import Bounds
from foliot.simulations.oracles.limits import Limits

from .builder import NS, Story

BOUNDS = Bounds(settle_ms=2_000, permits_settle_ms=4_000, in_flight_ms=10_000)


def limited(concurrency: int) -> Story:
    """A queue whose limit has long been in force."""
    story = Story()
    story.configure(concurrency=concurrency)
    story.advance(20_000)
    return story


def used(concurrency: int = 0) -> Story:
    """A queue that has had a task when its limit was set."""
    story = Story()
    story.submit()
    story.configure(concurrency=concurrency)
    story.advance(20_000)
    return story


def ids(story: Story, count: int, **fields: object) -> list[int]:
    return [story.submit(**fields) for _ in range(count)]  # type: ignore[arg-type]


def test_as_many_as_allowed_may_run() -> None:
    story = limited(4)
    first, second, third = ids(story, 3, cost=2)
    story.lease(first, second)
    story.start(first)
    story.start(second)
    story.stop(first)
    story.complete(first)
    story.lease(third)

    assert story.verdict(Limits, BOUNDS) == []


def test_one_slot_more_is_found() -> None:
    story = limited(3)
    first, second = ids(story, 2, cost=2)
    story.lease(first)
    story.lease(second)

    oracle = Limits(BOUNDS)
    assert story.verdict(oracle) == ["queue"]
    assert oracle.violations[0].text == "queue default/default runs 4 slots with a lease of shard 0, its limit is 3"


def test_a_raised_limit_holds_at_once_and_none_at_all_too() -> None:
    for concurrency in (3, 0):
        story = limited(1)
        first, second, third = ids(story, 3)
        story.lease(first)
        story.configure(concurrency=concurrency)
        story.lease(second, third)

        assert story.verdict(Limits, BOUNDS) == []


def test_a_lowered_limit_leaves_what_runs_and_what_is_under_way() -> None:
    story = limited(3)
    first, second, third, fourth = ids(story, 4)
    story.lease(first, second)
    story.configure(concurrency=1)
    story.advance(2_500)
    story.lease(third)  # granted before, so that three were counted
    story.complete(first)
    story.complete(second)
    assert story.verdict(Limits, BOUNDS) == []

    story.lease(fourth)
    assert story.verdict(Limits, BOUNDS) == ["queue"]


def test_a_lowered_limit_that_settled_comes_down_with_each_end() -> None:
    story = limited(3)
    tasks = ids(story, 5)
    story.lease(*tasks[:3])
    story.configure(concurrency=1)
    story.advance(2_000)
    story.complete(tasks[0])
    story.lease(tasks[3])

    assert story.verdict(Limits, BOUNDS) == ["queue"]


def test_before_it_settled_a_lowered_limit_may_be_unknown() -> None:
    story = limited(3)
    tasks = ids(story, 5)
    story.lease(*tasks[:3])
    story.configure(concurrency=1)
    story.advance(1_900)
    story.complete(tasks[0])
    story.lease(tasks[3])

    assert story.verdict(Limits, BOUNDS) == []


def test_a_first_limit_holds_once_nothing_older_is_under_way() -> None:
    for waited_ms, expected in ((9_000, []), (10_000, ["queue"])):
        story = Story()
        tasks = ids(story, 5)
        story.lease(tasks[0], tasks[1])
        story.configure(concurrency=1)
        story.advance(waited_ms)
        story.lease(tasks[2])

        assert story.verdict(Limits, BOUNDS) == expected


def test_a_limit_set_before_the_first_task_holds_soon_whatever_happens() -> None:
    for waited_ms, expected in ((1_999, []), (2_000, ["queue"])):
        story = Story()
        story.configure(concurrency=1)
        story.process_is("paused", "n1")
        first, second = ids(story, 2)
        story.advance(waited_ms)
        story.lease(first)
        story.lease(second)

        assert story.verdict(Limits, BOUNDS) == expected


def test_a_lowered_limit_settles_outside_of_trouble() -> None:
    for advance_ms, expected in ((6_900, []), (7_000, ["queue"])):
        story = used(3)
        tasks = ids(story, 4)
        story.lease(*tasks[:3])
        story.configure(concurrency=1)
        story.advance(advance_ms)
        story.complete(tasks[0])
        story.lease(tasks[3])

        assert story.verdict(Limits, Bounds(troubles=((21_000, 25_000),))) == expected


def test_a_limit_does_not_come_down_while_an_owner_stands_still() -> None:
    story = limited(2)
    tasks = ids(story, 4)
    story.lease(*tasks[:2])
    story.configure(concurrency=1)
    story.process_is("paused", "n1")
    story.advance(5_000)
    story.complete(tasks[0])
    story.lease(tasks[2])

    assert story.verdict(Limits, BOUNDS) == []


def test_a_key_runs_as_many_as_its_tasks_allow() -> None:
    story = Story()
    first, second, third = ids(story, 3, key="k", key_limit=2)
    other = story.submit(key="k", key_limit=2, tenant="other")
    free = story.submit(key="k")
    story.lease(first, second, other, free)
    assert story.verdict(Limits) == []

    story.lease(third)
    assert story.verdict(Limits) == ["key"]


def test_a_tenant_is_counted_over_all_its_queues() -> None:
    story = Story()
    story.configure_tenant(concurrency=2)
    story.advance(20_000)
    tasks = [story.submit(queue=queue) for queue in ("a", "b", "c")]
    story.lease(*tasks[:2])
    assert story.verdict(Limits, BOUNDS) == []

    story.lease(tasks[2])
    assert story.verdict(Limits, BOUNDS) == ["tenant"]


def test_handlers_are_counted_as_they_run() -> None:
    story = limited(1)
    id = story.submit()
    story.lease(id)
    story.start(id)
    story.start(id, process="w2")

    assert story.verdict(Limits, BOUNDS) == ["queue_bodies"]


def test_an_acknowledged_setting_was_written() -> None:
    story = Story()
    story.commit(queues=[QueueConfig("default", "default", concurrency=5)])
    story.add(Configured(story.at_ns, story.at_ns, "client", "queue", "default", "ok", {"concurrency": 5}))
    story.add(Configured(story.at_ns, story.at_ns, "client", "queue", "default", "unknown", {"concurrency": 6}))
    assert story.verdict(Limits) == []

    story.add(Configured(story.at_ns + 5 * NS, story.at_ns, "client", "queue", "default", "ok", {"concurrency": 7}))
    assert story.verdict(Limits) == ["setting_lost"]


def test_after_power_was_lost_it_counts_what_is_left() -> None:
    story = limited(2)
    tasks = ids(story, 3)
    story.lease(tasks[0])
    story.lease(tasks[1])
    story.add(TakenBack(story.at_ns, 1))
    story.lease(tasks[2])
    assert story.verdict(Limits, BOUNDS) == []

    story.advance(20_000)
    story.rows[tasks[1]].attempt = 0
    story.lease(tasks[1])
    story.lease(story.submit())
    assert story.verdict(Limits, BOUNDS) == ["queue"]
