"""Crontabs end to end: their commands really run, on a clock that is set and on the command line of a real process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from click.testing import CliRunner, Result
from embedded_clockwork import StepClock
from foliot import Client, Foliot, Scheduler
from foliot.sdk.cli import main
from foliot.sdk.crontab_plan import Plan, PlanOptions, own_account, plan_of
from foliot.sdk.crontab_run import Crontabs

FOLIOT = (sys.executable, "-c", "from foliot.sdk.cli import main; main()")


async def until(found: Callable[[], Awaitable[Any]], seconds: float = 20) -> Any:
    async with asyncio.timeout(seconds):
        while not (value := await found()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return value


class Kept:
    """A crontab that a scheduler is kept by."""

    def __init__(self, path: Path, scheduler: Scheduler, app: Foliot, **options: Any) -> None:
        self.path = path
        self.client: Client = scheduler.client()
        settings = PlanOptions(**{"zone": "Europe/Berlin", **options})
        self.read: Callable[[], Plan] = lambda: plan_of([str(path)], settings, own_account())
        self.crontabs = Crontabs(self.client, app.handlers["foliot.shell"], [str(path)], self.read)

    async def schedules(self) -> dict[str, str]:
        """Return the name of each command's schedule."""
        infos = [await self.client.schedules.get(info.name) async for info in self.client.schedules.list()]
        return {info.payload["command"]: info.name for info in infos}

    async def printed(self, command: str, count: int = 1) -> list[str]:
        """Return what the runs of a command printed, once so many are over."""
        name = (await self.schedules())[command]

        async def found() -> list[str] | None:
            ticks = [tick async for tick in self.client.schedules.history(name)]
            if len(ticks) < count or any(tick.outcome == "alive" for tick in ticks):
                return None
            return [await self.client.logs(tick.task) for tick in reversed(ticks)]

        return list(await until(found))


@pytest.fixture
def clock() -> StepClock:
    return StepClock("2026-03-28T12:00:30")


def running(folder: Path, clock: StepClock) -> tuple[Scheduler, Foliot]:
    app = Foliot("crontab")
    app.add_shell(timeout=None, dead_letter=False)
    return Scheduler(app, database=str(folder / "tab.db"), clock=clock, commands=4, processes=1), app


async def test_a_line_runs_when_cron_would_run_it_with_its_input_and_environment(tmp_path: Path, clock: StepClock) -> None:
    path = tmp_path / "tab"
    path.write_text("GREETING = 'hello there'\n2 13 28 3 *\tcat; echo $GREETING%one%two\n@reboot echo up\n")
    scheduler, app = running(tmp_path, clock)
    async with scheduler:
        kept = Kept(path, scheduler, app)
        await kept.crontabs.begin(kept.read())
        clock.set("2026-03-28T12:02:00")  # 13:02 in Berlin

        assert await kept.printed("cat; echo $GREETING") == ["one\ntwo\nhello there\n"]
        tasks = [task async for task in kept.client.list()]
        boots = [task for task in tasks if (await kept.client.get(task.id)).payload["command"] == "echo up"]
        assert len(boots) == 1
        assert await kept.client.wait(boots[0].id, 20) == "completed"
        assert await kept.client.logs(boots[0].id) == "up\n"


async def test_a_skipped_time_runs_an_hour_later_and_a_step_of_minutes_not_at_all(tmp_path: Path, clock: StepClock) -> None:
    path = tmp_path / "tab"
    path.write_text("30 2 * * * backup\n*/20 2 * * * poll\n")
    scheduler, app = running(tmp_path, clock)
    async with scheduler:
        kept = Kept(path, scheduler, app)
        await kept.crontabs.begin(kept.read())
        names = await kept.schedules()
        backup = await kept.client.schedules.preview(names["backup"], begin="2026-03-29T00:00Z", count=1)
        poll = await kept.client.schedules.preview(names["poll"], begin="2026-03-29T00:00Z", count=1)

    assert [tick.at.isoformat() for tick in backup] == ["2026-03-29T03:30:00+02:00"]
    assert [tick.at.isoformat() for tick in poll] == ["2026-03-30T02:00:00+02:00"]


async def test_a_failure_is_retried_as_told_and_kept_as_failed(tmp_path: Path, clock: StepClock) -> None:
    path = tmp_path / "tab"
    path.write_text("* * * * * echo $FOLIOT_ATTEMPT; false\n")
    scheduler, app = running(tmp_path, clock)
    async with scheduler:
        kept = Kept(path, scheduler, app, retries=1)
        await kept.crontabs.begin(kept.read())
        clock.set("2026-03-28T12:01:00")
        assert await kept.printed("echo $FOLIOT_ATTEMPT; false") == ["1\n2\n"]
        (task,) = [task async for task in kept.client.list()]

    assert (task.state, task.attempt) == ("failed", 2)


