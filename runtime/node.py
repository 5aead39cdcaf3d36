"""A node: one process's share of the slots, and the actors it hosts there.

The ring of the live members says which slots are the node's own; alone, without membership, it owns them all. The durable
actor of each slot is started by the node itself, under a new epoch; all other actors of the slot come to life with the first
message to their address, and end with the slot. What an address means is told by the factories the node is given; the node
knows nothing of tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio
import structlog
from anyio.abc import TaskGroup

from .actor import Actor, Journal
from .bus import Bus, Envelope
from .cell import Cell, CellConfig, PoisonSink
from .clock import Clock
from .errors import ForeignNodeError, NodeReplacedError, NoSuchActorError, UnavailableError
from .handover import HandOver
from .hashing import slot_of
from .membership import NODES, SLOTS, Membership, MembershipConfig, SlotClaimed, SlotReleased, boot_id
from .ownership import Durable, MakeDurable, Slot, SlotConfig
from .ring import Ring
from .rng import Rng

log = structlog.get_logger("foliot.runtime")

_SWEEP_NS: Final = 1_000_000_000

Make = Callable[[str, int], Awaitable[Actor[Any]]]
"""Makes the volatile actor of (address, epoch of its slot); called again after each failure."""


@dataclass(frozen=True)
class NodeConfig:
    """What a node must know of its cluster. `membership`: None for a node that is alone and owns all slots."""

    name: str
    slots: int
    cell: CellConfig = CellConfig()
    volatile_max: int = 100_000  # actors made on demand
    volatile_many: int = 256  # new ones, before those that are spent are ended
    membership: MembershipConfig | None = None
    slot: SlotConfig = SlotConfig()
    moves_at_once: int = 2  # slots on their way to other nodes
    move_ms: int = 500  # how long to wait for one to be claimed, before another one goes
    start_ms: int = 2_000  # how long a start waits for the first claims; slots that take longer come later
    cluster: int = 0  # names the store, which all nodes of a cluster share; 0: it has no name


class Node:
    """Hosts cells. `kinds`: the part of an address before its first dot → how to make such an actor on demand."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        bus: Bus,
        clock: Clock,
        rng: Rng,
        kinds: Mapping[str, Make],
        poison: PoisonSink,
    ) -> None:
        self._config = config
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._kinds = kinds
        self._poison = poison
        self._cells: dict[str, Cell] = {}
        self._slots: list[Slot] = []
        self._group: TaskGroup | None = None
        self._is_leaving = False
        self._over = asyncio.Event()
        self._idle = asyncio.Event()  # nothing is done about any slot
        self._unclaimed: dict[int, None] = {}  # of the first claims, those still to come ...
        self._all_claimed = asyncio.Event()
        self._unopened: dict[int, None] = {}  # ... and those not hosted yet
        self._all_open = asyncio.Event()
        self._is_started = False
        self._hand_over = HandOver(
            self._retire, self._begin_hand_over, at_once=config.moves_at_once, turn_ms=config.move_ms
        )
        self.boot = boot_id(clock, rng.stream("boot"))
        self.membership: Membership | None = None
        if config.membership is not None:
            self.membership = Membership(
                config.membership, name=config.name, boot=self.boot, bus=bus, clock=clock, changed=self._view_changed,
                released=self._slot_released, cluster=config.cluster,
            )  # fmt: skip
        self.ring = Ring([config.name])
        self._owners = [config.name] * config.slots
        self._sweep_at = config.volatile_many  # so many actors, before those that are spent are ended ...
        self._sweep_ns = 0  # ... and not before this moment

    @property
    def cells(self) -> Mapping[str, Cell]:
        """The live cells by address."""
        return self._cells

    @property
    def hosted(self) -> Mapping[int, int]:
        """The slots this node hosts and the epoch of each, by slot."""
        return {slot.number: slot.epoch for slot in self._slots if slot.is_open}

    def owns(self, slot: int) -> bool:
        """Tell whether the slot is this node's, by the members it sees."""
        return not self._is_leaving and self._owners[slot] == self._config.name

    def addresses(self, kind: str) -> list[str]:
        """Return the addresses of a kind that live here, sorted."""
        return sorted(address for address in self._cells if address.partition(".")[0] == kind)

    # -- life ---------------------------------------------------------------------------------------------------------------

    async def run(self, durable: Durable, *, started: Callable[[], None] = lambda: None) -> None:
        """Host the owned slots until `leave`, or until cancelled. `started` is called once the first are hosted.

        Raises: what an actor's supervisor gave up on, EscalationError among others; NodeReplacedError, ForeignNodeError.
        """
        config = self._config
        self._slots = [
            Slot(
                number, config.slot, host=self, bus=self._bus, clock=self._clock, rng=self._rng.stream(f"slot/{number}"),
                durable=durable,
            )
            for number in range(config.slots)
        ]  # fmt: skip
        membership = self.membership
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                if membership is None:
                    self._begin(None)
                else:
                    self._bus.bind(SLOTS, self)
                    await membership.join()
                    if membership.foreign:
                        group.cancel_scope.cancel()
                    else:
                        self._begin(Ring(membership.established))
                with anyio.move_on_after(config.start_ms / 1000):
                    await self._all_open.wait()
                self._is_started = True
                started()
                await self._over.wait()
            finally:
                self._group = None
                if membership is not None:
                    membership.stop()
                    self._bus.unbind(SLOTS)
            group.cancel_scope.cancel()
        if membership is not None and membership.foreign:
            raise ForeignNodeError(config.name, membership.foreign)
        if membership is not None and membership.replaced_by:
            raise NodeReplacedError(config.name, self.boot, membership.replaced_by)

    async def leave(self) -> None:
        """Tell the others, give back every slot in order, then let `run` return."""
        self._is_leaving = True
        if self.membership is not None:
            self.membership.leave()
        for slot in self._slots:
            if slot.is_tended:
                self._give_back(slot)
        if any(slot.is_tended for slot in self._slots):
            await self._idle.wait()  # each slot has its own deadline
        if self.membership is not None:
            self.membership.leave()
        self._over.set()

    # -- which slots --------------------------------------------------------------------------------------------------------

    def is_entitled(self, slot: int) -> bool:
        return self.owns(slot) and (self.membership is None or self.membership.may_take_over())

    def is_reduced(self) -> bool:
        return self.membership is not None and self.membership.is_reduced

    def _begin(self, before: Ring | None) -> None:
        """Take part. `before`: how the slots are shared without this node."""
        self._see()
        for slot in self._slots:
            if self.is_entitled(slot.number):
                self._unclaimed[slot.number] = self._unopened[slot.number] = None
        if not self._unopened:
            self._all_open.set()
        self._follow(before)

    def _view_changed(self) -> None:
        assert self.membership is not None
        if self.membership.replaced_by:
            self._over.set()
        elif self._is_leaving:
            if len(self.membership.alive) == 1:
                self._hand_over.hurry()  # all nodes leave together
        elif self._group is not None:
            before = self.ring
            self._see()
            self._follow(before)

    def _see(self) -> None:
        if self.membership is not None:
            self.ring = Ring(self.membership.alive)
            self._owners = [self.ring.owner(slot) for slot in range(self._config.slots)]
            log.info("members", node=self._config.name, members=list(self.ring.members))

    def _follow(self, before: Ring | None) -> None:
        """Do what the ring says: begin with slots that are the node's own now, give back those that are not."""
        assert self._group is not None
        for slot in self._slots:
            if slot.is_tended:
                if not self.owns(slot.number):
                    self._give_back(slot)
            elif self.is_entitled(slot.number):
                slot.begin(self._previous(slot.number, before))
                self._idle.clear()
                self._group.start_soon(slot.tend, name=f"slot {slot.number}")

    def _give_back(self, slot: Slot) -> None:
        """Part with a slot: in its turn if it is served and somebody else is there to take it, else at once."""
        if self._group is None or not slot.is_open or self.membership is None or len(self.membership.alive) == 1:
            slot.retire()
        else:
            self._hand_over.add(slot.number)

    def _begin_hand_over(self) -> None:
        assert self._group is not None
        self._group.start_soon(self._hand_over.run, name="hand-over")

    def _retire(self, number: int) -> bool:
        slot = self._slots[number]
        if not slot.is_tended or self.owns(number):
            return False  # it is the node's own again, or was lost meanwhile
        slot.retire()
        return True

    def _previous(self, slot: int, before: Ring | None) -> str:
        """Return the node that will release the slot, empty if nobody will."""
        if self.membership is None or before is None or not before.members:
            return ""
        owner = before.owner(slot)
        return owner if owner != self._config.name and self.membership.will_release(owner) else ""

    # -- news of slots ------------------------------------------------------------------------------------------------------

    def deliver(self, envelope: Envelope) -> None:
        """Hear of a slot that another node claimed."""
        message = envelope.message
        if type(message) is SlotClaimed and message.node != self._config.name and 0 <= message.slot < len(self._slots):
            assert self.membership is not None
            self._slots[message.slot].hear_claimed(message)
            self._hand_over.hear_claimed(message.slot)
            if not self.membership.knows(message.node):
                self.membership.ask()
            self._tell_durable(message)

    def renew(self) -> None:
        """Say again what the others must know of the slots here, and have them say what these must know: the way between was
        interrupted, and what was said meanwhile is lost. Harmless when repeated, and in a single process."""
        if self.membership is None:
            return
        for slot in self._slots:
            if slot.is_open:
                message = SlotClaimed(slot.number, self._config.name, slot.epoch)
                self._bus.send(Envelope(SLOTS, message))
                self._tell_durable(message)
            else:
                self._tell_durable(SlotClaimed(slot.number, "", slot.epoch))

    def _slot_released(self, message: SlotReleased) -> None:
        if 0 <= message.slot < len(self._slots):
            self._slots[message.slot].hear_released(message)
            for slot in self._slots:
                slot.hear_progress(message.node)

    def _tell_durable(self, message: SlotClaimed) -> None:
        """Let every durable actor here know that the actors of a slot began anew; the slot's own has just begun."""
        for slot in self._slots:
            if slot.is_open and slot.number != message.slot and slot.cell is not None:
                try:
                    slot.cell.deliver(Envelope(slot.address, message, SLOTS))
                except UnavailableError as error:
                    log.warning("message_dropped", to=slot.address, message="SlotClaimed", error=str(error))

    # -- what slots tell ----------------------------------------------------------------------------------------------------

    async def claimed(self, slot: Slot) -> None:
        if slot.is_open:
            return  # begun again in place
        assert slot.cell is not None
        self._unclaimed.pop(slot.number, None)
        if not self._unclaimed:
            self._all_claimed.set()
        if self.membership is None:  # so that none speaks to actors that cannot be made yet
            with anyio.move_on_after(self._config.start_ms / 1000):
                await self._all_claimed.wait()
        slot.is_open = True
        self._cells[slot.address] = slot.cell
        self._bus.host(slot.number, self.resolve)
        self._opened(slot)
        if self.membership is not None or self._is_started:  # else they all begin together
            message = SlotClaimed(slot.number, self._config.name, slot.epoch)
            self._bus.send(Envelope(SLOTS, message))
            self._tell_durable(message)

    def _opened(self, slot: Slot) -> None:
        self._unopened.pop(slot.number, None)
        if not self._unopened:
            self._all_open.set()

    def shut(self, slot: Slot) -> None:
        for address, scope in slot.volatile.items():
            scope.cancel()
            cell = self._cells.pop(address)
            self._bus.unbind(address)
            if not slot.is_lost:
                cell.refuse_waiting(NoSuchActorError(address))
        slot.volatile.clear()

    def ended(self, slot: Slot) -> None:
        self._cells.pop(slot.address, None)
        self._bus.unbind(slot.address)
        if slot.is_lost and self.membership is not None:
            self.membership.ask()  # somebody sees other members than this node

    def given_up(self, slot: Slot) -> None:
        self._unclaimed.pop(slot.number, None)
        self._opened(slot)
        if self.membership is not None and not self.owns(slot.number):
            self._bus.send(Envelope(NODES, SlotReleased(slot.number, self._config.name, slot.epoch)))
        if not any(other.is_tended for other in self._slots):
            self._idle.set()

    # -- cells --------------------------------------------------------------------------------------------------------------

    def resolve(self, address: str) -> Cell | None:
        """Return the cell of an address, brought to life if it is of a kind made on demand and lives in a hosted slot."""
        cell = self._cells.get(address)
        if cell is None:
            make = self._kinds.get(address.partition(".")[0])
            if make is None or self._group is None or not self._has_room():
                return None
            slot = self._slots[slot_of(address, self._config.slots)]
            if not slot.is_open:
                return None
            cell = self._start(address, make, slot)
        return cell

    def _has_room(self) -> bool:
        """Tell whether one more actor may be made. Once there are many, those that are spent end first; they are looked for
        once a second at most."""
        most = self._config.volatile_max
        now_ns = self._clock.mono_ns()
        if len(self._cells) >= min(self._sweep_at, most) and now_ns >= self._sweep_ns:
            for slot in self._slots:
                for address in [address for address in slot.volatile if self._cells[address].is_spent]:
                    del slot.volatile[address]
                    self._cells.pop(address).retire()
                    self._bus.unbind(address)
            self._sweep_at = len(self._cells) + self._config.volatile_many
            self._sweep_ns = now_ns + _SWEEP_NS
        return len(self._cells) < most

    def _start(self, address: str, make: Make, slot: Slot) -> Cell:
        assert self._group is not None

        async def made() -> tuple[Actor[Any], Journal | None]:
            return await make(address, slot.epoch), None

        cell = self._cells[address] = self._new_cell(address, made)
        scope = slot.volatile[address] = anyio.CancelScope()
        self._group.start_soon(self._live, cell, slot, scope, name=address)
        return cell

    async def _live(self, cell: Cell, slot: Slot, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                if not scope.cancel_called:
                    await cell.run()
        finally:
            if self._cells.get(cell.address) is cell:
                del self._cells[cell.address]
                slot.volatile.pop(cell.address, None)
                self._bus.unbind(cell.address)

    def cell(self, address: str, make: MakeDurable) -> Cell:
        return self._new_cell(address, make)

    def _new_cell(self, address: str, make: Callable[[], Awaitable[tuple[Actor[Any], Journal | None]]]) -> Cell:
        return Cell(
            address,
            make,
            bus=self._bus,
            clock=self._clock,
            rng=self._rng.stream(address),
            poison=self._poison,
            config=self._config.cell,
        )
