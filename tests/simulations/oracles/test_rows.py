"""Rows follow the state table, and the books follow the rows."""

from __future__ import annotations

import pytest
from foliot.actors.messages import LedgerEntry
from foliot.actors.states import State
from foliot.simulations.oracles.rows import Ledger, Legal

from .builder import ERROR, Story


class TestLegal:
    def test_a_whole_life_is_legal(self) -> None:
        story = Story()
        id = story.submit(delay_ms=100, max_attempts=2)
        story.advance(100)
        story.fire(id)
        story.lease(id)
        story.fail(id, delay_ms=50)
        story.advance(50)
        story.fire(id)
        story.lease(id)
        story.interrupt(id)
        story.lease(id)
        story.die(id)
        story.revive(id)
        story.run(id)
        story.complete(id)

        assert story.verdict(Legal) == []

    def test_what_a_turn_folds_into_one_row_is_legal(self) -> None:
        story = Story()
        scheduled, dead = story.submit(delay_ms=10), story.submit()
        story.lease(dead)
        story.die(dead)
        story.rows[dead].spent = 0
        story.end(dead, state=State.CANCELLED)  # retried and cancelled
        story.end(scheduled, state=State.EXPIRED)  # fired, and too late
        twice = story.submit()
        story.rows[twice].attempt = 1
        story.move(twice, State.QUEUED, note=0)  # leased, and lost its worker
        story.lease(twice)

        assert story.verdict(Legal) == []

    def test_a_repeated_lease_row_is_the_same_lease(self) -> None:
        story = Story()
        id = story.submit()
        story.lease(id)
        story.commit(leased=[(id, 1, "s1", story.now_ms)], moved=[(id, 3, story.rows[id].due_ms, 0, 0, 1, story.now_ms)])

        assert story.verdict(Legal) == []

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (State.SCHEDULED, State.COMPLETED), (State.QUEUED, State.COMPLETED), (State.COMPLETED, State.CANCELLED),
            (State.COMPLETED, State.QUEUED), (State.QUEUED, State.RETRYING), (State.QUEUED, State.BLOCKED),
        ],
    )  # fmt: skip
    def test_a_step_that_no_path_makes_is_found(self, before: State, after: State) -> None:
        story = Story()
        id = story.submit(delay_ms=1_000 if before is State.SCHEDULED else 0)
        if before is State.COMPLETED:
            story.run(id)
            story.complete(id)
        if after.is_final:
            story.end(id, state=after)
        else:
            story.move(id, after)

        assert story.verdict(Legal) == ["transition"]

    def test_a_task_that_ended_must_not_end_again(self) -> None:
        story = Story()
        id = story.submit()
        story.lease(id)
        story.die(id)
        story.end(id, state=State.CANCELLED)

        assert story.verdict(Legal) == ["ended_twice"]

    def test_running_needs_a_lease(self) -> None:
        story = Story()
        story.move(story.submit(), State.RUNNING)

        assert story.verdict(Legal, rows=[]) == ["unleased"]

    def test_attempts_grow_by_one(self) -> None:
        story = Story()
        id = story.submit()
        story.rows[id].attempt = 1
        story.lease(id)

        assert story.verdict(Legal) == ["attempt"]

    def test_a_task_is_born_waiting(self) -> None:
        story = Story()
        changes = story.changes()
        row = story.insert(changes)
        changes.inserted[0] = (*changes.inserted[0][:2], int(State.RUNNING), *changes.inserted[0][3:])
        row.state = int(State.RUNNING)
        story.commit(changes)

        assert story.verdict(Legal) == ["birth"]

    def test_rows_of_no_task_are_found(self) -> None:
        story = Story()
        story.commit(leased=[(77, 1, "s1", story.now_ms)])

        assert story.verdict(Legal) == ["stray"]

    def test_another_shard_must_not_touch_a_task(self) -> None:
        story = Story()
        id = story.submit()
        story.shard = 1
        story.lease(id)

        assert story.verdict(Legal) == ["shard"]

    def test_the_store_must_hold_what_was_committed(self) -> None:
        story = Story()
        id = story.submit()
        story.rows[id].spent = 1

        assert story.verdict(Legal) == ["differs"]


class TestLedger:
    def test_books_that_agree_are_well(self) -> None:
        story = Story()
        first, second = story.submit(), story.submit(tenant="other", queue="mail")
        story.run(first)
        story.complete(first)
        story.lease(second)
        story.die(second)
        story.revive(second)
        story.retain(first)

        assert story.verdict(Ledger) == []

    def test_a_commit_that_counts_nothing_for_its_rows_is_found(self) -> None:
        story = Story()
        id = story.submit()
        story.commit(ended=[(id, int(State.CANCELLED), 0, 0, story.now_ms, b"", ERROR)])

        oracle = Ledger()
        assert story.verdict(oracle) == ["commit"]
        assert oracle.violations[0].text == "a commit of shard 0 counts +0 cancelled of acme/default, its rows say +1"

    def test_a_commit_that_counts_twice_is_found(self) -> None:
        story = Story()
        changes = story.changes()
        story.insert(changes)
        changes.count("acme", "default", "accepted")
        story.commit(changes)

        assert "commit" in story.verdict(Ledger)

    def test_counters_that_differ_from_the_rows_are_found(self) -> None:
        story = Story()
        story.submit()
        wrong = [LedgerEntry("acme", "default", accepted=2, waiting=2)]

        assert story.verdict(Ledger, counters=wrong) == ["recount"]

    def test_states_that_do_not_add_up_are_found(self) -> None:
        story = Story()
        story.submit()
        wrong = [LedgerEntry("acme", "default", accepted=1, waiting=1, dead=1)]

        assert story.verdict(Ledger, counters=wrong, recount=wrong) == ["unbalanced"]

    def test_more_acknowledged_than_accepted_is_found(self) -> None:
        story = Story()
        story.submit(count=2)
        one = [LedgerEntry("acme", "default", accepted=1, waiting=1)]

        assert story.verdict(Ledger, counters=one, recount=one) == ["accepted"]
