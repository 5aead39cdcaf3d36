"""The worker actor: alive, draining, silent, gone; who is told, and who is not blamed."""

from __future__ import annotations

from typing import Any

import pytest
from foliot.actors import messages as m
from foliot.actors.worker import DEAD_AFTER_MS, REMEMBERED_MS, WorkerActor
from foliot.runtime.actor import Turn
from foliot.runtime.bus import Refusal
from foliot.runtime.rng import Rng
from hypothesis import given
from hypothesis import strategies as st

START_MS = 1_700_000_000_000


class WorkerHarness:
    """One worker actor; time moves only when told. `notes`: it may take heartbeats without a turn, as a cell lets it; then
    `noted` counts them. `mono_ms`: the clock that never steps, none if negative."""

    def __init__(self, *, notes: bool = False, mono_ms: int = -1) -> None:
        self.now_ms = START_MS
        self.mono_ms = mono_ms
        self.notes = notes
        self.noted = 0
        self.actor = WorkerActor("s1")
        self.sent: list[tuple[str, Any]] = []
        self._turn(lambda turn: self.actor.started(turn))

    def send(self, message: Any, *, request: int = 0) -> None:
        def handle(turn: Turn) -> None:
            turn.sender, turn.request = "client.1", request
            self.actor.handle(message, turn)

        if self.notes and not request and self.actor.note(message, self.now_ms, self.mono_ms):
            self.noted += 1
        else:
            self._turn(handle)

    def ask(self, message: Any) -> Any:
        self.send(message, request=3)
        return self.sent.pop()[1]

    def beat(self, **fields: Any) -> None:
        beat: dict[str, Any] = {
            "session": "s1", "worker": "ada", "pid": 7, "host": "h", "labels": {}, "queues": ["queue.p.mail"],
            "slots": 8, "running": 0, "done": 0, "interval_ms": 10_000, "started_ms": START_MS,
        }  # fmt: skip
        self.send(m.Heartbeat(**(beat | fields)))

    def advance_ms(self, span_ms: int, *, stalled: bool = False) -> None:
        """Let time pass; timers run when they are due, or only at the end if the node stands still."""
        until_ms = self.now_ms + span_ms
        while not stalled and (due := self.actor.due_ms()) is not None and due <= until_ms:
            self._set_ms(max(due, self.now_ms))
            self._turn(self.actor.on_time)
        self._set_ms(until_ms)
        due = self.actor.due_ms()
        if due is not None and due <= until_ms:
            self._turn(self.actor.on_time)

    def _set_ms(self, now_ms: int) -> None:
        self.mono_ms += now_ms - self.now_ms if self.mono_ms >= 0 else 0
        self.now_ms = now_ms

    def _turn(self, run: Any) -> None:
        turn = Turn(address="worker.s1", now_ms=self.now_ms, rng=Rng(1), mono_ms=self.mono_ms)
        run(turn)
        self.sent += [(envelope.to, envelope.message) for envelope in turn.outbox]


@pytest.fixture
def worker() -> WorkerHarness:
    return WorkerHarness()


def test_a_session_that_beats_stays_alive(worker: WorkerHarness) -> None:
    worker.send(m.WatchSession("shard.0"))
    for _ in range(100):
        worker.beat()
        worker.advance_ms(DEAD_AFTER_MS - 1)
    assert worker.sent == []
    assert worker.ask(m.ReadWorker()).state == "silent"  # late, though not given up
    worker.beat(draining=True)
    read = worker.ask(m.ReadWorker())
    assert (read.state, read.heard_ms) == ("draining", worker.now_ms)
    worker.beat()
    assert worker.ask(m.ReadWorker()).state == "alive"


def test_silence_ends_a_session_and_tells_shards_and_queues(worker: WorkerHarness) -> None:
    worker.send(m.WatchSession("shard.1"))
    worker.send(m.WatchSession("shard.0"))
    worker.send(m.WatchSession("shard.1"))
    worker.beat(queues=["queue.p.mail"])
    worker.beat(queues=["queue.p.mail", "queue.p.web"])
    worker.advance_ms(DEAD_AFTER_MS - 1)
    assert worker.sent == []
    worker.advance_ms(1)
    ended = m.SessionEnded("s1", "silent")
    assert worker.sent == [(to, ended) for to in ("shard.1", "shard.0", "queue.p.mail", "queue.p.web")]
    assert worker.ask(m.ReadWorker()).state == "silent"


def test_a_goodbye_ends_a_session_at_once(worker: WorkerHarness) -> None:
    worker.beat()
    worker.send(m.WatchSession("shard.0"))
    worker.send(m.WorkerLeft("s1"))
    worker.send(m.WorkerLeft("s1"))
    ended = m.SessionEnded("s1", "left")
    assert worker.sent == [("shard.0", ended), ("queue.p.mail", ended)]
    answer = worker.ask(m.ReadWorker())
    assert isinstance(answer, Refusal)
    assert answer.text == "worker session 's1' has left"


def test_who_watches_an_ended_session_is_answered_at_once(worker: WorkerHarness) -> None:
    worker.beat()
    worker.send(m.WorkerLeft("s1"))
    worker.sent.clear()
    worker.send(m.WatchSession("shard.3"))
    assert worker.sent == [("shard.3", m.SessionEnded("s1", "left"))]


def test_a_heartbeat_after_the_end_does_not_bring_the_session_back(worker: WorkerHarness) -> None:
    worker.beat()
    worker.advance_ms(DEAD_AFTER_MS)
    worker.sent.clear()
    worker.beat()
    assert worker.sent == [("session.s1", m.SessionEnded("s1", "silent"))]
    worker.send(m.WatchSession("shard.0"))
    assert worker.sent[-1] == ("shard.0", m.SessionEnded("s1", "silent"))


