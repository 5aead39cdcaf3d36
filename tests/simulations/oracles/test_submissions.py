"""What was acknowledged is there, once, and nothing else is."""

from __future__ import annotations

from foliot.actors.states import State
from foliot.runtime.ids import to_text
from foliot.simulations.history import TakenBack
from foliot.simulations.oracles.bounds import Bounds
from foliot.simulations.oracles.submissions import Dedupe, Lost

from .builder import Row, Story


def row_of(story: Story, id: int) -> Row:
    return story.rows[id]


class TestLost:
    def test_what_was_acknowledged_and_is_there_is_well(self) -> None:
        story = Story()
        first = story.submit(count=2)
        story.run(first)
        story.complete(first)
        story.retain(first)

        assert story.verdict(Lost) == []

    def test_an_acknowledged_task_that_was_never_written_is_lost(self) -> None:
        story = Story()
        row = story.insert(story.changes())  # its commit never came
        del story.rows[row.id]
        story.told(row)

        oracle = Lost()
        assert story.verdict(oracle) == ["lost"]
        name = to_text(row.id)
        assert oracle.violations[0].subject == name
        assert oracle.violations[0].text == f"task {name} was acknowledged to client, but it is not durable"

    def test_a_row_that_vanishes_is_lost(self) -> None:
        story = Story()
        id = story.submit()
        del story.rows[id]

        assert story.verdict(Lost) == ["lost", "row_lost"]

    def test_a_row_that_no_commit_made_is_found(self) -> None:
        story = Story()
        story.insert(story.changes())

        assert story.verdict(Lost) == ["row_unknown"]

    def test_an_unknown_submission_may_have_happened_once(self) -> None:
        for made, expected in ((0, []), (1, []), (2, ["unexpected"])):
            story = Story()
            changes = story.changes()
            rows = [story.insert(changes, payload=b"x") for _ in range(max(made, 1))]
            if made:
                story.commit(changes)
            else:
                story.rows.clear()
            story.told(rows[0], outcome="unknown")

            assert story.verdict(Lost) == expected

    def test_of_a_partly_unknown_submission_what_has_an_id_counts_as_acknowledged(self) -> None:
        story = Story()
        changes = story.changes()
        rows = [story.insert(changes), story.insert(changes)]
        story.commit(changes)
        story.told(*rows, outcome="unknown", ids=[rows[0].id, 0])
        del story.rows[rows[0].id]

        assert story.verdict(Lost) == ["lost", "row_lost"]

    def test_a_refused_submission_must_leave_nothing(self) -> None:
        story = Story()
        changes = story.changes()
        row = story.insert(changes)
        story.commit(changes)
        story.told(row, outcome="refused")

        assert story.verdict(Lost) == ["unexpected"]

    def test_a_task_must_be_what_was_asked_for(self) -> None:
        story = Story()
        changes = story.changes()
        row = story.insert(changes, payload=b"mine")
        story.commit(changes)
        other = story.insert(story.changes(), payload=b"yours")
        del story.rows[other.id]
        story.told(other, ids=[row.id])

        assert story.verdict(Lost) == ["changed"]

    def test_a_living_task_must_not_be_purged(self) -> None:
        story = Story()
        id = story.submit()
        story.commit(purged=[id])
        del story.rows[id]

        assert story.verdict(Lost) == ["purged_alive"]

    def test_a_task_that_is_there_must_be_found(self) -> None:
        story = Story()
        id = story.submit()
        story.command("cancel", id, "not_found")

        assert story.verdict(Lost) == ["not_found"]

    def test_what_power_took_back_is_lost_only_if_commits_are_meant_to_last(self) -> None:
        story = Story()
        id = story.submit()
        story.add(TakenBack(story.at_ns, 1))
        del story.rows[id]

        assert story.verdict(Lost) == ["lost"]
        assert story.verdict(Lost, Bounds(may_lose=True)) == []


class TestDedupe:
    def test_a_key_may_be_taken_again_after_its_window(self) -> None:
        story = Story()
        story.submit(dedupe_key="k", dedupe_window_ms=1_000)
        story.submit(dedupe_key="k", tenant="other")
        story.advance(1_000)
        story.submit(dedupe_key="k", dedupe_window_ms=1_000)

        assert story.verdict(Dedupe) == []

    def test_a_second_task_within_the_window_is_found(self) -> None:
        story = Story()
        story.submit(dedupe_key="k", dedupe_window_ms=1_000)
        story.advance(999)
        story.submit(dedupe_key="k", dedupe_window_ms=1_000)

        assert story.verdict(Dedupe) == ["second"]

    def test_clocks_may_differ_at_the_edge_of_the_window(self) -> None:
        story = Story()
        story.submit(dedupe_key="k", dedupe_window_ms=1_000)
        story.advance(900)
        story.submit(dedupe_key="k", dedupe_window_ms=1_000)

        assert story.verdict(Dedupe, Bounds(skew_ms=100)) == []

    def test_a_key_that_is_not_written_is_found(self) -> None:
        story = Story()
        changes = story.changes()
        story.insert(changes, dedupe_key="k")
        changes.dedupe.clear()
        story.commit(changes)

        assert story.verdict(Dedupe) == ["unkept"]

    def test_a_key_that_is_kept_for_another_span_is_found(self) -> None:
        story = Story()
        changes = story.changes()
        row = story.insert(changes, dedupe_key="k")
        changes.dedupe[:] = [("acme", "k", row.id, story.now_ms + 5)]
        story.commit(changes)

        assert story.verdict(Dedupe) == ["window"]

    def test_replacing_ends_the_holder(self) -> None:
        for end, expected in ((True, []), (False, ["not_replaced"])):
            story = Story()
            old = story.submit(dedupe_key="k", on_conflict="replace")
            if end:
                story.end(old, state=State.CANCELLED)
            story.submit(dedupe_key="k", on_conflict="replace")

            assert story.verdict(Dedupe) == expected

    def test_an_answer_names_the_holder(self) -> None:
        story = Story()
        holder = row_of(story, story.submit(dedupe_key="k"))
        story.told(holder, existing=True)
        assert story.verdict(Dedupe) == []

        stranger = story.submit(dedupe_key="other")
        story.told(holder, ids=[stranger], existing=True)
        assert story.verdict(Dedupe) == ["wrong_existing"]
