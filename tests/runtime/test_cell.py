"""The shell around an actor: commit before effects, and nothing lost or doubled when something goes wrong."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest
from foliot.runtime.actor import Actor, Journal, Turn
from foliot.runtime.bus import Envelope, Refusal
from foliot.runtime.cell import Cell
from foliot.runtime.errors import (
    CommitUnknownError,
    DiskFullError,
    EscalationError,
    MailboxFullError,
    NoSuchActorError,
    OutdatedError,
    StaleEpochError,
    StoreError,
)
from foliot.runtime.rng import Rng
from hypothesis import given
from hypothesis import strategies as st

from .harness import ADDRESS, Add, Alarm, Break, Echo, Harness, Look, Note, Rang, Seen, Total

TOO_LARGE = 1 << 64  # the store cannot encode it


def full_disk() -> DiskFullError:
    return DiskFullError("foliot.db")


# -- commit, then send -------------------------------------------------------------------------------------------------


async def test_nothing_is_sent_before_its_rows_are_durable(harness: Harness) -> None:
    harness.store.gate.clear()
    async with harness.running():
        harness.tell(Add("a"))
        for _ in range(50):
            await asyncio.sleep(0)
        assert harness.trace == []

        harness.store.gate.set()
        await harness.settle()

    assert harness.trace == [("commit", [("a", 1)]), ("send", Total("a", 1))]


async def test_one_commit_carries_all_that_was_drained_together(harness: Harness) -> None:
    harness.tell(*[Add("a") for _ in range(10)])

    async with harness.running():
        await harness.settle()

    assert len(harness.store.commits) == 1
    assert [total.value for total in harness.heard(Total)] == list(range(1, 11))


async def test_what_arrives_during_a_commit_makes_the_next_one(harness: Harness) -> None:
    harness.store.gate.clear()
    async with harness.running():
        harness.tell(Add("a"))
        for _ in range(20):
            await asyncio.sleep(0)
        harness.tell(Add("b"), Add("c"))
        harness.store.gate.set()
        await harness.settle()

    assert harness.store.commits == [[("a", 1)], [("b", 1), ("c", 1)]]


async def test_a_drain_is_bounded(harness: Harness) -> None:
    harness.build(drain_max=4)
    harness.tell(*[Add("a") for _ in range(10)])

    async with harness.running():
        await harness.settle()

    assert [len(rows) for rows in harness.store.commits] == [4, 4, 2]


async def test_a_turn_without_rows_commits_nothing_and_still_sends(harness: Harness) -> None:
    harness.tell(Note("hello"))

    async with harness.running():
        await harness.settle()

    assert harness.trace == [("send", Note("hello"))]


async def test_a_request_is_answered_once_its_rows_are_durable(harness: Harness) -> None:
    async with harness.running():
        assert await harness.ask(Add("a", 3)) == Total("a", 3)

    assert harness.store.totals == {"a": 3}


async def test_the_stats_count_turns_and_messages(harness: Harness) -> None:
    harness.tell(Add("a"), Add("a"), Note("n"))

    async with harness.running():
        await harness.settle()

    stats = harness.cell.stats
    assert (stats.turns, stats.messages, stats.restarts, stats.set_aside) == (2, 3, 0, 0)  # the start is a turn too
    assert {"Add", "Note"} <= stats.busy_ns.keys()


# -- a store that cannot write -----------------------------------------------------------------------------------------


async def test_while_the_store_cannot_write_the_cell_waits_and_refuses_the_edge(harness: Harness) -> None:
    harness.build(store_backoff_ms=1)
    harness.store.refusals = [full_disk() for _ in range(5)]
    async with harness.running():
        harness.tell(Add("a"))
        await harness.until(lambda: len(harness.store.refusals) < 5)

        refused = await harness.ask(Add("b"))
        harness.tell(Add("c"))  # the cluster's own mail is kept
        await harness.settle()
        accepted = await harness.ask(Add("d"))

    assert refused == Refusal("disk_full", str(full_disk()), retry_after_ms=2_000)
    assert accepted == Total("d", 1)
    assert harness.store.commits == [[("a", 1)], [("c", 1)], [("d", 1)]]
    assert harness.store.totals == {"a": 1, "c": 1, "d": 1}


async def test_a_stalled_commit_is_repeated_as_it_was_and_its_messages_sent_once(harness: Harness) -> None:
    harness.store.refusals = [full_disk(), StoreError("database is locked")]
    harness.tell(Add("a"), Add("a"))

    async with harness.running():
        await harness.settle()

    assert harness.store.commits == [[("a", 1), ("a", 2)]]
    assert harness.heard() == [Total("a", 1), Total("a", 2)]
    assert len(harness.actors) == 1, "the actor lives on: its memory is ahead of the store, not wrong"


async def test_refusals_during_a_stall_keep_no_frames(harness: Harness) -> None:
    error = full_disk()
    harness.store.refusals = [error]
    harness.build(store_backoff_ms=60_000)
    async with harness.running():
        harness.tell(Add("a"))
        await harness.until(lambda: not harness.store.refusals)
        for _ in range(100):
            await harness.ask(Add("b"))

    assert len(traceback.extract_tb(error.__traceback__)) < 10


async def test_a_stale_epoch_ends_the_cell_and_nothing_is_sent(harness: Harness) -> None:
    harness.store.refusals = [StaleEpochError(shard=1, epoch=4, current=5)]
    harness.tell(Add("a"))

    with pytest.raises(StaleEpochError, match="shard 1 is owned under epoch 5, got a commit of epoch 4"):
        await harness.cell.run()

    assert harness.trace == []
    assert harness.cell.stats.restarts == 0, "to lose a shard is no failure"


async def test_a_store_that_cannot_start_the_actor_is_asked_again(harness: Harness) -> None:
    harness.store.start_errors = [StoreError("database is locked"), full_disk()]
    harness.tell(Add("a"))

    async with harness.running():
        await harness.settle()

    assert harness.heard() == [Total("a", 1)]


# -- an actor that raises ----------------------------------------------------------------------------------------------


async def test_a_message_that_raises_is_set_aside_and_the_others_are_handled_in_order(harness: Harness) -> None:
    harness.tell(Add("a"), Note("1"), Break("no such thing"), Note("2"), Add("a"))

    async with harness.running():
        await harness.settle()

    assert harness.store.poisoned == [(ADDRESS, Break("no such thing"), "no such thing")]
    assert harness.heard() == [Total("a", 1), Note("1"), Note("2"), Total("a", 2)]
    assert harness.store.totals == {"a": 2}
    assert harness.cell.stats.set_aside == 1


async def test_the_actor_is_remade_from_the_store(harness: Harness) -> None:
    async with harness.running():
        await harness.ask(Add("a"))
        harness.tell(Break())
        await harness.settle()
        answer = await harness.ask(Add("a"))

    assert answer == Total("a", 2)
    assert len(harness.actors) == 2
    assert harness.actors[1].adds == 1, "what was only in memory is gone"


async def test_a_request_that_raises_is_refused(harness: Harness) -> None:
    async with harness.running():
        answer = await harness.ask(Break())

    assert answer == Refusal("internal", "Break could not be handled; it was set aside")


async def test_a_message_whose_rows_cannot_be_encoded_is_found_and_set_aside(harness: Harness) -> None:
    harness.tell(Add("a"), Add("b", TOO_LARGE), Add("c"))

    async with harness.running():
        await harness.settle()

    assert [message for _, message, _ in harness.store.poisoned] == [Add("b", TOO_LARGE)]
    assert harness.heard(Total) == [Total("a", 1), Total("c", 1)]
    assert harness.store.totals == {"a": 1, "c": 1}


async def test_a_broken_alarm_is_not_blamed_on_the_message_beside_it(harness: Harness) -> None:
    harness.build(escalate_after=3)
    async with harness.running() as life:
        harness.tell(alarm(harness, broken=True), Add("a"))
        await harness.settle()
        harness.clock.advance_ms(1_000)
        harness.tell(Add("a"))
        await harness.settle()
        assert not life.done()

    assert harness.store.poisoned == []
    assert harness.store.totals == {"a": 2}


async def test_the_actors_own_mail_survives_its_failure(harness: Harness) -> None:
    harness.build(drain_max=2)
    harness.tell(Echo("to myself"), Note("x"), Break(), Note("y"))

    async with harness.running():
        await harness.settle()

    assert [note.text for note in harness.heard(Note)] == ["to myself", "x", "y", "to myself"]


async def test_setting_aside_waits_for_the_store(harness: Harness) -> None:
    async with harness.running():
        harness.store.refusals = [full_disk(), full_disk()]
        harness.tell(Break())
        await harness.settle()

    assert [message for _, message, _ in harness.store.poisoned] == [Break()]


async def test_messages_that_could_not_be_sent_do_not_repeat_their_commit(harness: Harness) -> None:
    async with harness.running():
        await harness.settle()
        harness.bus.broken = TypeError("cannot be encoded")
        harness.tell(Add("a"))
        await harness.settle()

    assert harness.store.commits == [[("a", 1)]]
    assert harness.cell.stats.restarts == 1


async def test_too_many_failures_within_the_window_escalate(harness: Harness) -> None:
    harness.build(escalate_after=3, escalate_window_ms=1_000)
    harness.tell(Break("1"), Break("2"), Break("3"), Break("4"))

    with pytest.raises(EscalationError, match=r"'counter\.1' failed 3 times within 1000 ms") as caught:
        await harness.cell.run()

    assert caught.value.failures == 3
    assert [message.why for _, message, _ in harness.store.poisoned] == ["1", "2"]  # one was spent on finding the first


async def test_failures_outside_the_window_are_forgotten(harness: Harness) -> None:
    harness.build(escalate_after=2, escalate_window_ms=1_000)
    async with harness.running() as life:
        for _ in range(5):
            harness.tell(Break())
            await harness.settle()
            harness.clock.advance_ms(1_001)
        assert not life.done()

    assert harness.cell.stats.set_aside == 5


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from("abc"), st.integers(1, 5)),
            st.sampled_from([("break",), ("huge",), ("refuse",), ("pause",)]),
        ),
        max_size=30,
    ),
    drain_max=st.integers(1, 8),
)
def test_whatever_fails_nothing_is_lost_or_doubled(steps: list[tuple[str, ...]], drain_max: int) -> None:
    async def scenario() -> None:
        harness = Harness()
        harness.build(drain_max=drain_max, escalate_after=1_000, restart_backoff_ms=0, store_backoff_ms=0)
        expected: list[Total] = []
        totals: dict[str, int] = {}
        async with harness.running():
            for step in steps:
                match step:
                    case ("add", key, by):
                        harness.tell(Add(key, int(by)))
                        totals[key] = totals.get(key, 0) + int(by)
                        expected.append(Total(key, totals[key]))
                    case ("break",):
                        harness.tell(Break())
                    case ("huge",):
                        harness.tell(Add("huge", TOO_LARGE))
                    case ("refuse",):
                        harness.store.refusals.append(full_disk())
                    case _:
                        await asyncio.sleep(0)
            await harness.settle()
        poison = sum(step[0] in ("break", "huge") for step in steps)
        assert harness.heard(Total) == expected
        assert harness.store.totals == totals
        assert len(harness.store.poisoned) == poison

    asyncio.run(scenario())


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_requests_of_the_edge_are_refused_before_the_mailbox_is_full(harness: Harness) -> None:
    harness.build(mailbox_capacity=4, request_capacity=2)
    for number in (1, 2):
        harness.cell.deliver(Envelope(ADDRESS, Add("a"), "client.1", number))

    with pytest.raises(MailboxFullError, match=r"mailbox of 'counter\.1' holds 2 messages, its bound; retry in 200 ms"):
        harness.cell.deliver(Envelope(ADDRESS, Add("a"), "client.1", 3))

    harness.tell(Add("a"))
    harness.cell.deliver(Envelope(ADDRESS, Add("a"), "session.w1", 4))  # outcomes of workers count as internal
    with pytest.raises(MailboxFullError, match="holds 4 messages"):
        harness.tell(Add("a"))
    with pytest.raises(MailboxFullError, match="holds 4 messages"):
        harness.cell.deliver(Envelope(ADDRESS, Add("a"), "session.w1", 5))
    assert len(harness.cell) == 4


async def test_a_request_over_the_bound_is_answered_overloaded_and_leaves_no_trace(harness: Harness) -> None:
    harness.build(request_capacity=1)
    harness.store.gate.clear()
    async with harness.running():
        first = asyncio.create_task(harness.ask(Add("a")))
        await harness.until(lambda: bool(harness.actors) and harness.actors[0].adds == 1)
        second = asyncio.create_task(harness.ask(Add("a")))
        await asyncio.sleep(0)
        refused = await harness.ask(Add("a"))
        harness.store.gate.set()

        assert refused.code == "overloaded"
        assert refused.retry_after_ms == 200
        assert await first == Total("a", 1)
        assert await second == Total("a", 2)


async def test_an_answer_of_the_store_has_room_in_a_full_mailbox(harness: Harness) -> None:
    harness.build(mailbox_capacity=2, drain_max=1)
    harness.store.read_gate.clear()
    async with harness.running():
        harness.tell(Look("a"))
        await harness.until(lambda: len(harness.cell) == 0)
        harness.store.gate.clear()
        harness.tell(Add("a"))
        await harness.until(lambda: harness.actors[0].adds == 1)
        harness.tell(Add("b"), Add("c"))
        harness.store.read_gate.set()
        await harness.until(lambda: len(harness.cell) == 3)
        harness.store.gate.set()
        await harness.settle()

    assert harness.heard(Seen) == [Seen("a", 0)]


async def test_an_actor_without_a_store_leaves_the_loop_to_others(harness: Harness) -> None:
    harness.durable = False
    harness.build(drain_max=1)
    async with harness.running():
        await harness.settle()
        harness.tell(*[Note(str(number)) for number in range(100)])
        for _ in range(5):
            await asyncio.sleep(0)
        assert 0 < len(harness.cell) < 100
        await harness.settle()

    assert len(harness.heard(Note)) == 100


# -- reads, idleness, the end ------------------------------------------------------------------------------------------


async def test_a_read_sees_the_commit_of_its_own_turn(harness: Harness) -> None:
    harness.tell(Add("a", 5), Look("a"))

    async with harness.running():
        await harness.settle()

    assert harness.heard() == [Total("a", 5), Seen("a", 5)]


async def test_a_read_the_store_cannot_serve_is_repeated(harness: Harness) -> None:
    harness.store.read_errors = [StoreError("database is locked")]
    harness.tell(Look("a"))

    async with harness.running():
        await harness.settle()

    assert harness.heard() == [Seen("a", 0)]


async def test_requests_are_refused_while_the_store_cannot_read_and_taken_again_once_it_can(harness: Harness) -> None:
    harness.store.read_errors = [full_disk()]
    harness.build(store_backoff_ms=200)
    async with harness.running():
        harness.tell(Look("a"))
        await harness.until(lambda: not harness.store.read_errors)
        refused = await harness.ask(Add("b"))
        await harness.until(lambda: bool(harness.heard(Seen)))
        accepted = await harness.ask(Add("c"))

    assert refused == Refusal("disk_full", str(full_disk()), retry_after_ms=2_000)
    assert accepted == Total("c", 1)
    assert harness.store.totals == {"c": 1}


async def test_mail_is_handled_while_a_read_is_under_way(harness: Harness) -> None:
    harness.store.read_gate.clear()
    async with harness.running():
        harness.tell(Look("a"))
        assert await harness.ask(Add("a")) == Total("a", 1)
        assert not harness.cell.is_idle
        harness.store.read_gate.set()
        await harness.settle()

    assert harness.heard(Seen) == [Seen("a", 1)]


async def test_a_read_that_breaks_remakes_the_actor(harness: Harness) -> None:
    harness.store.read_errors = [ValueError("no such column")]
    harness.tell(Look("a"), Add("a"))

    async with harness.running():
        await harness.until(lambda: len(harness.actors) == 2)
        await harness.settle()

    assert harness.store.totals == {"a": 1}
    assert harness.store.poisoned == []


async def test_an_answer_to_a_dead_actor_is_not_given_to_its_successor(harness: Harness) -> None:
    harness.store.gate.clear()
    harness.store.read_gate.clear()
    async with harness.running():
        harness.tell(Look("a"), Add("b"), Look("a"))
        await harness.until(lambda: bool(harness.actors) and harness.actors[0].adds == 1)
        harness.store.gate.set()
        await harness.until(lambda: len(harness.store.commits) == 1)
        harness.store.gate.clear()
        harness.tell(Add("a"))
        await harness.until(lambda: harness.actors[0].adds == 2)
        harness.store.read_gate.set()
        await harness.until(lambda: len(harness.cell) == 2)  # the answers wait while the commit is stuck
        harness.bus.broken = TypeError("cannot be encoded")
        harness.store.gate.set()
        await harness.until(lambda: len(harness.actors) == 2)
        await harness.settle()

    assert harness.heard(Seen) == []


async def test_a_cell_is_idle_only_once_it_started_and_has_nothing_left(harness: Harness) -> None:
    assert not harness.cell.is_idle
    harness.store.gate.clear()
    async with harness.running():
        await harness.settle()
        harness.tell(Add("a"))
        assert not harness.cell.is_idle
        await harness.until(lambda: harness.actors[0].adds == 1)
        assert not harness.cell.is_idle
        harness.store.gate.set()
        await harness.settle()
        assert harness.heard() == [Total("a", 1)]
    assert not harness.cell.is_idle


async def test_cancelling_leaves_no_task_and_no_timer(harness: Harness) -> None:
    before = asyncio.all_tasks()
    harness.store.read_gate.clear()
    async with harness.running():
        harness.tell(Look("a"), Look("b"), alarm(harness))
        await harness.until(lambda: bool(harness.clock.pending))
        assert len(asyncio.all_tasks() - before) == 3

    assert asyncio.all_tasks() == before
    assert harness.clock.pending == []


async def test_a_cell_can_be_cancelled_while_a_commit_is_stalled(harness: Harness) -> None:
    harness.build(store_backoff_ms=60_000)
    harness.store.refusals = [full_disk()]
    async with harness.running() as life:
        harness.tell(Add("a"))
        await harness.until(lambda: not harness.store.refusals)

    assert life.cancelled()
    assert harness.heard() == []


# -- time --------------------------------------------------------------------------------------------------------------


def alarm(harness: Harness, in_ms: int = 1_000, *, broken: bool = False) -> Alarm:
    return Alarm(harness.clock.now_ms() + in_ms, broken)


async def test_a_timer_runs_at_its_instant_and_not_before(harness: Harness) -> None:
    due_ms = harness.clock.now_ms() + 1_000
    async with harness.running():
        harness.tell(alarm(harness))
        await harness.settle()
        harness.clock.advance_ms(999)
        await harness.settle()
        assert harness.heard() == []

        harness.clock.advance_ms(1)
        await harness.settle()

    assert harness.heard() == [Rang(due_ms, adds=0)]


async def test_a_timer_that_wakes_early_is_armed_again(harness: Harness) -> None:
    due_ms = harness.clock.now_ms() + 1_000
    async with harness.running():
        harness.tell(alarm(harness))
        await harness.settle()
        turns = harness.cell.stats.turns
        harness.clock.fire()
        await harness.settle()
        assert harness.heard() == []
        assert harness.cell.stats.turns == turns, "nothing was due, so no turn was taken"

        harness.clock.advance_ms(1_000)
        await harness.settle()

    assert harness.heard() == [Rang(due_ms, adds=0)]


async def test_a_wall_clock_set_back_delays_a_timer_and_does_not_lose_it(harness: Harness) -> None:
    due_ms = harness.clock.now_ms() + 1_000
    async with harness.running():
        harness.tell(alarm(harness))
        await harness.settle()
        harness.clock.set_ms(due_ms - 60_000)
        harness.clock.fire()
        await harness.settle()
        assert harness.heard() == []

        harness.clock.advance_ms(60_000)
        await harness.settle()

    assert harness.heard() == [Rang(due_ms, adds=0)]


async def test_mail_that_came_before_the_timer_is_handled_before_it(harness: Harness) -> None:
    async with harness.running():
        harness.tell(alarm(harness))
        await harness.settle()
        harness.tell(Add("a"))
        harness.clock.advance_ms(1_000)
        await harness.settle()

    assert harness.heard() == [Total("a", 1), Rang(harness.clock.now_ms(), adds=1)]


async def test_an_earlier_instant_replaces_the_timer(harness: Harness) -> None:
    early_ms = harness.clock.now_ms() + 10
    async with harness.running():
        harness.tell(alarm(harness, 1_000))
        await harness.settle()
        harness.tell(Alarm(early_ms))
        await harness.settle()
        assert [call.when_ms for call in harness.clock.pending] == [early_ms]
        harness.clock.advance_ms(10)
        await harness.settle()
        assert harness.clock.pending == []

    assert harness.heard() == [Rang(early_ms, adds=0)]


async def test_an_instant_in_the_past_runs_in_the_turn_that_set_it(harness: Harness) -> None:
    harness.tell(alarm(harness, -1))

    async with harness.running():
        await harness.settle()

    assert harness.heard() == [Rang(harness.clock.now_ms(), adds=0)]


async def test_a_dropped_timer_does_not_run(harness: Harness) -> None:
    async with harness.running():
        harness.tell(alarm(harness))
        await harness.settle()
        harness.tell(Alarm(0))
        await harness.settle()
        assert harness.clock.pending == []
        harness.clock.advance_ms(10_000)
        await harness.settle()

    assert harness.heard() == []


async def test_a_cell_whose_actor_has_finished_ends_once_its_mailbox_is_empty(harness: Harness) -> None:
    class Twice(Actor[Any]):
        """Finishes after two messages."""

        heard = 0

        @property
        def finished(self) -> bool:
            return self.heard >= 2

        def handle(self, message: Any, turn: Turn) -> None:
            self.heard += 1

    actor = Twice()

    async def make() -> tuple[Actor[Any], Journal | None]:
        return actor, None

    cell = Cell("once", make, bus=harness.bus, clock=harness.clock, rng=Rng(1), poison=harness.store.keep)
    running = asyncio.create_task(cell.run())
    cell.deliver(Envelope("once", Note("first")))
    await asyncio.sleep(0.01)
    assert not running.done()
    cell.deliver(Envelope("once", Note("second")))
    await asyncio.wait_for(running, 5)
    assert actor.heard == 2


# -- a commit nobody knows the outcome of ------------------------------------------------------------------------------


async def test_a_commit_of_unknown_outcome_is_not_repeated_and_the_actor_starts_from_the_store(harness: Harness) -> None:
    harness.store.lost_answers = [CommitUnknownError(shard=1, epoch=1)]
    harness.tell(Add("a"))
    async with harness.running():
        await harness.until(lambda: len(harness.actors) == 2)
        assert await harness.ask(Add("a")) == Total("a", 2)

    assert harness.store.commits == [[("a", 1)], [("a", 2)]]
    assert harness.heard(Total)[0] == Total("a", 2), "nobody was told of the first"
    assert harness.cell.stats.unknown_commits == 1
    assert harness.cell.stats.restarts == 0, "the store's trouble is no failure of the actor"
    assert harness.store.poisoned == []


async def test_what_waits_behind_a_commit_of_unknown_outcome_is_kept_in_order(harness: Harness) -> None:
    harness.build(drain_max=1)
    harness.store.lost_answers = [CommitUnknownError(shard=1, epoch=1)]
    harness.tell(Add("a"), Add("b"), Note("1"), Note("2"))
    async with harness.running():
        await harness.settle()

    assert harness.store.totals == {"a": 1, "b": 1}
    assert harness.heard() == [Total("b", 1), Note("1"), Note("2")]


async def test_one_message_a_turn_goes_no_further_than_what_waited_though_a_commit_is_unknown(harness: Harness) -> None:
    harness.store.lost_answers = [CommitUnknownError(shard=1, epoch=1)]
    harness.tell(Break("no good"), Add("a"), Add("b"))
    async with harness.running():
        await harness.settle()
        assert harness.store.commits == [[("a", 1)], [("b", 1)]]
        turns = harness.cell.stats.turns
        harness.tell(Note("1"), Note("2"))
        await harness.settle()

    assert harness.cell.stats.turns == turns + 1


async def test_a_refused_commit_is_repeated_until_its_outcome_is_unknown(harness: Harness) -> None:
    harness.store.refusals = [full_disk()]
    harness.store.lost_answers = [CommitUnknownError(shard=1, epoch=1)]
    harness.tell(Add("a"))
    async with harness.running():
        await harness.until(lambda: len(harness.actors) == 2)
        assert await harness.ask(Add("b")) == Total("b", 1), "the edge is let in again"

    assert harness.store.commits == [[("a", 1)], [("b", 1)]]


async def test_many_commits_of_unknown_outcome_escalate_to_nobody(harness: Harness) -> None:
    harness.build(escalate_after=2)
    harness.store.lost_answers = [CommitUnknownError(shard=1, epoch=1) for _ in range(5)]
    async with harness.running():
        for number in range(1, 6):
            harness.tell(Add("a"))
            await harness.until(lambda: len(harness.actors) == number + 1)  # noqa: B023
        await harness.settle()

    assert harness.cell.stats.unknown_commits == 5


async def test_what_the_store_refuses_as_outdated_is_decided_again_by_an_actor_that_knows_better(harness: Harness) -> None:
    harness.tell(Add("a"), Add("b"), Note("1"))
    harness.store.refusals = [OutdatedError("a row is gone")]
    async with harness.running():
        await harness.until(lambda: len(harness.actors) == 2)
        await harness.settle()

    assert harness.store.commits == [[("a", 1), ("b", 1)]]
    assert harness.heard() == [Total("a", 1), Total("b", 1), Note("1")]
    assert (harness.cell.stats.restarts, harness.cell.stats.unknown_commits) == (0, 0), "nobody has failed"
    assert harness.store.poisoned == []


async def test_a_message_set_aside_without_an_answer_is_set_aside_again(harness: Harness) -> None:
    harness.tell(Break("no good"))
    harness.store.refusals = [CommitUnknownError(shard=1, epoch=1)]
    async with harness.running():
        await harness.until(lambda: len(harness.store.poisoned) == 1)
        await harness.settle()

    assert harness.cell.stats.set_aside == 1


# -- an actor whose slot moves -------------------------------------------------------------------------------------------


async def test_a_retired_actor_finishes_its_mailbox_and_ends(harness: Harness) -> None:
    harness.build(drain_max=2)
    harness.tell(Alarm(harness.clock.now_ms() - 1), *[Add("a") for _ in range(5)])
    harness.cell.retire()

    await asyncio.wait_for(harness.cell.run(), 5)

    assert harness.store.totals == {"a": 5}
    assert len(harness.heard(Total)) == 5


async def test_a_retired_actor_that_has_nothing_to_do_ends_at_once(harness: Harness) -> None:
    async with harness.running() as life:
        await harness.settle()
        harness.cell.retire()
        await asyncio.wait_for(life, 5)


async def some_steps() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_retired_actor_waits_for_what_it_asked_the_store(harness: Harness) -> None:
    async with harness.running() as life:
        harness.store.read_gate.clear()
        harness.tell(Look("a"))
        await some_steps()
        harness.cell.retire()
        await some_steps()
        assert not life.done()

        harness.store.read_gate.set()
        await asyncio.wait_for(life, 5)

    assert harness.heard(Seen) == [Seen("a", 0)]


async def test_requests_that_wait_when_the_actor_ends_can_be_refused(harness: Harness) -> None:
    asked = asyncio.create_task(harness.ask(Add("a")))
    await asyncio.sleep(0)
    harness.tell(Note("no request"))

    harness.cell.refuse_waiting(NoSuchActorError(ADDRESS))

    assert await asked == Refusal.of(NoSuchActorError(ADDRESS))
    assert len(harness.cell) == 0
