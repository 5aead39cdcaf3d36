"""What a shard knows of each queue it deals with."""

from __future__ import annotations

from foliot.actors.queue_links import LINKS_KEPT, QueueLinks


def test_a_queue_that_was_forgotten_is_numbered_on() -> None:
    """A queue that still knows the number it heard last would take a smaller one for a repetition."""
    links = QueueLinks()
    for number in range(LINKS_KEPT):
        links.of(f"queue.default.q{number}")
    assert [links.next_number("queue.default.q7", now_ms) for now_ms in (1, 2, 3)] == [1, 2, 3]
    links.of("queue.default.q7").is_shown = True

    links.sweep({"queue.default.q5": None})

    assert len(links) == 1, "nothing is going on with the others"
    assert links.next_number("queue.default.q7", 4) == 4
