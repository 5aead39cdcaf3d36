"""What users' code finds instead of clocks, randomness, threads and sockets, in handlers and in the test itself."""

from __future__ import annotations

import _thread
import asyncio
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, date, datetime
from random import random as bound_random
from time import time as bound_time
from typing import Any

import anyio.to_thread
import pytest
from foliot import Foliot
from foliot.simulations import Sim
from foliot.simulations.harness import simulate
from foliot.simulations.loop import EscapeError
from foliot.simulations.sim import Settings

app = Foliot("shop")


@app.task
async def draws() -> list[str]:
    return drawn()


@app.task
def plain_draws() -> list[str]:
    time.sleep(1)
    return drawn()


def drawn() -> list[str]:
    return [
        str(random.random()), str(bound_random()), str(random.Random().random()), str(random.randint(1, 10**9)),
        str(uuid.uuid4()), str(uuid.uuid1()), secrets.token_hex(8), os.urandom(8).hex(), str(time.time_ns()),
        str(time.monotonic()), str(time.perf_counter_ns()), datetime.now(UTC).isoformat(), str(datetime.now()),  # noqa: DTZ005
        str(datetime.utcnow()), str(date.today()), time.ctime(), time.strftime("%H:%M:%S"), str(time.localtime()[:6]),  # noqa: DTZ003, DTZ011
    ]  # fmt: skip


def run(test: Any, seed: int = 1) -> Any:
    outcome = simulate(test, {"sim": None}, Settings(), seed)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def test_everything_a_handler_draws_or_reads_follows_from_the_seed() -> None:
    found: list[list[str]] = []

    async def test(sim: Sim) -> None:
        cluster = await sim.cluster(app, workers=2)
        for handler in (draws, plain_draws):
            found.append(await (await cluster.submit(handler)).result())
        found.append(drawn())

    digests = [run(test, seed).digest for seed in (7, 7, 8)]

    assert found[:3] == found[3:6]
    assert digests[0] == digests[1]
    assert all(one not in found[8] for one in found[0][:8]), "another seed draws other values"
    assert found[0][8].startswith("1767225600"), "the first second of 2026"
    assert found[0][14] == "2026-01-01"
    assert found[2][15].startswith("Thu Jan  1 00:00:01 2026")


def test_clocks_of_machines_differ_and_handlers_see_those_of_their_own() -> None:
    async def test(sim: Sim) -> None:
        cluster = await sim.cluster(app, workers=1)
        sim.node("w1").clock.jump("2h")
        there = datetime.fromisoformat((await (await cluster.submit(draws)).result())[11])
        assert 7_199 < (there - sim.now).total_seconds() <= 7_200
        assert datetime.now(UTC) == sim.now.replace(microsecond=sim.now.microsecond)

    run(test)


@pytest.mark.parametrize(
    ("escape", "message"),
    [
        (lambda: socket.socket(), r"opening a socket is not possible in a simulation; expected .*sim\.service"),
        (lambda: socket.create_connection(("localhost", 1)), "opening a connection"),
        (lambda: socket.getaddrinfo("localhost", 80), "looking up a host name"),
        (lambda: subprocess.run([sys.executable], check=False), "starting a process"),
        (lambda: os.system("true"), "starting a process"),
        (lambda: threading.Thread(target=print).start(), "starting a thread"),
        (lambda: _thread.start_new_thread(print, ()), "starting a thread is not possible .* expected the work"),
        (lambda: vars(_thread)["start_new"](print, ()), "starting a thread"),
        (lambda: time.sleep(1), r"blocking in a coroutine \(time.sleep\).*await asyncio.sleep"),
    ],
)
def test_what_would_leave_the_simulation_names_its_replacement(escape: Any, message: str) -> None:
    async def test(sim: Sim) -> None:
        escape()

    with pytest.raises(EscapeError, match=message):
        run(test)


def test_work_handed_to_threads_runs_in_place() -> None:
    async def test(sim: Sim) -> None:
        assert await asyncio.to_thread(lambda: 1) == 1
        assert await anyio.to_thread.run_sync(lambda: 2) == 2
        assert await asyncio.get_running_loop().run_in_executor(None, lambda: 3) == 3

    run(test)


def patched() -> list[Any]:
    return [
        time.time, time.sleep, time.localtime, os.urandom, random.Random.seed, vars(uuid)["_generate_time_safe"],
        socket.socket.__init__, threading.Thread.start, subprocess.Popen.__init__, datetime.__dict__["now"],
        _thread.start_new_thread, anyio.to_thread.run_sync, sys.stdout, os.environ.get("TZ"), random.getstate(),
    ]  # fmt: skip


def test_everything_is_put_back() -> None:
    before = patched()

    async def test(sim: Sim) -> None:
        cluster = await sim.cluster(app, workers=2)
        await cluster.submit(plain_draws)
        await sim.advance("500ms")
        sim.node("w1").crash()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(test)

    assert before == patched()
    assert datetime.now(UTC).timestamp() == pytest.approx(bound_time(), abs=5)
    assert threading.active_count() < 20


def test_threads_that_are_not_of_the_run_keep_the_real_clock() -> None:
    asked, answered = threading.Event(), threading.Event()
    found: list[float] = []

    def other() -> None:
        asked.wait(30)
        found.append(time.time() - bound_time())
        found.append(datetime.now(UTC).timestamp() - bound_time())
        _thread.start_new_thread(answered.set, ())

    threading.Thread(target=other).start()

    async def test(sim: Sim) -> None:
        asked.set()
        assert answered.wait(30)
        assert abs(time.time() - bound_time()) > 1_000

    run(test)
    assert [abs(difference) < 5 for difference in found] == [True, True]


def test_a_plain_handler_that_never_ends_is_left_behind_with_its_run() -> None:
    ended: list[str] = []
    endless = Foliot("endless")

    @endless.task(timeout="10d")
    def wait() -> None:
        try:
            while True:
                time.sleep(60)
        finally:
            ended.append("closed")

    async def test(sim: Sim) -> None:
        cluster = await sim.cluster(endless, workers=1)
        task = await cluster.submit(wait)
        await sim.advance("1h")
        assert task.state == "running"
        assert ended == []

    run(test)
    assert ended == ["closed"]
