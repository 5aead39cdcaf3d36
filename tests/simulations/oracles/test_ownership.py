"""One owner to an epoch, and names that never come again."""

from __future__ import annotations

from foliot.simulations.history import Claimed, TakenBack
from foliot.simulations.oracles.ownership import Owner, Unique

from .builder import Story


class TestOwner:
    def test_owners_may_follow_each_other(self) -> None:
        story = Story()
        story.submit()
        story.claim("n2")
        story.submit()
        story.claim("n1", boot=2)
        story.submit()

        assert story.verdict(Owner) == []

    def test_a_commit_under_an_old_epoch_is_found(self) -> None:
        story = Story()
        story.claim("n2")
        story.epoch, story.process = 1, "n1"
        story.submit()

        assert story.verdict(Owner) == ["stale"]

    def test_two_processes_under_one_epoch_are_found(self) -> None:
        story = Story()
        story.submit()
        story.process = "n2"
        story.submit()

        assert story.verdict(Owner) == ["shared"]

    def test_an_earlier_boot_of_the_owner_is_another_owner(self) -> None:
        story = Story()
        story.claim("n1", boot=2)
        story.boot = 1
        story.submit()

        assert story.verdict(Owner) == ["shared"]

    def test_an_epoch_that_nobody_claimed_is_found(self) -> None:
        story = Story()
        story.epoch = 5
        story.submit()

        assert story.verdict(Owner) == ["unclaimed"]

    def test_epochs_grow_by_one(self) -> None:
        for epoch in (1, 3):
            story = Story()
            story.add(Claimed(story.at_ns, 0, epoch, "n2", 1))

            assert story.verdict(Owner) == ["epoch"]

    def test_rows_of_another_shard_are_found(self) -> None:
        story = Story()
        changes = story.changes()
        changes.shard = 7
        story.commit(changes)

        assert story.verdict(Owner) == ["mixed"]

    def test_after_power_was_lost_it_starts_from_who_commits_next(self) -> None:
        story = Story()
        story.claim("n2")
        story.add(TakenBack(story.at_ns, 1))
        story.epoch, story.process = 1, "n1"
        story.submit()

        assert story.verdict(Owner) == []


class TestUnique:
    def test_growing_ids_and_attempts_are_well(self) -> None:
        story = Story(shard=3)
        id = story.submit(count=3)
        story.lease(id)
        story.interrupt(id)
        story.lease(id)

        assert story.verdict(Unique) == []

    def test_an_id_that_is_given_twice_is_found(self) -> None:
        story = Story()
        id = story.submit()
        story.submit(id=id)

        assert story.verdict(Unique) == ["not_growing"]

    def test_an_id_that_names_another_shard_is_found(self) -> None:
        story = Story()
        story.submit(id=story.submit() + (5 << 12))

        assert story.verdict(Unique) == ["shard"]

    def test_an_attempt_number_that_is_given_twice_is_found(self) -> None:
        story = Story()
        id = story.submit()
        story.lease(id)
        story.interrupt(id)
        story.rows[id].attempt = 0
        story.lease(id, session="s2")

        assert story.verdict(Unique) == ["token"]

    def test_numbers_of_what_power_took_back_may_come_again(self) -> None:
        story = Story()
        story.submit()
        id = story.submit()
        story.add(TakenBack(story.at_ns, 1))
        story.submit(id=id)

        assert story.verdict(Unique) == []
