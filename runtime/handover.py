"""Giving back slots in turn: a few at a time, the next one once somebody hosts one of those before.

A slot is away from when its owner stops until the next owner has claimed it. Given back all at once, every slot would be
away for as long as the claims of all take; in turn, each is away for about one claim, and is served meanwhile. News that a
slot was claimed may be lost, or is never told since the slot came back, so none is waited for longer than `turn_ms`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio


class HandOver:
    """Of one node. `retire`: gives back a slot, by its number, unless that is no longer wanted; returns whether it does.
    `begin`: has `run` be run, when it does not."""

    def __init__(
        self, retire: Callable[[int], bool], begin: Callable[[], None], *, at_once: int, turn_ms: int
    ) -> None:  # fmt: skip
        self._retire = retire
        self._begin = begin
        self._at_once = at_once
        self._turn_ms = turn_ms
        self._waiting: dict[int, None] = {}
        self._under_way: dict[int, float] = {}  # given back and not claimed yet: waited for until then, the oldest first
        self._moved = asyncio.Event()
        self._is_running = False

    def add(self, slot: int) -> None:
        """Give a slot back, now or in its turn. Harmless when it waits for that already."""
        self._waiting[slot] = None
        self._go_on()
        if self._waiting and not self._is_running:
            self._is_running = True
            self._begin()

    def hurry(self) -> None:
        """Nobody is left to take a slot: give back at once what waits."""
        self._at_once += len(self._waiting)
        self._go_on()
        self._moved.set()

    def hear_claimed(self, slot: int) -> None:
        """Another node hosts the slot now."""
        self._waiting.pop(slot, None)
        if slot in self._under_way:
            del self._under_way[slot]
            self._moved.set()

    async def run(self) -> None:
        """Give back what waits, each in its turn."""
        try:
            self._go_on()  # news may have come before this began
            while self._waiting:
                self._moved.clear()
                with anyio.CancelScope(deadline=next(iter(self._under_way.values()))):
                    await self._moved.wait()
                self._go_on()
        finally:
            self._is_running = False

    def _go_on(self) -> None:
        now = anyio.current_time()
        for slot in [slot for slot, until in self._under_way.items() if until <= now]:
            del self._under_way[slot]
        while self._waiting and len(self._under_way) < self._at_once:
            slot = next(iter(self._waiting))
            del self._waiting[slot]
            if self._retire(slot):
                self._under_way.pop(slot, None)  # it may have come back since
                self._under_way[slot] = now + self._turn_ms / 1000
