"""Shell commands through a whole scheduler: submitted by clients and the command line, retried, and never orphaned."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from time import sleep

import pytest
from click.testing import CliRunner, Result
from foliot import Client, Foliot, Retry, Scheduler, SyncClient, TaskFailedError
from foliot.sdk.cli import main
from foliot.sdk.errors import InvalidRequestError
from foliot.sdk.shell import ShellNotServedError, ShellResult
from foliot.sdk.shell_handler import own_user
from foliot.sdk.shell_run import Ended, Order
from foliot.simulations import Sim

FOLIOT = (sys.executable, "-c", "from foliot.sdk.cli import main; main()")


@asynccontextmanager
async def scheduler(folder: Path, *, shell: bool = True) -> AsyncIterator[Client]:
    app = Foliot("ops")

    @app.task
    async def nothing() -> None: ...

    if shell:
        app.add_shell(max_attempts=3, retry=Retry(base="5ms", cap="20ms"))
    async with Scheduler(app, database=str(folder / "ops.db"), concurrency=8, processes=1) as running:
        yield running.client()


@contextmanager
def up(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `foliot up --shell` until it is ready and beyond."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*FOLIOT, "up", "--shell", "--log-json", "--commands", "4"], cwd=folder, stderr=log)
    try:
        for _ in range(600):
            if b'"ready"' in (folder / "log").read_bytes() or process.poll() is not None:
                break
            sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def wait_for(path: Path) -> list[int]:
    """Wait for a file of process ids that a command moved into place."""
    for _ in range(2_000):
        if path.exists():
            return [int(pid) for pid in path.read_text().split()]
        sleep(0.01)
    raise AssertionError(f"{path.name} never came")


async def test_a_command_is_a_task_like_any_other(tmp_path: Path) -> None:
    async with scheduler(tmp_path) as client:
        task = await client.shell("echo out; echo err >&2", timeout="1m", priority="high", dedupe_key="one")
        again = await client.shell("echo out; echo err >&2", dedupe_key="one")
        result = await task.result(20)
        info = await task.info()

        assert isinstance(result, ShellResult)
        assert (result.exit_code, result.output) == (0, "out\nerr\n")
        assert await task.logs() == "out\nerr\n"
        assert (info.handler, info.queue) == ("foliot.shell", "shell")
        assert again.existing
        assert again.id == task.id


async def test_a_command_that_fails_is_retried_and_then_a_dead_letter_that_says_why(tmp_path: Path) -> None:
    async with scheduler(tmp_path) as client:
        lucky = await client.shell("echo attempt $FOLIOT_ATTEMPT; test $FOLIOT_ATTEMPT = 3")
        never = await client.shell(["sh", "-c", "echo disk is full; exit 28"], max_attempts=2)

        assert (await lucky.result(20)).output == "attempt 3\n"
        assert await lucky.logs() == "attempt 1\nattempt 2\nattempt 3\n"
        with pytest.raises(TaskFailedError) as failed:
            await never.result(20)
    assert failed.value.attempts == 2
    assert failed.value.error_type == "ShellExitError"
    assert "exit code 28, expected exit code 0; its last output:\ndisk is full" in failed.value.error_message


async def test_a_command_out_of_time_is_ended_with_all_it_started(tmp_path: Path) -> None:
    async with scheduler(tmp_path) as client:
        task = await client.shell(f"sleep 600 & echo $$ $! > {tmp_path}/pids; wait", timeout="300ms", max_attempts=1)
        with pytest.raises(TaskFailedError, match="the attempt ran longer than its timeout of 300 ms"):
            await task.result(20)
        pids = await asyncio.to_thread(wait_for, tmp_path / "pids")

    assert not any(map(is_alive, pids))


async def test_a_command_out_of_time_has_its_last_output_in_the_error(tmp_path: Path) -> None:
    async with scheduler(tmp_path) as client:
        task = await client.shell("echo copying disk 7; exec sleep 600", timeout="500ms", max_attempts=1)
        with pytest.raises(TaskFailedError) as failed:
            await task.result(20)

    expected = "the attempt ran longer than its timeout of 500 ms; its last output:\ncopying disk 7"
    assert failed.value.error_message == expected


async def test_no_commands_are_run_where_nobody_allowed_it(tmp_path: Path) -> None:
    async with scheduler(tmp_path, shell=False) as client:
        with pytest.raises(ShellNotServedError, match="no worker here runs shell commands, expected `foliot up --shell`"):
            await client.shell("true")


async def test_arguments_that_make_no_sense_are_refused_when_they_are_submitted(tmp_path: Path) -> None:
    async with scheduler(tmp_path) as client:
        with pytest.raises(InvalidRequestError, match="field 'colour' is unknown"):
            await client.shell("true", colour="red")
        with pytest.raises(InvalidRequestError, match=r"field 'limits.cpu_s' does not fit, expected a whole number from 1"):
            await client.shell("true", limits={"cpu_s": 0})
        with pytest.raises(InvalidRequestError, match="field 'command' is empty, expected a text for the shell"):
            await client.shell("")
        with pytest.raises(InvalidRequestError, match="has a variable 'A=B', expected names without '='"):
            await client.shell("true", env={"A=B": "3"})
        with pytest.raises(InvalidRequestError, match="field 'user' is 'no-such-user', expected one as whom commands"):
            await client.shell("true", user="no-such-user")
        with pytest.raises(InvalidRequestError, match="field 'command' is empty"):
            await client.schedules.create("empty", "foliot.shell", command=" ", every="1h")
        assert [info async for info in client.schedules.list()] == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part in it is that of Linux")
def test_kill_9_of_the_worker_takes_its_commands_along_and_they_are_run_again(tmp_path: Path) -> None:
    command = (
        f"set -m; sleep 600 & echo $$ $! > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/pids.$FOLIOT_ATTEMPT; "
        f"test -e {tmp_path}/go && exit 0; set +m; timeout 600 sleep 601; true"
    )
    with up(tmp_path) as process, SyncClient(str(tmp_path / "foliot.sock")) as client:
        task = client.shell(command, max_attempts=1)
        first, _ = wait_for(tmp_path / "pids.1")
        for _ in range(500):
            sleepers = session_of(first)
            if len(sleepers) == 4:  # the shell, its job, timeout and what that runs
                break
            sleep(0.01)
        assert len(sleepers) == 4
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for _ in range(500):
            if not any(map(is_alive, sleepers)):
                break
            sleep(0.01)
        assert not any(map(is_alive, sleepers))
    (tmp_path / "go").touch()
    with up(tmp_path), SyncClient(str(tmp_path / "foliot.sock")) as client:
        assert client.result(task.id, 60)["exit_code"] == 0


def session_of(leader: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == leader:
                found.append(int(entry))
    return found


def test_the_command_line_submits_commands_to_a_scheduler_that_runs_nothing_else(tmp_path: Path) -> None:
    with up(tmp_path):

        def foliot(*arguments: str) -> Result:
            return CliRunner().invoke(main, [*arguments, "--socket", str(tmp_path / "foliot.sock")])

        done = foliot("submit", "--shell", "pwd; echo $NAME", "-p", f"cwd={tmp_path}", "-p", 'env={"NAME": "Ann"}', "--wait")
        failed = foliot("submit", "--shell", "exit 4", "--max-attempts", "1", "--wait", "--json")
        both = foliot("submit", "some.handler", "--shell", "true")

    assert json.loads(done.stdout)["output"] == f"{tmp_path}\nAnn\n"
    assert failed.exit_code == 1
    assert "ended with exit code 4" in json.loads(failed.stdout)["error"]["message"]
    assert both.exit_code == 2
    assert "give HANDLER, such as shop.send_receipt, or --shell COMMAND" in both.output


class Scripted:
    """Commands of a test: each takes a minute, and says what it was."""

    async def run(self, order: Order, write: Callable[[bytes], None]) -> Ended:
        await asyncio.sleep(60)
        write(order.argv[-1].encode())
        return Ended(0, 60_000, 5, 0, order.argv[-1].encode(), len(order.argv[-1]), 0)


async def test_a_simulation_runs_the_commands_of_its_test(sim: Sim) -> None:
    app = Foliot("scripted")
    app.add_shell(commands=Scripted())

    cluster = await sim.cluster(app, workers=1)
    task = await cluster.submit("foliot.shell", command="backup")
    assert (await task.result()).output == "backup"
    assert sim.elapsed >= timedelta(minutes=1)


async def test_a_simulation_starts_no_processes(sim: Sim) -> None:
    app = Foliot("real")
    app.add_shell(max_attempts=1)

    cluster = await sim.cluster(app, workers=1)
    with pytest.raises(TaskFailedError, match="starting a process is not possible in a simulation"):
        await (await cluster.submit("foliot.shell", command="true")).result()


def test_users_of_commands_are_named_only_where_commands_can_run_as_them() -> None:
    alone = CliRunner().invoke(main, ["up", "--app", "shop:app", "--shell-user", "nobody"])
    unknown = CliRunner().invoke(main, ["up", "--shell", "--shell-user", "no-such-user"])

    assert alone.exit_code == unknown.exit_code == 2
    assert "--shell-user goes with --shell" in alone.output
    assert "a command would run as 'no-such-user', " in unknown.output


def test_an_app_with_commands_of_its_own_has_its_own_say_about_users(tmp_path: Path) -> None:
    (tmp_path / "ops_of_its_own.py").write_text("from foliot import Foliot\napp = Foliot('ops')\napp.add_shell()\n")
    own = own_user()
    command = [*FOLIOT, "up", "--app", "ops_of_its_own:app", "--shell", "--shell-user", own]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert refused.returncode == 2
    assert f"option '--shell-user' is '{own}', expected none: the app says so with add_shell(users=[...])" in refused.stderr


def test_up_wants_an_app_or_commands() -> None:
    refused = CliRunner().invoke(main, ["up"])

    assert refused.exit_code == 2
    assert "Missing option '--app', such as shop.tasks:app; or --shell, to run shell commands" in refused.output
