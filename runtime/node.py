"""A node: one process's share of the slots, and the actors it hosts there.

Durable actors are started by the node itself, one to each slot it owns; all others come to life with the first message to
their address. What an address means is told by the factories the node is given; the node knows nothing of tasks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import structlog
from anyio.abc import TaskGroup

from .actor import Actor, Journal
from .bus import Bus
from .cell import Cell, CellConfig, PoisonSink
from .clock import Clock
from .hashing import slot_of
from .ring import Ring
from .rng import Rng

log = structlog.get_logger("foliot.runtime")

Make = Callable[[str], Awaitable[tuple[Actor[Any], Journal | None]]]
"""Makes the actor of an address, reading what it starts from; called again after each failure."""


@dataclass(frozen=True)
class NodeConfig:
    """What a node must know of its cluster."""

    name: str
    slots: int
    cell: CellConfig = CellConfig()
    volatile_max: int = 100_000  # actors made on demand


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
        self._group: TaskGroup | None = None
        self.ring = Ring([config.name])

    @property
    def cells(self) -> Mapping[str, Cell]:
        """The live cells by address."""
        return self._cells

    def owns(self, slot: int) -> bool:
        return self.ring.owner(slot) == self._config.name

    def addresses(self, kind: str) -> list[str]:
        """Return the addresses of a kind that live here, sorted."""
        return sorted(address for address in self._cells if address.partition(".")[0] == kind)

    async def run(
        self, durable: Callable[[int], tuple[str, Make]], *, started: Callable[[], None] = lambda: None
    ) -> None:  # fmt: skip
        """Host the owned slots until cancelled. `durable`: the address and factory of a slot's durable actor.

        Raises: what an actor's supervisor gave up on, EscalationError among others.
        """
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                for slot in range(self._config.slots):
                    if self.owns(slot):
                        address, make = durable(slot)
                        self._start(address, make)
                started()
                await anyio.sleep_forever()
            finally:
                self._group = None

    def resolve(self, address: str) -> Cell | None:
        """Return the cell of an address, brought to life if it is of a kind made on demand and hashes to an owned
        slot."""
        cell = self._cells.get(address)
        if cell is None:
            make = self._kinds.get(address.partition(".")[0])
            if make is None or self._group is None or len(self._cells) >= self._config.volatile_max:
                return None
            if not self.owns(slot_of(address, self._config.slots)):
                return None
            cell = self._start(address, make)
        return cell

    def _start(self, address: str, make: Make) -> Cell:
        assert self._group is not None
        cell = Cell(
            address,
            lambda: make(address),
            bus=self._bus,
            clock=self._clock,
            rng=self._rng.stream(address),
            poison=self._poison,
            config=self._config.cell,
        )
        self._cells[address] = cell
        self._bus.bind(address, cell)
        self._group.start_soon(self._host, cell, name=address)
        return cell

    async def _host(self, cell: Cell) -> None:
        try:
            await cell.run()
        finally:
            self._bus.unbind(cell.address)
            del self._cells[cell.address]
