"""Outcomes on their way to the shards: batched, sent with what belongs to them, repeated until answered.

Per shard at most `window` reports are unanswered at a time; what ends meanwhile waits and goes out as larger batches.
The order to one shard is: output of the attempts, their last progress, their outcomes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..actors.addresses import session_address, shard_address
from ..actors.messages import (
    AppendLogs,
    LogChunk,
    Outcome,
    OutcomesTaken,
    Progress,
    ReportOutcomes,
    ReportProgress,
)
from ..runtime.bus import Bus, Envelope
from ..runtime.clock import Clock, Timer
from ..runtime.rng import Rng

BATCH: Final = 256  # outcomes to a message ...
_BATCH_BYTES: Final = 512 << 10  # ... or so many bytes of results, whichever comes first
LOG_BYTES: Final = 256 << 10  # to a message
WINDOW: Final = 16  # unanswered reports per shard
REPEAT_MS: Final = 1_000  # first wait for an answer, doubling ...
REPEAT_MAX_MS: Final = 10_000  # ... up to this


class Lane:
    """What goes to one shard. `outcomes` is appended to by the worker."""

    __slots__ = ("address", "chunks", "outcomes", "progress", "shard", "unanswered", "waiting")

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.address = shard_address(shard)
        self.outcomes: list[Outcome] = []
        self.chunks: list[LogChunk] = []
        self.progress: list[Progress] = []  # the last ones of attempts that ended: repeated with their outcomes
        self.waiting: deque[Outcome] = deque()  # beyond the window
        self.unanswered = 0


class _Report:
    """One report that is not answered yet."""

    __slots__ = ("lane", "message", "progress", "repeat_at_ms", "wait_ms")

    def __init__(self, lane: Lane, message: ReportOutcomes, progress: ReportProgress | None, now_ms: int) -> None:
        self.lane = lane
        self.message = message
        self.progress = progress
        self.wait_ms = REPEAT_MS
        self.repeat_at_ms = now_ms + REPEAT_MS


class Reports:
    """All lanes of one worker session."""

    def __init__(self, bus: Bus, clock: Clock, rng: Rng, answered: Callable[[], None]) -> None:
        """`answered`: called when a report was answered."""
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._answered = answered
        self._session = ""
        self._address = ""
        self._lanes: dict[int, Lane] = {}
        self._reports: dict[int, _Report] = {}  # by request number, oldest first
        self._number = 0
        self._timer: Timer | None = None
        self.pending = 0  # outcomes sent or waiting in a lane, not answered
        self.refused = 0  # outcomes answered as stale

    def begin_session(self, session: str) -> None:
        """Start anew under another session: what was not answered can no longer count."""
        self.close()
        self._session = session
        self._address = session_address(session)
        self._lanes.clear()
        self._reports.clear()
        self.pending = 0

    def lane(self, shard: int) -> Lane:
        lane = self._lanes.get(shard)
        if lane is None:
            lane = self._lanes[shard] = Lane(shard)
        return lane

    @property
    def idle(self) -> bool:
        """Tell whether everything was reported and answered."""
        return not self.pending and not any(lane.outcomes or lane.chunks for lane in self._lanes.values())

    def unreported(self) -> Iterator[tuple[int, Outcome]]:
        """Return every outcome whose answer is due, with its shard."""
        for report in self._reports.values():
            for outcome in report.message.outcomes:
                yield report.lane.shard, outcome
        for lane in self._lanes.values():
            for outcome in (*lane.waiting, *lane.outcomes):
                yield lane.shard, outcome

    def flush(self) -> None:
        """Send what has gathered in the lanes."""
        for lane in self._lanes.values():
            if lane.chunks:
                self._send_chunks(lane)
            if lane.outcomes:
                outcomes, lane.outcomes = lane.outcomes, []
                self.pending += len(outcomes)
                is_small = len(outcomes) <= BATCH and sum([len(outcome.result) for outcome in outcomes]) <= _BATCH_BYTES
                if lane.waiting or lane.unanswered >= WINDOW or not is_small:
                    lane.waiting.extend(outcomes)
                    self._send_waiting(lane)
                else:
                    self._send(lane, outcomes)

    def flush_output(self) -> None:
        """Send only the output that has gathered."""
        for lane in self._lanes.values():
            if lane.chunks:
                self._send_chunks(lane)

    def take(self, request: int, answer: Any) -> None:
        """Take the answer to a report; a refusal leaves it to be repeated."""
        report = self._reports.get(request)
        if report is None or not isinstance(answer, OutcomesTaken):
            return
        del self._reports[request]
        self.refused += len(answer.stale)
        self.pending -= len(report.message.outcomes)
        report.lane.unanswered -= 1
        if report.lane.waiting:
            self._send_waiting(report.lane)
        if not self._reports and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._answered()

    def close(self) -> None:
        """Repeat nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send_waiting(self, lane: Lane) -> None:
        waiting = lane.waiting
        while waiting and lane.unanswered < WINDOW:
            batch = [waiting.popleft()]
            size = len(batch[0].result)
            while waiting and len(batch) < BATCH and size + len(waiting[0].result) <= _BATCH_BYTES:
                batch.append(waiting.popleft())
                size += len(batch[-1].result)
            self._send(lane, batch)

    def _send(self, lane: Lane, outcomes: list[Outcome]) -> None:
        progress: ReportProgress | None = None
        if lane.progress:
            items, lane.progress = lane.progress, []
            progress = ReportProgress(self._session, items)
        self._number += 1
        message = ReportOutcomes(self._session, outcomes)
        now_ms = self._clock.now_ms()
        self._reports[self._number] = _Report(lane, message, progress, now_ms)
        lane.unanswered += 1
        if progress is not None:
            self._bus.send(Envelope(lane.address, progress, self._address))
        self._bus.send(Envelope(lane.address, message, self._address, self._number))
        if self._timer is None and self._reports:
            self._timer = self._clock.call_at_ms(now_ms + REPEAT_MS, self._repeat)

    def _send_chunks(self, lane: Lane) -> None:
        chunks, lane.chunks = lane.chunks, []
        batch: list[LogChunk] = []
        size = 0
        for chunk in chunks:
            if batch and (size + len(chunk.text) > LOG_BYTES or len(batch) >= BATCH):
                self._bus.send(Envelope(lane.address, AppendLogs(self._session, batch), self._address))
                batch, size = [], 0
            batch.append(chunk)
            size += len(chunk.text)
        self._bus.send(Envelope(lane.address, AppendLogs(self._session, batch), self._address))

    def _repeat(self) -> None:
        """Send again what should have been answered by now, each under the number it had."""
        self._timer = None
        now_ms = self._clock.now_ms()
        for number, report in list(self._reports.items()):
            # A wall clock that was set back must not postpone it for long.
            if now_ms < report.repeat_at_ms <= now_ms + REPEAT_MAX_MS * 2:
                continue
            report.wait_ms = min(report.wait_ms * 2, REPEAT_MAX_MS)
            report.repeat_at_ms = now_ms + report.wait_ms // 2 + self._rng.below(report.wait_ms // 2 + 1)
            if report.progress is not None:
                self._bus.send(Envelope(report.lane.address, report.progress, self._address))
            self._bus.send(Envelope(report.lane.address, report.message, self._address, number))
        if self._reports and self._timer is None:
            due = min(report.repeat_at_ms for report in self._reports.values())
            self._timer = self._clock.call_at_ms(max(due, now_ms + 1), self._repeat)