def test_a_watched_session_that_never_beats_ends_too(worker: WorkerHarness) -> None:
    worker.advance_ms(50_000)
    worker.send(m.WatchSession("shard.0"))
    worker.advance_ms(DEAD_AFTER_MS - 1)
    assert worker.sent == []
    worker.advance_ms(1)
    assert worker.sent == [("shard.0", m.SessionEnded("s1", "silent"))]


@pytest.mark.parametrize("jump_ms", [DEAD_AFTER_MS // 2, DEAD_AFTER_MS - 1, DEAD_AFTER_MS + 1, 3_600_000])
def test_a_node_that_stood_still_or_a_clock_set_forward_takes_half_of_the_silence_at_most(
    worker: WorkerHarness, jump_ms: int
) -> None:
    worker.beat()
    worker.send(m.WatchSession("shard.0"))
    worker.advance_ms(9_000)
    worker.advance_ms(jump_ms, stalled=True)
    assert worker.sent == []
    worker.advance_ms(DEAD_AFTER_MS // 2 - 1)
    assert worker.sent == []
    worker.advance_ms(1)
    assert worker.sent[0] == ("shard.0", m.SessionEnded("s1", "silent"))


def test_a_clock_set_back_does_not_keep_a_dead_session_alive(worker: WorkerHarness) -> None:
    worker.beat()
    worker.advance_ms(10_000)
    worker.now_ms -= 3_600_000
    worker.send(m.WatchSession("shard.0"))
    assert worker.sent == []
    worker.advance_ms(DEAD_AFTER_MS)
    assert worker.sent[0] == ("shard.0", m.SessionEnded("s1", "silent"))


def test_a_heartbeat_within_the_grace_saves_the_session(worker: WorkerHarness) -> None:
    worker.beat()
    worker.send(m.WatchSession("shard.0"))
    worker.advance_ms(DEAD_AFTER_MS + 60_000, stalled=True)
    worker.beat()
    worker.advance_ms(DEAD_AFTER_MS - 1)
    assert worker.sent == []


def test_an_actor_can_be_forgotten_some_time_after_its_session_ended(worker: WorkerHarness) -> None:
    assert worker.actor.finished  # nobody has ever heard of the session
    assert worker.actor.due_ms() is None
    worker.beat()
    assert not worker.actor.finished
    worker.send(m.WorkerLeft("s1"))
    worker.advance_ms(REMEMBERED_MS - 1)
    assert not worker.actor.finished
    worker.advance_ms(1)
    assert worker.actor.finished
    assert worker.actor.due_ms() is None


def test_a_session_nobody_has_heard_of_is_not_found(worker: WorkerHarness) -> None:
    answer = worker.ask(m.ReadWorker())
    assert answer == Refusal("not_found", "worker session 's1' has not been heard of")


# -- heartbeats that are noted -----------------------------------------------------------------------------------------


def noting() -> WorkerHarness:
    return WorkerHarness(notes=True, mono_ms=5_000)


def test_heartbeats_of_a_live_session_are_noted_and_nothing_else_is() -> None:
    worker = noting()
    worker.beat()
    assert worker.noted == 0, "with the first one a session begins"
    worker.beat(queues=["queue.p.web"], done=3)
    assert worker.noted == 1
    assert worker.ask(m.ReadWorker()).heartbeat.done == 3
    worker.send(m.WatchSession("shard.0"))
    worker.send(m.WorkerLeft("s1"))
    assert worker.noted == 1
    ended = m.SessionEnded("s1", "left")
    assert worker.sent == [(to, ended) for to in ("shard.0", "queue.p.mail", "queue.p.web")]
    worker.beat()
    assert worker.noted == 1
    assert worker.sent[-1] == ("session.s1", ended)


@pytest.mark.parametrize("by_ms", [-3_600_000, -1_000, 1_000, 3_600_000])
def test_a_heartbeat_after_the_clock_was_set_is_handled_in_a_turn(by_ms: int) -> None:
    worker = noting()
    worker.beat()
    worker.now_ms += by_ms
    worker.beat()
    assert worker.noted == 0
    worker.beat()
    assert worker.noted == 1
    worker.advance_ms(DEAD_AFTER_MS)
    assert worker.ask(m.ReadWorker()).state == "silent"


_STEPS = st.one_of(
    st.tuples(st.just("beat"), st.sampled_from(["queue.p.mail", "queue.p.web"])),
    st.tuples(st.just("wait"), st.integers(0, DEAD_AFTER_MS)),
    st.tuples(st.just("stand"), st.integers(0, 2 * DEAD_AFTER_MS)),
    st.tuples(st.just("set"), st.integers(-100_000, 100_000)),
    st.tuples(st.just("watch"), st.integers(0, 3)),
    st.tuples(st.just("read"), st.just(0)),
)


@given(st.lists(_STEPS, max_size=40))
def test_noting_heartbeats_changes_nothing_that_anybody_can_see(steps: list[tuple[str, Any]]) -> None:
    one, other = noting(), WorkerHarness(mono_ms=5_000)
    for step, value in steps:
        for worker in (one, other):
            match step:
                case "beat":
                    worker.beat(queues=[value])
                case "wait":
                    worker.advance_ms(value)
                case "stand":
                    worker.advance_ms(value, stalled=True)
                case "set":
                    worker.now_ms += value
                case "watch":
                    worker.send(m.WatchSession(f"shard.{value}"))
                case "read":
                    worker.send(m.ReadWorker(), request=1)
        assert one.sent == other.sent
        assert one.actor.due_ms() == other.actor.due_ms()
        assert one.actor.finished == other.actor.finished