async def test_a_changed_file_is_taken_over_and_an_unreadable_one_is_not(tmp_path: Path, clock: StepClock) -> None:
    path = tmp_path / "tab"
    path.write_text("0 1 * * * one\n0 2 * * * two\n@reboot echo up\n")
    scheduler, app = running(tmp_path, clock)
    async with scheduler:
        kept = Kept(path, scheduler, app)
        await kept.crontabs.begin(kept.read())
        before = await kept.schedules()
        await kept.client.schedules.pause(before["two"], why="not now")
        assert not await kept.crontabs.look()

        path.write_text("# three is new\n0 2 * * * two\n0 3 * * * three\n99 * * * * four\n@reboot echo up\n")
        assert await kept.crontabs.look()
        after = await kept.schedules()
        assert set(after) == {"two", "three"}
        assert after["two"] == before["two"]
        assert (await kept.client.schedules.get(after["two"])).state == "paused"
        assert len([task async for task in kept.client.list()]) == 1, "start-up jobs run once"

        path.unlink()
        assert not await kept.crontabs.look()
        assert await kept.schedules() == after
        path.write_text("")
        assert await kept.crontabs.look()
        assert await kept.schedules() == {}


async def test_what_was_missed_meanwhile_is_not_made_up_for(tmp_path: Path, clock: StepClock) -> None:
    path = tmp_path / "tab"
    path.write_text("*/10 * * * * echo tick\n")
    for moment in ("2026-03-28T12:00:30", "2026-03-28T15:55:00"):
        clock.set(moment)
        scheduler, app = running(tmp_path, clock)
        async with scheduler:
            kept = Kept(path, scheduler, app)
            await kept.crontabs.begin(kept.read())
            info = await kept.client.schedules.get((await kept.schedules())["echo tick"])

    async with (scheduler := running(tmp_path, clock)[0]):
        name = info.name
        clock.set("2026-03-28T16:00:00")

        async def found() -> bool:
            return (await scheduler.client().schedules.get(name)).fired > 0

        await until(found)
        info = await scheduler.client().schedules.get(name)
    assert (info.fired, info.missed) == (1, 23)


# -- as processes ------------------------------------------------------------------------------------------------------


