"""What very many worker sessions cost the node that hears them: sessions that say nothing but that they live.

They speak as `sdk.worker` does: heartbeats to the actor that watches the session, far more often than they have to; and, as
often as a worker, credits to the queue and what they hold to a shard. They listen at their addresses, so that the broker
knows them. Many share a connection. None may be given up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from ..actors.addresses import queue_address, session_address, shard_address, worker_address
from ..actors.messages import Heartbeat, HeldLeases, SessionEnded, WorkerCredits
from ..runtime.bus import Envelope
from ..runtime.clock import SystemClock
from ..transports.nats.bus import NatsBus
from ..transports.nats.frames import Subjects, encode
from ..transports.nats.link import NatsConfig, NatsLink
from .cluster_place import BenchCluster, ClusterPlan
from .jobs import QUEUE

_STEP_S: Final = 0.01
_RENEW_MS: Final = 10_000  # a worker's usual interval
_WARM_S: Final = 3.0
_SETTLE_S: Final = 0.5


class SessionsPlan(ClusterPlan, frozen=True, kw_only=True):
    """`sessions`: live ones. `beats`: heartbeats a second, of all together. `links`: connections they share."""

    sessions: int = 2_000
    beats: int = 20_000
    seconds: float = 10.0
    links: int = 16


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
    def _frame(subjects: Subjects, to: str, sender: str, message: Any) -> tuple[str, bytes]:
        return subjects.of(to), encode(to, sender, 0, message)

    def deliver(self, envelope: Envelope) -> None:
        if isinstance(envelope.message, SessionEnded):
            self.ended = envelope.message.reason


async def sessions(plan: SessionsPlan) -> dict[str, Any]:
    """Measure the nodes while the sessions beat steadily."""
    async with BenchCluster(plan) as cluster, AsyncExitStack() as stack:
        before_mb = _rss_mb(cluster)
        crowd = await _Crowd.of(plan, cluster, stack)
        await crowd.beat(_WARM_S)
        known = [read for read in await cluster.client.workers() if read.state == "alive"]
        assert len(known) == plan.sessions, f"{len(known)} of {plan.sessions} sessions are known"
        before = await cluster.figures()
        if plan.profile:
            cluster.begin_profiles()
        with cluster.meter() as meter:
            sent = await crowd.beat(plan.seconds)
        profiles = await cluster.end_profiles() if plan.profile else {}
        await asyncio.sleep(_SETTLE_S)
        after = await cluster.figures()
        alive = [read for read in await cluster.client.workers() if read.state == "alive"]
        took_s, node_ns = meter.took_ns / 1e9, meter.used_ns["node"]
        delta = {name: after.get(name, 0) - before.get(name, 0) for name in after}
        figures: dict[str, Any] = {
            "sessions": plan.sessions,
            "connections": plan.links,
            "beats_per_s": round(sent / took_s),
            "heard_per_s": round(delta.get("worker.messages", 0) / took_s),
            "node_percent": round(100 * node_ns / meter.took_ns, 1),
            "node_us_per_beat": round(node_ns / max(sent, 1) / 1e3, 2),
            "broker_percent": round(100 * meter.used_ns.get("nats", 0) / meter.took_ns, 1),
            "bench_percent": round(100 * meter.used_ns["client"] / meter.took_ns, 1),
            "node_rss_mb": _rss_mb(cluster),
            "node_rss_before_mb": before_mb,
            "dropped": round(delta.get("bus.dropped", 0)),
            "given_up": plan.sessions - len(alive) + crowd.ended,
        }
        return figures | ({"profiles": profiles} if profiles else {})


class _Crowd:
    """All sessions, on their connections."""

    def __init__(self, links: Sequence[NatsLink], members: Sequence[Sequence[_Session]], plan: SessionsPlan) -> None:
        self._turns = [(link, session) for link, own in zip(links, members, strict=True) for session in own]
        self._plan = plan
        self._next = 0

    @classmethod
    async def of(cls, plan: SessionsPlan, cluster: BenchCluster, stack: AsyncExitStack) -> _Crowd:
        clock, rng, subjects = SystemClock(), plan.rng("sessions"), Subjects("foliot", plan.shards)
        links: list[NatsLink] = []
        members: list[list[_Session]] = []
        for number in range(plan.links):
            link = await NatsLink.open(NatsConfig(cluster.address, name="bench"), clock=clock, rng=rng.stream(str(number)))
            stack.push_async_callback(link.close)
            bus = NatsBus(link, slots=plan.shards, name=f"bench-{number}", clock=clock)
            own = [_Session(f"bench-{each}", plan, subjects) for each in range(number, plan.sessions, plan.links)]
            for session in own:
                bus.bind(session_address(session.name), session)
            await link.flush()
            links.append(link)
            members.append(own)
        return cls(links, members, plan)

    @property
    def ended(self) -> int:
        """How many were told that they had been given up."""
        return sum(bool(session.ended) for _, session in self._turns)

    async def beat(self, seconds: float) -> int:
        """Beat for so long, evenly, each session in its turn. Returns: how many heartbeats were sent."""
        turns, plan = self._turns, self._plan
        start, sent, renewed = time.perf_counter(), 0, 0
        while (now := time.perf_counter() - start) < seconds:
            due = min(int(now * plan.beats), sent + plan.beats)
            while sent < due:
                link, session = turns[self._next % len(turns)]
                self._next += 1
                link.publish(*session.beat)
                sent += 1
            due = int(now * plan.sessions * 1000 / _RENEW_MS)
            while renewed < due:
                link, session = turns[(renewed * 7) % len(turns)]
                for frame in session.renewal:
                    link.publish(*frame)
                renewed += 1
            await asyncio.sleep(_STEP_S)
        for link in dict.fromkeys(link for link, _ in turns):
            await link.flush()
        return sent


def _rss_mb(cluster: BenchCluster) -> float:
    """Return the memory that the nodes hold together."""
    return round(sum(_status_mb(node.pid) for node in cluster.nodes), 1)


def _status_mb(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0
