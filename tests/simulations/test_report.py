"""What the report of a failed simulated test says to do next."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from foliot import Context, Foliot, Retry
from foliot.runtime.rng import Rng
from foliot.simulations.harness import Outcome, simulate
from foliot.simulations.outside import Service, ServiceOverError
from foliot.simulations.report import replay_command, report
from foliot.simulations.sim import Settings, Sim

app = Foliot("shop")


@app.task(max_attempts=2, retry=Retry(base="1s"))
async def broken(ctx: Context) -> None:
    raise LookupError(f"no price\nfor attempt {ctx.attempt}")


def outcome_of(test: Any) -> Outcome:
    return simulate(test, {"sim": None}, Settings(), 1)


@pytest.mark.parametrize("nodeid", ["test_a.py::test_b", "test_a.py::test_b[it's 1]", "my tests/test_a.py::test_b[x]"])
@pytest.mark.parametrize("profile", ["", "everything"])
def test_the_line_that_replays_a_seed_is_one_a_shell_takes(nodeid: str, profile: str) -> None:
    words = shlex.split(replay_command(nodeid, 7, profile=profile))

    assert words == ["pytest", nodeid, "--sim-seed", "7", *(["--sim-profile", profile] if profile else [])]


def test_a_service_that_an_earlier_test_left_behind_says_so() -> None:
    service = Service("bank", None, Rng(1))  # type: ignore[arg-type]
    service.end()

    with pytest.raises(ServiceOverError, match="service 'bank' belongs to a simulation that has ended"):
        service.charge(order=1)


def test_a_task_that_is_dead_is_listed_with_its_last_error() -> None:
    async def test(sim: Sim) -> None:
        cluster = await sim.cluster(app, workers=1)
        task = await cluster.submit(broken)
        await sim.run_until(task.done)
        assert task.state == "completed"

    told = report(outcome_of(test), "t", 1, 1)

    assert "tasks that ended without success:\n" in told
    assert "shop.broken: dead after 2 attempts, LookupError: no price for attempt 2\n" in told


def test_events_and_the_summary_call_an_effect_by_the_same_word() -> None:
    async def test(sim: Sim) -> None:
        bank = sim.service("bank", idempotent=True)
        for _ in range(3):
            await bank.charge(key="a")
        bank.lose_answers(1)
        with pytest.raises(TimeoutError):
            await bank.charge(key="b")
        raise ZeroDivisionError

    told = report(outcome_of(test), "t", 1, 1)

    assert "bank: 4 calls: 1 done, 2 repeated, 1 lost\n" in told
    effects = [line.rsplit(" ", 1)[1] for line in told.splitlines() if "effect bank.charge" in line]
    assert effects == ["done", "repeated", "repeated", "lost"]
