"""One attempt in this worker, and the route its kind of task takes through it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

from structlog.typing import FilteringBoundLogger

from ..actors.messages import Body, Kind, Progress, Template
from ..runtime.ids import to_text
from .capture import Capture, log_for_worker, task_logger
from .credits import QueueLine
from .deadlines import Bucket
from .frames import AttemptDone, Logged, RunAttempt, Told
from .handler import Handler
from .reports import Lane

if TYPE_CHECKING:
    from .runner import Runner

OUTCOME_KINDS: Final = 7  # numbers of OutcomeKind, from 1


class Route:
    """What the worker needs to know of one kind of task, looked up once."""

    __slots__ = (
        "call",
        "cost",
        "counts",
        "encode_result",
        "handler",
        "kind",
        "line",
        "mode",
        "plain_deadline",
        "takes_context",
        "template",
        "timeout_ms",
    )

    def __init__(
        self, kind: Kind, handler: Handler[..., Any] | None, line: QueueLine | None, counts: list[int]
    ) -> None:  # fmt: skip
        template = kind.template
        self.kind = kind
        self.template = template
        self.handler = handler
        self.line = line
        self.cost = max(template.cost, 1)
        self.timeout_ms = template.timeout_ms
        self.plain_deadline = not template.heartbeat_timeout_ms  # only the timeout can end an attempt
        self.counts = counts  # attempts of the tenant's queue that ended, by OutcomeKind: the worker's, not the route's own
        self.mode = handler.mode if handler is not None else "unknown"
        self.takes_context = handler is not None and handler.takes_context
        self.call: Any = None
        self.encode_result: Any = None
        if handler is not None:
            self.call = handler.shape.caller(handler.function, takes_context=handler.takes_context)
            self.encode_result = handler.shape.encode_result if handler.keeps_result else _discard


class Attempt:
    """One lease of this worker. It stands behind the handler's context, and is what a child process reports to.

    The slots are what every attempt needs; the attributes below have a value of their own only where something happens.
    """

    __slots__ = ("__dict__", "body", "bucket", "lane", "route", "runner", "started_ms", "stop", "task")

    inner: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None  # a coroutine that runs in a thread
    expires_ms = 0  # monotonic; where other deadlines than the timeout are watched
    beat_ms = 0  # monotonic; the last sign of life
    why = ""  # of the stop, in words
    heard = False  # the handler knows that it shall stop
    given_up = False  # reported while it still ran
    sent_checkpoint: bytes | None = None
    progress: Progress | None = None
    output_capture: Capture | None = None
    stopped: threading.Event | None = None

    def __init__(self, runner: Runner, route: Route, body: Body, lane: Lane) -> None:
        self.runner = runner
        self.route = route
        self.body = body
        self.lane = lane
        self.started_ms = 0
        self.task: asyncio.Task[None] | None = None
        self.bucket: Bucket[Attempt] | None = None
        self.stop = ""  # cancelled | timed_out | lease_lost | draining

    # -- behind the context --------------------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        return self.body.id

    @property
    def attempt(self) -> int:
        return self.body.attempt

    @property
    def tenant(self) -> str:
        return self.route.kind.tenant

    @property
    def priority(self) -> int:
        return self.body.priority

    @property
    def template(self) -> Template:
        return self.route.template

    @property
    def deadline_ms(self) -> int:
        own = self.started_ms + self.route.timeout_ms if self.route.timeout_ms else 0
        whole = self.body.deadline_ms
        return min(own, whole) if own and whole else own or whole

    @property
    def checkpoint(self) -> bytes:
        return self.body.checkpoint

    @property
    def schedule(self) -> str:
        return self.body.schedule

    @property
    def tick_ms(self) -> int:
        return self.body.tick_ms

    @property
    def on_loop(self) -> bool:
        return self.route.handler is not None and self.route.handler.is_coroutine

    def now_ms(self) -> int:
        return self.runner.clock.now_ms()

    def stopping(self) -> str:
        if self.stop:
            self.heard = True
        return self.stop

    def tell(self, permille: int, note: str, checkpoint: bytes | None) -> None:
        self.beat_ms = self.runner.deadlines.now_ms()
        if permille < 0 and checkpoint is None:
            return
        before = self.progress
        if before is not None:
            if permille < 0:
                permille, note = before.permille, before.note
            if checkpoint is None:
                checkpoint = before.checkpoint
        self.progress = Progress(self.body.id, self.body.attempt, permille, note, checkpoint)
        self.runner.on_loop(self.runner.progress_told, self)

    def wait_stop(self, seconds: float) -> None:
        if self.stopped is None:
            self.stopped = threading.Event()
        if not self.stop:
            self.stopped.wait(seconds)

    def logger(self) -> FilteringBoundLogger:
        return task_logger(self._log, self.now_ms)

    # -- output --------------------------------------------------------------------------------------------------------

    def capture(self) -> Capture:
        if self.output_capture is None:
            self.output_capture = Capture(self._output_waits)
        return self.output_capture

    def fields(self) -> dict[str, Any]:
        """Return what a log event about this attempt carries."""
        template = self.route.template
        return {
            "task_id": to_text(self.body.id), "attempt": self.body.attempt, "handler": template.handler,
            "tenant": self.tenant, "queue": template.queue,
        }  # fmt: skip

    def _log(self, level: str, line: str, name: str, fields: dict[str, Any]) -> None:
        self.capture().write_text(line)
        log_for_worker(level, name, {**self.fields(), **fields})

    def _output_waits(self, full: bool) -> None:
        self.runner.on_loop(self.runner.output_waits, self, full)

    # -- in a child process --------------------------------------------------------------------------------------------

    @property
    def job_id(self) -> int:
        return self.body.id

    def begin(self, mark: bytes) -> RunAttempt:
        self.runner.process_began(self)
        handler = self.route.handler
        assert handler is not None
        body = self.body
        return RunAttempt(
            handler.__module__, handler.__qualname__, body.id, body.attempt, body.payload, self.tenant, body.priority,
            self.route.template, self.deadline_ms, body.checkpoint, mark, body.schedule, body.tick_ms,
        )  # fmt: skip

    def output(self, data: bytes) -> None:
        self.capture().write(data)

    def told(self, frame: Told) -> None:
        self.tell(frame.permille, frame.note, frame.checkpoint)

    def logged(self, frame: Logged) -> None:
        self.capture().write_text(frame.text)
        if frame.event:
            log_for_worker(frame.level, frame.event, {**self.fields(), **frame.fields})

    def done(self, frame: AttemptDone) -> None:
        self.runner.process_done(self, frame)

    def died(self, how: str, tail: bytes) -> None:
        self.runner.process_died(self, how, tail)


def _discard(_result: Any) -> bytes:
    return b""
