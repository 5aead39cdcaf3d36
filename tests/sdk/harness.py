"""What worker tests share: a bus that records, a shard and queue that answer, and a worker on top."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from foliot.actors.addresses import queue_address, session_address, shard_address
from foliot.actors.messages import (
    AppendLogs,
    Body,
    CancelAttempts,
    Heartbeat,
    HeldLeases,
    Kind,
    Outcome,
    OutcomesTaken,
    Progress,
    ReportOutcomes,
    ReportProgress,
    RunTasks,
    WorkerCredits,
    WorkerLeft,
)
from foliot.runtime.bus import Envelope, Receiver, Resolver
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import NoSuchActorError
from foliot.runtime.hashing import fnv1a
from foliot.runtime.rng import Rng
from foliot.sdk.app import Foliot, Handler
from foliot.sdk.payload import Packer
from foliot.sdk.worker import Worker

TENANT = "acme"


class RecordingBus:
    """Keeps what is sent, and delivers to what is bound. Reports are answered unless `silent`."""

    def __init__(self) -> None:
        self.sent: list[Envelope] = []
        self.silent = False
        self.changed = asyncio.Event()
        self._receivers: dict[str, Receiver] = {}

    def bind(self, address: str, receiver: Receiver) -> None:
        self._receivers[address] = receiver

    def unbind(self, address: str, receiver: Receiver | None = None) -> None:
        self._receivers.pop(address, None)

    def host(self, slot: int, resolve: Resolver) -> None:
        raise AssertionError("a worker hosts no slots")

    def leave(self, slot: int) -> None:
        raise AssertionError("a worker hosts no slots")

    def send(self, envelope: Envelope) -> None:
        self.sent.append(envelope)
        self.changed.set()
        if isinstance(envelope.message, ReportOutcomes) and not self.silent:
            asyncio.get_running_loop().call_soon(self.answer, envelope, OutcomesTaken())

    def answer(self, envelope: Envelope, message: Any) -> None:
        self.put(Envelope(envelope.sender, message, envelope.to, envelope.request))

    def put(self, envelope: Envelope) -> None:
        """Deliver to the receiver, if the address is bound."""
        receiver = self._receivers.get(envelope.to)
        if receiver is not None:
            receiver.deliver(envelope)

    def bound(self) -> list[str]:
        return list(self._receivers)

    async def request(self, to: str, message: Any, *, timeout_ms: int) -> Any:
        raise NoSuchActorError(to)

    def all(self, kind: type) -> list[Any]:
        """Return the messages of one type, in order."""
        return [envelope.message for envelope in self.sent if isinstance(envelope.message, kind)]


class WorkerHarness:
    """A running worker, seen from the scheduler's side."""

    def __init__(self, worker: Worker, bus: RecordingBus) -> None:
        self.worker = worker
        self.bus = bus
        self._next_id = 4_096 << 10

    @property
    def session(self) -> str:
        return self.worker.session

    def kind(self, handler: Handler[..., Any], /, **changes: Any) -> Kind:
        template = msgspec.structs.replace(handler.template, **changes)
        return Kind(TENANT, fnv1a(f"{handler.name}{sorted(changes.items())}".encode()), template)

    def lease(self, handler: Handler[..., Any], /, *, changes: dict[str, Any] | None = None, attempt: int = 1,
              task_id: int = 0, deadline_ms: int = 0, checkpoint: bytes = b"", shard: int = 0,
              **arguments: Any) -> Body:  # fmt: skip
        """Hand the worker a lease and return its body."""
        body = self.body(attempt=attempt, task_id=task_id, deadline_ms=deadline_ms, checkpoint=checkpoint,
                         arguments=arguments)  # fmt: skip
        self.run([body], self.kind(handler, **changes or {}), shard=shard)
        return body

    def body(self, *, attempt: int = 1, task_id: int = 0, deadline_ms: int = 0, checkpoint: bytes = b"",
             arguments: dict[str, Any] | None = None) -> Body:  # fmt: skip
        self._next_id += 1
        return Body(task_id or self._next_id, attempt, 0, Packer().pack(arguments or {}), deadline_ms=deadline_ms,
                    checkpoint=checkpoint)  # fmt: skip

    def run(self, bodies: list[Body], kind: Kind, *, shard: int = 0) -> None:
        self.send(RunTasks(shard, [kind], bodies), shard_address(shard))

    def cancel(self, body: Body, reason: str = "cancelled") -> None:
        self.send(CancelAttempts([body.id], [body.attempt], reason))

    def send(self, message: Any, sender: str = "shard.0") -> None:
        self.bus.put(Envelope(session_address(self.session), message, sender))

    # -- what the worker said ------------------------------------------------------------------------------------------

    def outcomes(self) -> list[Outcome]:
        return [outcome for report in self.bus.all(ReportOutcomes) for outcome in report.outcomes]

    async def outcome(self, body: Body) -> Outcome:
        """Wait for the outcome of a lease."""

        def found() -> Outcome | None:
            for outcome in self.outcomes():
                if (outcome.id, outcome.attempt) == (body.id, body.attempt):
                    return outcome
            return None

        outcome: Outcome = await self.until(found)
        return outcome

    def credit(self, queue: str = "default", pool: str = "default") -> int:
        """Return the free slots the worker last told a queue."""
        return self.credits(queue, pool)[-1].free

    def credits(self, queue: str = "default", pool: str = "default") -> list[WorkerCredits]:
        address = queue_address(pool, queue)
        return [e.message for e in self.bus.sent if e.to == address and isinstance(e.message, WorkerCredits)]

    def output(self, body: Body) -> str:
        """Return what was captured of an attempt so far, checking that the parts are in order."""
        chunks = [chunk for message in self.bus.all(AppendLogs) for chunk in message.chunks]
        mine = [chunk for chunk in chunks if (chunk.id, chunk.attempt) == (body.id, body.attempt)]
        assert [chunk.part for chunk in mine] == list(range(len(mine)))
        return b"".join(chunk.text for chunk in mine).decode()

    def progress(self, body: Body) -> list[Progress]:
        items = [item for message in self.bus.all(ReportProgress) for item in message.items]
        return [item for item in items if item.id == body.id]

    def heartbeats(self) -> list[Heartbeat]:
        return self.bus.all(Heartbeat)

    def held(self) -> list[HeldLeases]:
        return self.bus.all(HeldLeases)

    def left(self) -> list[WorkerLeft]:
        return self.bus.all(WorkerLeft)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until the condition is true of what was sent; a test that waits in vain is stopped after a while."""
        async with asyncio.timeout(30):
            while not (value := condition()):
                self.bus.changed.clear()
                with contextlib.suppress(TimeoutError):  # not everything that is waited for is a message
                    await asyncio.wait_for(self.bus.changed.wait(), 0.02)
            return value


@asynccontextmanager
async def working(app: Foliot, **options: Any) -> AsyncIterator[WorkerHarness]:
    """Run a worker over a recording bus; stopped without grace at the end unless it was drained."""
    bus = RecordingBus()
    options.setdefault("clock", SystemClock())
    worker = Worker(app, bus=bus, rng=Rng(7), name="w1", session="w1", **options)
    running = asyncio.get_running_loop().create_task(worker.run())
    harness = WorkerHarness(worker, bus)
    await harness.until(lambda: bus.all(WorkerCredits))
    try:
        yield harness
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
