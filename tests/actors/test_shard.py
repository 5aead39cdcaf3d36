"""The shard actor: each step of a task's life, on the real SQL."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from foliot.actors import messages as m
from foliot.actors.backlog import BacklogConfig
from foliot.actors.shard import ShardConfig
from foliot.runtime.bus import Refusal
from foliot.runtime.errors import OutdatedError
from foliot.runtime.hashing import slot_of
from foliot.runtime.membership import SlotClaimed
from foliot.stores.sqlite_file import refused

from .harness_shard import QUEUE, START_MS, ShardHarness


def test_a_task_goes_from_submission_to_completion(shard: ShardHarness) -> None:
    [task] = shard.submit()
    assert shard.offered() == [task]
    [body] = shard.lease(task)
    assert (body.attempt, body.payload) == (1, b"p")
    assert shard.state_of(task) == "running"
    assert shard.report(body, result=b"r") == []
    assert shard.state_of(task) == "completed"
    assert shard.row(task, "result") == b"r"
    shard.assert_balanced()


def test_one_turn_is_one_commit_whatever_it_holds(shard: ShardHarness) -> None:
    ids = shard.submit(300)
    before = shard.commits
    bodies = shard.lease(*ids)
    assert shard.commits == before + 1
    outcomes = [m.Outcome(body.id, body.attempt, 1, 1, 2) for body in bodies]
    shard.deliver(m.ReportOutcomes("s1", outcomes), sender="session.s1")
    assert shard.commits == before + 2
    assert shard.states() == {"completed": 300}


def test_a_delayed_task_is_offered_when_due_and_not_before(shard: ShardHarness) -> None:
    [task] = shard.submit(delay_ms=5_000)
    assert shard.state_of(task) == "scheduled"
    shard.advance_ms(4_999)
    assert shard.offered() == []
    shard.advance_ms(1)
    assert shard.offered() == [task]
    assert shard.state_of(task) == "queued"
    shard.assert_balanced()


def test_a_task_far_ahead_waits_in_the_store_only_and_still_fires_on_time(shard: ShardHarness) -> None:
    [task] = shard.submit(delay_ms=3_600_000)
    assert shard.deliver(m.DescribeTasks([task])) == [m.TasksDescribed([])]
    shard.advance_ms(3_599_999)
    assert shard.offered() == []
    shard.advance_ms(1)
    assert shard.offered() == [task]


def test_a_failed_attempt_is_retried_after_a_delay_with_full_jitter(shard: ShardHarness) -> None:
    [task] = shard.submit(max_attempts=3)
    [body] = shard.lease(task)
    shard.fail(body)
    assert shard.state_of(task) == "retrying"
    assert 0 <= shard.row(task, "due_ms") - shard.now_ms <= 1_000
    shard.advance_ms(1_000)
    [second] = shard.lease(task)
    assert second.attempt == 2
    shard.assert_balanced()


def test_the_handler_may_choose_the_delay(shard: ShardHarness) -> None:
    [task] = shard.submit()
    [body] = shard.lease(task)
    shard.fail(body, retry_after_ms=90_000)
    assert shard.row(task, "due_ms") == shard.now_ms + 90_000


def test_a_task_whose_attempts_are_used_up_is_a_dead_letter_with_all_its_errors(shard: ShardHarness) -> None:
    [task] = shard.submit(max_attempts=2)
    for _ in range(2):
        [body] = shard.lease(task)
        shard.fail(body)
        shard.advance_ms(5_000)
    assert shard.state_of(task) == "dead"
    attempts = shard.connection.execute("select attempt, kind from attempts where id = ? order by attempt", (task,))
    assert attempts.fetchall() == [(1, 2), (2, 2)]
    shard.assert_balanced()


def test_without_dead_letters_it_ends_as_failed(shard: ShardHarness) -> None:
    [task] = shard.submit(max_attempts=1, dead_letter=False)
    shard.fail(shard.lease(task)[0])
    assert shard.state_of(task) == "failed"


def test_a_fatal_error_is_not_retried(shard: ShardHarness) -> None:
    [task] = shard.submit(max_attempts=5)
    shard.fail(shard.lease(task)[0], fatal=True)
    assert shard.state_of(task) == "dead"


def test_a_dead_letter_can_be_retried_with_another_payload(shard: ShardHarness) -> None:
    [task] = shard.submit(max_attempts=1)
    shard.fail(shard.lease(task)[0])
    assert shard.retry(task, payload=b"better") == ["retried"]
    [body] = shard.lease(task)
    assert (body.attempt, body.payload) == (2, b"better")
    assert shard.report(body) == []
    assert shard.states() == {"completed": 1}
    shard.assert_balanced()


def test_only_ended_tasks_are_retried(shard: ShardHarness) -> None:
    [task] = shard.submit()
    assert shard.retry(task, 12345) == ["alive", "not_found"]
    shard.report(shard.lease(task)[0])
    assert shard.retry(task) == ["completed"]


def test_an_outcome_of_an_earlier_attempt_is_refused(shard: ShardHarness) -> None:
    [task] = shard.submit(max_attempts=2)
    [stale] = shard.lease(task, session="w1")
    shard.deliver(m.SessionEnded("w1", "silent"), request=0)
    [fresh] = shard.lease(task, session="w2")

    assert shard.report(stale, session="w1") == [0]

    assert shard.state_of(task) == "running"
    assert shard.report(fresh, session="w2") == []
    assert shard.report(fresh, session="w2") == [0]
    assert shard.state_of(task) == "completed"


def test_a_lost_worker_spends_no_attempt(shard: ShardHarness) -> None:
    [task] = shard.submit(max_attempts=1)
    for number in range(3):
        [body] = shard.lease(task, session=f"w{number}")
        assert body.attempt == number + 1
        shard.deliver(m.SessionEnded(f"w{number}", "silent"), request=0)
    assert shard.state_of(task) == "queued"
    shard.assert_balanced()


def test_a_task_that_keeps_killing_workers_is_set_aside(shard: ShardHarness) -> None:
    [task] = shard.submit(max_interruptions=3)
    for number in range(3):
        shard.lease(task, session=f"w{number}")
        shard.deliver(m.SessionEnded(f"w{number}", "silent"), request=0)
    assert shard.state_of(task) == "dead"
    assert b"WorkerLostError" in shard.row(task, "error")


def test_at_most_once_is_never_started_again(shard: ShardHarness) -> None:
    lost, failed, returned = shard.submit(3, delivery="at_most_once", max_attempts=5)
    shard.lease(lost, session="w1")
    shard.deliver(m.SessionEnded("w1", "silent"), request=0)
    shard.fail(shard.lease(failed)[0])
    shard.report(shard.lease(returned)[0], m.OutcomeKind.RETURNED)
    assert [shard.state_of(task) for task in (lost, failed, returned)] == ["dead", "dead", "queued"]


def test_what_a_draining_worker_hands_back_is_not_spent(shard: ShardHarness) -> None:
    first, second = shard.submit(2, max_attempts=1)
    one, two = shard.lease(first, second)
    shard.report(one, m.OutcomeKind.RETURNED)
    shard.report(two, m.OutcomeKind.INTERRUPTED)
    assert shard.states() == {"queued": 2}
    assert shard.row(second, "spent") == 0


def test_cancel_ends_what_waits_and_stops_what_runs(shard: ShardHarness) -> None:
    scheduled, far = shard.submit(delay_ms=5_000)[0], shard.submit(delay_ms=10_000_000)[0]
    queued, running, done = shard.submit(3)
    [body, other] = shard.lease(running, done)
    shard.report(other)

    assert shard.cancel(scheduled, far, queued, running, done, 99) == [
        "cancelled", "cancelled", "cancelled", "cancelling", "ended", "not_found",
    ]  # fmt: skip

    assert shard.messages(m.CancelAttempts) == [m.CancelAttempts([running], [1], "cancelled")]
    assert shard.offered() == []
    shard.report(body, m.OutcomeKind.CANCELLED)
    assert shard.states() == {"cancelled": 4, "completed": 1}
    shard.advance_ms(20_000_000)
    assert shard.states() == {"cancelled": 4, "completed": 1}
    shard.assert_balanced()


def test_a_cancelled_task_is_not_retried_when_its_attempt_fails(shard: ShardHarness) -> None:
    [task] = shard.submit(max_attempts=5)
    [body] = shard.lease(task)
    shard.cancel(task)
    shard.fail(body)
    assert shard.state_of(task) == "cancelled"


def test_a_cancel_of_a_running_task_survives_a_restart(shard: ShardHarness) -> None:
    [task] = shard.submit()
    shard.lease(task)
    shard.cancel(task)
    shard.reopen()
    shard.deliver(m.SessionEnded("s1", "silent"), request=0)
    assert shard.state_of(task) == "cancelled"


def test_tasks_of_another_tenant_are_not_found(shard: ShardHarness) -> None:
    [task] = shard.submit(tenant="other")
    assert shard.cancel(task) == ["not_found"]
    assert shard.state_of(task) == "queued"


def test_a_grant_of_a_task_that_is_gone_is_released_and_the_credit_returned(shard: ShardHarness) -> None:
    [task] = shard.submit(cost=3)
    shard.cancel(task)
    assert shard.lease(task) == []
    assert shard.messages(m.ReleaseTasks)[-1] == m.ReleaseTasks(0, [task], {"s1": 1}, shard.epoch, 3, granted=1)


def test_a_lease_ends_with_a_release_to_its_queue(shard: ShardHarness) -> None:
    [task] = shard.submit()
    shard.report(shard.lease(task)[0])
    assert shard.messages(m.ReleaseTasks) == [m.ReleaseTasks(0, [task], {}, shard.epoch, 2, granted=1)]


def test_a_silent_attempt_is_ended_by_the_shard_after_timeout_grace_and_margin(shard: ShardHarness) -> None:
    [task] = shard.submit(timeout_ms=60_000, cancel_grace_ms=10_000, max_attempts=2)
    shard.lease(task)
    shard.advance_ms(60_000 + 10_000 + 30_000 - 1)
    assert shard.state_of(task) == "running"
    shard.advance_ms(2_001)
    assert shard.row(task, "spent") == 1
    assert shard.messages(m.CancelAttempts) == [m.CancelAttempts([task], [1], "timed_out")]
    shard.assert_balanced()


def test_a_task_that_waited_too_long_expires_and_is_not_started(shard: ShardHarness) -> None:
    [task] = shard.submit(wait_timeout_ms=5_000)
    shard.advance_ms(7_000)
    assert shard.state_of(task) == "expired"
    assert shard.lease(task) == []
    shard.assert_balanced()


def test_the_total_timeout_ends_retries(shard: ShardHarness) -> None:
    [task] = shard.submit(total_timeout_ms=10_000, max_attempts=50)
    [body] = shard.lease(task)
    shard.fail(body, retry_after_ms=20_000)
    assert shard.state_of(task) == "expired"


def test_a_dedupe_key_returns_the_existing_task(shard: ShardHarness) -> None:
    [first] = shard.submit(dedupe_key="k")
    again = shard.submit(3, dedupe_key="k")
    assert again == [first] * 3
    assert shard.answer.existing == [0, 1, 2]
    shard.reopen()
    assert shard.submit(dedupe_key="k") == [first]
    assert shard.states() == {"queued": 1}
    shard.advance_ms(86_400_001)
    assert shard.submit(dedupe_key="k") != [first]
    shard.assert_balanced()


def test_a_dedupe_key_may_refuse_naming_the_existing_task(shard: ShardHarness) -> None:
    [first] = shard.submit(dedupe_key="k", on_conflict="reject")
    assert shard.submit(dedupe_key="k", on_conflict="reject") == [0]
    [refusal] = shard.answer.refused
    assert (refusal.code, refusal.existing_id) == ("duplicate", first)


def test_two_submissions_of_one_key_in_flight_make_one_task(shard: ShardHarness) -> None:
    shard.hold_reads = True
    spec = m.TaskSpec(0, b"", dedupe_key="k")
    message = m.SubmitTasks("acme", [m.Template("h")], [spec])
    shard.deliver(message, request=1)
    shard.deliver(message, request=2)
    shard.hold_reads = False
    shard.answer_reads()
    answers = shard.messages(m.TasksSubmitted)
    assert len(answers) == 2
    assert answers[0].ids == answers[1].ids
    assert shard.states() == {"queued": 1}


@pytest.mark.parametrize("delay_ms", [0, 5_000, 50_000_000])
def test_a_dedupe_key_may_replace_what_has_not_started(shard: ShardHarness, delay_ms: int) -> None:
    [first] = shard.submit(dedupe_key="k", on_conflict="replace", delay_ms=delay_ms)
    [second] = shard.submit(dedupe_key="k", on_conflict="replace", delay_ms=delay_ms)
    assert [shard.state_of(first), shard.state_of(second) in ("queued", "scheduled")] == ["cancelled", True]
    shard.assert_balanced()


def test_of_a_batch_with_one_key_the_last_stays_also_if_the_others_wait_in_the_store(shard: ShardHarness) -> None:
    ids = shard.submit(3, dedupe_key="k", on_conflict="replace", delay_ms=50_000_000)
    assert [shard.state_of(id) for id in ids] == ["cancelled", "cancelled", "scheduled"]
    shard.assert_balanced()


def test_a_key_that_changed_hands_while_it_was_looked_up_is_taken_from_the_new_holder(shard: ShardHarness) -> None:
    shard.hold_reads = True
    template = m.Template("app.noop", on_conflict="replace")
    spec = m.TaskSpec(0, b"p", shard.now_ms + 50_000_000, dedupe_key="k")
    for request in (1, 2, 3):
        shard.deliver(m.SubmitTasks("acme", [template], [spec]), request=request)
    shard.hold_reads = False
    shard.answer_reads()
    answers = shard.messages(m.TasksSubmitted)
    assert sorted(shard.state_of(answer.ids[0]) for answer in answers) == ["cancelled", "cancelled", "scheduled"]
    shard.assert_balanced()


def test_a_running_task_is_not_replaced(shard: ShardHarness) -> None:
    [first] = shard.submit(dedupe_key="k", on_conflict="replace")
    shard.lease(first)
    assert shard.submit(dedupe_key="k", on_conflict="replace") == [0]
    assert shard.answer.refused[0].existing_id == first


def test_a_repeated_request_adds_nothing_and_gets_the_same_answer(shard: ShardHarness) -> None:
    ids = shard.submit(3, request_id="r1")
    assert shard.submit(3, request_id="r1") == ids
    shard.reopen()
    assert shard.submit(3, request_id="r1") == ids
    assert shard.states() == {"queued": 3}


def test_each_tenant_names_its_requests_and_is_never_answered_with_anothers(shard: ShardHarness) -> None:
    ids = shard.submit(2, request_id="r1")
    others = shard.submit(1, tenant="globex", request_id="r1")
    assert not {*ids} & {*others}
    shard.reopen()
    assert shard.submit(1, tenant="globex", request_id="r1") == others
    assert shard.submit(2, request_id="r1") == ids
    assert shard.states() == {"queued": 3}


def test_nothing_is_lost_or_doubled_by_a_restart(shard: ShardHarness) -> None:
    ids = shard.submit(20)
    bodies = shard.lease(*ids[:5])
    shard.report(bodies[0])
    [later] = shard.submit(delay_ms=30_000)
    shard.sent.clear()
    shard.reopen()
    assert sorted(shard.offered()) == ids[5:]
    shard.deliver(m.SessionEnded("s1", "silent"), request=0)
    assert sorted(shard.offered()) == ids[1:]
    shard.advance_ms(30_000)
    assert later in shard.offered()
    shard.assert_balanced()


def test_with_local_workers_a_restart_queues_what_ran_at_once() -> None:
    shard = ShardHarness(ShardConfig(shards=1, workers_are_local=True))
    [task] = shard.submit()
    shard.lease(task)
    shard.sent.clear()
    shard.reopen()
    assert shard.offered() == [task]
    assert shard.row(task, "spent") == 0


def test_the_backlog_beyond_the_window_is_paged_in_order() -> None:
    shard = ShardHarness(ShardConfig(shards=1, backlog=BacklogConfig(lane_window=8, lane_page=4)))
    ids = shard.submit(50)
    done: list[int] = []
    while offered := shard.offered():
        assert len(offered) <= 8
        [body] = shard.lease(offered[0])
        shard.report(body)
        done.append(body.id)
    assert done == ids
    shard.assert_balanced()


def test_a_queue_that_forgot_is_told_everything_again(shard: ShardHarness) -> None:
    first, second, third = shard.submit(3)
    shard.lease(first)
    shard.cancel(third)
    shard.sent.clear()
    shard.deliver(m.QueueStarted(QUEUE), sender=QUEUE, request=0)
    assert shard.offered() == [second]
    leased = [lot for offer in shard.messages(m.OfferTasks) for lot in offer.leased]
    assert [(lot.session, lot.ids) for lot in leased] == [("s1", [first])]
    assert shard.messages(m.ConfigureQueue) == [m.ConfigureQueue(m.QueueConfig("default", "default"), 1, 1)]


def test_queue_settings_survive_and_bound_what_waits(shard: ShardHarness) -> None:
    config = m.QueueConfig("default", "default", max_waiting=2, paused=True, paused_by="ann")
    assert shard.deliver(m.ConfigureQueue(config)) == [m.QueueConfigured(config)]
    shard.reopen()
    shard.sent.clear()
    shard.deliver(m.QueueStarted(QUEUE), sender=QUEUE, request=0)
    assert shard.messages(m.ConfigureQueue) == [m.ConfigureQueue(config, 2, 1)]
    shard.submit(2)
    [refusal] = shard.deliver(m.SubmitTasks("acme", [m.Template("h")], [m.TaskSpec(0, b"")]))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.retry_after_ms) == ("overloaded", 1_000)
    assert "limit 2" in refusal.text


def test_a_lease_that_never_reached_its_worker_is_queued_again(shard: ShardHarness) -> None:
    lost, held = shard.submit(2)
    shard.lease(lost, held)
    shard.advance_ms(10_000)
    shard.deliver(m.HeldLeases("s1", [held], [1]), request=0)
    assert shard.state_of(lost) == "running"  # it may still be on its way
    shard.advance_ms(15_000)
    shard.deliver(m.HeldLeases("s1", [held], [1]), request=0)
    assert [shard.state_of(lost), shard.state_of(held)] == ["queued", "running"]


def test_a_worker_that_holds_what_is_not_its_own_is_told_to_stop(shard: ShardHarness) -> None:
    [task] = shard.submit()
    shard.lease(task)
    shard.deliver(m.HeldLeases("ghost", [task, 42], [1, 7]), request=0)
    assert shard.messages(m.CancelAttempts) == [m.CancelAttempts([task, 42], [1, 7], "lease_lost")]


def test_large_payloads_are_read_from_the_store_when_leased(shard: ShardHarness) -> None:
    [task] = shard.submit(payload=b"x" * 100_000)
    [body] = shard.lease(task)
    assert body.payload == b"x" * 100_000


def test_a_checkpoint_reaches_the_next_attempt_across_a_restart(shard: ShardHarness) -> None:
    [task] = shard.submit()
    [body] = shard.lease(task)
    shard.deliver(m.ReportProgress("s1", [m.Progress(task, 1, 500, "half", b"page 7")]), request=0)
    shard.fail(body, retry_after_ms=0)
    shard.reopen()
    [again] = shard.lease(task)
    assert (again.attempt, again.checkpoint) == (2, b"page 7")


def test_progress_of_a_stale_attempt_is_ignored(shard: ShardHarness) -> None:
    [task] = shard.submit()
    shard.lease(task)
    shard.deliver(m.ReportProgress("other", [m.Progress(task, 1, 999, "", b"evil")]), request=0)
    assert shard.connection.execute("select count(*) from progress").fetchone() == (0,)


def test_watching_answers_when_all_have_ended(shard: ShardHarness) -> None:
    done, running = shard.submit(2)
    shard.report(shard.lease(done)[0], result=b"r")
    [body] = shard.lease(running)
    assert shard.deliver(m.WatchTasks("acme", [done, running], 60_000), request=9) == []
    shard.report(body, m.OutcomeKind.FAILED, fatal=True, error=m.TaskError("E", "x"))
    [answer] = shard.messages(m.TasksEnded)
    assert {end.id: (end.state, end.result) for end in answer.ended} == {done: (10, b"r"), running: (13, b"")}


def test_who_watches_the_task_of_another_tenant_hears_there_is_none_and_its_owner_hears_the_end(shard: ShardHarness) -> None:
    queued, running = shard.submit(2)
    [body] = shard.lease(running)
    nothing = [m.TasksEnded([m.TaskEnd(queued, 0), m.TaskEnd(running, 0)])]
    assert shard.deliver(m.WatchTasks("acme", [running], 60_000), request=9) == []
    assert shard.deliver(m.WatchTasks("other", [queued, running], 60_000), request=10) == nothing
    shard.report(body, result=b"secret")
    [_, answer] = shard.messages(m.TasksEnded)
    assert answer == m.TasksEnded([m.TaskEnd(running, 10, 1, b"secret")])
    ended = m.TasksEnded([m.TaskEnd(running, 0)])
    assert shard.deliver(m.WatchTasks("other", [running], 60_000), request=11) == [ended]


def test_a_watch_that_finds_nothing_does_not_end_that_of_another(shard: ShardHarness) -> None:
    [task] = shard.submit()
    shard.report(shard.lease(task)[0], result=b"r")
    shard.hold_reads = True
    assert shard.deliver(m.WatchTasks("other", [task], 60_000), request=9) == []
    assert shard.deliver(m.WatchTasks("acme", [task], 60_000), request=10) == []
    shard.hold_reads = False
    shard.answer_reads()
    assert [answer.ended[0].state for answer in shard.messages(m.TasksEnded)] == [0, 10]


def test_watching_gives_up_when_told(shard: ShardHarness) -> None:
    [task] = shard.submit()
    shard.deliver(m.WatchTasks("acme", [task, 77], 1_000), request=9)
    shard.advance_ms(1_000)
    assert shard.messages(m.TasksEnded) == [m.TasksEnded([m.TaskEnd(77, 0)])]


def test_a_task_that_ends_while_others_are_looked_up_is_found_all_the_same(shard: ShardHarness) -> None:
    stored, running = shard.submit(2)
    shard.report(shard.lease(stored)[0])
    [body] = shard.lease(running)
    shard.hold_reads = True
    assert shard.deliver(m.CancelTasks("acme", [stored, running])) == []
    shard.report(body)
    shard.hold_reads = False
    shard.answer_reads()
    assert shard.messages(m.TasksAnswered)[-1].outcomes == ["ended", "ended"]


def test_purging_keeps_the_ledger_balanced(shard: ShardHarness) -> None:
    [dead] = shard.submit(max_attempts=1)
    [alive] = shard.submit()
    shard.fail(shard.lease(dead)[0])
    assert shard.purge(dead, alive, 5) == ["purged", "alive", "not_found"]
    assert shard.row(dead, "state") is None
    shard.assert_balanced()


def test_ids_are_not_used_again_when_the_clock_is_set_back(shard: ShardHarness) -> None:
    ids = shard.submit(5)
    shard.reopen()
    shard.now_ms = START_MS - 3_600_000
    assert min(shard.submit(5)) > max(ids)


def test_a_page_that_was_read_before_a_cancel_does_not_bring_the_task_back() -> None:
    shard = ShardHarness(ShardConfig(shards=1, backlog=BacklogConfig(lane_window=4, lane_page=4)))
    ids = shard.submit(12)
    shard.hold_reads = True
    for body in shard.lease(*ids[:3]):
        shard.report(body)
    assert [type(answer).__name__ for answer in shard.held] == ["LaneRead"]
    stored = ids[5]
    shard.deliver(m.CancelTasks("acme", [stored]))
    page, row = shard.held
    shard.held = [row, page]
    shard.hold_reads = False
    shard.answer_reads()
    assert shard.state_of(stored) == "cancelled"
    assert stored not in shard.offered()


def test_a_task_that_was_deleted_while_it_was_looked_up_is_not_brought_back(shard: ShardHarness) -> None:
    [dead] = shard.submit(max_attempts=1)
    shard.fail(shard.lease(dead)[0])
    shard.hold_reads = True
    shard.deliver(m.RetryTasks("acme", [dead]))
    shard.connection.execute("delete from tasks where id = ?", (dead,))  # by retention, which asks no shard
    shard.hold_reads = False

    with pytest.raises(sqlite3.Error, match="a task to be revived was deleted") as raised:
        shard.answer_reads()

    assert isinstance(refused(raised.value, "foliot.db"), OutdatedError)
    assert shard.messages(m.TasksAnswered) == []


# -- what may be lost ----------------------------------------------------------------------------------------------------


def told(shard: ShardHarness, kind: type[Any]) -> list[Any]:
    """Return the messages of a type since the last call."""
    messages = shard.messages(kind)
    shard.sent = [envelope for envelope in shard.sent if not isinstance(envelope.message, kind)]
    return messages


def test_a_lease_missing_from_one_heartbeat_alone_is_not_taken_for_lost(shard: ShardHarness) -> None:
    [task] = shard.submit()
    shard.lease(task)
    shard.now_ms += 25_000  # no heartbeat came, or the clock was set forward while the body is under way
    shard.deliver(m.HeldLeases("s1", [], []), request=0)
    assert shard.state_of(task) == "running"
    shard.deliver(m.HeldLeases("s1", [task], [1]), request=0)
    shard.deliver(m.HeldLeases("s1", [], []), request=0)
    assert shard.state_of(task) == "running"
    shard.deliver(m.HeldLeases("s1", [], []), request=0)
    assert shard.state_of(task) == "queued"


def test_a_body_that_its_worker_does_not_have_is_sent_again(shard: ShardHarness) -> None:
    lost, held, stopping = shard.submit(3)
    shard.lease(lost, held, stopping)
    shard.deliver(m.CancelTasks("acme", [stopping]))
    [before] = told(shard, m.RunTasks)
    shard.advance_ms(900)
    shard.deliver(m.HeldLeases("s1", [held], [1]), request=0)
    assert told(shard, m.RunTasks) == []  # it is on its way
    shard.advance_ms(200)
    shard.deliver(m.HeldLeases("s1", [held], [1]), request=0)
    [again] = told(shard, m.RunTasks)
    assert again.bodies == [body for body in before.bodies if body.id == lost]
    assert shard.state_of(lost) == "running"


def test_a_lease_is_not_taken_for_lost_while_its_body_may_be_under_way(shard: ShardHarness) -> None:
    [task] = shard.submit()
    shard.lease(task)
    for _ in range(3):
        shard.advance_ms(6_000)
        shard.deliver(m.HeldLeases("s1", [], []), request=0)
        assert shard.state_of(task) == "running"
    shard.advance_ms(6_000)
    shard.deliver(m.HeldLeases("s1", [], []), request=0)
    assert shard.state_of(task) == "queued"


def test_a_lease_of_a_node_whose_clock_was_ahead_is_found_lost_all_the_same(shard: ShardHarness) -> None:
    [task] = shard.submit()
    shard.now_ms += 3_600_000
    shard.lease(task)
    shard.now_ms -= 3_600_000
    shard.reopen()
    for _ in range(2):
        assert shard.state_of(task) == "running"
        shard.advance_ms(21_000)
        shard.deliver(m.HeldLeases("s1", [], []), request=0)
    assert shard.state_of(task) == "queued"


def test_answers_that_rest_on_memory_alone_are_committed(shard: ShardHarness) -> None:
    shard.submit(dedupe_key="k")
    shard.submit(request_id="r")
    repeated: tuple[dict[str, Any], ...] = (
        {"dedupe_key": "k"}, {"dedupe_key": "k", "on_conflict": "reject"}, {"request_id": "r"}
    )  # fmt: skip
    for again in repeated:
        before = shard.commits
        shard.submit(**again)
        assert shard.commits == before + 1, again


def test_settings_are_told_again_until_the_queue_and_the_other_shards_answer() -> None:
    shard = ShardHarness(ShardConfig(shards=2))
    name = next(name for name in ("a", "b", "c", "d") if slot_of(f"queue.default.{name}", 2) == 0)
    queue, config = f"queue.default.{name}", m.QueueConfig("default", name, max_waiting=7)
    shard.deliver(m.ConfigureQueue(config))
    setting = m.ConfigureQueue(config, 1, 1)
    first = [(e.to, e.message) for e in shard.sent if isinstance(e.message, m.ConfigureQueue)]
    assert first == [(queue, setting), ("shard.1", setting)]
    shard.sent.clear()
    shard.deliver(m.QueueConfigured(config, 1), sender=queue, request=0)
    shard.advance_ms(10_000)
    assert [(e.to, e.message) for e in shard.sent] == [("shard.1", setting)]
    shard.deliver(m.QueueConfigured(config, 0), sender="shard.1", request=0)  # an earlier one
    shard.advance_ms(10_000)
    assert len(shard.sent) == 2
    shard.deliver(m.QueueConfigured(config, 1), sender="shard.1", request=0)
    shard.advance_ms(60_000)
    assert len(shard.sent) == 2
    assert shard.actor.due_ms() is None


def test_a_shard_takes_the_newest_settings_of_a_queue_from_its_home_and_answers() -> None:
    shard = ShardHarness(ShardConfig(shards=2))
    name = next(name for name in ("a", "b", "c", "d") if slot_of(f"queue.default.{name}", 2) == 1)
    for epoch, number, most in ((2, 2, 2), (2, 1, 0), (1, 5, 0)):
        config = m.QueueConfig("default", name, max_waiting=most)
        answers = shard.deliver(m.ConfigureQueue(config, epoch, number), sender="shard.1", request=0)
        assert answers == []
        assert [(e.to, e.message) for e in shard.sent[-1:]] == [("shard.1", m.QueueConfigured(config, number))]
    spec, template = m.TaskSpec(0, b""), m.Template("h", queue=name)
    [refusal] = shard.deliver(m.SubmitTasks("acme", [template], [spec] * 2))
    assert isinstance(refusal, Refusal)


def test_usage_is_told_again_once_and_at_once_to_a_tenant_that_moved() -> None:
    shard = ShardHarness(ShardConfig(shards=2))
    shard.submit()
    shard.advance_ms(1_000)
    assert told(shard, m.ReportUsage) == [m.ReportUsage(0, 1, 0, 1, 1)]
    shard.advance_ms(30_000)
    assert told(shard, m.ReportUsage) == [m.ReportUsage(0, 1, 0, 1, 2)]
    slot = slot_of("tenant.acme", 2)
    shard.deliver(SlotClaimed(1 - slot, "b"), request=0)
    assert told(shard, m.ReportUsage) == []
    shard.deliver(SlotClaimed(slot, "b"), request=0)
    assert told(shard, m.ReportUsage) == [m.ReportUsage(0, 1, 0, 1, 3, True, [QUEUE])]


def test_a_shard_shows_its_number_to_a_queue_while_anything_is_going_on_there(shard: ShardHarness) -> None:
    [task] = shard.submit()
    assert [offer.number for offer in told(shard, m.OfferTasks)] == [1]
    shard.advance_ms(30_000)
    assert told(shard, m.OfferTasks) == [m.OfferTasks(0, [], epoch=1, number=number) for number in (2, 3, 4)]
    shard.report(shard.lease(task)[0])
    shard.advance_ms(120_000)
    shown = told(shard, m.OfferTasks)
    assert [(offer.lots, offer.number) for offer in shown] == [([], 6)]  # 5 was the release
    assert shard.actor.due_ms() is None


def test_a_caller_that_waits_is_answered_in_time_though_the_clock_is_set_back(shard: ShardHarness) -> None:
    [task] = shard.submit()
    assert shard.deliver(m.WatchTasks("acme", [task], 5_000), sender="reply.a") == []
    shard.now_ms -= 3_600_000
    shard.deliver(m.ReadLedger())
    shard.advance_ms(5_000)
    assert shard.messages(m.TasksEnded) == [m.TasksEnded([])]


def test_what_a_queue_is_told_in_full_is_one_message_and_in_order(shard: ShardHarness) -> None:
    later, sooner = shard.submit(delay_ms=2_000)[0], shard.submit(delay_ms=1_000)[0]
    shard.advance_ms(2_000)
    shard.sent.clear()
    submit = m.SubmitTasks("acme", [m.Template("app.noop")], [m.TaskSpec(0, b"p")])
    shard.deliver(submit, m.QueueStarted(QUEUE, 3, 70, 9))
    [offer] = shard.messages(m.OfferTasks)
    [lot] = offer.lots
    assert (offer.full, offer.owner, offer.granted) == (True, (3, 70), 9)
    assert lot.ids[:2] == [sooner, later]
    assert (len(lot.ids), lot.ready_ms) == (3, sorted(lot.ready_ms))


def test_what_was_interrupted_is_offered_again_in_the_order_it_became_ready() -> None:
    shard = ShardHarness()
    [first] = shard.submit()
    shard.advance_ms(1_000)
    [second] = shard.submit()
    shard.lease(second)
    shard.lease(first)
    shard.sent.clear()

    shard.deliver(m.SessionEnded("s1", "silent"), sender="worker.s1", request=0)

    [offer] = [message for message in shard.messages(m.OfferTasks) if message.lots]
    assert offer.lots[0].ids == [first, second]
    assert offer.lots[0].ready_ms == sorted(offer.lots[0].ready_ms)


def test_what_a_grant_of_the_same_turn_leases_is_not_released_by_an_earlier_question() -> None:
    shard = ShardHarness()
    one, two = shard.submit(2)
    shard.sent.clear()

    question = m.ConfirmLeases(QUEUE, [one, two], 0, 0, 0)
    shard.deliver(question, m.GrantLeases(QUEUE, "s1", [one], 0, 0, 1), sender=QUEUE, request=0)

    assert shard.state_of(one) == "running"
    assert [message.ids for message in shard.messages(m.ReleaseTasks)] == [[two]]
