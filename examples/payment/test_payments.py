"""Charges under simulated trouble: `pytest examples/payment`. The naive one fails, and says under which seed."""

from typing import Any

import payments  # type: ignore[import-not-found]
import pytest
from foliot.simulations import Sim


async def charge_orders(sim: Sim, handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = sim.service("bank", key="idempotency_key", idempotent=True)
    bank.on("charge", lambda order, cents, idempotency_key: f"receipt-{order}")
    monkeypatch.setattr(payments, "bank", bank)
    cluster = await sim.cluster(payments.app, workers=3)
    tasks = [await cluster.submit(handler, order, cents=990) for order in range(10)]
    bank.fail(0.1).lose_answers(0.1)
    async with sim.faults("crash", "pause", "partition", every="3s"):
        await sim.advance("30s")
    await sim.settle()
    for task in tasks:
        sim.assert_once(task, "bank")


async def test_naive_charge_on_a_good_day(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test that everybody writes. It passes."""
    bank = sim.service("bank").on("charge", lambda order, **_: f"receipt-{order}")
    monkeypatch.setattr(payments, "bank", bank)
    cluster = await sim.cluster(payments.app)
    task = await cluster.submit(payments.charge_naive, 1, cents=990)
    assert await task.result() == "receipt-1"
    assert sim.effects("bank").for_task(task) == 1


@pytest.mark.sim(seeds=5)
async def test_naive_charge(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails: an answer was lost, or a worker died after the bank had acted."""
    await charge_orders(sim, payments.charge_naive, monkeypatch)


@pytest.mark.sim(seeds=20)
async def test_charge(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    await charge_orders(sim, payments.charge, monkeypatch)


async def test_charge_when_its_worker_dies_after_the_bank_has_acted(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same accident on purpose: no luck needed."""
    bank = sim.service("bank", key="idempotency_key", idempotent=True)
    monkeypatch.setattr(payments, "bank", bank)
    cluster = await sim.cluster(payments.app)
    crash = sim.at("effect.after").crash(down="5s")
    task = await cluster.submit(payments.charge, 1, cents=990)
    await sim.run_until(task.done, within="5m")
    assert crash.hits == 1
    assert task.attempt == 2
    sim.assert_once(task, "bank")
