"""Retries are counted, noted, spaced and bounded; what is used up is kept."""

from __future__ import annotations

import pytest
from foliot.actors.messages import RetryPolicy
from foliot.actors.states import State
from foliot.simulations.oracles.attempts import DeadLetters, Retries
from foliot.simulations.oracles.bounds import Bounds

from .builder import ERROR, Story

EXACT = RetryPolicy(base_ms=100, factor=2.0, cap_ms=350, jitter=False)
JITTER = RetryPolicy(base_ms=100, factor=2.0, cap_ms=350)


def failing(*delays_ms: int, retry: RetryPolicy) -> Story:
    """A task that fails, and waits so long each time."""
    story = Story()
    id = story.submit(retry=retry, max_attempts=10)
    for delay_ms in delays_ms:
        story.lease(id)
        story.fail(id, delay_ms=delay_ms)
        story.advance(delay_ms)
        story.fire(id)
    return story


class TestRetries:
    def test_a_history_of_failures_is_well(self) -> None:
        story = Story()
        id = story.submit(max_attempts=2, max_interruptions=2)
        story.lease(id)
        story.interrupt(id)
        story.lease(id)
        story.fail(id, delay_ms=3)
        story.advance(3)
        story.fire(id)
        story.lease(id)
        story.interrupt(id)
        story.lease(id)
        story.die(id)
        story.revive(id)
        story.run(id)
        story.complete(id)

        assert story.verdict(Retries) == []

    def test_the_exact_back_off_is_well(self) -> None:
        assert failing(100, 200, 350, 350, retry=EXACT).verdict(Retries) == []

    @pytest.mark.parametrize("delays_ms", [(99,), (101,), (100, 100), (100, 200, 400)])
    def test_another_back_off_is_found(self, delays_ms: tuple[int, ...]) -> None:
        assert failing(*delays_ms, retry=EXACT).verdict(Retries) == ["back_off"]

    def test_jitter_lies_between_nothing_and_the_back_off(self) -> None:
        assert failing(0, 200, 17, 350, retry=JITTER).verdict(Retries) == []
        assert failing(101, retry=JITTER).verdict(Retries) == ["back_off"]

    def test_a_handler_may_choose_a_delay_that_is_known(self) -> None:
        story = failing(5_000, retry=EXACT)

        assert story.verdict(Retries, Bounds(retry_after_ms=(5_000,))) == []
        assert story.verdict(Retries) == ["back_off"]

    def test_more_attempts_than_allowed_are_found(self) -> None:
        story = Story()
        id = story.submit(max_attempts=1)
        story.lease(id)
        story.fail(id, delay_ms=1)
        story.fire(id)
        story.lease(id)

        assert story.verdict(Retries) == ["too_many"]

    def test_more_lost_workers_than_allowed_are_found(self) -> None:
        story = Story()
        id = story.submit(max_interruptions=1)
        story.lease(id)
        story.interrupt(id)

        assert story.verdict(Retries) == ["interrupted"]

    @pytest.mark.parametrize("spent", [0, 3])
    def test_a_count_that_jumps_is_found(self, spent: int) -> None:
        story = failing(100, retry=EXACT)
        (id,) = story.rows
        story.lease(id)
        story.move(id, State.QUEUED, note=2, spent=spent)

        assert "miscounted" in story.verdict(Retries)

    def test_a_count_that_is_forgotten_is_found(self) -> None:
        story = failing(100, retry=EXACT)
        (id,) = story.rows
        story.move(id, State.QUEUED, spent=0)

        assert story.verdict(Retries) == ["miscounted"]

    def test_a_failure_that_is_not_noted_is_found(self) -> None:
        story = Story()
        id = story.submit(retry=EXACT)
        story.lease(id)
        story.move(id, State.RETRYING, spent=1, due_ms=story.now_ms + 100)
        assert story.verdict(Retries) == ["unnoted"]

        story = Story()
        id = story.submit(max_attempts=1)
        story.lease(id)
        story.end(id, state=State.DEAD, error=ERROR)
        assert story.verdict(Retries) == ["unnoted"]

    def test_an_attempt_handed_back_too_late_to_begin_again_needs_no_note(self) -> None:
        for spent, expected in ((0, []), (1, ["unnoted"])):
            story = Story()
            id = story.submit()
            story.lease(id)
            story.end(id, state=State.EXPIRED, error=ERROR, spent=spent)

            assert story.verdict(Retries) == expected, spent

    def test_a_lost_worker_that_is_not_noted_is_found(self) -> None:
        story = Story()
        id = story.submit()
        story.lease(id)
        story.move(id, State.QUEUED, interruptions=1)

        assert story.verdict(Retries) == ["interruptions"]

    def test_a_retry_without_an_attempt_spent_is_found(self) -> None:
        story = Story()
        id = story.submit()
        story.lease(id)
        story.move(id, State.RETRYING, note=2)

        assert story.verdict(Retries) == ["unspent"]

    def test_a_history_that_is_not_kept_is_found(self) -> None:
        story = failing(100, retry=EXACT)

        assert story.verdict(Retries, attempts={}) == ["history"]

    def test_a_retry_that_is_due_before_the_failure_ended_is_found(self) -> None:
        story = Story()
        id = story.submit(retry=JITTER)
        story.lease(id)
        changes = story.changes()
        changes.attempts.append((id, 1, 2, "s1", story.now_ms, story.now_ms + 500, ERROR))
        changes.moved.append((id, int(State.RETRYING), story.now_ms + 50, 1, 0, 0, story.now_ms))
        story.attempts[id] = [(1, 2)]
        story.commit(changes)

        assert story.verdict(Retries) == ["before_end"]
        assert story.verdict(Retries, Bounds(skew_ms=450)) == []


class TestDeadLetters:
    def test_dead_letters_and_failures_are_well(self) -> None:
        story = Story()
        kept, dropped = story.submit(max_attempts=1), story.submit(max_attempts=1, dead_letter=False)
        story.lease(kept, dropped)
        story.die(kept)
        story.end(dropped, state=State.FAILED, error=ERROR, note=2, spent=1)
        story.retain(dropped)

        assert story.verdict(DeadLetters) == []

    @pytest.mark.parametrize(("dead_letter", "state"), [(True, State.FAILED), (False, State.DEAD)])
    def test_the_wrong_end_is_found(self, dead_letter: bool, state: State) -> None:
        story = Story()
        id = story.submit(max_attempts=1, dead_letter=dead_letter)
        story.lease(id)
        story.end(id, state=state, error=ERROR, note=2, spent=1)

        assert story.verdict(DeadLetters) == ["kind"]

    def test_an_end_without_an_error_or_an_attempt_is_found(self) -> None:
        story = Story()
        id = story.submit(max_attempts=1)
        story.lease(id)
        story.end(id, state=State.DEAD)

        assert story.verdict(DeadLetters) == ["no_error", "no_attempt"]

    def test_a_task_that_goes_on_with_its_attempts_used_up_is_found(self) -> None:
        story = Story()
        id = story.submit(max_attempts=1)
        story.lease(id)
        story.fail(id, delay_ms=10)

        assert story.verdict(DeadLetters) == ["not_ended"]

    def test_retention_leaves_dead_letters_and_the_living_alone(self) -> None:
        story = Story()
        dead, alive = story.submit(max_attempts=1), story.submit()
        story.lease(dead)
        story.die(dead)
        story.retain(dead)
        story.retain(alive)

        assert story.verdict(DeadLetters) == ["deleted", "deleted"]
