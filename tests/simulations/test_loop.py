"""The loop: order, time, and how it says that it cannot go on."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Coroutine, Iterator
from typing import Any

import anyio
import pytest
from anyio._backends import _asyncio as backend
from foliot.runtime.rng import Rng
from foliot.simulations.loop import (
    MS,
    NS,
    DeadlockError,
    EscapeError,
    Lane,
    LivelockError,
    SimLoop,
    SimTask,
    SimulationError,
)
from foliot.simulations.machine import Machine, SimClock, lane_on
from foliot.simulations.ordering import OrderedSet, ordered_scopes
from foliot.simulations.trace import Trace


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    made = SimLoop(Rng(1), Trace())
    yield made
    made.tear_down()


def run(loop: SimLoop, coro: Coroutine[Any, Any, Any], lane: Lane | None = None) -> Any:
    lane = lane or Lane("a")
    loop.add_lane(lane)
    return loop.run_task(loop.spawn(lane, coro, name="main"))


def test_time_jumps_to_what_is_due_and_ties_keep_the_order_they_were_set_in(loop: SimLoop) -> None:
    seen: list[tuple[int, float]] = []

    async def main() -> None:
        for number in range(150):  # cancelled timers must not disturb the order of others
            loop.call_later(2, seen.append, (-1, 0.0)).cancel()
            if number % 10 == 0:
                loop.call_later(3, lambda number=number: seen.append((number, loop.time())))
        await asyncio.sleep(3.5)

    run(loop, main())

    assert seen == [(number, 3.0) for number in range(0, 150, 10)]
    assert loop.now_ns == 3_500 * MS


def test_a_lane_is_served_first_in_first_out_whatever_others_do(loop: SimLoop) -> None:
    lanes = [Lane(name) for name in "abc"]
    seen: list[tuple[str, int]] = []
    for lane in lanes:
        loop.add_lane(lane)
        for number in range(20):
            loop.post(lane, lambda lane=lane, number=number: seen.append((lane.name, number)))

    run(loop, asyncio.sleep(1))

    for lane in lanes:
        assert [number for name, number in seen if name == lane.name] == list(range(20))
    assert [name for name, _ in seen[:20]] != ["a"] * 20  # the lanes took turns


def test_a_killed_lane_does_nothing_any_more_not_even_its_clean_up(loop: SimLoop) -> None:
    lane = Lane("victim")
    loop.add_lane(lane)
    seen: list[str] = []

    async def victim() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            seen.append("cleaned up")

    async def main() -> None:
        loop.spawn(lane, victim(), name="victim")
        await asyncio.sleep(1)
        loop.kill(lane)
        await asyncio.sleep(20)

    run(loop, main())

    assert seen == []


def test_a_blocked_lane_stands_still_and_goes_on_later(loop: SimLoop) -> None:
    lane = Lane("paused")
    loop.add_lane(lane)
    seen: list[int] = []

    async def ticks() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            seen.append(loop.now_ns // NS)

    async def main() -> None:
        loop.spawn(lane, ticks(), name="ticks")
        await asyncio.sleep(1.5)
        loop.block(lane)
        await asyncio.sleep(8.5)
        loop.unblock(lane)
        await asyncio.sleep(5)

    run(loop, main())

    assert seen == [1, 10, 11]


def test_steps_that_cost_time_move_the_clock_and_only_in_their_lane(loop: SimLoop) -> None:
    slow = Lane("slow")
    slow.step_ns = 10 * MS
    loop.add_lane(slow)
    seen: list[int] = []

    async def busy() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        seen.append(loop.now_ns // MS)

    async def main() -> None:
        await loop.spawn(slow, busy(), name="busy")

    run(loop, main())

    assert seen == [50]


def test_a_deadlock_names_what_waits(loop: SimLoop) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError, match=r"nothing can run and no timer is set.* waiting: a/main: .*main:\d+"):
        run(loop, main())


def test_a_livelock_names_the_callback(loop: SimLoop) -> None:
    async def spinning() -> None:
        for _ in range(1_000_000):
            await asyncio.sleep(0)

    with pytest.raises(LivelockError, match=r"200000 steps at 0 ns without time passing, the last in a: main"):
        run(loop, spinning())


def test_a_run_beyond_its_bounds_ends(loop: SimLoop) -> None:
    lane = Lane("a")
    loop.add_lane(lane)
    with pytest.raises(SimulationError, match="beyond 5000 ms"):
        loop.run_task(loop.spawn(lane, asyncio.sleep(10), name="main"), until_ns=5 * NS)


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("opening a connection", lambda: asyncio.open_connection("localhost", 1)),
        ("listening", lambda: asyncio.start_server(lambda *_: None, "localhost", 1)),
        ("starting a process", lambda: asyncio.create_subprocess_exec("true")),
        ("looking up a host name", lambda: asyncio.get_running_loop().getaddrinfo("localhost", 1)),
    ],
)
def test_the_real_world_cannot_be_reached(loop: SimLoop, what: str, call: Any) -> None:
    async def main() -> None:
        await call()

    with pytest.raises(EscapeError, match=what):
        run(loop, main())


def test_what_a_task_leaves_unhandled_is_told(loop: SimLoop) -> None:
    told: list[tuple[str, str]] = []
    loop.on_error = lambda lane, what, text: told.append((lane.name, what))

    async def main() -> None:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    run(loop, main())

    assert told == [("a", "ZeroDivisionError")]


def test_sleeping_for_ever_sets_no_timer(loop: SimLoop) -> None:
    async def main() -> None:
        await anyio.sleep_forever()

    with pytest.raises(DeadlockError):
        run(loop, main())


def test_deadlines_of_drifting_clocks_come_exactly_once(loop: SimLoop) -> None:
    machine = Machine("m", loop, wall_ns=10**18, mono_ns=99_999 * NS, ppm=-137)
    seen: list[bool] = []

    async def main() -> None:
        for number in range(1, 200):  # every deadline a little later than the one before
            with anyio.move_on_after(number * 0.0137) as scope:
                await anyio.sleep_forever()
            seen.append(scope.cancelled_caught)

    run(loop, main(), lane_on(machine, "m"))

    assert seen == [True] * 199
    assert loop.steps < 4_000  # a deadline that fires a hair early is set again without end


# -- order in sets -------------------------------------------------------------------------------------------------------


def test_tasks_hash_by_number_from_the_very_first_moment(loop: SimLoop) -> None:
    async def main() -> list[int]:
        async def nothing() -> None: ...

        tasks = [asyncio.ensure_future(nothing()) for _ in range(5)]
        await asyncio.sleep(0)
        return [hash(task) - hash(tasks[0]) for task in tasks]

    assert run(loop, main()) == [0, 1, 2, 3, 4]


def test_scopes_cancel_in_the_order_of_joining(loop: SimLoop) -> None:
    seen: list[int] = []

    async def sleeper(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            seen.append(number)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(sleeper, number)
            await anyio.sleep(1)
            group.cancel_scope.cancel()

    with ordered_scopes():
        run(loop, main())

    assert seen == list(range(40))


def test_the_internals_of_anyio_that_this_relies_on_are_as_known() -> None:
    """If this fails, a new anyio keeps its tasks elsewhere: look at `simulations.ordering` and `SimLoop.tear_down`."""
    scope: Any = backend.CancelScope()
    assert type(scope._tasks) is set
    assert type(scope._child_scopes) is set
    assert isinstance(backend._task_states, weakref.WeakKeyDictionary)
    used = {name for name in dir(set) if not name.startswith("__")}
    assert {"add", "remove", "discard"} <= used
    with ordered_scopes():
        ordered: Any = backend.CancelScope()
        assert type(ordered._tasks) is OrderedSet
        assert type(ordered._child_scopes) is OrderedSet
    assert type(backend.CancelScope()._tasks) is set


def test_nothing_of_a_run_is_kept_by_anyio() -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 1)

    gc.collect()
    before = len(backend._task_states)
    for _ in range(3):
        loop = SimLoop(Rng(1), Trace())
        with ordered_scopes():
            run(loop, main())
        loop.tear_down()
    gc.collect()

    assert len(backend._task_states) <= before


def test_sim_tasks_are_tasks(loop: SimLoop) -> None:
    async def main() -> bool:
        return isinstance(asyncio.current_task(), SimTask)

    assert run(loop, main())


# -- clocks --------------------------------------------------------------------------------------------------------------


def clock_on(loop: SimLoop, **options: Any) -> tuple[Machine, SimClock, Lane]:
    machine = Machine("m", loop, wall_ns=1_000_000 * NS, mono_ns=5 * NS, **options)
    return machine, SimClock(machine, loop), lane_on(machine, "m")


def fired(loop: SimLoop, lane: Lane, clock: SimClock, span_ms: int, change: Any, at_s: float) -> tuple[int, int]:
    """Set a timer, change the clock after a while; returns when it fired: (simulated ms, wall ms since the start)."""
    seen: list[tuple[int, int]] = []
    start_ms = clock.now_ms()

    async def main() -> None:
        clock.call_at_ms(start_ms + span_ms, lambda: seen.append((loop.now_ns // MS, clock.now_ms() - start_ms)))
        await asyncio.sleep(at_s)
        change()
        await asyncio.sleep(200)

    run(loop, main(), lane)
    assert len(seen) == 1
    return seen[0]


def test_a_timer_waits_for_a_wall_clock_that_is_set_back_a_little(loop: SimLoop) -> None:
    machine, clock, lane = clock_on(loop)
    assert fired(loop, lane, clock, 30_000, lambda: machine.step(-NS // 2), 22) == (30_500, 30_000)


def test_a_timer_calls_at_its_next_look_when_the_wall_clock_was_set_back_far(loop: SimLoop) -> None:
    machine, clock, lane = clock_on(loop)
    assert fired(loop, lane, clock, 60_000, lambda: machine.step(-3_600 * NS), 22) == (30_000, -3_570_000)


def test_a_wall_clock_that_is_set_forward_is_noticed_at_the_next_look(loop: SimLoop) -> None:
    machine, clock, lane = clock_on(loop)
    assert fired(loop, lane, clock, 60_000, lambda: machine.step(50 * NS), 13) == (20_000, 70_000)


def test_a_wall_clock_that_stands_still_is_noticed_at_the_next_look(loop: SimLoop) -> None:
    machine, clock, lane = clock_on(loop)

    def freeze() -> None:
        machine.freeze()
        loop.at(loop.now_ns + 40 * NS, loop.system, machine.unfreeze)

    assert fired(loop, lane, clock, 30_000, freeze, 22) == (30_000, 22_000)  # as good as set back


def test_a_fast_clock_reaches_its_timers_early(loop: SimLoop) -> None:
    _, clock, lane = clock_on(loop, ppm=10_000)
    at_ms, wall_ms = fired(loop, lane, clock, 101_000, lambda: None, 1)
    assert (at_ms, wall_ms) == (100_000, 101_000)


def test_setting_the_wall_clock_leaves_the_monotonic_one(loop: SimLoop) -> None:
    machine, clock, _ = clock_on(loop)
    before = clock.mono_ns()
    machine.step(-3_600 * NS)
    assert clock.mono_ns() == before
    assert clock.now_ms() == 1_000_000_000 - 3_600_000


def test_a_timer_that_is_over_keeps_nothing_alive(loop: SimLoop) -> None:
    """Garbage is not collected during a run, so nothing may depend on that."""
    _, clock, lane = clock_on(loop)
    freed: list[weakref.ref[_Owner]] = []

    async def main() -> None:
        for span_ms in (10, 20):
            owner = _Owner()
            freed.append(weakref.ref(owner))
            timer = clock.call_at_ms(clock.now_ms() + span_ms, owner.callback)
            if span_ms == 20:
                timer.cancel()
            del owner, timer
        await asyncio.sleep(1)

    gc.disable()
    try:
        run(loop, main(), lane)
        assert [ref() for ref in freed] == [None, None]
    finally:
        gc.enable()


class _Owner:
    def callback(self) -> None:
        """What a timer calls."""
