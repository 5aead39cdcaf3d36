"""Very many worker sessions on a few connections, that say nothing but that they live.

They speak as `sdk.worker` does: heartbeats to the actor that watches the session, far more often than they have to; and, as
often as a worker, credits to the queue and what they hold to a shard. Or they speak the public protocol, whose heartbeats
are requests that the node answers. They listen at their addresses, so that the broker knows them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec

from ..actors.addresses import queue_address, session_address, shard_address, worker_address
from ..actors.messages import Heartbeat, HeldLeases, SessionEnded, WorkerCredits
from ..runtime.bus import Envelope
from ..runtime.clock import SystemClock
from ..transports.nats.bus import NatsBus
from ..transports.nats.frames import Subjects, encode
from ..transports.nats.link import Delivery, NatsConfig, NatsLink
from ..transports.nats.protocol import PREFIX
from .cluster_place import ClusterPlan
from .jobs import QUEUE

_STEP_S: Final = 0.01
_RENEW_MS: Final = 10_000  # a worker's usual interval
_REGISTER_MS: Final = 10_000
_REGISTER_AT_ONCE: Final = 64

Frame = tuple[str, bytes, str]
"""Subject, bytes, and where the answer goes."""


class SessionsPlan(ClusterPlan, frozen=True, kw_only=True):
    """`sessions`: live ones. `beats`: heartbeats a second, of all together. `links`: connections they share. `public`: they
    speak the public protocol."""

    sessions: int = 2_000
    beats: int = 20_000
    seconds: float = 10.0
    links: int = 16
    public: bool = False


class _Session:
    """One end of a session. `ended`: why it was given up, if it was."""

    def __init__(self, name: str, plan: SessionsPlan, subjects: Subjects) -> None:
        self.name = name
        self.ended = ""
        own, queue = session_address(name), queue_address("default", QUEUE)
        beat = Heartbeat(
            session=name, worker=f"bench-{name}", pid=1, host="bench", labels={"zone": "a"}, queues=[queue], slots=4,
            running=0, done=0, interval_ms=_RENEW_MS, started_ms=SystemClock().now_ms(),
        )  # fmt: skip
        self.beat = self._frame(subjects, worker_address(name), own, beat)
        shard = shard_address(len(name) % plan.shards)
        self.renewal = [
            self._frame(subjects, queue, own, WorkerCredits(name, {"zone": "a"}, 4, 0, True)),
            self._frame(subjects, shard, own, HeldLeases(name, [], [])),
        ]

    @staticmethod
    def _frame(subjects: Subjects, to: str, sender: str, message: Any) -> Frame:
        return subjects.of(to), encode(to, sender, 0, message), ""

    def deliver(self, envelope: Envelope) -> None:
        if isinstance(envelope.message, SessionEnded):
            self.ended = envelope.message.reason


class _Answers:
    """What the node said to the heartbeats of one connection. `refused`: with an error, by code."""

    def __init__(self) -> None:
        self.count = 0
        self.refused: dict[str, int] = {}

    def take(self, delivery: Delivery) -> None:
        self.count += 1
        error = msgspec.msgpack.decode(delivery.data).get("error")
        if error is not None:
            self.refused[error["code"]] = self.refused.get(error["code"], 0) + 1


class _PublicSession:
    """One end of a session of the public protocol."""

    def __init__(self, registered: dict[str, Any], link: NatsLink, reply: str) -> None:
        self.ended = ""
        self.beat = self._frame(registered, reply, {})
        self.renewal = [self._frame(registered, reply, {"queues": [{"queue": QUEUE, "free": 4, "seen": 0}]})]
        link.subscribe(registered["bodies"], self._take)

    @classmethod
    async def registered(cls, name: str, link: NatsLink, reply: str) -> _PublicSession:
        ask = {"queues": [{"queue": QUEUE}], "slots": 4, "name": name, "host": "bench", "labels": {"zone": "a"}}
        data = msgspec.msgpack.encode(ask)
        answer = await link.request(f"{PREFIX}.v1.default.worker.register", data, timeout_ms=_REGISTER_MS)
        return cls(msgspec.msgpack.decode(answer.data), link, reply)

    @staticmethod
    def _frame(registered: dict[str, Any], reply: str, more: dict[str, Any]) -> Frame:
        data = msgspec.msgpack.encode({"session": registered["session"], **more})
        return f"{registered['subject']}.heartbeat", data, reply

    def _take(self, delivery: Delivery) -> None:
        push = msgspec.msgpack.decode(delivery.data)
        if push["kind"] in ("ended", "moved"):
            self.ended = push["reason"]


class Crowd:
    """All sessions, on their connections."""

    def __init__(self, plan: SessionsPlan) -> None:
        self._turns: list[tuple[NatsLink, _Session | _PublicSession]] = []
        self._answers: list[_Answers] = []
        self._plan = plan
        self._next = 0
        self._sent = 0

    @classmethod
    async def of(cls, plan: SessionsPlan, address: str, stack: AsyncExitStack) -> Crowd:
        rng, crowd = plan.rng("sessions"), cls(plan)
        for number in range(plan.links):
            link = await NatsLink.open(NatsConfig(address, name="bench"), clock=SystemClock(), rng=rng.stream(str(number)))
            stack.push_async_callback(link.close)
            names = [f"bench-{each}" for each in range(number, plan.sessions, plan.links)]
            add = crowd._add_public if plan.public else crowd._add
            await add(link, names)
            await link.flush()
        return crowd

    async def _add(self, link: NatsLink, names: Sequence[str]) -> None:
        slots = self._plan.shards
        bus, subjects = NatsBus(link, slots=slots, name="bench", clock=SystemClock()), Subjects(PREFIX, slots)
        for name in names:
            session = _Session(name, self._plan, subjects)
            bus.bind(session_address(name), session)
            self._turns.append((link, session))

    async def _add_public(self, link: NatsLink, names: Sequence[str]) -> None:
        answers, reply = _Answers(), f"{link.inbox}.beats.all"
        self._answers.append(answers)
        link.subscribe(reply, answers.take)
        for start in range(0, len(names), _REGISTER_AT_ONCE):
            part = names[start : start + _REGISTER_AT_ONCE]
            for session in await asyncio.gather(*[_PublicSession.registered(name, link, reply) for name in part]):
                self._turns.append((link, session))

    @property
    def answered(self) -> int:
        """How many heartbeats were answered; only those of the public protocol wait for one."""
        return sum(answers.count for answers in self._answers) if self._plan.public else self._sent

    @property
    def refused(self) -> int:
        """How many of them with an error."""
        return sum(sum(answers.refused.values()) for answers in self._answers)

    @property
    def ended(self) -> int:
        """How many were told that they had been given up."""
        return sum(bool(session.ended) for _, session in self._turns)

    async def beat(self, seconds: float) -> int:
        """Beat for so long, evenly, each session in its turn. Returns: how many heartbeats the server has got."""
        turns, plan = self._turns, self._plan
        start, sent, renewed = time.perf_counter(), 0, 0
        while (now := time.perf_counter() - start) < seconds:
            due = min(int(now * plan.beats), sent + plan.beats)
            while sent < due:
                link, session = turns[self._next % len(turns)]
                self._next += 1
                self._send(link, session.beat)
                sent += 1
            due = int(now * plan.sessions * 1000 / _RENEW_MS)
            while renewed < due:
                link, session = turns[(renewed * 7) % len(turns)]
                for frame in session.renewal:
                    self._send(link, frame)
                    sent += plan.public  # it is a heartbeat too
                renewed += 1
            await asyncio.sleep(_STEP_S)
        for link in dict.fromkeys(link for link, _ in turns):
            await link.flush()
        self._sent += sent
        return sent

    @staticmethod
    def _send(link: NatsLink, frame: Frame) -> None:
        subject, data, reply = frame
        link.publish(subject, data, reply=reply)
