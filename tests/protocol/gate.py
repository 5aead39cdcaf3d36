"""A real node that listens on a real NATS server, and a client of the public protocol that knows nothing of Foliot's code.

The client is nats-py and msgpack (or JSON) alone, so it shows what any language has to do; its worker half keeps the rules
of docs/protocol.md: subscribe before the first credits, absolute credits, outcomes repeated until answered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import nats
import nats.errors
from foliot.runtime.clock import SystemClock
from foliot.runtime.rng import Rng
from foliot.transports.nats.config import NatsConfig
from foliot.transports.nats.feed import FeedDesk
from foliot.transports.nats.link import NatsLink
from foliot.transports.nats.listener import ListenerLimits, NatsListener
from foliot.transports.nats.streams import NatsStreams

from ..transports.edge import EdgeNode

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class PublicGate:
    """A node with a listener, on a server that is there."""

    def __init__(self, url: str, folder: Path, *, limits: ListenerLimits | None = None) -> None:
        self.url = url
        self._folder = folder
        self._limits = limits or ListenerLimits(close_grace_ms=50)

    async def __aenter__(self) -> PublicGate:
        self.node = EdgeNode(self._folder / "foliot.db", product="test")
        await self.node.__aenter__()
        self.listener = await self.listen()
        return self

    async def listen(self, limits: ListenerLimits | None = None) -> NatsListener:
        """Return one more listener of the node; the first is `listener`."""
        rng = Rng.of_the_system()
        link = await NatsLink.open(NatsConfig(self.url), clock=SystemClock(), rng=rng)
        listener = NatsListener(
            link, self.node.gateway, self.node.bus, slots=self.node.shards, clock=SystemClock(), rng=rng,
            limits=limits or self._limits,
            feed=FeedDesk(NatsStreams(link, clock=SystemClock()), clock=SystemClock(), rng=rng),
        )  # fmt: skip
        listener.start()
        await link.flush()
        self.links = [*getattr(self, "links", []), (listener, link)]
        return listener

    async def __aexit__(self, *_: object) -> None:
        for listener, link in self.links:
            await listener.close()
            await link.close()
        await self.node.__aexit__(None, None, None)


class Plain:
    """A client without the SDK. `form`: json or msgpack."""

    def __init__(self, url: str, *, tenant: str = "default", form: str = "msgpack") -> None:
        self.tenant = tenant
        self.form = form
        self._url = url

    async def __aenter__(self) -> Plain:
        self.connection = await nats.connect(self._url)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()

    def pack(self, value: Any) -> bytes:
        if self.form == "json":
            return json.dumps(value).encode()
        packed: bytes = msgpack.packb(value)
        return packed

    def unpack(self, data: bytes) -> Any:
        return json.loads(data) if self.form == "json" else msgpack.unpackb(data, strict_map_key=False)

    async def raw(self, subject: str, data: bytes, *, headers: dict[str, str] | None = None, timeout: float = 10) -> bytes:
        answer = await self.connection.request(subject, data, timeout=timeout, headers=headers)
        return answer.data

    async def at(self, subject: str, **fields: Any) -> Any:
        return self.unpack(await self.raw(subject, self.pack(fields), timeout=70))

    async def ask(self, op: str, /, **fields: Any) -> Any:
        """Return the answer to an operation."""
        return await self.at(f"foliot.v1.{self.tenant}.{op}", **fields)

    async def submit(self, handler: str, payload: Any = None, **options: Any) -> str:
        """Submit one task and return its id."""
        answer = await self.ask("submit", tasks=[{"handler": handler, "payload": payload or {}, **options}])
        assert "id" in answer["tasks"][0], answer
        found: str = answer["tasks"][0]["id"]
        return found

    async def end(self, task: str) -> Any:
        """Return how a task ended. Asks again and again: a question may go to a node that dies before it answers."""
        question = self.pack({"ids": [task], "timeout_ms": 2_000})
        for _ in range(20):
            with suppress(nats.errors.TimeoutError):
                answer = self.unpack(await self.raw(f"foliot.v1.{self.tenant}.wait", question, timeout=5))
                if answer["ended"]:
                    return answer["ended"][0]
        raise AssertionError(f"task {task} has not ended")


class PlainWorker:
    """A worker without the SDK: one queue, handlers as coroutines that return `result` or raise."""

    def __init__(self, client: Plain, handler: Handler, *, slots: int = 10, queue: str = "default", pool: str = "") -> None:
        self.client = client
        self.session = ""
        self.pushed: list[Any] = []
        self.ran: list[Any] = []
        self.running: dict[str, int] = {}
        self.newest: dict[str, int] = {}  # task → the highest attempt that came
        self.changed = asyncio.Event()
        self._handler = handler
        self._slots = slots
        self._queue = {"queue": queue, "pool": pool}
        self._seen = 0
        self._done = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._subscription: Any = None

    async def register(self, **fields: Any) -> Any:
        """Begin a session, or go on with the one there is."""
        registered = await self.client.ask(
            "worker.register", name="plain", queues=[self._queue], slots=self._slots, session=self.session, **fields
        )
        if "error" in registered:
            return registered
        self.registered = registered
        if registered["session"] != self.session:
            self._seen = 0
            if self._subscription is not None:
                await self._subscription.unsubscribe()
            self._subscription = await self.client.connection.subscribe(registered["bodies"], cb=self._take)
            await self.client.connection.flush()
        self.session = registered["session"]
        await self.offer()
        return registered

    async def call(self, op: str, **fields: Any) -> Any:
        return await self.client.at(f"{self.registered['subject']}.{op}", session=self.session, **fields)

    def credits(self) -> list[dict[str, Any]]:
        return [{**self._queue, "free": self._slots - len(self.running), "seen": self._seen}]

    async def offer(self) -> Any:
        return await self.call("credits", queues=self.credits())

    async def beat(self, **fields: Any) -> Any:
        held = [{"id": id, "attempt": attempt} for id, attempt in self.running.items()]
        return await self.call("heartbeat", **{"queues": self.credits(), "held": held, "done": self._done, **fields})

    async def until(self, condition: Callable[[], Any]) -> Any:
        async with asyncio.timeout(30):
            while not (value := condition()):
                self.changed.clear()
                await self.changed.wait()
            return value

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, message: Any) -> None:
        push = self.client.unpack(message.data)
        self.pushed.append(push)
        for task in push.get("tasks", []) if push["kind"] == "run" else []:
            if self.newest.get(task["id"], 0) >= task["attempt"]:
                continue  # it came before
            self.newest[task["id"]] = task["attempt"]
            self._seen += task["cost"]
            self.running[task["id"]] = task["attempt"]
            self._tasks.append(asyncio.create_task(self._run(task)))
        self.changed.set()

    async def _run(self, task: dict[str, Any]) -> None:
        self.ran.append(task)
        outcome = {"id": task["id"], "attempt": task["attempt"], **await self._handler(task)}
        while True:
            answer = await self.call("outcomes", outcomes=[outcome])
            if "error" not in answer:
                break
            await asyncio.sleep(0.05)
        self.running.pop(task["id"], None)
        self._done += 1
        await self.offer()
        self.changed.set()


async def echo(task: dict[str, Any]) -> dict[str, Any]:
    """A handler: the payload is the result."""
    return {"outcome": "completed", "result": task["payload"]}


async def hold(task: dict[str, Any]) -> dict[str, Any]:
    """A handler that never ends."""
    await asyncio.sleep(3_600)
    return {}
