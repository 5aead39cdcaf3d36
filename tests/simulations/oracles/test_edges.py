"""Mailboxes, unhandled errors, and what is left behind."""

from __future__ import annotations

from foliot.simulations.history import Delivered, LeftBehind, Trouble
from foliot.simulations.oracles.bounds import Bounds
from foliot.simulations.oracles.edges import Hygiene, Mailbox, Unhandled

from .builder import Story


def delivered(story: Story, *numbers: int, depth: int = 1, sender: str = "queue.a", to: str = "n1") -> None:
    for number in numbers:
        story.add(Delivered(story.at_ns, "shard.0", to, sender, "n2", number, depth, 100))


class TestMailbox:
    def test_messages_in_order_are_well_and_some_may_be_lost(self) -> None:
        story = Story()
        delivered(story, 1, 2, 5, 9)
        delivered(story, 3, sender="queue.b")
        delivered(story, 1, to="n3")
        delivered(story, 10, depth=100)

        assert story.verdict(Mailbox) == []

    def test_a_message_that_was_overtaken_is_found(self) -> None:
        story = Story()
        delivered(story, 1, 3, 2)

        oracle = Mailbox()
        assert story.verdict(oracle) == ["order"]
        assert oracle.violations[0].text == "shard.0 of n1 got message 2 of queue.a after its message 3"

    def test_where_the_network_has_no_order_none_is_asked_for(self) -> None:
        story = Story()
        delivered(story, 3, 2)

        assert story.verdict(Mailbox, Bounds(ordered=False)) == []

    def test_too_many_messages_are_found(self) -> None:
        story = Story()
        delivered(story, 1, depth=101)

        assert story.verdict(Mailbox) == ["overfull"]

    def test_a_sender_that_started_anew_counts_from_one(self) -> None:
        story = Story()
        delivered(story, 1, 2, 3)
        story.process_is("started", "n2")
        delivered(story, 4, 1, 5, 2, 3)  # 4 and 5 were under way
        assert story.verdict(Mailbox) == []

        delivered(story, 2)
        assert story.verdict(Mailbox) == ["order"]

    def test_a_receiver_that_started_anew_knows_of_nothing(self) -> None:
        story = Story()
        delivered(story, 7)
        story.process_is("started", "n1")
        delivered(story, 3)

        assert story.verdict(Mailbox) == []


def test_trouble_is_a_violation_of_its_kind() -> None:
    story = Story()
    assert story.verdict(Unhandled) == []

    story.add(Trouble(story.at_ns, "n1", "KeyError", "'k'"))
    oracle = Unhandled()
    assert story.verdict(oracle) == ["KeyError"]
    assert (oracle.violations[0].subject, oracle.violations[0].text) == ("n1", "n1: KeyError: 'k'")


def test_what_is_left_behind_is_a_violation() -> None:
    story = Story()
    story.process_is("stopped")
    assert story.verdict(Hygiene) == []

    story.add(LeftBehind(story.at_ns, "w1", "timer", "beat"))
    assert story.verdict(Hygiene) == ["timer"]
