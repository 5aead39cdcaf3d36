"""A whole node for the tests of the edge: real actors, a real SQLite file, the memory bus that really encodes, and a
worker that does what the handler's name says: `ok` answers its payload, `fail` fails for good, `hold` never ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from foliot.actors import messages as m
from foliot.actors.addresses import queue_address, session_address, shard_address, worker_address
from foliot.actors.cast import makers
from foliot.actors.shard import ShardConfig
from foliot.runtime.bus import Envelope
from foliot.runtime.clock import SystemClock
from foliot.runtime.node import Node, NodeConfig
from foliot.runtime.rng import Rng
from foliot.stores.hosting import poison_in, shards_on
from foliot.stores.sqlite import open_sqlite
from foliot.transports.gateway import Gateway
from foliot.transports.memory import MemoryBus

SHARDS = 2


class EchoWorker:
    """One worker session."""

    def __init__(self, bus: MemoryBus, clock: SystemClock, *, queue: str = "default", slots: int = 1_000) -> None:
        self.ran: list[m.Body] = []
        self.done: dict[tuple[str, str], int] = {}
        self._bus = bus
        self._clock = clock
        self._queue = queue_address("default", queue)
        self._slots = slots
        self._held = 0
        self._reports = 0

    def start(self) -> None:
        self._bus.bind(session_address("echo"), self)
        now_ms = self._clock.now_ms()
        beat = m.Heartbeat("echo", "echo-1", 1, "here", {}, [self._queue], self._slots, 0, 0, 10_000, now_ms)
        self._bus.send(Envelope(worker_address("echo"), beat, session_address("echo")))
        self._offer()

    def _offer(self) -> None:
        credits_ = m.WorkerCredits("echo", {}, self._slots - self._held, len(self.ran))
        self._bus.send(Envelope(self._queue, credits_, session_address("echo")))

    def deliver(self, envelope: Envelope) -> None:
        message = envelope.message
        if not isinstance(message, m.RunTasks):
            return
        outcomes = []
        now_ms = self._clock.now_ms()
        for body in message.bodies:
            self.ran.append(body)
            kind = message.kinds[body.kind]
            if kind.template.handler == "hold":
                self._held += 1
                continue
            if kind.template.handler == "fail":
                error = m.TaskError("ValueError", "no good", "line 1")
                outcome = m.Outcome(body.id, body.attempt, m.OutcomeKind.FAILED, now_ms, now_ms, error=error, fatal=True)
            else:
                key = (kind.tenant, kind.template.queue)
                self.done[key] = self.done.get(key, 0) + 1
                outcome = m.Outcome(body.id, body.attempt, m.OutcomeKind.COMPLETED, now_ms, now_ms, body.payload)
            outcomes.append(outcome)
        if outcomes:
            self._reports += 1
            report = m.ReportOutcomes("echo", outcomes)
            to = shard_address(message.shard)
            self._bus.send(Envelope(to, report, session_address("echo"), self._reports))
        self._offer()


class EdgeNode:
    """The node, as an async context manager. `gateway` is its edge."""

    def __init__(self, path: Path, *, shards: int = SHARDS, **gateway: Any) -> None:
        self.path = path
        self.shards = shards
        self.clock = SystemClock()
        self._options = gateway

    async def __aenter__(self) -> EdgeNode:
        self.store = await open_sqlite(self.path, clock=self.clock, shards=self.shards)
        self.bus = MemoryBus(encode=True)

        self.node = Node(
            NodeConfig("node", self.shards), bus=self.bus, clock=self.clock, rng=Rng(1),
            kinds=makers(self.shards), poison=poison_in(self.store, self.clock),
        )  # fmt: skip
        self.gateway = Gateway(
            self.bus, self.store, clock=self.clock, rng=Rng(2), shards=self.shards, directory=self.node.addresses,
            **self._options,
        )  # fmt: skip
        started = asyncio.Event()
        # A plain task, since a fixture is entered and left by different ones.
        durable = shards_on(self.store, ShardConfig(self.shards, workers_are_local=True), node="node")
        self._life = asyncio.create_task(self.node.run(durable, started=started.set))
        await started.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._life.cancel()
        await asyncio.wait([self._life])
        await self.store.close()

    def start_worker(self, **options: Any) -> EchoWorker:
        worker = EchoWorker(self.bus, self.clock, **options)
        worker.start()
        return worker

    async def ask(self, request: Any, timeout_ms: int = 5_000) -> Any:
        return await self.gateway.handle(request, timeout_ms=timeout_ms)

    async def submit(self, *specs: m.TaskSpec, tenant: str = "acme", request_id: str = "", **template: Any) -> Any:
        """Submit tasks of one template, `ok` by default."""
        made = m.Template(**{"handler": "ok", **template})
        return await self.ask(m.SubmitTasks(tenant, [made], list(specs), request_id))


def spec(value: Any = None, **fields: Any) -> m.TaskSpec:
    """Return a task of the first template."""
    return m.TaskSpec(0, msgspec.msgpack.encode(value), **fields)
