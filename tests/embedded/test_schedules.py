"""Schedules end to end in the embedded scheduler: real files, the public client, and a wall clock that is set."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import embedded_clockwork as clockwork
import pytest
from embedded_clockwork import StepClock
from foliot import Client, Foliot, Scheduler
from foliot.actors.rule_errors import InvalidCalendarError
from foliot.sdk.declared import DuplicateCalendarError, tell_again
from foliot.sdk.errors import InvalidRequestError
from foliot.sdk.schedule_errors import ScheduleBusyError, ScheduleExistsError, ScheduleNotFoundError
from foliot.sdk.schedule_views import TickInfo

NOON = "2026-03-01T12:00:30"


@pytest.fixture
def clock() -> StepClock:
    return StepClock(NOON)


@pytest.fixture(autouse=True)
def closed_gates() -> None:
    clockwork.GATES.clear()


def scheduler_on(path: Path, clock: StepClock, *apps: Foliot, **options: Any) -> Scheduler:
    return Scheduler(
        *(apps or (clockwork.app,)), database=str(path / "clock.db"), clock=clock, concurrency=64, processes=1, **options
    )


@pytest.fixture(params=[False, True], ids=["handed over", "encoded"])
async def client(tmp_path: Path, clock: StepClock, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with scheduler_on(tmp_path, clock, encode_messages=request.param) as scheduler:
        yield scheduler.client()


async def until(found: Callable[[], Awaitable[Any]], seconds: float = 20) -> Any:
    """Return what `found` returns once that is neither None nor False."""
    async with asyncio.timeout(seconds):
        while (value := await found()) in (None, False):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return value


async def history(client: Client, name: str) -> list[TickInfo]:
    return [tick async for tick in client.schedules.history(name)]


async def ended(client: Client, name: str, count: int) -> list[TickInfo]:
    """Return the ticks of a schedule, the earliest first, once so many are decided and over."""

    async def found() -> list[TickInfo] | None:
        ticks = await history(client, name)
        return ticks if len(ticks) >= count and all(tick.outcome != "alive" for tick in ticks) else None

    return list(reversed(await until(found)))


def open_gate(name: str) -> None:
    clockwork.GATES.setdefault(name, asyncio.Event()).set()


async def running(client: Client, name: str, count: int) -> list[TickInfo]:
    """Return the ticks whose task is alive, once there are so many and they run."""

    async def found() -> list[TickInfo] | None:
        ticks = [tick for tick in await history(client, name) if tick.outcome == "alive"]
        states = [(await client.get(tick.task)).state for tick in ticks]
        return ticks if len(ticks) == count and states == ["running"] * count else None

    return list(await until(found))


def hands(tick: TickInfo) -> str:
    assert tick.tick is not None
    return tick.tick.strftime("%H:%M:%S")


# -- ticks -------------------------------------------------------------------------------------------------------------


async def test_a_cron_tick_makes_one_task_that_knows_its_schedule_and_moment(client: Client, clock: StepClock) -> None:
    await client.schedules.create("each", clockwork.tell, "hello", cron="* * * * *", zone="Europe/Berlin")
    await client.schedules.create("apart", clockwork.tell_apart, cron="* * * * *")

    for count, minute in enumerate(("12:01:00", "12:02:00"), 1):
        clock.set(f"2026-03-01T{minute}")
        ticks, apart = await ended(client, "each", count), await ended(client, "apart", count)

    assert [(hands(tick), tick.source, tick.outcome) for tick in ticks] == [
        ("12:01:00", "rule", "completed"), ("12:02:00", "rule", "completed"),
    ]  # fmt: skip
    assert await client.result(ticks[0].task) == ["each", "2026-03-01T12:01:00+00:00", "hello"]
    assert await client.result(apart[0].task) == ["apart", "2026-03-01T12:01:00+00:00"]
    assert (await client.verify()).balanced


async def test_a_task_that_was_submitted_has_no_schedule(client: Client) -> None:
    task = await client.submit(clockwork.tell)

    assert await task.result(timeout=20) == ["", "", ""]


async def test_one_moment_and_a_fixed_delay_and_a_limit(client: Client, clock: StepClock) -> None:
    await client.schedules.create("once", clockwork.tell, at=datetime(2026, 3, 1, 12, 1, tzinfo=UTC))
    await client.schedules.create("pause", clockwork.hold, "pause", after="1m", start="2026-03-01T12:01:00Z", limit=2)

    clock.set("2026-03-01T12:01:00")
    await ended(client, "once", 1)
    await running(client, "pause", 1)
    clock.set("2026-03-01T12:10:00")
    assert (await client.schedules.get("pause")).next_tick is None  # not before the run has ended
    open_gate("pause")
    await ended(client, "pause", 1)
    info = await until(lambda: waiting_again(client, "pause"))
    assert info.next_tick >= datetime(2026, 3, 1, 12, 11, tzinfo=UTC)
    clock.set("2026-03-01T12:11:30")
    await ended(client, "pause", 2)

    assert (await client.schedules.get("once")).state == "over"
    assert (await client.schedules.get("pause")).state == "over"


async def waiting_again(client: Client, name: str) -> Any:
    info = await client.schedules.get(name)
    return info if info.next_tick else None


# -- overlap -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlap", "alive", "outcomes"),
    [
        ("skip", 1, ["completed", "skipped", "skipped"]),
        ("buffer_one", 1, ["completed", "completed", "skipped"]),
        ("buffer_all", 1, ["completed", "completed", "completed"]),
        ("cancel_other", 1, ["cancelled", "cancelled", "completed"]),
        ("terminate_other", 1, ["cancelled", "cancelled", "completed"]),
        ("allow_all", 3, ["completed", "completed", "completed"]),
    ],
)
async def test_a_tick_that_meets_a_run(
    tmp_path: Path, clock: StepClock, overlap: str, alive: int, outcomes: list[str]
) -> None:
    async with scheduler_on(tmp_path, clock) as scheduler:
        client = scheduler.client()
        await client.schedules.create("slow", clockwork.hold, overlap, every="1m", overlap=overlap, limit=3)
        for number, minute in enumerate(("12:01:00", "12:02:00", "12:03:00"), 1):
            clock.set(f"2026-03-01T{minute}")
            await until(partial(decided, client, "slow", number))
            await running(client, "slow", min(number, alive))

        open_gate(overlap)

        ticks = await ended(client, "slow", 3)
        assert [hands(tick) for tick in ticks] == ["12:01:00", "12:02:00", "12:03:00"]
        assert [tick.outcome for tick in ticks] == outcomes
        assert (await client.verify()).balanced


async def decided(client: Client, name: str, count: int) -> bool:
    info = await client.schedules.get(name)
    return info.fired + info.skipped + info.waiting >= count


# -- pause, trigger, edit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "fired"),
    [
        ("skip", []),
        ("last", ["12:04:00"]),
        ("first", ["12:01:00"]),
        ("all", ["12:01:00", "12:02:00", "12:03:00", "12:04:00"]),
    ],
)
async def test_a_resumption_says_which_of_the_missed_ticks_fire(
    client: Client, clock: StepClock, missed: str, fired: list[str]
) -> None:
    await client.schedules.create("each", clockwork.tell, every="1m", overlap="allow_all")
    assert await client.schedules.pause("each", why="maintenance", by="ann") == "paused"
    assert await client.schedules.pause("each") == "unchanged"
    info = await client.schedules.get("each")
    assert (info.state, info.paused_by, info.paused_why, info.next_at) == ("paused", "ann", "maintenance", None)
    assert [each.name async for each in client.schedules.list(paused=True)] == ["each"]

    clock.set("2026-03-01T12:04:30")
    assert await client.schedules.resume("each", missed=missed) == "resumed"

    ticks = await ended(client, "each", len(fired))
    assert [hands(tick) for tick in ticks] == fired
    info = await until(lambda: counted(client, "each", 4))
    assert (info.state, info.fired, info.missed) == ("active", len(fired), 4 - len(fired))


async def counted(client: Client, name: str, count: int) -> Any:
    info = await client.schedules.get(name)
    return info if info.fired + info.missed == count else None


async def test_many_are_commanded_at_once_and_missing_ones_named(client: Client) -> None:
    for name in ("a", "b", "c"):
        await client.schedules.create(name, clockwork.tell, every="1h")

    assert await client.schedules.pause(["a", "nobody", "c"]) == ["paused", "not_found", "paused"]
    assert await client.schedules.delete(["a", "b"]) == ["deleted", "deleted"]

    assert [info.name async for info in client.schedules.list()] == ["c"]
    with pytest.raises(ScheduleNotFoundError, match="there is no schedule 'a' of tenant 'default'"):
        await client.schedules.resume("a")


async def test_a_trigger_runs_it_now_unless_a_run_is_in_its_way(client: Client) -> None:
    await client.schedules.create("slow", clockwork.hold, "trigger", every="1h")

    task = await client.schedules.trigger("slow")
    assert task is not None
    await running(client, "slow", 1)
    with pytest.raises(ScheduleBusyError, match="schedule 'slow' was not triggered: a run of it is alive"):
        await client.schedules.trigger("slow")
    assert await client.schedules.trigger("slow", overlap="buffer_one") is None
    open_gate("trigger")

    assert await task.result(timeout=20) == "trigger"
    ticks = await ended(client, "slow", 3)
    assert [tick.source for tick in ticks] == ["trigger"] * 3
    assert sorted(tick.outcome for tick in ticks) == ["completed", "completed", "skipped"]


async def test_an_edit_changes_what_is_named_and_fires_nothing_that_is_past(client: Client, clock: StepClock) -> None:
    await client.schedules.create("each", clockwork.tell, "old", cron="0 18 * * *", zone="Europe/Berlin", note="kept")

    edit: dict[str, Any] = {"cron": "* * * * *", "limit": 5}
    diff = await client.schedules.diff("each", count=3, **edit)
    info = await client.schedules.update("each", word="new", **edit)
    clock.set("2026-03-01T12:01:00")
    (tick,) = await ended(client, "each", 1)

    assert [each.at.strftime("%H:%M") for each in diff.come] == ["13:01", "13:02", "13:03"]  # in Berlin
    assert (diff.gone, diff.stay) == ([], [])
    assert (info.revision, info.zone, info.note, info.payload) == (2, "Europe/Berlin", "kept", {"word": "new"})
    assert (await client.result(tick.task))[2] == "new"
    assert tick.revision == 2
    with pytest.raises(ScheduleExistsError, match="schedule 'each' of tenant 'default' is there already"):
        await client.schedules.create("each", clockwork.tell, every="1m")
    with pytest.raises(ScheduleNotFoundError):
        await client.schedules.update("nobody", note="x")
    put = await client.schedules.put("each", clockwork.tell, every="1h")
    assert (put.revision, put.when, put.note) == (3, "every 1h", "")


async def test_runs_that_end_badly_pause_it(client: Client, clock: StepClock) -> None:
    await client.schedules.create("bad", clockwork.hopeless, every="1m", pause_after=2)

    for minute in ("12:01:00", "12:02:00"):
        clock.set(f"2026-03-01T{minute}")
        await ended(client, "bad", int(minute[4]))

    info = await until(lambda: paused(client, "bad"))
    assert (info.paused_by, info.paused_why, info.failures) == ("foliot", "2 runs in a row ended badly", 2)


async def paused(client: Client, name: str) -> Any:
    info = await client.schedules.get(name)
    return info if info.state == "paused" else None


# -- backfills and calendars -------------------------------------------------------------------------------------------


async def test_a_backfill_fires_a_past_window_beside_the_schedule(client: Client, clock: StepClock) -> None:
    await client.schedules.create("each", clockwork.tell, every="1m")
    clock.set("2026-03-01T12:01:00")
    await ended(client, "each", 1)
    window = ("2026-03-01T11:58:00Z", "2026-03-01T12:01:00.001Z")

    foreseen = await client.schedules.backfill("each", *window, backwards=True, dry_run=True)
    backfill = await client.schedules.backfill("each", *window, concurrency=2)

    assert [each.at.strftime("%H:%M") for each in foreseen.ticks] == ["12:00", "11:59", "11:58"]
    assert (foreseen.left_out, foreseen.has_more) == (1, False)
    info = await until(lambda: done(client, backfill.id))
    assert (info.fired, info.left_out, info.failed, info.schedule) == (3, 1, 0, "each")
    ticks = [tick for tick in await history(client, "each") if tick.source == "backfill"]
    assert [hands(tick) for tick in reversed(ticks)] == ["11:58:00", "11:59:00", "12:00:00"]
    assert {tick.backfill for tick in ticks} == {backfill.id}
    assert await backfill.cancel() == "ended"
    assert [each.id for each in await client.schedules.backfills("each")] == [backfill.id]
    assert (await client.verify()).balanced


async def done(client: Client, id: str) -> Any:
    info = await client.schedules.get_backfill(id)
    return info if info.status == "done" else None


async def test_a_backfill_is_paused_resumed_and_cancelled(client: Client) -> None:
    await client.schedules.create("slow", clockwork.hold, "backfill", every="1m")
    backfill = await client.schedules.backfill("slow", "2026-03-01T11:00:00Z", "2026-03-01T12:00:00Z")
    await running(client, "slow", 1)

    assert await backfill.pause() == "paused"
    open_gate("backfill")
    await ended(client, "slow", 1)
    assert (await backfill.status()).status == "paused"
    clockwork.GATES["backfill"].clear()
    assert await backfill.resume() == "resumed"
    await running(client, "slow", 1)
    assert await backfill.cancel() == "cancelled"
    open_gate("backfill")

    assert len(await ended(client, "slow", 2)) == 2
    assert (await backfill.status()).status == "cancelled"


async def test_a_calendar_is_shared_and_edited_in_one_place(client: Client) -> None:
    await client.calendars.set("holidays", dates=["2026-03-02"])
    await client.schedules.create("work", clockwork.tell, cron="0 9 * * *", calendar="not holidays")
    assert (await client.schedules.get("work")).next_tick == datetime(2026, 3, 3, 9, tzinfo=UTC)

    changed = await client.calendars.set("holidays", dates=["2026-03-02", "2026-03-03"])

    await until(lambda: next_is(client, "work", datetime(2026, 3, 4, 9, tzinfo=UTC)))
    assert changed.version == 2
    assert [each.name for each in await client.calendars.list()] == ["holidays"]
    with pytest.raises(InvalidRequestError, match="calendar 'holidays' is named by 'work', expected no schedule"):
        await client.calendars.delete("holidays")
    await client.schedules.delete("work")
    await client.calendars.delete("holidays")
    assert await client.calendars.list() == []
    with pytest.raises(InvalidRequestError, match="calendar 'not holidays' names 'holidays' at position 4"):
        await client.schedules.create("work", clockwork.tell, cron="0 9 * * *", calendar="not holidays")


async def next_is(client: Client, name: str, moment: datetime) -> bool:
    return (await client.schedules.get(name)).next_tick == moment


# -- a scheduler that was away -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "fired"), [("skip", []), ("last", ["12:05:00"]), ("all", ["12:03:00", "12:04:00", "12:05:00"])]
)
async def test_ticks_missed_while_it_was_away_fire_as_the_rule_says(
    tmp_path: Path, clock: StepClock, missed: str, fired: list[str]
) -> None:
    async with scheduler_on(tmp_path, clock) as scheduler:
        await scheduler.client().schedules.create(
            "each", clockwork.tell, every="1m", missed=missed, max_catchup=3, grace="10s", overlap="allow_all"
        )
    clock.set("2026-03-01T12:05:30")

    async with scheduler_on(tmp_path, clock) as scheduler:
        client = scheduler.client()
        info = await until(lambda: counted(client, "each", 5))
        ticks = await ended(client, "each", len(fired))

    assert [hands(tick) for tick in ticks] == fired
    assert (info.fired, info.missed) == (len(fired), 5 - len(fired))


async def test_what_comes_due_while_the_workers_drain_is_missed_as_after_a_crash(tmp_path: Path, clock: StepClock) -> None:
    async with scheduler_on(tmp_path, clock, drain_grace_ms=3_600_000) as scheduler:
        client = scheduler.client()
        await client.schedules.create("slow", clockwork.hold, "slow", every="1m", overlap="allow_all", grace="10s")
        clock.set("2026-03-01T12:01:00")
        await running(client, "slow", 1)
        leaving = asyncio.create_task(scheduler.__aexit__(None, None, None))
        await until(lambda: draining(scheduler))
        clock.set("2026-03-01T12:02:01")
        for _ in range(10):  # as many turns of its shard, in which it could tick
            await client.schedules.pause("slow", why="ten times")
            await client.schedules.resume("slow", missed="")
        meanwhile = [hands(tick) for tick in await history(client, "slow")]
        open_gate("slow")
        await leaving
        assert meanwhile == ["12:01:00"]
    clock.set("2026-03-01T12:02:45")

    async with scheduler_on(tmp_path, clock) as scheduler:
        client = scheduler.client()
        clock.set("2026-03-01T12:03:00")
        ticks = await ended(client, "slow", 2)
        missed = (await client.schedules.get("slow")).missed

    assert [(hands(tick), tick.outcome) for tick in ticks] == [("12:01:00", "completed"), ("12:03:00", "completed")]
    assert missed == 1


async def draining(scheduler: Scheduler) -> bool:
    return all(worker.draining for worker in scheduler.workers)


async def test_a_restart_fires_no_tick_twice_and_goes_on(tmp_path: Path, clock: StepClock) -> None:
    async with scheduler_on(tmp_path, clock) as scheduler:
        client = scheduler.client()
        await client.schedules.create("each", clockwork.tell, every="1m")
        clock.set("2026-03-01T12:01:00")
        await ended(client, "each", 1)

    async with scheduler_on(tmp_path, clock) as scheduler:
        client = scheduler.client()
        clock.set("2026-03-01T12:02:00")
        ticks = await ended(client, "each", 2)
        assert (await client.verify()).balanced

    assert [hands(tick) for tick in ticks] == ["12:01:00", "12:02:00"]


# -- in bulk -----------------------------------------------------------------------------------------------------------


async def test_many_are_put_at_once_and_bad_ones_are_named(client: Client) -> None:
    words = [{"every": "1h"}] * 1_500
    words[700] = {"cron": "0 0 30 2 *"}
    seen: list[int] = []

    result = await client.schedules.put_many(
        (client.schedules.draft(f"s{at:04d}", clockwork.tell, str(at), **each) for at, each in enumerate(words)),
        progress=seen.append,
    )
    again = await client.schedules.put_many([client.schedules.draft("s0000", clockwork.tell, "0", every="1h")])

    assert (result.done, result.created, result.refused_count) == (1_500, 1_499, 1)
    assert [(each.position, each.code) for each in result.refused] == [(700, "invalid_cron")]
    assert seen[-1] == 1_500
    assert again.unchanged == 1
    names = [info.name async for info in client.schedules.list()]
    assert names == [f"s{at:04d}" for at in range(1_500) if at != 700]
    assert [info.name async for info in client.schedules.list(prefix="s00", limit=3)] == ["s0000", "s0001", "s0002"]


# -- declared in code --------------------------------------------------------------------------------------------------


def declared(*schedules: dict[str, Any]) -> Foliot:
    app = Foliot("declared")

    @app.task
    async def report(kind: str = "full") -> str:
        return kind

    for words in schedules:
        app.schedule(**words)(report)
    return app


async def test_declared_schedules_are_put_at_the_start_and_pauses_stay(
    tmp_path: Path, clock: StepClock, capsys: pytest.CaptureFixture[str]
) -> None:
    nightly = {"cron": "0 3 * * *", "zone": "Europe/Berlin"}
    first = declared(nightly, {"name": "short", "every": "10m", "kind": "short"}, {"name": "gone", "every": "1h"})
    async with scheduler_on(tmp_path, clock, first) as scheduler:
        schedules = scheduler.client().schedules
        assert [info.name async for info in schedules.list()] == ["declared.report", "gone", "short"]
        assert (await schedules.get("short")).payload == {"kind": "short"}
        await schedules.pause("declared.report", why="ill")

    second = declared(nightly, {"name": "short", "every": "20m", "kind": "short"})
    async with scheduler_on(tmp_path, clock, second) as scheduler:
        schedules = scheduler.client().schedules
        kept, changed, gone = [await schedules.get(name) for name in ("declared.report", "short", "gone")]
        said: list[str] = []
        await until(lambda: logged(capsys, "schedule_no_longer_declared", said))

    assert (kept.revision, kept.state, kept.paused_why) == (1, "paused", "ill")
    assert (changed.revision, changed.when) == (2, "every 20m")
    assert (gone.state, gone.declared_in) == ("active", "declared")
    assert re.search(r"schedules_declared.* replaced=1 .*replaced_names=\['short'\]", "".join(said)), said


async def logged(capsys: pytest.CaptureFixture[str], event: str, said: list[str]) -> bool:
    """Tell whether an event was logged by now. `said`: gets all that was."""
    said += capsys.readouterr()
    return event in "".join(said)


async def test_a_declared_schedule_that_is_refused_is_logged_and_stops_nothing(
    tmp_path: Path, clock: StepClock, capsys: pytest.CaptureFixture[str]
) -> None:
    app = declared({"name": "bad", "every": "1h", "calendar": "nobody"}, {"name": "good", "every": "1h"})

    async with scheduler_on(tmp_path, clock, app) as scheduler:
        names = [info.name async for info in scheduler.client().schedules.list()]

    assert names == ["good"]
    assert [(each.kind, each.name, each.code) for each in scheduler.refused] == [("schedule", "bad", "invalid_calendar")]
    assert scheduler.refused[0].reason.endswith("set it with `foliot calendars set` or app.calendar(...)")
    said = "".join(capsys.readouterr())
    assert "schedule_refused" in said
    assert re.search(r"schedules_declared.*created=1 .*refused=1\b", said), said
    tell_again(scheduler.refused)
    assert "schedule_refused" in "".join(capsys.readouterr())


async def test_a_declared_calendar_is_there_before_the_schedules_and_the_code_wins(
    tmp_path: Path, clock: StepClock, capsys: pytest.CaptureFixture[str]
) -> None:
    workdays = {"name": "workdays", "cron": "0 9 * * *", "calendar": "not holidays"}
    app, other = declared(workdays), Foliot("other")
    app.calendar("holidays", yearly=["12-25"], easter=[-2])
    other.calendar("holidays", yearly=["12-26"])

    async with scheduler_on(tmp_path, clock, app) as scheduler:
        assert (scheduler.refused, (await scheduler.client().schedules.get("workdays")).revision) == ([], 1)
    async with scheduler_on(tmp_path, clock, app) as scheduler:
        client = scheduler.client()
        assert (await client.calendars.get("holidays")).version == 1  # as it was: nothing is set
        await client.calendars.set("holidays", yearly=["01-01"])
        capsys.readouterr()
    async with scheduler_on(tmp_path, clock, app, other) as scheduler:
        calendar = await scheduler.client().calendars.get("holidays")
        said = "".join(capsys.readouterr())

    assert (calendar.version, calendar.yearly, calendar.easter) == (3, ("12-25",), (-2,))
    assert re.search(r"calendars_declared.* set=1 .*names=\['holidays'\]", said), said
    assert [(each.kind, each.code) for each in scheduler.refused] == [("calendar", "duplicate_calendar")]


def test_a_calendar_in_code_is_checked_where_it_is_written() -> None:
    app = Foliot("declared")
    app.calendar("holidays", yearly=["12-25"])
    app.calendar("holidays", yearly=["12-25"])

    with pytest.raises(InvalidCalendarError, match="yearly of calendar 'bad' '13-01'"):
        app.calendar("bad", yearly=["13-01"])
    with pytest.raises(DuplicateCalendarError, match="calendar 'holidays' is already declared otherwise by app 'declared'"):
        app.calendar("holidays", yearly=["12-26"])
    assert list(app.calendars) == ["holidays"]
