"""Asking the processes of a world from outside of them: what is waited for, and when it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from foliot import Foliot
from foliot.simulations import Cluster, Sim
from foliot.simulations.loop import EscapeError
from foliot.simulations.process import Process
from foliot.simulations.threads import NoThreads

app = Foliot("shop")


@app.task
async def rest() -> None:
    await asyncio.sleep(5)


async def worker_of(sim: Sim) -> tuple[Cluster, Process]:
    cluster = await sim.cluster(app, workers=1)
    process = cluster.world.programs["w1"].process
    assert process is not None
    return cluster, process


async def lane_name(sim: Sim, seconds: float = 0) -> str:
    await asyncio.sleep(seconds)
    loop: Any = asyncio.get_running_loop()
    return str(loop.lane.name)


async def test_what_is_asked_runs_in_the_process_and_is_waited_for_outside(sim: Sim) -> None:
    cluster, process = await worker_of(sim)
    began = sim.elapsed

    assert await cluster.survey.in_process(process, lane_name(sim, 2), within_ms=3_000) == "w1"
    assert await lane_name(sim) == "test"
    assert (sim.elapsed - began).total_seconds() == pytest.approx(2, abs=0.01)
    with pytest.raises(ZeroDivisionError):
        await cluster.survey.in_process(process, _failing())
    assert process.on_death == []


async def _failing() -> None:
    raise ZeroDivisionError


async def test_what_takes_too_long_is_given_up_in_time(sim: Sim) -> None:
    cluster, process = await worker_of(sim)
    began = sim.elapsed

    assert await cluster.survey.in_process(process, lane_name(sim, 60), within_ms=500) is None
    assert (sim.elapsed - began).total_seconds() == pytest.approx(0.5)


async def test_a_process_that_is_dead_or_dies_answers_nothing(sim: Sim) -> None:
    cluster, process = await worker_of(sim)
    loop = cluster.world.loop
    loop.at(loop.now_ns + 1_000_000_000, loop.system, sim.node("w1").crash)
    began = sim.elapsed

    assert await cluster.survey.in_process(process, lane_name(sim, 60)) is None
    assert (sim.elapsed - began).total_seconds() == pytest.approx(1)
    asked: Coroutine[Any, Any, str] = lane_name(sim)
    assert await cluster.survey.in_process(process, asked) is None
    assert asked.cr_frame is None, "closed, so that nothing warns of it"  # type: ignore[attr-defined]


async def test_the_cluster_says_itself_why_a_task_is_not_over(sim: Sim) -> None:
    cluster = await sim.cluster(app, workers=1)
    await cluster.pause_queue()
    await cluster.submit(rest)

    [reason] = await cluster.survey.asked_reasons()
    assert "paused" in reason.text
    assert cluster.survey.ended() == 0
    assert not await cluster.survey.is_whole()
    await cluster.resume_queue()
    await sim.run_until_idle()
    await sim.settle()
    assert await cluster.survey.is_whole()
    assert (cluster.survey.ended(), cluster.survey.undone()) == (1, [])


def test_a_thread_is_refused_by_name() -> None:
    with pytest.raises(EscapeError, match="starting the thread 'foliot-thread-1' is not possible in a simulation"):
        NoThreads().start(print, name="foliot-thread-1")
