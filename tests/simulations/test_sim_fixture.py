"""The `sim` fixture, used as users do: these tests are collected by the plugin."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from foliot import Context, Fatal, Foliot, RetryLater, UsageError
from foliot.sdk.errors import ResultTimeoutError, TaskFailedError
from foliot.simulations import InvariantError, NotSettledError, Sim, SimTimeoutError
from foliot.simulations.cluster import InvalidClusterError, ScheduleRefusedError, UnknownOptionError
from foliot.simulations.controls import CrashKind, UnknownNodeError, UnknownPointError
from foliot.simulations.outside import InvalidChanceError, ServiceError, ServiceTimeoutError, UnknownServiceError
from foliot.simulations.sim import InvalidSettingError, NoClusterError
from foliot.simulations.storm import UnknownFamilyError

app = Foliot("shop")


@app.task
async def nap(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds)
    return datetime.now(UTC).isoformat(timespec="seconds")


@app.task
def plain_nap(ctx: Context, seconds: float) -> str:
    time.sleep(seconds)
    ctx.sleep(seconds)
    return datetime.now(UTC).isoformat(timespec="seconds")


@app.task(isolation="process")
def apart(number: int) -> int:
    return number + 1


@app.task(max_attempts=3)
async def later(ctx: Context) -> int:
    if ctx.attempt < 3:
        raise RetryLater("90s")
    return ctx.attempt


@app.task
async def hopeless() -> None:
    raise Fatal("no")


@app.task(timeout="1h", cancel_grace="1s")
def stubborn(ctx: Context) -> None:
    ctx.sleep("30m")


# -- time --------------------------------------------------------------------------------------------------------------


async def test_time_passes_only_while_the_test_waits(sim: Sim) -> None:
    before = sim.now
    assert sim.now == before == datetime(2026, 1, 1, tzinfo=UTC)

    await sim.advance("2h30m")
    assert sim.now - before == timedelta(hours=2, minutes=30)
    await asyncio.sleep(30)
    assert sim.elapsed == timedelta(hours=2, minutes=30, seconds=30)
    await sim.advance_to("2026-01-02T00:00")
    assert sim.now == datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.sim(start="2026-03-28T22:00", tz="Europe/Berlin")
async def test_the_clock_has_a_zone_and_its_summer_time(sim: Sim) -> None:
    assert sim.now.isoformat() == "2026-03-28T22:00:00+01:00"
    await sim.advance("6h")
    assert sim.now.isoformat() == "2026-03-29T05:00:00+02:00"
    assert datetime.now().isoformat() == "2026-03-29T05:00:00"  # noqa: DTZ005  (a naive user)


async def test_a_cluster_begins_when_it_is_told_to(sim: Sim) -> None:
    await sim.advance("1h")
    await sim.cluster(app, workers=1, start="2026-06-01T12:00", tz="Asia/Kathmandu")
    assert sim.now.isoformat()[:16] == "2026-06-01T12:00"
    assert sim.now.utcoffset() == timedelta(hours=5, minutes=45)


async def test_a_condition_is_seen_at_its_instant_or_reported_late(sim: Sim) -> None:
    cluster = await sim.cluster(app, workers=1)
    task = await cluster.submit(nap, 40)
    assert not task.done()
    assert task.state in ("queued", "running")
    started = sim.now
    await sim.run_until(task.done, within="1m")
    assert timedelta(seconds=40) <= sim.now - started < timedelta(seconds=41)

    slow = await cluster.submit(nap, 4_000)
    with pytest.raises(SimTimeoutError, match=r"TaskHandle.done did not come true within 0:01:00; not over:\n"):
        await sim.run_until(slow.done, within="1m")
    with pytest.raises(ResultTimeoutError):
        await slow.result(timeout="1s")
    assert await sim.run_until(nap(_context(), 5), within="1m") == sim.now.isoformat(timespec="seconds")


def _context() -> Context:
    class Behind:
        on_loop = True

    return Context(Behind())  # type: ignore[arg-type]


async def test_the_real_handlers_see_simulated_time(sim: Sim) -> None:
    cluster = await sim.cluster(app, workers=2)
    assert (await (await cluster.submit(nap, 3_600, timeout="2h")).result())[:16] == "2026-01-01T01:00"
    assert (await (await cluster.submit(plain_nap, 1_800, timeout="2h")).result())[:16] == "2026-01-01T02:00"
    assert await (await cluster.submit(apart, 41)).result() == 42
    assert await (await cluster.submit("shop.apart", number=1)).result() == 2


async def test_tasks_are_submitted_listed_counted_and_cancelled(sim: Sim) -> None:
    cluster = await sim.cluster(app, workers=2, embedded=True)
    handles = await cluster.submit_many(cluster.spec(nap, number) for number in range(20))
    await sim.run_until_idle()
    assert cluster.counts() == {"completed": 20}
    assert [info.id for info in await cluster.tasks(states=["completed"])] == sorted(handle.id for handle in handles)

    waits = await cluster.submit(nap, 1, delay="1h")
    assert await cluster.cancel(waits) == "cancelled"
    runs = await cluster.submit(stubborn)
    await sim.run_until(lambda: runs.state == "running")
    assert await runs.cancel() == "cancelling"
    await sim.run_until(runs.done, within="10s")
    assert runs.state == "cancelled"
    with pytest.raises(TaskFailedError, match="no"):
        await (await cluster.submit(hopeless)).result()
    assert await (await cluster.submit(later)).result() == 3
    assert (await cluster.client().verify()).balanced


async def test_a_paused_queue_waits(sim: Sim) -> None:
    cluster = await sim.cluster(app, workers=1)
    await cluster.pause_queue()
    task = await cluster.submit(nap, 1)
    await sim.advance("1h")
    assert task.state == "queued"
    with pytest.raises(NotSettledError, match=r"shop.nap: queued.*paused"):
        await sim.settle(within="1m")
    await cluster.resume_queue()
    await sim.run_until(task.done, within="10s")


async def test_a_year_of_a_daily_task_is_on_time(sim: Sim) -> None:
    cluster = await sim.cluster(app, workers=1, embedded=True, idle="quiet")
    first = datetime(2026, 1, 1, 2, 37, tzinfo=UTC)
    tasks = await cluster.submit_many(cluster.spec(nap, 0, at=first + timedelta(days=day)) for day in range(30))
    await sim.advance("30d")
    ran = [datetime.fromisoformat(await task.result()) for task in tasks]
    assert ran == [first + timedelta(days=day) for day in range(30)]


# -- schedules ---------------------------------------------------------------------------------------------------------


def clockwork(**words: Any) -> Foliot:
    """Return an app with a handler that gives back the moments of its ticks, at 02:30 in Berlin, and as `words` say."""
    made = Foliot("clockwork")

    @made.schedule("daily", cron="30 2 * * *", zone="Europe/Berlin")
    @made.schedule("other", name="clockwork.other", **(words or {"every": "6h"}))
    @made.task
    async def report(ctx: Context, kind: str) -> list[str]:
        assert ctx.tick is not None
        return [kind, ctx.tick.isoformat(), datetime.now(UTC).isoformat(timespec="seconds")]

    return made


FORMS: list[dict[str, Any]] = [
    {"workers": 1, "idle": "quiet"},
    {"workers": 1, "embedded": True},
    {"workers": 1, "embedded": True, "idle": "quiet"},
    {"workers": 1, "nodes": 2, "store": "cluster", "idle": "quiet"},
]


@pytest.mark.parametrize("form", FORMS, ids=["sqlite", "embedded", "quiet", "cluster"])
@pytest.mark.sim(start="2026-03-28T00:00", tz="Europe/Berlin")
async def test_schedules_declared_in_code_tick(sim: Sim, form: dict[str, Any]) -> None:
    cluster = await sim.cluster(clockwork(), **form)
    await sim.advance("2d")

    results = [await cluster.task(info).result() for info in await cluster.tasks()]
    daily = [tick for kind, tick, _ in results if kind == "daily"]
    assert daily == ["2026-03-28T01:30:00+00:00", "2026-03-29T01:30:00+00:00"], "02:30, then 03:30 as 02:30 is left out"
    assert len([kind for kind, _, _ in results if kind == "other"]) == 8
    assert {ran for kind, tick, ran in results if tick > ran} == set(), "none is early"


@pytest.mark.parametrize(
    "form", [{"workers": 1}, FORMS[1], {"nodes": 3, "store": "cluster"}], ids=["sqlite", "embedded", "cluster"]
)
async def test_a_node_that_starts_again_declares_again(sim: Sim, form: dict[str, Any]) -> None:
    cluster = await sim.cluster(clockwork(), **form)
    schedules = cluster.client().schedules
    await schedules.pause("clockwork.other", why="a test")
    await schedules.delete("clockwork.report")
    kinds: tuple[CrashKind, ...] = ("process", "graceful")
    for kind in kinds:
        sim.node("n1").crash(kind, down="2s")
        await sim.advance("1m")

    assert [(info.name, info.state) async for info in schedules.list()] == [
        ("clockwork.other", "paused"), ("clockwork.report", "active"),
    ]  # fmt: skip


async def test_a_node_that_cannot_reach_the_database_declares_once_it_can(sim: Sim) -> None:
    cluster = await sim.cluster(clockwork(), workers=1, nodes=2, store="cluster")
    schedules = cluster.client().schedules
    await schedules.delete("clockwork.report")
    sim.node("n1").crash("process", down="1s")
    sim.node("n2").crash("process", down="1s")
    sim.partition(["db"], span="3m")
    await sim.advance("4m")

    assert [info.name async for info in schedules.list()] == ["clockwork.other", "clockwork.report"]


async def test_a_declared_schedule_that_is_refused_says_so(sim: Sim) -> None:
    with pytest.raises(ScheduleRefusedError, match=r"schedule 'clockwork.other' is refused: .*'holidays'.*declare=False"):
        await sim.cluster(clockwork(cron="0 9 * * *", calendar="not holidays"), workers=1)


async def test_what_schedules_need_can_be_made_before_them(sim: Sim) -> None:
    cluster = await sim.cluster(clockwork(cron="0 9 * * *", calendar="not holidays"), idle="quiet", declare=False)
    await sim.advance("1d")
    assert await cluster.tasks() == []
    await cluster.client().calendars.set("holidays", dates=["2026-01-02"])
    await cluster.declare()
    await sim.advance("3d")

    ticks = [(await cluster.task(info).result())[1] for info in await cluster.tasks()]
    assert [tick for tick in ticks if "T09" in tick] == ["2026-01-03T09:00:00+00:00", "2026-01-04T09:00:00+00:00"]


@pytest.mark.sim(start="2026-03-28T00:00", tz="Europe/Berlin")
async def test_the_task_of_a_tick_is_checked_by_what_a_list_has_of_it(sim: Sim) -> None:
    bank = sim.service("bank")
    paying = Foliot("paying")

    @paying.schedule(every="1h")
    @paying.task
    async def pay() -> None:
        await bank.pay()

    cluster = await sim.cluster(paying, workers=1)
    await sim.advance("150m")
    tasks = await cluster.tasks()
    assert len(tasks) in (2, 3)
    for task in tasks:
        sim.assert_once(task)
        sim.assert_once(task.id, "bank", "pay")
    with pytest.raises(InvariantError, match=rf"task {tasks[0].id} is completed with effects: 0 on bank; expected one"):
        sim.assert_once(tasks[0], "bank", "refund")


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["process", "power", "graceful"])
async def test_a_task_survives_the_crash_of_its_worker(sim: Sim, kind: str) -> None:
    cluster = await sim.cluster(app, workers=1)
    task = await cluster.submit(nap, 20)
    await sim.advance("5s")
    sim.node("w1").crash(kind)  # type: ignore[arg-type]
    await sim.advance("2m")
    if kind != "graceful":
        assert not task.done()
    assert not sim.node("w1").is_up
    sim.node("w1").restart()
    await sim.run_until(task.done, within="2m")
    assert task.attempt == (1 if kind == "graceful" else 2)
    words = {"process": "w1 is killed", "power": "the machine of w1 loses power", "graceful": "w1 is asked to stop"}
    assert sim.told[0][1] == words[kind]


async def test_several_nodes_take_over_from_each_other(sim: Sim) -> None:
    cluster = await sim.cluster(app, workers=2, nodes=3, store="cluster")
    tasks = [await cluster.submit(nap, 30) for _ in range(12)]
    sim.node("n1").crash("power")
    await sim.run_until_idle(within="5m")
    sim.partition(["n2"], span="20s")
    await sim.advance("1m")
    assert [task.state for task in tasks] == ["completed"] * 12
    owners = cluster.survey.owners()
    assert sorted({name for names in owners.values() for name in names}) == ["n2", "n3"]


async def test_every_fault_is_told_and_healed(sim: Sim) -> None:
    cluster = await sim.cluster(app, workers=2)
    sim.partition(["w1"], ["n1"])
    sim.block("w2", "n1", span="1s")
    sim.hold("n1", "w2", span="1s")
    sim.link(loss=0.2, duplicate=0.1, reorder=0.1, latency="20ms", span="5s")
    sim.database(refused=0.1, unknown=0.1, slow="5ms", span="5s")
    sim.node("w1").pause("2s")
    sim.node("w1").slow("1ms", span="5s")
    clock = sim.node("w2").clock
    clock.jump("-3s")
    clock.jump(timedelta(seconds=3))
    clock.drift(100)
    clock.freeze("1s")
    tasks = [await cluster.submit(nap, 1) for _ in range(5)]
    await sim.settle()
    assert [task.state for task in tasks] == ["completed"] * 5
    words = [words for _, words in sim.told]
    assert words[0] == "the network is cut between w1 | n1 until the test heals it"
    assert words[-1] == "everything is healed"
    assert len(words) == 12


async def test_a_point_kills_exactly_there(sim: Sim) -> None:
    bank = sim.service("bank")
    charging = Foliot("charging")

    @charging.task
    def charge() -> None:
        bank.charge()

    cluster = await sim.cluster(charging, workers=2)
    first = sim.at("effect.before").crash()
    second = sim.at("effect.after").nth(1).crash(down="1s")
    task = await cluster.submit(charge)
    await sim.run_until(task.done)
    assert (first.hits, second.hits) == (1, 1)
    assert task.attempt == 3
    assert sim.effects("bank").for_task(task) == 2, "it acted, died, and acted again"
    with pytest.raises(InvariantError, match=r"with effects: 2 on bank; expected one, and completed"):
        sim.assert_once(task)


@pytest.mark.sim(seeds=3, sometimes=["a worker was down"])
async def test_random_faults_hit_and_end(sim: Sim) -> None:
    cluster = await sim.cluster(app, workers=3)
    sim.sometimes("a worker was down", lambda: not all(sim.node(f"w{number}").is_up for number in (1, 2, 3)))
    sim.always("there are no more tasks than submitted", lambda: sum(cluster.counts().values()) <= 10)
    sim.eventually("something completes", lambda: cluster.counts().get("completed", 0) > 0, within="5m")
    await cluster.load(cluster.spec(plain_nap, 1) for _ in range(10))
    async with sim.faults("crash", "power", "partition", "duplicate", "skew", "database", every="2s"):
        await sim.advance("1m")
    await sim.settle()
    assert len(sim.told) > 10
    sim.check()


# -- the outside world -------------------------------------------------------------------------------------------------


async def test_a_service_fails_loses_answers_and_counts_what_happened(sim: Sim) -> None:
    bank = sim.service("bank", idempotent=True).on("charge", lambda key, cents: f"{key}:{cents}").latency("10ms", "20ms")
    assert await bank.charge(key="a", cents=5) == "a:5"
    assert await bank.charge(key="a", cents=7) == "a:5", "the first answer, and nothing done"
    bank.lose_answers(1, timeout="3s")
    before = sim.now
    with pytest.raises(ServiceTimeoutError, match=r"no answer from bank.charge"):
        await bank.charge(key="b", cents=1)
    assert sim.now - before >= timedelta(seconds=3)
    bank.heal().fail(1, PermissionError)
    with pytest.raises(PermissionError):
        await bank.charge(key="c", cents=1)
    bank.heal().down()
    with pytest.raises(ServiceError, match="bank is down"):
        await bank.charge(key="d", cents=1)
    bank.up()
    with pytest.raises(TypeError):
        await bank.charge(key="e")
    assert [call.outcome for call in bank.calls] == ["done", "repeated", "lost", "failed", "failed", "refused"]
    effects = sim.effects("bank", "charge")
    assert (effects.count, effects.for_key("a"), effects.for_key("b"), effects.for_key("c")) == (2, 1, 1, 0)


# -- what is refused, and says so --------------------------------------------------------------------------------------


async def test_misuse_is_told(sim: Sim) -> None:
    with pytest.raises(NoClusterError, match="there is no cluster yet"):
        sim.node("w1")
    with pytest.raises(UnknownServiceError, match="no service 'bank'"):
        sim.effects("bank")
    with pytest.raises(InvalidChanceError, match="fail 2 is no probability"):
        sim.service("bank").fail(2)
    with pytest.raises(InvalidClusterError, match="nodes 3 is not possible"):
        await sim.cluster(app, nodes=3)
    with pytest.raises(UnknownOptionError, match=r"no option 'worker', expected some of workers, nodes, .*, start, tz$"):
        await sim.cluster(app, worker=1)
    with pytest.raises(InvalidClusterError, match="workers True is not possible, expected a number from 0 to 64"):
        await sim.cluster(app, workers=True)
    with pytest.raises(InvalidClusterError, match="declare 1 is not possible, expected True or False"):
        await sim.cluster(app, declare=1)
    with pytest.raises(UsageError, match="latency '-1ms' is negative, expected a span"):
        await sim.cluster(app, latency="-1ms")
    with pytest.raises(InvalidSettingError, match="tz 'Mars/Base' is not possible, expected the name of a zone"):
        await sim.cluster(app, tz="Mars/Base")
    with pytest.raises(InvalidSettingError, match="start 'noon' is not possible, expected a datetime, or ISO text"):
        await sim.cluster(app, start="noon")
    await sim.cluster(app, workers=1, latency="0s1ms")
    with pytest.raises(NoClusterError, match="has a cluster already"):
        await sim.cluster(app)
    with pytest.raises(UnknownNodeError, match=r"there is no 'w9' in this cluster, expected one of n1, w1, db"):
        sim.node("w9")
    with pytest.raises(UnknownPointError, match="there is no point 'nowhere'"):
        sim.at("nowhere")
    with pytest.raises(UnknownFamilyError, match="no random faults 'rain'"):
        sim.faults("rain")
    with pytest.raises(UsageError):
        await sim.advance("soon")
    with pytest.raises(InvalidSettingError, match="moment 'soon' is not possible"):
        await sim.advance_to("soon")


async def test_a_task_that_is_dead_says_why(sim: Sim) -> None:
    cluster = await sim.cluster(app, workers=1)
    task = await cluster.submit(hopeless)
    await sim.run_until(task.done)

    assert sim.undone() == [f"{task.id} shop.hopeless: dead after 1 attempt, Fatal: no"]
    with pytest.raises(InvariantError, match=rf"task {task.id} is dead \(Fatal: no\) with effects: none at all"):
        sim.assert_once(task)


async def test_what_must_always_hold_is_reported(sim: Sim) -> None:
    await sim.cluster(app, workers=1)
    sim.always("no time passes", lambda: sim.elapsed < timedelta(seconds=5))
    sim.eventually("pigs fly", lambda: False, within="3s")
    await sim.advance("10s")
    with pytest.raises(InvariantError, match=r"pigs fly did not come true within 0:00:03; no time passes did not hold"):
        sim.check()
    sim._broken.clear()
