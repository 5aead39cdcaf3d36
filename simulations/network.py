"""The simulated network: links between machines, and who listens where.

A message travels as bytes, to every process that listens at its address at that moment, as through a broker. Each directed
link between two machines has its own stream of draws, one draw to a message, so that a fault that is taken away shifts no
other. Without faults a link keeps order and loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..actors.addresses import slot_of_address
from ..runtime.rng import Rng
from .loop import SimLoop
from .trace import STEPS

if TYPE_CHECKING:
    from .process import Process

_MILLE: Final = 1_000
_KNOWN_MAX: Final = 4_096  # addresses whose slots are remembered
LOCAL_NS: Final = 20_000  # between processes of one machine
RETRANSMIT_NS: Final = 200_000_000  # what a lost packet costs a connection


@dataclass(frozen=True)
class Quality:
    """How bad links are for a while; per thousand."""

    loss: int = 0
    duplicate: int = 0
    reorder: int = 0
    delay_ns: int = 0
    source: str = ""
    target: str = ""

    def holds_for(self, source: str, target: str) -> bool:
        return self.source in ("", source) and self.target in ("", target)


class Link:
    """One direction between two machines. `is_plain`: nothing is wrong with it."""

    __slots__ = ("bits", "blocked", "held", "holding", "is_plain", "qualities", "source", "target")

    def __init__(self, source: str, target: str, rng: Rng) -> None:
        self.source = source
        self.target = target
        self.bits = rng.stream(f"net/{source}>{target}").bits
        self.blocked = 0  # reasons
        self.holding = 0
        self.held: list[Callable[[], None]] = []
        self.qualities: list[Quality] = []
        self.is_plain = True

    def look(self) -> None:
        """Something about it was changed."""
        self.is_plain = not (self.blocked or self.holding or self.qualities)


class Pair:
    """What goes from one process to another: over which link, and when the last of it arrives."""

    __slots__ = ("last_ns", "link", "stream_ns")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.last_ns = 0
        self.stream_ns = 0


class Network:
    """All links of a run. `latency_ns`, `jitter_ns`: of each link without faults."""

    def __init__(self, loop: SimLoop, rng: Rng, *, latency_ns: int, jitter_ns: int, slots: int) -> None:
        self._loop = loop
        self._rng = rng
        self._latency_ns = latency_ns
        self._jitter_ns = max(jitter_ns, 1)
        self.slots = slots
        self._links: dict[tuple[str, str], Link] = {}
        self._qualities: list[Quality] = []
        self.bound: dict[str, list[Process]] = {}
        """By address: the processes that listen there, in order of coming."""
        self.hosts: dict[int, list[Process]] = {}
        """By slot: the processes that host it."""
        self._slot_of: dict[str, int | None] = {}
        self.sent = self.lost = self.doubled = self.late = 0

    # -- who listens -------------------------------------------------------------------------------------------------

    def listen(self, table: dict[Any, list[Process]], key: Any, process: Process) -> None:
        listeners = table.setdefault(key, [])
        if process not in listeners:
            listeners.append(process)

    def ignore(self, table: dict[Any, list[Process]], key: Any, process: Process) -> None:
        listeners = table.get(key)
        if listeners is not None and process in listeners:
            listeners.remove(process)
            if not listeners:
                del table[key]

    def forget(self, process: Process) -> None:
        """A process is gone."""
        tables: tuple[dict[Any, list[Process]], ...] = (self.bound, self.hosts)
        for table in tables:
            for key in [key for key, listeners in table.items() if process in listeners]:
                self.ignore(table, key, process)

    def listeners(self, address: str) -> list[Process]:
        """Return who listens at an address now."""
        found = self.bound.get(address)
        if found is not None:
            return found
        slot = self.slot_of(address)
        return self.hosts.get(slot, []) if slot is not None else []

    def slot_of(self, address: str) -> int | None:
        """Return the slot an actor lives in, None for other addresses."""
        known = self._slot_of
        try:
            return known[address]
        except KeyError:
            if len(known) >= _KNOWN_MAX:
                known.clear()
            slot = known[address] = slot_of_address(address, self.slots)
            return slot

    # -- travelling --------------------------------------------------------------------------------------------------

    def link(self, source: str, target: str) -> Link:
        link = self._links.get((source, target))
        if link is None:
            link = self._links[source, target] = Link(source, target, self._rng)
            link.qualities = [quality for quality in self._qualities if quality.holds_for(source, target)]
            link.look()
        return link

    def carry(self, sender: Process, receiver: Process, arrive: Callable[..., None], *args: Any) -> int:
        """Bring something from one process to another: `arrive(*args)` runs in the receiver's lane. Returns: when, -1
        if it is lost."""
        pair = sender.pairs.get(receiver.label) or self._pair(sender, receiver)
        link = pair.link
        loop = self._loop
        self.sent += 1
        draw = link.bits(64)
        if link.source == link.target:
            moment_ns = loop.now_ns + LOCAL_NS
        else:
            moment_ns = loop.now_ns + self._latency_ns + (draw & 0xFFFFFF) % self._jitter_ns
            if draw >> 56 == 0:  # the tail: one in 256 takes much longer
                moment_ns += self._jitter_ns * 20
        if not link.is_plain:
            return self._carry_badly(pair, draw, moment_ns, receiver, arrive, args)
        if moment_ns < pair.last_ns:
            moment_ns = pair.last_ns
        pair.last_ns = moment_ns
        loop.at(moment_ns, receiver.lane, arrive, *args)
        if loop.trace.level >= STEPS:
            loop.trace.note(loop.now_ns, sender.name, sender.boot, "carry", to=receiver.name, at=moment_ns)
        return moment_ns

    def _pair(self, sender: Process, receiver: Process) -> Pair:
        pair = sender.pairs[receiver.label] = Pair(self.link(sender.machine.name, receiver.machine.name))
        return pair

    def _carry_badly(
        self, pair: Pair, draw: int, moment_ns: int, receiver: Process, arrive: Callable[..., None], args: tuple[Any, ...]
    ) -> int:
        """Something is wrong with the link."""
        link, loop = pair.link, self._loop
        if link.blocked:
            self.lost += 1
            return -1
        overtakes = False
        for quality in link.qualities:
            if (draw >> 24) % _MILLE < quality.loss:
                self.lost += 1
                return -1
            if quality.delay_ns:
                moment_ns += quality.delay_ns + (draw >> 34) % quality.delay_ns
            if (draw >> 44) % _MILLE < quality.duplicate:
                self.doubled += 1
                loop.at(moment_ns + 1 + (draw & 0xFFFF) * 1_000, receiver.lane, lambda: arrive(*args, is_copy=True))
            if (draw >> 50) % _MILLE < quality.reorder:
                overtakes = True
        if overtakes:
            self.late += 1
            moment_ns += (draw & 0xFFF) * 10_000  # up to 40 ms behind those that follow
        else:
            moment_ns = max(moment_ns, pair.last_ns)
            pair.last_ns = moment_ns
        if link.holding:
            link.held.append(lambda: loop.post(receiver.lane, arrive, *args))
        else:
            loop.at(moment_ns, receiver.lane, arrive, *args)
        return moment_ns

    def is_at_hand(self, sender: Process, receiver: Process) -> bool:
        """Tell whether two processes share a machine that nothing is wrong with."""
        link = (sender.pairs.get(receiver.label) or self._pair(sender, receiver)).link
        return link.is_plain and link.source == link.target

    def stream(self, sender: Process, receiver: Process, extra_ns: int, arrive: Callable[..., None], *args: Any) -> bool:
        """Bring something over a connection: it comes once and in order, late where the link is bad, or not at all.
        Returns: whether the link is there."""
        pair = sender.pairs.get(receiver.label) or self._pair(sender, receiver)
        link = pair.link
        if link.blocked:
            return False
        draw = link.bits(32)
        delay_ns = LOCAL_NS if link.source == link.target else self._latency_ns + draw % self._jitter_ns
        for quality in link.qualities:
            delay_ns += quality.delay_ns
            if (draw >> 22) % _MILLE < quality.loss:
                delay_ns += RETRANSMIT_NS
        moment_ns = max(self._loop.now_ns + delay_ns + extra_ns, pair.stream_ns)
        pair.stream_ns = moment_ns
        if link.holding:
            link.held.append(lambda: self._loop.post(receiver.lane, arrive, *args))
        else:
            self._loop.at(moment_ns, receiver.lane, arrive, *args)
        return True

    # -- faults ------------------------------------------------------------------------------------------------------

    def block(self, source: str, target: str) -> None:
        """Lose what is sent that way, until as many calls of `unblock`."""
        link = self.link(source, target)
        link.blocked += 1
        link.look()

    def unblock(self, source: str, target: str) -> None:
        link = self.link(source, target)
        link.blocked = max(link.blocked - 1, 0)
        link.look()

    def hold(self, source: str, target: str) -> None:
        """Keep what is sent that way."""
        link = self.link(source, target)
        link.holding += 1
        link.look()

    def release(self, source: str, target: str) -> None:
        """Let go of what was kept, in order."""
        link = self.link(source, target)
        link.holding = max(link.holding - 1, 0)
        link.look()
        if not link.holding:
            held, link.held = link.held, []
            for deliver in held:
                deliver()

    def worsen(self, quality: Quality) -> None:
        """Make links bad, those that have not been used yet as well."""
        self._qualities.append(quality)
        for link in self._links.values():
            if quality.holds_for(link.source, link.target):
                link.qualities.append(quality)
                link.look()

    def mend(self, quality: Quality) -> None:
        """Take `worsen` back."""
        if quality in self._qualities:
            self._qualities.remove(quality)
        for link in self._links.values():
            if quality in link.qualities:
                link.qualities.remove(quality)
                link.look()

    def heal(self) -> None:
        """Make every link good again."""
        self._qualities.clear()
        for link in self._links.values():
            link.qualities.clear()
            link.blocked = 0
            link.holding = 1
            self.release(link.source, link.target)
