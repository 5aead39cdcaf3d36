"""The machine's clock behind the port: integers, never early, at once for the past."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import uvloop
from foliot.runtime.clock import Clock, SystemClock


def test_both_clocks_are_integers_and_the_monotonic_one_never_steps_back() -> None:
    clock: Clock = SystemClock()
    readings = [clock.mono_ns() for _ in range(1_000)]

    assert isinstance(clock.now_ms(), int)
    assert all(isinstance(reading, int) for reading in readings)
    assert readings == sorted(readings)
    assert clock.now_ms() > 1_577_836_800_000  # later than 2020, so milliseconds and not seconds


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_no_call_runs_before_its_instant(run: Callable[[Coroutine[Any, Any, list[int]]], list[int]]) -> None:
    async def early_by_ms() -> list[int]:
        clock = SystemClock()
        early: list[int] = []
        for ahead_ms in [1, 2, 3, 4] * 12:
            when_ms = clock.now_ms() + ahead_ms
            ran: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            clock.call_at_ms(when_ms, partial(answer, ran, clock))
            early.append(max(when_ms - await ran, 0))
        return early

    def answer(ran: asyncio.Future[int], clock: Clock) -> None:
        ran.set_result(clock.now_ms())

    assert run(early_by_ms()) == [0] * 48


async def test_calls_run_in_the_order_of_their_instants() -> None:
    clock, ran, seen = SystemClock(), asyncio.Event(), list[str]()
    now_ms = clock.now_ms()

    clock.call_at_ms(now_ms + 30, ran.set)
    clock.call_at_ms(now_ms + 20, lambda: seen.append("later"))
    clock.call_at_ms(now_ms + 2, lambda: seen.append("sooner"))
    clock.call_at_ms(now_ms - 1_000, lambda: seen.append("past"))
    assert seen == []
    await ran.wait()

    assert seen == ["past", "sooner", "later"]


async def test_a_cancelled_call_does_not_run() -> None:
    clock, ran, seen = SystemClock(), asyncio.Event(), list[str]()

    timer = clock.call_at_ms(clock.now_ms() + 2, lambda: seen.append("cancelled"))
    clock.call_at_ms(clock.now_ms() + 10, ran.set)
    timer.cancel()
    await ran.wait()
    timer.cancel()

    assert seen == []
