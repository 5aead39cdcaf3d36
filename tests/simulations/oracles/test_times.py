"""Never early, and never after it was too late."""

from __future__ import annotations

from foliot.actors.states import State
from foliot.simulations.oracles.bounds import Bounds
from foliot.simulations.oracles.times import Early, Expiry

from .builder import Row, Story


class TestEarly:
    def test_a_task_that_waits_for_its_time_is_well(self) -> None:
        story = Story()
        id = story.submit(delay_ms=1_000)
        story.advance(1_000)
        story.fire(id)
        story.lease(id)
        story.fail(id, delay_ms=500)
        story.advance(500)
        story.fire(id)
        story.lease(id)

        assert story.verdict(Early) == []

    def test_a_task_that_is_taken_for_ready_a_millisecond_early_is_found(self) -> None:
        story = Story()
        id = story.submit(delay_ms=1_000)
        story.advance(999)
        story.fire(id)

        oracle = Early()
        assert story.verdict(oracle) == ["ready"]
        assert oracle.violations[0].text.endswith("was taken for ready 1 ms before it is due")

    def test_a_lease_before_the_time_is_found_by_the_clock_of_the_node(self) -> None:
        for clock_ms, skew_ms, expected in ((-1, 0, ["lease"]), (-1, 1, []), (-2, 1, ["lease"])):
            story = Story()
            id = story.submit(delay_ms=1_000)
            story.advance(1_000)
            story.fire(id)
            story.lease(id, clock_ms=story.now_ms + clock_ms)

            assert story.verdict(Early, Bounds(skew_ms=skew_ms)) == expected

    def test_a_due_time_that_is_brought_forward_is_found(self) -> None:
        story = Story()
        id = story.submit(delay_ms=1_000)
        story.move(id, State.SCHEDULED, due_ms=story.now_ms + 500)

        assert story.verdict(Early) == ["shortened"]

    def test_a_person_may_have_it_at_once(self) -> None:
        story = Story()
        id = story.submit(delay_ms=1_000)
        story.end(id, state=State.CANCELLED)
        story.revive(id)
        story.lease(id)

        assert story.verdict(Early) == []

    def test_a_task_must_not_be_due_before_the_time_asked_for(self) -> None:
        story = Story()
        changes = story.changes()
        row = story.insert(changes, delay_ms=1_000)
        asked = Row(row.id, row.kind, row.state, row.due_ms, row.spec)
        changes.inserted[0] = (*changes.inserted[0][:4], story.now_ms + 10, *changes.inserted[0][5:])
        row.due_ms = story.now_ms + 10
        story.commit(changes)
        story.told(asked)

        assert story.verdict(Early) == ["asked"]


class TestExpiry:
    def test_a_lease_in_the_last_moment_is_well(self) -> None:
        story = Story()
        id = story.submit(wait_timeout_ms=1_000, total_timeout_ms=5_000)
        story.advance(1_000)
        story.lease(id)
        story.interrupt(id)
        story.advance(4_000)
        story.lease(id)

        assert story.verdict(Expiry) == []

    def test_a_lease_after_the_wait_time_out_is_found(self) -> None:
        story = Story()
        id = story.submit(wait_timeout_ms=1_000)
        story.advance(1_001)
        story.lease(id)

        assert story.verdict(Expiry) == ["wait"]

    def test_a_lease_after_the_total_time_out_is_found(self) -> None:
        story = Story()
        id = story.submit(total_timeout_ms=1_000)
        story.lease(id)
        story.interrupt(id)
        story.advance(1_001)
        story.lease(id)

        assert story.verdict(Expiry) == ["total"]

    def test_a_shard_that_reads_a_wrong_clock_is_found_by_the_node(self) -> None:
        for late_ms, expected in ((2_000, []), (2_001, ["wait"])):
            story = Story()
            id = story.submit(wait_timeout_ms=1_000)
            story.advance(500)
            story.lease(id, clock_ms=story.now_ms + 500 + late_ms)

            assert story.verdict(Expiry) == expected

    def test_only_what_may_expire_does(self) -> None:
        story = Story()
        endless, hasty, late = story.submit(), story.submit(wait_timeout_ms=1_000), story.submit(wait_timeout_ms=500)
        story.advance(501)
        for id in (endless, hasty, late):
            story.end(id, state=State.EXPIRED)

        assert story.verdict(Expiry) == ["unfounded", "too_soon"]

    def test_a_retry_that_would_be_too_late_may_expire_at_once(self) -> None:
        story = Story()
        id = story.submit(total_timeout_ms=1_000)
        story.lease(id)
        story.end(id, state=State.EXPIRED, note=2, spent=1)

        assert story.verdict(Expiry) == []
