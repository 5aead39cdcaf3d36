"""Effects once, starts at most once, and nothing after a cancel."""

from __future__ import annotations

import pytest
from foliot.actors.states import State
from foliot.simulations.oracles.delivery import Cancelled, Once

from .builder import Story


class TestOnce:
    def test_an_effect_that_is_accepted_once_is_well(self) -> None:
        story = Story()
        id = story.submit(delivery="exactly_once")
        story.run(id)
        story.effect(id)
        story.interrupt(id)
        story.run(id)
        story.effect(id, accepted=False)  # the world has it already
        story.effect(id, number=1)
        story.complete(id)

        assert story.verdict(Once) == []

    def test_an_effect_that_is_accepted_twice_is_found(self) -> None:
        story = Story()
        id = story.submit(delivery="exactly_once")
        story.run(id)
        story.effect(id)
        story.effect(id)

        assert story.verdict(Once) == ["effect_twice"]

    def test_at_least_once_may_repeat_its_effects(self) -> None:
        story = Story()
        id = story.submit()
        story.run(id)
        story.effect(id)
        story.effect(id)

        assert story.verdict(Once) == []

    def test_a_completed_task_without_its_effect_is_found(self) -> None:
        story = Story()
        id = story.submit(delivery="exactly_once")
        story.run(id)
        story.effect(id, accepted=False)
        story.complete(id)

        assert story.verdict(Once) == ["effect_missing"]

    def test_at_most_once_starts_once_and_again_when_a_person_asks(self) -> None:
        story = Story()
        id = story.submit(delivery="at_most_once")
        story.run(id)
        story.end(id, state=State.DEAD)
        story.revive(id)
        story.run(id)
        assert story.verdict(Once) == []

        story.start(id)
        assert story.verdict(Once) == ["started_twice"]


class TestCancelled:
    def test_a_cancel_that_is_kept_is_well(self) -> None:
        story = Story()
        waiting, running, fast = story.submit(), story.submit(), story.submit()
        story.end(waiting, state=State.CANCELLED)
        story.command("cancel", waiting, "cancelled")
        for id in (running, fast):
            story.run(id)
            story.move(id, State.RUNNING, cancelling=1)
            story.command("cancel", id, "cancelling")
        story.end(running, state=State.CANCELLED)
        story.complete(fast)
        story.command("cancel", fast, "ended")
        story.revive(waiting)
        story.run(waiting)

        assert story.verdict(Cancelled) == []

    @pytest.mark.parametrize(
        ("word", "kind"),
        [("cancelled", "not_cancelled"), ("cancelling", "not_cancelling"), ("ended", "not_ended")],
    )
    def test_an_answer_without_its_row_is_found(self, word: str, kind: str) -> None:
        story = Story()
        id = story.submit()
        story.command("cancel", id, word)

        assert story.verdict(Cancelled) == [kind]

    def test_a_retry_while_the_cancel_was_under_way_explains_its_state(self) -> None:
        story = Story()
        id = story.submit()
        asked_ns = story.at_ns
        story.advance(5)
        story.end(id, state=State.CANCELLED)
        story.revive(id)
        story.advance(5)
        story.command("cancel", id, "cancelled", asked_ns=asked_ns)

        assert story.verdict(Cancelled) == []

    def test_a_lease_and_a_start_after_the_cancel_are_found(self) -> None:
        story = Story()
        id = story.submit()
        story.end(id, state=State.CANCELLED)
        story.command("cancel", id, "cancelled")
        story.advance(10)
        story.rows[id].state = int(State.RUNNING)
        story.commit(leased=[(id, 1, "s1", story.now_ms)])
        story.rows[id].attempt, story.rows[id].session = 1, "s1"
        story.start(id)

        assert story.verdict(Cancelled) == ["leased", "started"]

    def test_a_body_that_was_leased_before_the_cancel_may_start_late(self) -> None:
        story = Story()
        id = story.submit()
        story.lease(id)
        story.advance(1)
        story.move(id, State.RUNNING, cancelling=1)
        story.command("cancel", id, "cancelling")
        story.advance(1)
        story.start(id)

        assert story.verdict(Cancelled) == []

    @pytest.mark.parametrize("state", [State.QUEUED, State.RETRYING])
    def test_a_cancelled_run_that_goes_on_is_found(self, state: State) -> None:
        story = Story()
        id = story.submit()
        story.lease(id)
        story.move(id, State.RUNNING, cancelling=1)
        story.move(id, state)

        assert story.verdict(Cancelled) == ["went_on"]

    def test_a_cancelled_run_that_ends_as_a_dead_letter_is_found(self) -> None:
        story = Story()
        id = story.submit()
        story.lease(id)
        story.move(id, State.RUNNING, cancelling=1)
        story.die(id)

        assert story.verdict(Cancelled) == ["went_on"]

    def test_an_ended_task_that_comes_back_by_itself_is_found(self) -> None:
        story = Story()
        id = story.submit()
        story.end(id, state=State.CANCELLED)
        story.revive(id, asked=False)
        assert story.verdict(Cancelled) == ["revived"]

        story.command("retry", id, "", outcome="unknown", asked_ns=0)
        assert story.verdict(Cancelled) == []

    def test_a_retry_that_did_nothing_is_found(self) -> None:
        story = Story()
        id = story.submit()
        story.end(id, state=State.CANCELLED)
        story.command("retry", id, "retried")

        assert story.verdict(Cancelled) == ["not_retried"]
