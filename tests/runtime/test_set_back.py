"""A wall clock that is set back: an actor that waits for the end of an interval has a turn, so that it can begin anew."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from foliot.runtime.actor import Actor, Journal, Turn
from foliot.runtime.cell import Cell
from foliot.runtime.clock import SET_BACK_MS, SystemClock
from foliot.runtime.rng import Rng

from .harness import LocalBus, ManualClock


class Ticker(Actor[Any]):
    """Does something every ten seconds by whatever clock there is."""

    def __init__(self) -> None:
        self.ticks = 0
        self.latest_ms = 0
        self.next_ms = 0

    def started(self, turn: Turn) -> None:
        self.latest_ms, self.next_ms = turn.now_ms, turn.now_ms + 10_000

    def due_ms(self) -> int | None:
        return self.next_ms

    def on_time(self, turn: Turn) -> None:
        self.ticks += 1
        self.next_ms = turn.now_ms + 10_000

    def end_turn(self, turn: Turn) -> None:
        if turn.now_ms < self.latest_ms:
            self.next_ms += turn.now_ms - self.latest_ms
        self.latest_ms = turn.now_ms


@pytest.mark.parametrize("by_ms", [SET_BACK_MS, 3_600_000])
async def test_an_actor_has_a_turn_when_the_clock_was_set_back_and_goes_on_within_an_interval(by_ms: int) -> None:
    clock, ticker = ManualClock(), Ticker()

    async def make() -> tuple[Actor[Any], Journal | None]:
        return ticker, None

    async def keep(address: str, message: Any, error: BaseException) -> None:
        raise AssertionError(f"{address}: {error}")

    cell = Cell("ticker.1", make, bus=LocalBus([]), clock=clock, rng=Rng(1), poison=keep)
    running = asyncio.create_task(cell.run())
    await settle(cell)
    clock.advance_ms(4_000)
    clock.set_ms(clock.now_ms() - by_ms)
    clock.fire()  # as the clock does soon after it was set back
    await settle(cell)
    clock.advance_ms(10_000)
    await settle(cell)
    assert ticker.ticks == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def settle(cell: Cell) -> None:
    for _ in range(100):
        await asyncio.sleep(0)
        if cell.is_idle:
            return
    raise AssertionError("the cell does not come to rest")


async def test_a_pending_call_comes_early_when_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, called = SystemClock(), asyncio.Event()
    monkeypatch.setattr("foliot.runtime.clock._LOOK_NS", 5_000_000)
    real = time.time_ns
    clock.call_at_ms(clock.now_ms() + 60_000, called.set)
    await asyncio.sleep(0.02)
    assert not called.is_set()

    monkeypatch.setattr(time, "time_ns", lambda: real() - SET_BACK_MS * 1_000_000)

    await asyncio.wait_for(called.wait(), 10)
