"""Who is alive: what nodes hear of each other by heartbeats on the bus.

Every node broadcasts a beat each interval, and counts the others as members until they fall silent or say that they leave.
Silence is measured on the node's own monotonic clock. A member about to be given up is asked first, and so are all others:
that tells a member that died from a node that hears nobody any more. What holds: the members are what was heard, never what
was wished for; a node that hears of fewer than half of those it knew takes over nothing; beats of an earlier life of a node
count for nothing. One timer serves all of it, so an idle cluster is silent between the beats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from .bus import Bus, Envelope
from .clock import Clock
from .errors import UsageError
from .rng import Rng

NODES: Final = "nodes"
"""The broadcast address of beats and of slots that were released."""

SLOTS: Final = "slots"
"""The broadcast address of slots that were claimed."""

_GONE_MAX: Final = 1_024  # earlier lives of nodes that are remembered
_MS: Final = 1_000_000


class NodeBeat(msgspec.Struct, frozen=True, array_like=True, tag="node_beat", gc=False):
    """A node lives. `boot`: names one life of it, a later one sorts after. `joining`: it does not take part yet. `asks`:
    answer at once with a beat. `now_ms`: its wall clock. `cluster`: names its database, 0 if that has no name."""

    name: str
    boot: str
    leaving: bool = False
    asks: bool = False
    now_ms: int = 0
    joining: bool = False
    cluster: int = 0


class SlotReleased(msgspec.Struct, frozen=True, array_like=True, tag="slot_released", gc=False):
    """A node gave a slot back: its last commit is done, the next owner may claim it. `epoch`: 0 if it never had it."""

    slot: int
    node: str
    epoch: int = 0


class SlotClaimed(msgspec.Struct, frozen=True, array_like=True, tag="slot_claimed", gc=False):
    """A node hosts a slot from now on. All actors there began anew: say again what they must know."""

    slot: int
    node: str
    epoch: int = 0


@dataclass(frozen=True)
class MembershipConfig:
    """The spans of membership. Raises: UsageError if they contradict each other."""

    interval_ms: int = 2_500
    dead_after_ms: int = 7_000  # of silence
    ask_before_ms: int = 500  # so long before that, everybody is asked for a beat
    join_ms: int = 400  # a node listens so long before it takes part
    remember_ms: int = 60_000  # members that fell silent count as known for so long

    def __post_init__(self) -> None:
        if not 0 < self.interval_ms + self.ask_before_ms < self.dead_after_ms:
            raise UsageError(
                f"dead_after_ms is {self.dead_after_ms}, expected more than interval_ms {self.interval_ms} and "
                f"ask_before_ms {self.ask_before_ms} together"
            )


def boot_id(clock: Clock, rng: Rng) -> str:
    """Return a name for one life of a node."""
    return f"{clock.now_ms():013d}-{rng.bits(32):08x}"


class _Member:
    __slots__ = ("asked", "boot", "heard_ns", "joining", "skew_ms")

    def __init__(self, boot: str) -> None:
        self.boot = boot
        self.joining = False
        self.heard_ns = 0
        self.skew_ms = 0
        self.asked = False  # since it was last heard


class Membership:
    """One node's view of the cluster; a receiver on `NODES`. `cluster`: names the database. `changed`: the members, or
    whether slots may be taken over, are no longer what they were. `released`: hears of released slots."""

    def __init__(
        self,
        config: MembershipConfig,
        *,
        name: str,
        boot: str,
        bus: Bus,
        clock: Clock,
        changed: Callable[[], None],
        released: Callable[[SlotReleased], None],
        cluster: int = 0,
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._name = name
        self._boot = boot
        self._bus = bus
        self._clock = clock
        self._changed = changed
        self._released = released
        self._members: dict[str, _Member] = {}  # the others
        self._silent: dict[str, int] = {}  # members that were given up: when they were last heard
        self._left: dict[str, int] = {}  # members that said they leave: when
        self._gone: dict[str, None] = {}  # earlier lives, the oldest first
        self._lives: dict[str, None] = {}  # boots of other nodes that were ever heard
        self.forgot_lives = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_ns = 0
        self._beat_due_ns = 0
        self._asked_ns = -(1 << 62)
        self._takes_part = False
        self._is_leaving = False
        self._is_deaf = False
        self._could_take_over = True
        self.replaced_by = ""
        """The boot of the process that goes by this node's name now, if there is one."""
        self.foreign = ""
        """A node of another database that was there before this one took part, if there was one."""

    # -- what is known --------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> list[str]:
        """The members, this node included, sorted."""
        return sorted([self._name, *self._members])

    @property
    def established(self) -> list[str]:
        """The members that took part when they were last heard, this node excepted, sorted."""
        return sorted([name for name, member in self._members.items() if not member.joining])

    @property
    def lives(self) -> list[str]:
        """The boots of all other nodes that were ever heard here, sorted."""
        return sorted(self._lives)

    def knows(self, node: str) -> bool:
        return node == self._name or node in self._members

    @property
    def is_reduced(self) -> bool:
        """Tell whether a member fell silent lately."""
        return bool(self._silent)

    def may_take_over(self) -> bool:
        """Tell whether at least half of the known members were heard just now. When it turns true, `changed` is called."""
        fresh_ns = self._clock.mono_ns() - (self._config.interval_ms + self._config.ask_before_ms) * _MS
        heard = 1 + sum([member.heard_ns >= fresh_ns for member in self._members.values()])
        self._could_take_over = 2 * heard >= 1 + len(self._members) + len(self._silent)
        return self._could_take_over

    def will_release(self, node: str) -> bool:
        """Tell whether a SlotReleased is to be expected of that node."""
        return node in self._members or node in self._left

    def figures(self) -> dict[str, float]:
        """Return what is known, as figures. `skew_ms`: the worst of the members' clocks against the own one."""
        skew_ms = max((abs(member.skew_ms) for member in self._members.values()), default=0)
        return {"members": 1 + len(self._members), "silent": len(self._silent), "skew_ms": skew_ms}

    # -- life ---------------------------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Hear who is there, then take part."""
        self._bus.bind(NODES, self)
        self._say(asks=True)
        await asyncio.sleep(self._config.join_ms / 1000)
        if not self._is_leaving:
            self._takes_part = True
            self._tick()

    def leave(self) -> None:
        """Tell the others, who count this node as a member no longer; said again, it reaches those that missed it."""
        self._stop_timer()
        self._takes_part = False
        self._is_leaving = True
        self._say(leaving=True)

    def stop(self) -> None:
        self._stop_timer()
        self._bus.unbind(NODES)

    def hears(self, can_hear: bool) -> None:
        """Tell whether this node's own transport works. While it does not, the silence of others says nothing about them;
        their time begins anew when it does again."""
        if self._is_deaf and can_hear:
            self._hear_all_anew()
            self.ask()
        self._is_deaf = not can_hear

    def _hear_all_anew(self) -> None:
        now_ns = self._clock.mono_ns()
        for member in self._members.values():
            member.heard_ns = now_ns
            member.asked = False

    def ask(self) -> None:
        """Ask everybody for a beat, since views seem to differ; at most once in `ask_before_ms`."""
        now_ns = self._clock.mono_ns()
        if now_ns - self._asked_ns >= self._config.ask_before_ms * _MS and self._takes_part:
            self._asked_ns = now_ns
            self._say(asks=True)

    def _say(self, *, leaving: bool = False, asks: bool = False) -> None:
        if self._is_leaving and not leaving:
            return
        beat = NodeBeat(
            self._name, self._boot, leaving, asks, self._clock.now_ms(), not leaving and not self._takes_part, self._cluster
        )
        self._bus.send(Envelope(NODES, beat))

    # -- hearing ------------------------------------------------------------------------------------------------------------

    def deliver(self, envelope: Envelope) -> None:
        message = envelope.message
        if type(message) is NodeBeat:
            self._hear(message)
        elif type(message) is SlotReleased and message.node != self._name:
            self._released(message)

    def _hear(self, beat: NodeBeat) -> None:
        name, boot = beat.name, beat.boot
        if beat.cluster and self._cluster and beat.cluster != self._cluster:
            self._hear_foreign(beat)
            return
        if boot != self._boot and boot not in self._lives:
            if len(self._lives) < _GONE_MAX:
                self._lives[boot] = None
            else:
                self.forgot_lives = True
        if name == self._name:
            self._hear_own_name(boot)
            return
        member = self._members.get(name)
        if member is not None and member.boot == boot and not beat.leaving:
            if beat.asks:
                self._say()
        elif boot in self._gone:
            return
        elif beat.leaving:
            self._forget(boot)
            if member is not None and member.boot == boot:
                del self._members[name]
                self._left[name] = self._clock.mono_ns()
                self._tell()
            return
        elif member is not None:
            self._forget(member.boot)  # it has begun anew; the ring stays as it is
            member.boot = boot
            if beat.asks:
                self._say()
        else:
            if beat.asks:
                self._say()
            if beat.joining and self._takes_part:
                return  # it does not take part yet; but two nodes that join together count on each other
            member = self._members[name] = _Member(boot)
            member.heard_ns = self._clock.mono_ns()
            self._silent.pop(name, None)
            self._left.pop(name, None)
            self._tell()
        member.heard_ns = self._clock.mono_ns()
        member.asked = False
        member.joining = beat.joining
        member.skew_ms = beat.now_ms - self._clock.now_ms()
        if not self._could_take_over and self.may_take_over():
            self._tell()

    def _hear_foreign(self, beat: NodeBeat) -> None:
        """A node of another database is no member. Who comes later has to go: both would answer the same clients."""
        if beat.asks:
            self._say()
        if not (self._takes_part or self._is_leaving or beat.leaving) and (not beat.joining or beat.boot < self._boot):
            self.foreign = beat.name

    def _hear_own_name(self, boot: str) -> None:
        if boot > self._boot and not self.replaced_by:
            self.replaced_by = boot
            self._tell()
        elif boot < self._boot and self._takes_part:
            self.ask()  # so that the earlier one hears of this one

    def _tell(self) -> None:
        if self._takes_part or self._is_leaving or self.replaced_by:
            self._changed()

    def _forget(self, boot: str) -> None:
        self._gone[boot] = None
        if len(self._gone) > _GONE_MAX:
            del self._gone[next(iter(self._gone))]

    # -- the timer ----------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        config = self._config
        now_ns = self._clock.mono_ns()
        late_ns = now_ns - self._timer_due_ns if self._timer is not None else 0
        self._timer = None
        asks = False
        if self._is_deaf:
            self._hear_all_anew()
        if late_ns > config.interval_ms * _MS:  # this node stood still and heard nobody; that is not their fault
            asks = True
            for member in self._members.values():
                member.heard_ns = min(member.heard_ns + late_ns, now_ns)
        dead: list[str] = []
        due_ns = now_ns + config.interval_ms * _MS
        for name, member in self._members.items():
            dead_ns = member.heard_ns + config.dead_after_ms * _MS
            ask_ns = dead_ns - config.ask_before_ms * _MS
            if dead_ns <= now_ns:
                dead.append(name)
            elif ask_ns <= now_ns:
                asks = asks or not member.asked
                member.asked = True
                due_ns = min(due_ns, dead_ns)
            else:
                due_ns = min(due_ns, ask_ns)
        if asks or self._beat_due_ns <= now_ns:
            self._beat_due_ns = now_ns + config.interval_ms * _MS
            self._say(asks=asks)
        self._arm(now_ns, min(due_ns, self._beat_due_ns))
        self._settle(dead, now_ns)

    def _settle(self, dead: list[str], now_ns: int) -> None:
        """Give up members that fell silent, and forget what is long past."""
        for name in dead:
            self._silent[name] = self._members.pop(name).heard_ns
        past_ns = now_ns - self._config.remember_ms * _MS
        for names in (self._silent, self._left):
            for name in [name for name, at_ns in names.items() if at_ns < past_ns]:
                del names[name]
        if dead or (not self._could_take_over and self.may_take_over()):
            self._tell()

    def _arm(self, now_ns: int, due_ns: int) -> None:
        delay_ns = max(due_ns - now_ns, _MS)
        self._timer_due_ns = now_ns + delay_ns
        self._timer = asyncio.get_running_loop().call_later(delay_ns / 1e9, self._tick)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
