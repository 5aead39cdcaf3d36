"""The worker: what it does with leases, how it stops them, and what it tells queues and shards."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any

import pytest
from foliot.actors.addresses import session_address, shard_address, worker_address
from foliot.actors.messages import (
    AppendLogs,
    Body,
    Heartbeat,
    Outcome,
    OutcomeKind,
    OutcomesTaken,
    ReportOutcomes,
    ReportProgress,
    RunTasks,
    SessionEnded,
    WorkerCredits,
    WorkerLeft,
)
from foliot.runtime.bus import Envelope, Refusal
from foliot.runtime.clock import SystemClock
from foliot.runtime.rng import Rng
from foliot.sdk.app import Foliot
from foliot.sdk.context import Context, Fatal, RetryLater
from foliot.sdk.options import InvalidOptionError, Retry
from foliot.sdk.worker import NoQueuesError, Worker, WorkerConfig

from .harness import TENANT, RecordingBus, WorkerHarness, working

app = Foliot("shop")
gates: dict[str, threading.Event] = {}


def gate(name: str) -> threading.Event:
    return gates.setdefault(name, threading.Event())


async def passed(name: str) -> None:
    while not gate(name).is_set():  # noqa: ASYNC110  (set from threads)
        await asyncio.sleep(0.002)


@pytest.fixture(autouse=True)
def _fresh_gates() -> Any:
    gates.clear()
    yield
    for event in gates.values():  # let abandoned threads go
        event.set()


@app.task
async def add(a: int, b: int = 1) -> int:
    return a + b


@app.task
async def nothing() -> None: ...


@app.task
def add_in_thread(a: int) -> int:
    assert threading.current_thread() is not threading.main_thread()
    return a + 1


@app.task(isolation="thread")
async def coroutine_in_thread(ctx: Context, a: int) -> int:
    assert threading.current_thread() is not threading.main_thread()
    await ctx.sleep(0)
    return a + 2


@app.task(result="discard")
async def discarded() -> int:
    return 3


@app.task
async def opaque() -> object:
    return object()


@app.task(retry=Retry(fatal=(KeyError,), retry_on=(LookupError, OSError)))
async def failing(what: str) -> None:
    raise {
        "lookup": LookupError("gone"),
        "key": KeyError("k"),
        "value": ValueError("bad"),
        "later": RetryLater("90s", "busy"),
        "fatal": Fatal("never"),
        "exit": SystemExit(3),
        "cancelled": asyncio.CancelledError(),
    }[what]


@app.task
def failing_in_thread() -> None:
    raise RuntimeError("x" * 100_000)


@app.task(timeout="60ms", cancel_grace="50ms")
async def sleepy(ctx: Context) -> None:
    await ctx.sleep(60)


@app.task(timeout="60ms", cancel_grace="50ms")
async def stubborn() -> str:
    for _ in range(50):
        try:
            await passed("stubborn")
            return "at last"
        except asyncio.CancelledError:
            continue
    return "tired"


@app.task(timeout="60ms", cancel_grace="50ms")
def stuck() -> None:
    gate("stuck begun").set()
    gate("stuck").wait()


@app.task(heartbeat_timeout="80ms", cancel_grace="50ms")
async def beating(ctx: Context, beats: int) -> int:
    for _ in range(beats):
        await ctx.sleep("20ms")
        ctx.heartbeat()
    await passed("beating")
    return beats


@app.task(cancel_grace="50ms")
async def waiting(name: str) -> str:
    gate(f"{name} begun").set()
    await passed(name)
    return name


@app.task(cancel_grace="60s")
def polite(ctx: Context) -> str:
    gate("polite begun").set()
    while not ctx.cancelled:
        time.sleep(0.002)
    return "cleaned up"


@app.task(cancel_grace="60s")
def polite_sleeper(ctx: Context) -> None:
    gate("polite begun").set()
    ctx.sleep("1h")


@app.task(cancel_grace="60s")
def deaf(name: str) -> str:
    gate(f"{name} begun").set()
    gate(name).wait()
    return name


@app.task
async def curious(ctx: Context) -> dict[str, Any]:
    left = ctx.time_left()
    return {
        "task_id": ctx.task_id, "attempt": ctx.attempt, "max": ctx.max_attempts, "handler": ctx.handler,
        "queue": ctx.queue, "tenant": ctx.tenant, "priority": ctx.priority, "token": ctx.attempt_token,
        "left": left is not None and 290 < left.total_seconds() <= 300, "deadline": ctx.deadline is not None,
        "checkpoint": ctx.checkpoint, "cancelled": ctx.cancelled,
    }  # fmt: skip


@app.task
async def talking(ctx: Context, count: int = 1) -> None:
    for number in range(count):
        print(f"line {number}")
    print("to stderr", file=sys.stderr)
    ctx.log.info("logged", order=5)


@app.task
def talking_in_thread(ctx: Context) -> None:
    print("from a thread")
    ctx.log.warning("careful")


@app.task
async def told(ctx: Context) -> None:
    ctx.progress(0.25, "a quarter")
    await asyncio.sleep(0)
    ctx.heartbeat({"row": 10})
    await passed("told")
    ctx.progress(1)


@app.task
def told_in_thread(ctx: Context) -> None:
    ctx.progress(0.5)
    ctx.heartbeat([1])


def kind_of(outcome: Outcome) -> OutcomeKind:
    return OutcomeKind(outcome.kind)


# -- how attempts end --------------------------------------------------------------------------------------------------


async def test_a_coroutine_runs_and_its_result_is_reported() -> None:
    async with working(app) as w:
        outcome = await w.outcome(body := w.lease(add, a=2))

    assert kind_of(outcome) is OutcomeKind.COMPLETED
    assert add.decode_result(outcome.result) == 3
    assert (outcome.id, outcome.attempt) == (body.id, 1)
    assert 0 < outcome.started_ms <= outcome.ended_ms
    assert w.worker.counts == {(TENANT, "default", 1): 1}


async def test_functions_run_in_threads() -> None:
    async with working(app) as w:
        first = await w.outcome(w.lease(add_in_thread, a=2))
        second = await w.outcome(w.lease(coroutine_in_thread, a=2))

    assert (add.decode_result(first.result), add.decode_result(second.result)) == (3, 4)


async def test_no_result_and_a_discarded_one_are_no_bytes() -> None:
    async with working(app) as w:
        assert (await w.outcome(w.lease(nothing))).result == b""
        assert (await w.outcome(w.lease(discarded))).result == b""


async def test_reports_go_to_the_shard_the_lease_came_from_in_one_batch() -> None:
    async with working(app, shards=2) as w:
        for shard in (0, 1):
            w.run([w.body(arguments={"a": number}) for number in range(100)], w.kind(add), shard=shard)
        await w.until(lambda: len(w.outcomes()) == 200)

    reports = [envelope for envelope in w.bus.sent if isinstance(envelope.message, ReportOutcomes)]
    assert [(report.to, len(report.message.outcomes)) for report in reports] == [("shard.0", 100), ("shard.1", 100)]
    assert all(report.request and report.sender == session_address("w1") for report in reports)


@pytest.mark.parametrize(
    ("what", "type_", "message", "fatal"),
    [
        ("lookup", "LookupError", "gone", False),
        ("key", "KeyError", "'k'", True),
        ("value", "ValueError", "bad", True),
        ("later", "RetryLater", "busy", False),
        ("fatal", "Fatal", "never", True),
        ("exit", "SystemExit", "3", True),
        ("cancelled", "CancelledError", "", True),
    ],
)
async def test_an_exception_is_a_failed_attempt(what: str, type_: str, message: str, fatal: bool) -> None:
    async with working(app) as w:
        outcome = await w.outcome(w.lease(failing, what=what))
        assert kind_of(await w.outcome(w.lease(add, a=1))) is OutcomeKind.COMPLETED  # the worker goes on

    assert kind_of(outcome) is OutcomeKind.FAILED
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.message) == (type_, message)
    assert (outcome.fatal, outcome.retry_after_ms) == (fatal, 90_000 if what == "later" else -1)
    if what == "lookup":
        assert "in failing\n    raise" in outcome.error.traceback
        assert "sdk/runner.py" not in outcome.error.traceback


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


@app.task
def unspeakable_in_thread() -> None:
    raise UnspeakableError


@app.task
async def unspeakable() -> None:
    raise UnspeakableError


@app.task
async def generator_exit() -> None:
    raise GeneratorExit


@pytest.mark.parametrize("handler", [unspeakable, unspeakable_in_thread, generator_exit])
async def test_whatever_is_raised_and_however_it_is_reported_and_its_slot_is_free_again(handler: Any) -> None:
    async with working(app) as w:
        assert kind_of(await w.outcome(w.lease(handler))) is OutcomeKind.FAILED
        assert w.worker._require().used == w.worker._require().threads.busy == 0


async def test_messages_and_tracebacks_are_bounded() -> None:
    async with working(app) as w:
        outcome = await w.outcome(w.lease(failing_in_thread))

    assert outcome.error is not None
    assert len(outcome.error.message) < 5_000
    assert len(outcome.error.traceback) < 17_000
    assert outcome.error.traceback.startswith("... (")


async def test_a_payload_that_does_not_fit_fails_for_good() -> None:
    async with working(app) as w:
        outcome = await w.outcome(w.lease(add, a="two"))

    assert outcome.error is not None
    assert outcome.error.type == "PayloadError"
    assert outcome.error.message == "payload of 'shop.add': field 'a' got str, expected int"
    assert outcome.fatal


async def test_a_result_that_cannot_be_encoded_fails_for_good() -> None:
    async with working(app) as w:
        outcome = await w.outcome(w.lease(opaque))

    assert outcome.error is not None
    assert outcome.error.message.startswith("result of 'shop.opaque' of type object cannot be encoded")
    assert outcome.fatal


async def test_an_unknown_handler_fails_but_another_worker_may_know_it() -> None:
    async with working(app) as w:
        outcome = await w.outcome(w.lease(add, changes={"handler": "shop.new"}, a=1))

    assert outcome.error is not None
    assert outcome.error.type == "UnknownTaskError"
    assert "handler 'shop.new' is unknown to this worker" in outcome.error.message
    assert not outcome.fatal


async def test_the_context_tells_what_the_attempt_is() -> None:
    async with working(app) as w:
        body = w.lease(curious, attempt=2, checkpoint=b"\x93\x01\x02\x03")
        found = curious.decode_result((await w.outcome(body)).result)

    assert found["token"] == f"{found['task_id']}-2"
    assert len(found.pop("task_id")) == 13
    assert len(found.pop("token")) == 15
    assert found == {
        "attempt": 2, "max": 3, "handler": "shop.curious", "queue": "default", "tenant": TENANT, "priority": 5,
        "left": True, "deadline": True, "checkpoint": [1, 2, 3], "cancelled": False,
    }  # fmt: skip


# -- the same lease twice ----------------------------------------------------------------------------------------------


async def test_a_lease_that_comes_twice_runs_once() -> None:
    async with working(app) as w:
        body, kind = w.body(arguments={"a": 1}), w.kind(add)
        w.run([body, body], kind)
        await w.outcome(body)
        w.run([body], kind)
        await w.outcome(w.lease(add, a=2))

    assert [outcome.id for outcome in w.outcomes()].count(body.id) == 1


async def test_a_newer_attempt_replaces_an_older_one_whose_lease_must_be_void() -> None:
    async with working(app) as w:
        old = w.lease(waiting, name="old")
        await passed("old begun")
        new = w.lease(add, task_id=old.id, attempt=2, a=1)
        await w.outcome(new)
        await w.until(lambda: w.credit() == 256)

    assert [(outcome.id, outcome.attempt) for outcome in w.outcomes()] == [(old.id, 2)]


# -- timeouts and cancellation -----------------------------------------------------------------------------------------


async def test_a_coroutine_out_of_time_is_cancelled() -> None:
    async with working(app) as w:
        outcome = await w.outcome(w.lease(sleepy))

    assert kind_of(outcome) is OutcomeKind.TIMED_OUT
    assert outcome.error is not None
    assert outcome.error.message == "the attempt ran longer than its timeout of 60 ms"
    assert outcome.ended_ms - outcome.started_ms >= 60
    assert not outcome.killed


async def test_a_coroutine_that_refuses_to_stop_is_abandoned_and_keeps_its_slot() -> None:
    async with working(app, concurrency=2) as w:
        outcome = await w.outcome(w.lease(stubborn))
        assert kind_of(outcome) is OutcomeKind.TIMED_OUT
        assert outcome.killed
        await w.outcome(w.lease(add, a=1))
        await w.until(lambda: w.credits()[-1] == WorkerCredits("w1", {}, 1, 2))
        gate("stubborn").set()
        await w.until(lambda: w.credits()[-1] == WorkerCredits("w1", {}, 2, 2))

    assert len(w.outcomes()) == 2


async def test_attempts_whose_kind_of_task_was_forgotten_meanwhile_are_counted() -> None:
    async with working(app, config=WorkerConfig(routes_max=1)) as w:
        body = w.lease(stubborn)
        await w.outcome(w.lease(add, a=1))
        gate("stubborn").set()
        await w.outcome(body)

    assert w.worker.counts == {(TENANT, "default", 1): 2}


async def test_a_thread_out_of_time_is_reported_and_keeps_its_place_until_it_is_over() -> None:
    async with working(app, threads=1, config=WorkerConfig(threads=1, hold_ms=60_000)) as w:
        outcome = await w.outcome(w.lease(stuck))
        assert kind_of(outcome) is OutcomeKind.TIMED_OUT
        follower = w.lease(add_in_thread, a=1)
        await w.outcome(w.lease(add, a=1))
        assert follower.id not in [outcome.id for outcome in w.outcomes()]  # the only thread is still taken
        gate("stuck").set()
        assert kind_of(await w.outcome(follower)) is OutcomeKind.COMPLETED

    assert w.worker.counts == {(TENANT, "default", 1): 2, (TENANT, "default", 3): 1}


async def test_the_total_timeout_of_the_task_ends_an_attempt_as_well() -> None:
    async with working(app) as w:
        deadline_ms = SystemClock().now_ms() + 50
        outcome = await w.outcome(w.lease(waiting, deadline_ms=deadline_ms, name="x"))

    assert kind_of(outcome) is OutcomeKind.TIMED_OUT
    assert outcome.ended_ms >= deadline_ms


async def test_a_handler_without_signs_of_life_is_stopped_and_one_with_them_is_not() -> None:
    async with working(app) as w:
        silent = await w.outcome(w.lease(beating, beats=0))
        lively = w.lease(beating, beats=15)
        outcome = await w.outcome(lively)  # 300 ms of beats, then silence

    assert silent.error is not None
    assert silent.error.message == "the handler gave no sign of life for 80 ms"
    assert kind_of(outcome) is OutcomeKind.TIMED_OUT
    assert outcome.ended_ms - outcome.started_ms >= 15 * 20 + 80


async def test_a_running_coroutine_is_cancelled() -> None:
    async with working(app) as w:
        body = w.lease(waiting, name="x")
        await passed("x begun")
        w.cancel(body)
        outcome = await w.outcome(body)

    assert kind_of(outcome) is OutcomeKind.CANCELLED
    assert not outcome.killed


async def test_a_coroutine_cancelled_before_its_first_step_is_reported_too() -> None:
    async with working(app) as w:
        body = w.lease(waiting, name="x")
        w.cancel(body)
        outcome = await w.outcome(body)
        await w.until(lambda: w.credit() == 256)

    assert kind_of(outcome) is OutcomeKind.CANCELLED
    assert not gate("x begun").is_set()


@pytest.mark.parametrize("handler", [polite, polite_sleeper])
async def test_a_thread_that_looks_is_cancelled_cooperatively(handler: Any) -> None:
    async with working(app) as w:
        body = w.lease(handler)
        await passed("polite begun")
        w.cancel(body)
        outcome = await w.outcome(body)

    assert kind_of(outcome) is OutcomeKind.CANCELLED
    assert not outcome.killed


async def test_a_coroutine_in_a_thread_is_cancelled() -> None:
    async with working(app) as w:
        body = w.lease(in_own_loop)
        await passed("loop begun")
        w.cancel(body)
        outcome = await w.outcome(body)

    assert kind_of(outcome) is OutcomeKind.CANCELLED


@app.task(isolation="thread", cancel_grace="60s")
async def in_own_loop() -> None:
    gate("loop begun").set()
    await asyncio.sleep(3_600)


async def test_a_thread_that_never_looked_and_finished_is_completed() -> None:
    async with working(app) as w:
        body = w.lease(deaf, name="x")
        await passed("x begun")
        w.cancel(body)
        gate("x").set()
        outcome = await w.outcome(body)

    assert kind_of(outcome) is OutcomeKind.COMPLETED


async def test_a_thread_that_does_not_stop_is_abandoned_after_the_grace() -> None:
    async with working(app) as w:
        body = w.lease(deaf, changes={"cancel_grace_ms": 50}, name="x")
        await passed("x begun")
        w.cancel(body)
        outcome = await w.outcome(body)

    assert kind_of(outcome) is OutcomeKind.CANCELLED
    assert outcome.killed


async def test_a_void_lease_is_stopped_without_a_report() -> None:
    async with working(app) as w:
        body = w.lease(waiting, name="x")
        await passed("x begun")
        w.cancel(body, "lease_lost")
        await w.until(lambda: w.credit() == 256 and len(w.credits()) > 1)
        await w.outcome(w.lease(add, a=1))

    assert body.id not in [outcome.id for outcome in w.outcomes()]


async def test_a_cancellation_of_another_attempt_is_not_meant() -> None:
    async with working(app) as w:
        body = w.lease(waiting, attempt=2, name="x")
        await passed("x begun")
        w.cancel(Body(body.id, 1, 0, b""))
        gate("x").set()
        assert kind_of(await w.outcome(body)) is OutcomeKind.COMPLETED


# -- credits -----------------------------------------------------------------------------------------------------------


async def test_credits_follow_the_free_slots_and_what_was_seen() -> None:
    async with working(app, concurrency=10) as w:
        assert w.credits()[0] == WorkerCredits("w1", {}, 10, 0, True)
        w.run([w.body(arguments={"name": "x"}) for _ in range(3)], w.kind(waiting, cost=2))
        await passed("x begun")
        last = w.lease(add, a=1)
        await w.outcome(last)
        await w.until(lambda: w.credits()[-1] == WorkerCredits("w1", {}, 4, 7))
        gate("x").set()
        await w.until(lambda: w.credits()[-1] == WorkerCredits("w1", {}, 10, 7))


async def test_more_than_fits_waits_a_little_and_the_rest_is_handed_back() -> None:
    async with working(app, concurrency=4) as w:
        bodies = [w.body(arguments={"name": "x"}) for _ in range(8)]
        w.run(bodies, w.kind(waiting))
        returned = [await w.outcome(body) for body in bodies[6:]]
        gate("x").set()
        kept = [await w.outcome(body) for body in bodies[:6]]

    assert {kind_of(outcome) for outcome in returned} == {OutcomeKind.RETURNED}
    assert {outcome.started_ms for outcome in returned} == {0}
    assert {kind_of(outcome) for outcome in kept} == {OutcomeKind.COMPLETED}


async def test_a_lease_that_cannot_start_in_time_is_handed_back() -> None:
    async with working(app, config=WorkerConfig(concurrency=1, hold_ms=50)) as w:
        w.lease(waiting, name="x")
        late = w.lease(add, a=1)
        outcome = await w.outcome(late)

    assert kind_of(outcome) is OutcomeKind.RETURNED


async def test_a_queue_that_is_busy_gets_the_credit_of_one_that_is_not() -> None:
    async with working(app, queues=[("default", "a"), ("default", "b")], concurrency=64) as w:
        assert (w.credit("a"), w.credit("b")) == (32, 32)
        w.lease(add, changes={"queue": "b"}, a=1)
        await w.until(lambda: (w.credit("a"), w.credit("b")) == (4, 60))
        await w.until(lambda: (w.credit("a"), w.credit("b")) == (32, 32))  # idle again


async def test_with_fewer_slots_than_queues_each_is_asked() -> None:
    queues = [("default", name) for name in "abc"]
    async with working(app, queues=queues, concurrency=1) as w:
        await w.until(lambda: all(any(credit.free for credit in w.credits(name)) for name in "abc"))
        free = 0
        for envelope in w.bus.sent:
            if isinstance(envelope.message, WorkerCredits):
                free = max(free, envelope.message.free)
        assert free == 1


async def test_no_more_work_is_asked_for_while_too_many_outcomes_are_unanswered() -> None:
    async with working(app, config=WorkerConfig(concurrency=8, unanswered_max=4)) as w:
        w.bus.silent = True
        w.run([w.body(arguments={"a": 1}) for _ in range(5)], w.kind(add))
        await w.until(lambda: w.credit() == 0)
        for envelope in [envelope for envelope in w.bus.sent if isinstance(envelope.message, ReportOutcomes)]:
            w.bus.answer(envelope, OutcomesTaken())
        await w.until(lambda: w.credit() == 8)


async def test_a_queue_of_threads_only_is_not_asked_for_more_than_there_are() -> None:
    threads = Foliot("threads")
    threads.task(queue="t")(slow_thread)
    handler = threads.handler("threads.slow_thread")
    async with working(threads, threads=2) as w:
        assert w.credit("t") == 4  # short so far: as many again are held ready
        first = [w.lease(handler) for _ in range(2)]
        gate("slow").set()
        for body in first:
            await w.outcome(body)
        # They turned out to be long, so from now on no more than there are threads: 2 that came and 2 more.
        assert max(credit.free + credit.seen for credit in w.credits("t")) == 4


def slow_thread() -> None:
    gate("slow").wait()
    time.sleep(0.3)


# -- reports -----------------------------------------------------------------------------------------------------------


async def test_a_report_is_repeated_until_it_is_answered() -> None:
    async with working(app) as w:
        w.bus.silent = True
        w.lease(add, a=1)
        await w.until(lambda: len(w.bus.all(ReportOutcomes)) == 1)
        first = next(envelope for envelope in w.bus.sent if isinstance(envelope.message, ReportOutcomes))
        w.bus.answer(first, Refusal("no_such_actor", "nobody there"))
        await w.until(lambda: len(w.bus.all(ReportOutcomes)) == 2)
        again = [envelope for envelope in w.bus.sent if isinstance(envelope.message, ReportOutcomes)][1]
        assert again == first
        w.bus.silent = False
        w.bus.answer(first, OutcomesTaken())


# -- signs of life -----------------------------------------------------------------------------------------------------


async def test_a_session_is_registered_before_it_asks_for_work() -> None:
    async with working(app, labels={"gpu": "true"}) as w:
        first, second = w.bus.sent[:2]
        assert first.to == worker_address("w1")
        assert isinstance(first.message, Heartbeat)
        assert first.message.labels == {"gpu": "true"}
        assert first.message.queues == ["queue.default.default"]
        assert (first.message.slots, first.message.interval_ms) == (256, 10_000)
        assert second.message == WorkerCredits("w1", {"gpu": "true"}, 256, 0, True)


async def test_each_heartbeat_says_what_is_held_and_refreshes_the_credits() -> None:
    async with working(app, heartbeat_interval_ms=50) as w:
        running = w.lease(waiting, shard=1, name="x")
        w.bus.silent = True
        unanswered = w.lease(add, shard=0, a=1)
        await w.outcome(unanswered)
        before = len(w.bus.sent)
        await w.until(lambda: len(w.bus.all(Heartbeat)) >= 3)
        after = w.bus.sent[before:]
        held = {(e.to, *e.message.ids, *e.message.attempts) for e in after if e.message in w.held()}
        assert held == {(shard_address(1), running.id, 1), (shard_address(0), unanswered.id, 1)}
        assert any(isinstance(e.message, WorkerCredits) and e.message.refresh for e in after)
        assert w.heartbeats()[-1].running == 1
        assert w.heartbeats()[-1].done == 1

        w.bus.silent = False
        gate("x").set()
        await w.outcome(running)
        await w.until(lambda: any(held.ids == [] for held in w.held()))  # said for a while, so that a lost lease is found
        for envelope in [e for e in w.bus.sent if isinstance(e.message, ReportOutcomes)]:
            w.bus.answer(envelope, OutcomesTaken())
        await w.until(lambda: len(w.heartbeats()) > 8)
        count = len(w.held())
        await w.until(lambda: len(w.heartbeats()) > 12)
        assert len(w.held()) == count


async def test_heartbeats_leave_their_thread_while_a_handler_blocks_the_loop() -> None:
    heard: list[Heartbeat] = []

    class Direct:
        def send(self, heartbeat: Heartbeat) -> None:
            heard.append(heartbeat)

    blocking = Foliot("blocking")
    blocked: list[int] = []

    async def block() -> None:
        before = len(heard)
        for _ in range(3_000):
            if len(heard) >= before + 3:
                break
            time.sleep(0.01)  # noqa: ASYNC251  (the loop is blocked on purpose)
        blocked.append(len(heard) - before)

    handler = blocking.task(block)
    async with working(blocking, heartbeat_interval_ms=20, heartbeats=Direct()) as w:
        await w.outcome(w.lease(handler))

    assert blocked == [3]
    assert heard[-1].session == "w1"


async def test_an_ended_session_drops_everything_and_begins_anew() -> None:
    async with working(app) as w:
        running = w.lease(waiting, name="x")
        await passed("x begun")
        w.bus.silent = True
        w.lease(add, a=1)
        await w.until(lambda: len(w.outcomes()) == 1)
        w.send(SessionEnded("w1", "silent"))
        w.bus.silent = False

        assert w.session == "w1-2"
        assert w.bus.bound() == ["slots", session_address("w1-2")]
        assert w.heartbeats()[-1].session == "w1-2"
        await w.until(lambda: w.credits()[-1].free == 256)
        assert w.credits()[-1].seen == 0
        await w.outcome(w.lease(add, a=2))

    assert running.id not in [outcome.id for outcome in w.outcomes()]
    assert [report.session for report in w.bus.all(ReportOutcomes)] == ["w1", "w1-2"]


# -- output and progress -----------------------------------------------------------------------------------------------


async def test_output_arrives_before_the_outcome() -> None:
    async with working(app) as w:
        first, second = w.lease(talking, count=2), w.lease(talking_in_thread)
        await w.outcome(first)
        await w.outcome(second)
        stdout = sys.stdout

    assert w.output(first).startswith("line 0\nline 1\nto stderr\n")
    assert w.output(first).endswith(" info     logged order=5\n")
    assert "from a thread\n" in w.output(second)
    assert w.output(second).endswith(" warning  careful\n")
    for body in (first, second):
        order = [
            type(envelope.message).__name__
            for envelope in w.bus.sent
            if isinstance(envelope.message, AppendLogs | ReportOutcomes) and f"id={body.id}" in repr(envelope.message)
        ]
        assert order[0] == "AppendLogs"
        assert order[-1] == "ReportOutcomes"
    assert sys.stdout is not stdout  # routed only while the worker ran


async def test_output_of_a_running_attempt_is_sent_before_it_ends() -> None:
    async with working(app, config=WorkerConfig(output_interval_ms=30)) as w:
        body = w.lease(printing)
        await w.until(lambda: w.output(body) == "begun\n")
        gate("printing").set()
        await w.outcome(body)
        assert w.output(body) == "begun\nover\n"


@app.task
async def printing() -> None:
    print("begun")
    await passed("printing")
    print("over")


async def test_a_flood_of_output_is_bounded() -> None:
    async with working(app) as w:
        body = w.lease(talking, count=50_000)
        await w.outcome(body)

    assert len(w.output(body)) < (256 << 10) + 100
    assert w.output(body).endswith("\n[output left out: an attempt keeps at most 256 KiB]\n")
    assert max(len(chunk.text) for message in w.bus.all(AppendLogs) for chunk in message.chunks) <= 64 << 10


async def test_progress_is_sent_while_it_runs_and_repeated_with_the_outcome() -> None:
    async with working(app, config=WorkerConfig(progress_interval_ms=20)) as w:
        body = w.lease(told)
        await w.until(lambda: w.progress(body))
        sent = w.progress(body)[-1]
        assert (sent.permille, sent.note, sent.checkpoint) == (250, "a quarter", b"\x81\xa3row\x0a")
        gate("told").set()
        await w.outcome(body)
        last = w.progress(body)[-1]
        assert (last.permille, last.checkpoint) == (1_000, b"\x81\xa3row\x0a")
        in_thread = w.lease(told_in_thread)
        await w.outcome(in_thread)
        last = w.progress(in_thread)[-1]
        assert (last.permille, last.checkpoint) == (500, b"\x91\x01")

    kinds = [type(envelope.message) for envelope in w.bus.sent]
    assert kinds.index(ReportProgress) < kinds.index(ReportOutcomes)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
async def test_absurd_progress_is_the_handlers_error(fraction: float) -> None:
    async with working(app) as w:
        outcome = await w.outcome(w.lease(absurd, fraction=fraction))

    assert outcome.error is not None
    assert outcome.error.type == "ProgressError"
    assert "expected a fraction from 0 to 1" in outcome.error.message


@app.task
async def absurd(ctx: Context, fraction: float) -> None:
    ctx.progress(fraction)


@app.task
async def mumbling(ctx: Context) -> None:
    ctx.progress(0.5, "odd \udcff name")


async def test_a_note_that_is_no_unicode_is_told_in_a_form_that_is() -> None:
    async with working(app) as w:
        body = w.lease(mumbling)
        await w.outcome(body)
        assert w.progress(body)[-1].note == "odd \\udcff name"


# -- leaving -----------------------------------------------------------------------------------------------------------


async def drained(w: WorkerHarness, grace_ms: int) -> None:
    async with asyncio.timeout(30):
        await w.worker.drain(grace_ms)


async def test_a_drain_finishes_what_runs_hands_back_what_waits_and_says_goodbye() -> None:
    async with working(app, config=WorkerConfig(threads=1)) as w:
        running, thread = w.lease(waiting, name="x"), w.lease(deaf, name="y")
        not_started = w.lease(add_in_thread, a=1)
        await passed("x begun")
        await passed("y begun")
        drain = asyncio.create_task(drained(w, 60_000))
        assert kind_of(await w.outcome(not_started)) is OutcomeKind.RETURNED
        assert w.credit() == 0
        assert w.heartbeats()[-1].draining
        late = w.lease(add, a=1)
        assert kind_of(await w.outcome(late)) is OutcomeKind.RETURNED
        gate("x").set()
        gate("y").set()
        await drain

        assert kind_of(await w.outcome(running)) is OutcomeKind.COMPLETED
        assert kind_of(await w.outcome(thread)) is OutcomeKind.COMPLETED
        assert w.left() == [WorkerLeft("w1")]
        assert isinstance(w.bus.sent[-1].message, WorkerLeft)


async def test_a_drain_interrupts_what_does_not_finish_within_the_grace() -> None:
    async with working(app, config=WorkerConfig(stop_grace_ms=50)) as w:
        bodies = [w.lease(waiting, name="x"), w.lease(polite), w.lease(deaf, name="y")]
        for name in ("x begun", "polite begun", "y begun"):
            await passed(name)
        await drained(w, 20)
        outcomes = [await w.outcome(body) for body in bodies]

    assert [kind_of(outcome) for outcome in outcomes] == [OutcomeKind.INTERRUPTED] * 3
    assert [outcome.killed for outcome in outcomes] == [False, False, True]


async def test_a_worker_whose_run_is_cancelled_interrupts_and_leaves() -> None:
    async with working(app) as w:
        body = w.lease(waiting, name="x")
        await passed("x begun")

    assert kind_of(await w.outcome(body)) is OutcomeKind.INTERRUPTED
    assert w.left() == [WorkerLeft("w1")]
    assert w.bus.bound() == []


async def test_a_drain_does_not_wait_for_ever_for_a_shard_that_is_gone() -> None:
    async with working(app, config=WorkerConfig(report_grace_ms=50)) as w:
        w.bus.silent = True
        await w.outcome(w.lease(add, a=1))
        await drained(w, 1_000)

    assert w.left() == [WorkerLeft("w1")]


async def test_threads_end_with_their_worker() -> None:
    before = threading.active_count()
    async with working(app) as w:
        await w.outcome(w.lease(add_in_thread, a=1))
        assert threading.active_count() > before
    async with asyncio.timeout(30):
        while threading.active_count() > before:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_a_worker_without_queues_or_with_wrong_options_is_refused() -> None:
    empty = Foliot("empty")
    ports: dict[str, Any] = {"bus": RecordingBus(), "clock": SystemClock(), "rng": Rng(1)}
    with pytest.raises(NoQueuesError, match="apps empty have no handlers, expected at least one"):
        Worker(empty, **ports)
    with pytest.raises(InvalidOptionError, match="option 'concurrency' of 'worker' is 0"):
        Worker(app, concurrency=0, **ports)
    with pytest.raises(InvalidOptionError, match=r"option 'apps' of 'worker' is 'shop.add'"):
        Worker([app, app], **ports)


async def test_a_message_for_nobody_does_not_disturb_the_worker() -> None:
    async with working(app) as w:
        w.send(WorkerLeft("other"))
        w.bus.put(Envelope(session_address("w1"), OutcomesTaken(), "shard.0", 999))
        w.send(RunTasks(0, [], []))
        assert kind_of(await w.outcome(w.lease(add, a=1))) is OutcomeKind.COMPLETED
