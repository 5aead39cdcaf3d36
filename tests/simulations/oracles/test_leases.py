"""One lease at a time, bodies under leases, and an end for leases of the dead."""

from __future__ import annotations

import pytest
from foliot.actors.states import State
from foliot.simulations.oracles.bounds import Bounds
from foliot.simulations.oracles.leases import Leases

from .builder import Story


def test_leases_that_follow_each_other_are_well() -> None:
    story = Story()
    id = story.submit()
    story.run(id)
    story.interrupt(id)
    story.lease(id, session="s2")
    story.start(id, process="w2")
    story.stop(id)
    story.complete(id)

    assert story.verdict(Leases) == []


def test_a_body_may_start_late_but_only_once() -> None:
    story = Story()
    id = story.submit()
    story.lease(id)
    story.interrupt(id)
    story.lease(id, session="s2")
    story.start(id, attempt=1, session="s1")
    assert story.verdict(Leases) == []

    story.start(id, attempt=1, session="s1")
    assert story.verdict(Leases) == ["attempt_twice"]


def test_a_second_lease_over_a_live_one_is_found() -> None:
    story = Story()
    id = story.submit()
    story.lease(id)
    story.start(id)
    story.lease(id, session="s2")

    assert story.verdict(Leases) == ["two"]


def test_a_lease_handed_back_and_given_again_in_one_turn_is_well() -> None:
    story = Story()
    id = story.submit()
    story.lease(id)
    story.lease(id)

    assert story.verdict(Leases) == []


def test_a_body_without_a_durable_lease_is_found() -> None:
    story = Story()
    id = story.submit()
    story.start(id, attempt=1, session="s1")

    assert story.verdict(Leases) == ["no_lease"]


def test_a_body_of_no_task_is_found() -> None:
    story = Story()
    row = story.insert(story.changes())
    story.start(row.id, attempt=1, session="s1")
    del story.rows[row.id]

    assert story.verdict(Leases) == ["no_task"]


def test_a_body_at_another_session_is_found() -> None:
    story = Story()
    id = story.submit()
    story.lease(id)
    story.start(id, session="s2")

    assert story.verdict(Leases) == ["no_lease"]


def test_an_outcome_of_an_older_attempt_must_not_complete_the_task() -> None:
    story = Story()
    id = story.submit()
    story.run(id)
    story.interrupt(id)
    story.lease(id, session="s2")
    story.complete(id)

    oracle = Leases()
    assert story.verdict(oracle) == ["not_done"]
    assert oracle.violations[0].text.endswith("completed in attempt 2, but of its bodies only attempt 1 has ended well")


@pytest.mark.parametrize(
    ("waited_ms", "troubles", "expected"),
    [(45_000, (), []), (45_001, (), ["dead"]), (54_999, ((5_000, 10_000),), []), (55_001, ((5_000, 10_000),), ["dead"])],
)
def test_a_lease_of_a_dead_worker_ends_in_calm(
    waited_ms: int, troubles: tuple[tuple[int, int], ...], expected: list[str]
) -> None:
    story = Story()
    first, second = story.submit(), story.submit()
    story.lease(first)
    story.start(first)
    story.process_is("killed")
    story.advance(waited_ms)
    story.lease(second, session="s2")

    assert story.verdict(Leases, Bounds(troubles=troubles)) == expected


def test_a_new_owner_has_time_of_its_own_to_notice_a_dead_worker() -> None:
    story = Story()
    first, second = story.submit(), story.submit()
    story.lease(first)
    story.start(first)
    story.process_is("killed")
    story.advance(40_000)
    story.claim("n2")
    story.advance(40_000)
    story.lease(second, session="s2")

    assert story.verdict(Leases) == []


def test_a_live_worker_may_keep_its_lease() -> None:
    story = Story()
    id = story.submit()
    story.lease(id)
    story.start(id, boot=2)
    story.process_is("killed", boot=1)
    story.heal()
    story.advance(100_000)

    assert story.verdict(Leases) == []


def test_the_store_names_the_holder() -> None:
    story = Story()
    id = story.submit()
    story.lease(id)
    story.rows[id].session = "s9"

    assert story.verdict(Leases) == ["session"]


def test_a_lease_to_nobody_is_found() -> None:
    story = Story()
    id = story.submit()
    story.lease(id, session="")
    story.end(id, state=State.CANCELLED)

    assert story.verdict(Leases) == ["no_session"]
