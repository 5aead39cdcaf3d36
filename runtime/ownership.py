"""One slot of a node: waiting for its turn, claiming, holding, giving back, and losing it.

What holds: nothing of a slot lives on a node before its epoch is claimed in the store, and nothing stays once the slot is
lost; a slot that is given back finishes what was in its mailbox first; a node that keeps losing a slot which it believes to
be its own claims it ever less often, so that two nodes of different views do not take it from each other without end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import structlog

from .actor import Actor, Journal
from .bus import Bus
from .cell import Cell
from .clock import Clock
from .errors import NoSuchActorError, StaleEpochError
from .membership import SlotClaimed, SlotReleased
from .rng import Rng

log = structlog.get_logger("foliot.runtime")

MakeDurable = Callable[[], Awaitable[tuple[Actor[Any], Journal]]]
"""Claims a slot's durable actor under a new epoch and makes it from the store; called again after each failure."""

Durable = Callable[[int], tuple[str, MakeDurable]]
"""The address and factory of a slot's durable actor."""


@dataclass(frozen=True)
class SlotConfig:
    """The spans of ownership."""

    handover_ms: int = 1_000  # how long the previous owner may take to release a slot
    drain_ms: int = 500  # how long a slot's mailbox may take to become empty once the slot is given back
    claim_backoff_ms: int = 500  # after a slot was lost, doubling ...
    claim_backoff_max_ms: int = 10_000  # ... up to this
    settled_ms: int = 60_000  # a slot that was held for so long is no longer contested


class Host(Protocol):
    """What a slot needs of its node."""

    def is_entitled(self, slot: int) -> bool:
        """Tell whether the node may claim the slot now."""
        ...

    def is_reduced(self) -> bool:
        """Tell whether members fell silent lately."""
        ...

    def cell(self, address: str, make: MakeDurable) -> Cell: ...

    async def claimed(self, slot: Slot) -> None:
        """The slot is claimed: host it, unless it is hosted already."""
        ...

    def shut(self, slot: Slot) -> None:
        """Host the slot no longer; its volatile actors end at once."""
        ...

    def ended(self, slot: Slot) -> None:
        """The slot's durable actor has ended."""
        ...

    def given_up(self, slot: Slot) -> None:
        """The node does nothing about the slot any more."""
        ...


class _SlotGoneError(Exception):
    """The node must not claim the slot (again)."""


