"""The worker actor: alive, draining, silent, gone; who is told, and who is not blamed."""

from __future__ import annotations

from typing import Any

import pytest
from foliot.actors import messages as m
from foliot.actors.worker import DEAD_AFTER_MS, REMEMBERED_MS, WorkerActor
from foliot.runtime.actor import Turn
from foliot.runtime.bus import Refusal
from foliot.runtime.rng import Rng

START_MS = 1_700_000_000_000


class WorkerHarness:
    """One worker actor; time moves only when told."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.actor = WorkerActor("s1")
        self.sent: list[tuple[str, Any]] = []
        self._turn(lambda turn: self.actor.started(turn))

    def send(self, message: Any, *, request: int = 0) -> None:
        def handle(turn: Turn) -> None:
            turn.sender, turn.request = "client.1", request
            self.actor.handle(message, turn)

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
            self.now_ms = max(due, self.now_ms)
            self._turn(self.actor.on_time)
        self.now_ms = until_ms
        due = self.actor.due_ms()
        if due is not None and due <= until_ms:
            self._turn(self.actor.on_time)

    def _turn(self, run: Any) -> None:
        turn = Turn(address="worker.s1", now_ms=self.now_ms, rng=Rng(1))
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
