"""A shard's inbox: entries are applied in order and once, whatever comes again, and however far a commit got."""

from __future__ import annotations

from typing import Any

from foliot.actors import messages as m
from foliot.actors.rows import InboxMark
from foliot.runtime.bus import Refusal

from .harness_shard import ShardHarness


def entry(
    position: int, *, stamp: int = 0, keys: tuple[str, ...] = (), request_id: str = "", handler: str = ""
) -> m.InboxEntry:  # fmt: skip
    specs = [m.TaskSpec(0, b"p", dedupe_key=key) for key in keys or ("",)]
    submit = m.SubmitTasks("acme", [m.Template(handler or f"h{position}")], specs, request_id)
    return m.InboxEntry(position, stamp or position * 10, submit)


def take(shard: ShardHarness, *entries: m.InboxEntry, epoch: int = 1, stream: str = "first") -> Any:
    answers = shard.deliver(m.TakeInbox(epoch, stream, list(entries)))
    return answers[0] if answers else None


def mark(shard: ShardHarness) -> tuple[Any, ...]:
    rows = shard.connection.execute("select stream, position, stamp from inboxes").fetchall()
    return tuple(rows[0]) if rows else ()


def handlers(shard: ShardHarness) -> list[str]:
    rows = shard.connection.execute("select handler from tasks join kinds using (template_id) order by id")
    return [handler for (handler,) in rows]


def test_entries_are_accepted_in_order_with_how_far_the_shard_has_come() -> None:
    shard = ShardHarness()

    answer = take(shard, entry(3), entry(7))

    assert list(answer.answers) == [0, 1]
    assert handlers(shard) == ["h3", "h7"]
    assert mark(shard) == ("first", 7, 70)
    shard.assert_balanced()


def test_an_entry_that_comes_again_is_passed_also_after_a_restart() -> None:
    shard = ShardHarness()
    take(shard, entry(3))

    again = take(shard, entry(3), entry(4))
    shard.reopen()
    once_more = take(shard, entry(3), entry(4), epoch=2)

    assert (list(again.answers), list(once_more.answers)) == ([1], [])
    assert handlers(shard) == ["h3", "h4"]
    assert shard.actor._inbox.mark == InboxMark("first", 4, 40)


def test_an_entry_whose_keys_are_looked_up_holds_up_those_behind_it() -> None:
    shard = ShardHarness()
    shard.hold_reads = True

    early = take(shard, entry(1), entry(2, keys=("k",)), entry(3))

    assert (early, handlers(shard), mark(shard)) == (None, ["h1"], ("first", 1, 10))
    shard.hold_reads = False
    shard.answer_reads()
    assert handlers(shard) == ["h1", "h2", "h3"]
    assert mark(shard) == ("first", 3, 30)
    [taken] = shard.messages(m.InboxTaken)
    assert sorted(taken.answers) == [0, 1, 2]


def test_while_an_inbox_is_at_work_a_repetition_is_refused_and_nothing_is_applied_twice() -> None:
    shard = ShardHarness()
    shard.hold_reads = True
    take(shard, entry(1, keys=("k",)), entry(2))

    refused = take(shard, entry(1, keys=("k",)), entry(2))
    shard.hold_reads = False
    shard.answer_reads()
    again = take(shard, entry(1, keys=("k",)), entry(2))

    assert isinstance(refused, Refusal)
    assert (refused.code, refused.retry_after_ms) == ("overloaded", 100)
    assert handlers(shard) == ["h1", "h2"]
    assert again.answers == {}


def test_a_crash_between_two_entries_applies_the_first_once_and_the_second_later() -> None:
    shard = ShardHarness()
    shard.hold_reads = True
    take(shard, entry(1), entry(2, keys=("k",)))

    shard.held.clear()
    shard.hold_reads = False
    shard.reopen()
    take(shard, entry(1), entry(2, keys=("k",)), epoch=2)

    assert handlers(shard) == ["h1", "h2"]


def test_a_request_that_a_gateway_let_in_is_known_when_it_comes_one_way() -> None:
    shard = ShardHarness()
    ids = shard.submit(request_id="r1")

    answer = take(shard, entry(1, request_id="r1", handler="app.noop"))

    assert answer.answers[0].ids == ids
    assert answer.answers[0].repeated
    assert handlers(shard) == ["app.noop"]


def test_a_new_life_of_the_stream_begins_again_at_its_first_position() -> None:
    shard = ShardHarness()
    take(shard, entry(5))

    take(shard, entry(1), entry(2), stream="second")
    again = take(shard, entry(2), stream="second")

    assert handlers(shard) == ["h5", "h1", "h2"]
    assert (again.answers, mark(shard)) == ({}, ("second", 2, 20))


def test_a_stream_that_lost_its_end_gives_positions_again_and_nothing_new_is_lost() -> None:
    shard = ShardHarness()
    take(shard, entry(4), entry(5))

    take(shard, entry(5, stamp=900, handler="new5"), entry(6, stamp=910, handler="new6"))
    again = take(shard, entry(5, stamp=900, handler="new5"))

    assert handlers(shard) == ["h4", "h5", "new5", "new6"]
    assert again.answers == {}


def test_stamps_that_are_not_in_order_make_nothing_twice() -> None:
    shard = ShardHarness()
    take(shard, entry(5, stamp=100), entry(6, stamp=90))  # another leader's clock was behind

    again = take(shard, entry(5, stamp=100), entry(6, stamp=90))

    assert again.answers == {}
    assert handlers(shard) == ["h5", "h6"]


def test_a_reader_of_an_earlier_epoch_is_refused_once_a_later_one_has_spoken() -> None:
    shard = ShardHarness()
    take(shard, entry(1), epoch=4)

    refused = take(shard, entry(2), epoch=3)

    assert isinstance(refused, Refusal)
    assert refused.code == "stale_epoch"
    assert handlers(shard) == ["h1"]


def test_an_entry_with_nothing_to_accept_is_passed_and_remembered() -> None:
    shard = ShardHarness()

    answer = take(shard, m.InboxEntry(9, 90, None))

    assert (answer.answers, mark(shard), handlers(shard)) == ({}, ("first", 9, 90), [])


def test_an_entry_for_a_full_queue_is_refused_and_the_next_is_taken() -> None:
    shard = ShardHarness()
    shard.deliver(m.ConfigureQueue(m.QueueConfig("default", "default", max_waiting=1)))

    answer = take(shard, entry(1), entry(2), m.InboxEntry(3, 30, m.SubmitTasks(
        "acme", [m.Template("other", queue="mail")], [m.TaskSpec(0, b"p")])))  # fmt: skip

    assert [getattr(answer.answers[index], "code", "taken") for index in range(3)] == ["taken", "overloaded", "taken"]
    assert (handlers(shard), mark(shard)) == (["h1", "other"], ("first", 3, 30))