class Slot:
    """One slot, as its node sees it. `epoch`: of the last claim, 0 before any. `volatile`: the actors made on demand."""

    def __init__(
        self, number: int, config: SlotConfig, *, host: Host, bus: Bus, clock: Clock, rng: Rng, durable: Durable
    ) -> None:  # fmt: skip
        self.number = number
        self.epoch = 0
        self.cell: Cell | None = None
        self.is_open = False
        self.is_tended = False
        self.is_lost = False  # another node claimed it, and this one not again yet
        self.volatile: dict[str, anyio.CancelScope] = {}
        self.address, self._make = durable(number)
        self._config = config
        self._host = host
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._scope = anyio.CancelScope()
        self._go = asyncio.Event()
        self._wait_ms = 0
        self._waiting: anyio.CancelScope | None = None  # while it waits for `_go`
        self._awaits = ""
        self._released_by = ""  # the last news of the slot, if it is that somebody released it
        self._heard_epoch = 0  # the highest of others
        self._is_retired = False
        self._losses = 0

    # -- what its node tells it -----------------------------------------------------------------------------------------

    def begin(self, previous: str) -> None:
        """Prepare to tend. `previous`: the node that is expected to release the slot, empty if none."""
        self.is_tended = True
        self._awaits = previous
        self._go = asyncio.Event()
        # A slot that was lost is released by whoever took it, once that node sees whose it is.
        is_awaited = not self._released_by if self.is_lost else previous not in ("", self._released_by)
        self._wait_ms = self._config.handover_ms if is_awaited else 0

    def retire(self) -> None:
        """The slot belongs to another node now: finish what is in its mailbox, then give it back."""
        self._is_retired = True
        self._go.set()
        if self.cell is None:
            return
        if self.is_open:
            self._shut()
            self.cell.retire()
            self._scope.deadline = anyio.current_time() + self._config.drain_ms / 1000
        else:  # it has not begun, so there is nothing to finish
            self._scope.cancel()

    def hear_released(self, message: SlotReleased) -> None:
        if 0 < message.epoch < max(self.epoch, self._heard_epoch) or (self.is_open and message.epoch <= self.epoch):
            return  # it comes late: somebody has claimed the slot since
        self._released_by = message.node
        if self.is_open:
            self._fence(message.epoch, message.node)  # it went to another and came back, unnoticed
        elif message.node == self._awaits or message.epoch:
            self._go.set()

    def hear_progress(self, node: str) -> None:
        """A node gives back its slots one after the other: while it does, this one's turn is still to come."""
        if self._waiting is not None and node == self._awaits and not self.is_lost:
            self._waiting.deadline = anyio.current_time() + self._config.handover_ms / 1000

    def hear_claimed(self, message: SlotClaimed) -> None:
        self._released_by = ""
        self._heard_epoch = max(self._heard_epoch, message.epoch)
        if self.is_open and message.epoch > self.epoch:
            self._fence(message.epoch, message.node)

    # -- its life -----------------------------------------------------------------------------------------------------------

    async def tend(self) -> None:
        """Own the slot for as long as the node is entitled to it. Raises: what the actor's supervisor gave up on."""
        try:
            while self._host.is_entitled(self.number):
                if self._wait_ms:
                    with anyio.move_on_after(self._wait_ms / 1000) as self._waiting:
                        await self._go.wait()
                    self._waiting = None
                self._go = asyncio.Event()
                if self._host.is_entitled(self.number):
                    await self._hold()
        finally:
            self.is_tended = False
        self._host.given_up(self)

    async def _hold(self) -> None:
        address = self.address
        cell = self.cell = self._host.cell(address, self._claim)
        self._scope = anyio.CancelScope()
        self._is_retired = self.is_lost = False
        self._wait_ms = 0
        before, since_ns = self.epoch, self._clock.mono_ns()
        try:
            with self._scope:
                await cell.run()
        except StaleEpochError as error:
            self._lose(error.current)
        except _SlotGoneError:
            pass
        finally:
            self._shut()
            self.cell = None
            self._host.ended(self)
        if self.is_lost:
            self._wait_ms = self._backoff_ms(self._clock.mono_ns() - since_ns)
            return
        cell.refuse_waiting(NoSuchActorError(address))
        if self.epoch != before:
            log.debug("slot_ended", slot=self.number, epoch=self.epoch, drained=not self._scope.cancelled_caught)

    async def _claim(self) -> tuple[Actor[Any], Journal]:
        """Make the durable actor. Raises: _SlotGoneError where the slot is no longer the node's to claim."""
        if self._is_retired or not self._host.is_entitled(self.number):
            raise _SlotGoneError
        actor, journal = await self._make()
        before, self.epoch = self.epoch, journal.epoch
        if journal.epoch != before + 1:
            self._shut()  # another node had it meanwhile, unnoticed, and its actors were younger than those that live here
        if self._heard_epoch > journal.epoch:
            raise StaleEpochError(self.number, journal.epoch, self._heard_epoch)
        self._released_by = ""
        await self._host.claimed(self)
        return actor, journal

    def _fence(self, epoch: int, node: str) -> None:
        log.info("slot_taken", slot=self.number, epoch=self.epoch, by=node, under=epoch)
        self._lose(epoch)
        self._shut()
        self._scope.cancel()

    def _lose(self, current: int) -> None:
        self.is_lost = True
        log.warning("slot_lost", slot=self.number, epoch=self.epoch, current=current)

    def _shut(self) -> None:
        if self.is_open:
            self.is_open = False
            self._bus.leave(self.number)
            self._host.shut(self)

    def _backoff_ms(self, held_ns: int) -> int:
        """Return how long to leave the slot to its new owner. One that cannot be heard while members are silent is most
        likely cut off from this node, and alive: it gets the longest."""
        config = self._config
        if held_ns >= config.settled_ms * 1_000_000:
            self._losses = 0
        backoff_ms = min(config.claim_backoff_ms << self._losses, config.claim_backoff_max_ms)
        if self._host.is_reduced():
            backoff_ms = config.claim_backoff_max_ms
        self._losses = min(self._losses + 1, 16)
        if self._released_by:
            return 0  # it was given back meanwhile
        return backoff_ms + self._rng.below(backoff_ms // 2 + 1)