@contextmanager
def process(folder: Path, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of foliot until it is ready and beyond."""
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen([*FOLIOT, *args, "--log-json"], cwd=folder, stderr=log)
    try:
        for _ in range(600):
            if b'"ready"' in (folder / "log").read_bytes() or started.poll() is not None:
                break
            sleep(0.05)
        yield started
    finally:
        started.kill()
        started.wait()


def foliot(socket: Path, *args: str) -> Result:
    return CliRunner().invoke(main, args, env={"FOLIOT_ADDRESS": str(socket)})


def test_run_serves_a_file_until_it_is_told_to_stop(tmp_path: Path) -> None:
    (tmp_path / "jobs.tab").write_text("MAILTO=ops\n0 0 1 1 * echo new year\n60 * * * * bad\n@reboot echo up > up\nHOME=.\n")
    socket = tmp_path / "jobs.tab.foliot.sock"

    with process(tmp_path, "crontab", "run", "jobs.tab", "--zone", "Europe/Berlin") as running:
        (row,) = [json.loads(line) for line in foliot(socket, "schedules", "list", "--json").stdout.splitlines()]
        triggered = foliot(socket, "schedules", "trigger", row["name"], "--wait")
        task = json.loads(foliot(socket, "schedules", "history", row["name"], "--json").stdout)["task"]
        logs = foliot(socket, "tasks", "logs", task)
        running.send_signal(signal.SIGTERM)
        code = running.wait(30)

    assert (row["when"], row["zone"], row["handler"]) == ("0 0 1 1 *", "Europe/Berlin", "foliot.shell")
    assert row["note"] == f"{tmp_path}/jobs.tab, line 2, MAILTO=ops"
    assert json.loads(triggered.stdout)["output"] == "new year\n"
    assert logs.stdout == "new year\n"
    assert code == 0
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    (problem,) = [event for event in events if event["event"] == "crontab_line_not_honoured"]
    assert (problem["line"], problem["reason"]) == (3, "cron '60 * * * *' has the minute '60', expected 0-59")
    assert [event["line"] for event in events if event["event"] == "crontab_started"] == [4]
    assert (tmp_path / "jobs.tab.foliot.db").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs commands as others")
def test_root_runs_each_line_of_a_systems_crontab_as_its_user(tmp_path: Path) -> None:
    (tmp_path / "system").write_text("0 0 1 1 * nobody id -un\n0 0 2 1 * root id -un\n0 0 3 1 * no-such-user id -un\n")
    socket = tmp_path / "system.foliot.sock"

    with process(tmp_path, "crontab", "run", "--format", "system", "system"):
        rows = [json.loads(line) for line in foliot(socket, "schedules", "list", "--json").stdout.splitlines()]
        told = [json.loads(foliot(socket, "schedules", "trigger", row["name"], "--wait").stdout) for row in rows]

    assert sorted(each["output"] for each in told) == ["nobody\n", "root\n"]
    assert "would run as 'no-such-user', who is not known here" in (tmp_path / "log").read_text()


def test_import_puts_the_lines_into_a_scheduler_that_runs_commands(tmp_path: Path) -> None:
    socket = tmp_path / "foliot.sock"
    path = tmp_path / "jobs.tab"
    gone = "echo gone " + "and away " * 20 + "it went"
    path.write_text(f"0 0 1 1 * echo new year\n60 * * * * bad\n@reboot up\n0 0 2 1 * {gone}\n")

    def imported(*args: str) -> tuple[int, dict[str, Any]]:
        result = foliot(socket, "crontab", "import", str(path), "--json", *args)
        return result.exit_code, json.loads(result.stdout)

    with process(tmp_path, "up", "--shell"):
        first_code, first = imported()
        path.write_text("0 0 1 1 * echo new year\n")
        again_code, again = imported()
        table = foliot(socket, "crontab", "import", str(path)).stdout.splitlines()
        text = table[-1]
        listed = foliot(socket, "schedules", "list").stdout
        _, pruned = imported("--prune")
        result = foliot(socket, "schedules", "trigger", first["entries"][0]["name"], "--wait")

    assert first_code == 1
    assert (first["created"], [each["line"] for each in first["entries"]]) == (2, [1, 4])
    assert [each["line"] for each in first["problems"]] == [2, 3]
    assert again_code == 0
    assert (again["created"], again["unchanged"], again["left"]) == (0, 1, [first["entries"][1]["name"]])
    assert text == "0 created, 0 changed, 1 as they were, 1 of lines no longer there are left (see --prune)"
    assert pruned["deleted"] == again["left"]
    assert all(command in listed for command in ("  $ echo new year  ", f"  $ {gone}  "))
    assert table[0].split()[-2:] == ["name", "command"]
    assert table[1].endswith(f"  {first['entries'][0]['name']}  echo new year")
    assert "foliot.shell" not in listed
    assert json.loads(result.stdout)["output"] == "new year\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs commands as others")
def test_import_names_the_lines_of_users_that_the_scheduler_does_not_serve(tmp_path: Path) -> None:
    socket = tmp_path / "foliot.sock"
    path = tmp_path / "system"
    path.write_text("0 0 1 1 * nobody id -un\n0 0 2 1 * daemon id -un\n0 0 3 1 * root id -un\n")

    with process(tmp_path, "up", "--shell", "--shell-user", "nobody"):
        result = foliot(socket, "crontab", "import", "--format", "system", str(path), "--json")
        told = json.loads(result.stdout)
        ran = [foliot(socket, "schedules", "trigger", entry["name"], "--wait").stdout for entry in told["entries"]]

    assert result.exit_code == 1
    assert [json.loads(each)["output"] for each in ran] == ["nobody\n", "root\n"]
    (problem,) = told["problems"]
    assert (problem["line"], told["created"]) == (2, 2)
    assert "field 'user' is 'daemon', expected one as whom commands may run here (root, nobody); " in problem["reason"]
    assert problem["reason"].endswith("`foliot up --shell --shell-user daemon` allows it")


def test_import_into_a_scheduler_without_commands_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from foliot import Foliot\napp = Foliot('shop')\n@app.task\ndef x() -> None: ...\n")
    (tmp_path / "tab").write_text("* * * * * true\n")

    with process(tmp_path, "up", "--app", "shop:app"):
        result = foliot(tmp_path / "foliot.sock", "crontab", "import", str(tmp_path / "tab"))

    assert result.exit_code == 2
    assert "no worker here runs shell commands, expected `foliot up --shell`" in result.stderr
