"""The worker actor: whether one session is alive.

It hears the session's heartbeats and tells the shards that hold leases of it, and the queues it served, when it ends. An
end is final: a heartbeat that comes later is answered with SessionEnded, and the worker begins a new session.

Silence is measured in two halves, each from when it is noticed that the one before is over. So a node that stood still
takes away one half at most, and a live session beats within the other.
"""

from __future__ import annotations

from typing import Final, assert_never

from ..runtime.actor import Actor, Turn
from ..runtime.bus import Refusal
from . import messages as m
from .addresses import session_address
from .steps import Steps

DEAD_AFTER_MS: Final = 30_000
REMEMBERED_MS: Final = 600_000  # an ended session is answered for so long
_WATCHERS_MAX: Final = 4_096
_QUEUES_MAX: Final = 1_024
_DEFAULT_INTERVAL_MS: Final = 10_000


class WorkerActor(Actor[m.WorkerMessage]):
    """One worker session. `finished`: it ended long ago, or nobody ever heard or asked of it; a node may forget it."""

    def __init__(self, session: str, *, dead_after_ms: int = DEAD_AFTER_MS) -> None:
        self._session = session
        self._half_ms = dead_after_ms // 2
        self._steps = Steps()
        self._heartbeat: m.Heartbeat | None = None
        self._heard_ms = 0
        self._halves = 0  # halves of the silence that are over
        self._deadline_ms = 0  # when the next half is over, or when it may be forgotten once it has ended
        self._ended = ""  # the reason
        self._watchers: dict[str, None] = {}  # shards, in order of asking
        self._queues: dict[str, None] = {}  # queues it served
        self._is_forgettable = False

    @property
    def finished(self) -> bool:
        """Tell whether the node may forget this actor."""
        return self._is_forgettable or not (self._ended or self._heartbeat or self._watchers)

    def started(self, turn: Turn) -> None:
        self._steps.taken(turn)
        self._heard_ms = turn.now_ms
        self._begin_waiting(turn.now_ms)

    def handle(self, message: m.WorkerMessage, turn: Turn) -> None:
        self._take_time(turn)
        match message:
            case m.Heartbeat():
                self._beat(message, turn)
            case m.WatchSession():
                self._watch(message, turn)
            case m.WorkerLeft():
                self._end("left", turn)
            case m.ReadWorker():
                self._read(turn)
            case _:
                assert_never(message)

    def note(self, message: m.WorkerMessage, now_ms: int, mono_ms: int) -> bool:
        """A heartbeat of a live session only puts off what is due; with many sessions it is nearly all there is."""
        if type(message) is not m.Heartbeat or self._heartbeat is None or self._ended:
            return False
        if not self._steps.is_steady(now_ms, mono_ms):
            return False
        self._hear(message, now_ms)
        return True

    def due_ms(self) -> int | None:
        if self._is_forgettable or not (self._ended or self._heartbeat or self._watchers):
            return None
        return self._deadline_ms

    def on_time(self, turn: Turn) -> None:
        self._take_time(turn)
        if turn.now_ms < self._deadline_ms:
            return
        if self._ended:
            self._is_forgettable = True
        elif not self._halves:
            self._halves = 1
            self._deadline_ms = turn.now_ms + self._half_ms
        else:
            self._end("silent", turn)

    def end_turn(self, turn: Turn) -> None:
        self._take_time(turn)

    @property
    def _interval_ms(self) -> int:
        return self._heartbeat.interval_ms if self._heartbeat else _DEFAULT_INTERVAL_MS

    def _begin_waiting(self, now_ms: int) -> None:
        self._halves = 0
        self._deadline_ms = now_ms + self._half_ms

    def _take_time(self, turn: Turn) -> None:
        """A silence goes on where it was when the wall clock is set."""
        by_ms = self._steps.taken(turn)
        self._deadline_ms += by_ms
        self._heard_ms += by_ms

    def _beat(self, message: m.Heartbeat, turn: Turn) -> None:
        if self._ended:
            turn.send(session_address(self._session), m.SessionEnded(self._session, self._ended))
            return
        self._hear(message, turn.now_ms)

    def _hear(self, message: m.Heartbeat, now_ms: int) -> None:
        self._heartbeat = message
        self._heard_ms = now_ms
        self._begin_waiting(now_ms)
        for queue in message.queues:
            if len(self._queues) < _QUEUES_MAX:
                self._queues[queue] = None

    def _watch(self, message: m.WatchSession, turn: Turn) -> None:
        if self._ended:
            turn.send(message.shard, m.SessionEnded(self._session, self._ended))
            return
        if not (self._heartbeat or self._watchers):
            self._begin_waiting(turn.now_ms)  # from now on somebody waits for a sign of life
        assert len(self._watchers) < _WATCHERS_MAX
        self._watchers[message.shard] = None

    def _end(self, reason: str, turn: Turn) -> None:
        if self._ended:
            return
        self._ended = reason
        self._deadline_ms = turn.now_ms + REMEMBERED_MS
        message = m.SessionEnded(self._session, reason)
        for address in (*self._watchers, *self._queues):
            turn.send(address, message)
        self._watchers.clear()

    def _read(self, turn: Turn) -> None:
        if self._heartbeat is None or self._ended == "left":
            what = "has left" if self._ended else "has not been heard of"
            turn.reply(Refusal("not_found", f"worker session {self._session!r} {what}"))
            return
        silent = self._ended or turn.now_ms - self._heard_ms > 2 * self._interval_ms
        state = "silent" if silent else "draining" if self._heartbeat.draining else "alive"
        turn.reply(m.WorkerRead(self._heartbeat, state, self._heard_ms))
