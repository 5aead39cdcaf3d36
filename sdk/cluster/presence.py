"""Workers whose connection is gone, noticed in seconds instead of by their silence.

The broker knows at once when a process has died: nobody listens any more where its session did, and it says so to
whoever sends there. So a node sends each session whose actor it hosts a message that means nothing, and gives up those
of which the broker said so several times in a row. Their tasks go to others, as after a goodbye. That is a shorter lease
and no proof: a worker that only lost its connection finds its session ended when it is back and begins another, and what
it still reports is refused. While this node's own connection is new, everybody else's may still be on its way back, so
nobody is given up then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import anyio
import structlog

from ...actors.addresses import key_of, session_address, worker_address
from ...actors.messages import WorkerLeft
from ...actors.node_messages import Probe
from ...runtime.bus import Envelope
from ...runtime.clock import Clock
from ...runtime.node import Node
from ...transports.nats.bus import NatsBus
from ...transports.nats.link import LinkState

log = structlog.get_logger("foliot")

_TOLD_MAX: Final = 65_536


@dataclass(frozen=True)
class PresenceConfig:
    """`interval_ms`: between two looks, 0 for none at all. `answer_ms`: how long the broker may take. `misses`: in a row.
    `settle_ms`: after this node's own connection was made."""

    interval_ms: int = 1_000
    answer_ms: int = 400
    misses: int = 3  # two seconds at least, in which a worker may connect again
    settle_ms: int = 10_000


class Presence:
    """Of the sessions whose actors live on one node."""

    def __init__(self, node: Node, bus: NatsBus, clock: Clock, config: PresenceConfig) -> None:
        self._node = node
        self._bus = bus
        self._clock = clock
        self._config = config
        self._missed: dict[str, int] = {}
        self._told: dict[str, None] = {}  # given up, the oldest first
        self._sessions = 0  # of the own connection
        self._settled_ns = 0
        self._is_up = True

    def link_changed(self, state: LinkState) -> None:
        """Hear how the own connection stands."""
        self._is_up = state.is_up
        self._missed.clear()
        if state.is_up and self._sessions:
            self._settled_ns = self._clock.mono_ns() + self._config.settle_ms * 1_000_000
        self._sessions = state.sessions

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while self._config.interval_ms:
            await anyio.sleep(self._config.interval_ms / 1000)
            await self.look()

    async def look(self) -> None:
        """Ask after every session once."""
        sessions = [key_of(address) for address in self._node.addresses("worker")]
        sessions = [session for session in sessions if session not in self._told]
        addresses = (session_address(session) for session in sessions)
        absent = await self._bus.absent(addresses, Probe(), wait_ms=self._config.answer_ms)
        missing = {session: self._missed.get(session, 0) + 1 for session in map(key_of, absent)}
        if not self._is_up or self._clock.mono_ns() < self._settled_ns:
            self._missed = {}
            return
        for session in [session for session, misses in missing.items() if misses >= self._config.misses]:
            del missing[session]
            self._give_up(session)
        self._missed = missing

    def _give_up(self, session: str) -> None:
        log.warning("worker_gone", session=session, misses=self._config.misses)
        self._told[session] = None
        if len(self._told) > _TOLD_MAX:
            del self._told[next(iter(self._told))]
        self._bus.send(Envelope(worker_address(session), WorkerLeft(session)))
