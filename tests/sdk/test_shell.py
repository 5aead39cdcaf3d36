"""Shell commands: real ones, with their output, limits, users and ends, and nothing of them left behind."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
from foliot.actors.messages import Outcome, OutcomeKind
from foliot.sdk.app import AsyncHandler, Foliot
from foliot.sdk.options import InvalidOptionError
from foliot.sdk.payload import PayloadError
from foliot.sdk.shell import ShellResult, command_line
from foliot.sdk.shell_output import Output
from foliot.sdk.worker import WorkerConfig
from hypothesis import given
from hypothesis import strategies as st

from .harness import WorkerHarness, working

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run commands as somebody else")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
EXPECTED_0 = ", expected exit code 0"
COMMAND = "expected a text for the shell, or a list of a program and its arguments"
Shell = AsyncHandler[..., ShellResult]


def shell_app(**options: Any) -> tuple[Foliot, Shell]:
    app = Foliot("ops")
    return app, app.add_shell(**options)


async def run(command: str | list[str], **arguments: Any) -> tuple[Outcome, ShellResult | None, str]:
    """Run one command in a worker of its own; return its outcome, result and captured output."""
    app, shell = shell_app(users=["nobody"])
    async with working(app) as w:
        body = w.lease(shell, command=command, **arguments)
        outcome = await w.outcome(body)
        result = shell.decode_result(outcome.result) if outcome.kind == OutcomeKind.COMPLETED else None
        return outcome, result, w.output(body)


def message(outcome: Outcome) -> str:
    assert outcome.kind == OutcomeKind.FAILED
    assert outcome.error is not None
    return f"{outcome.error.type}: {outcome.error.message}"


def is_alive(pid: int) -> bool:
    """Tell whether the process runs; one that is dead but not collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


async def gone(*pids: int) -> None:
    async with asyncio.timeout(20):
        while any(is_alive(pid) for pid in pids):  # noqa: ASYNC110  (there is nothing to be told by)
            await asyncio.sleep(0.005)


async def begun(w: WorkerHarness, path: Path) -> list[int]:
    """Wait for a file of process ids that a command moved into place."""
    await w.until(path.exists)
    return [int(pid) for pid in path.read_text().split()]  # noqa: ASYNC240


# -- what comes back ---------------------------------------------------------------------------------------------------


async def test_a_command_runs_and_its_output_and_end_are_kept() -> None:
    _, result, output = await run("echo out; echo err >&2; echo again")

    assert result is not None
    assert (result.exit_code, result.signal) == (0, None)
    assert result.output == output == "out\nerr\nagain\n"
    assert (result.output_bytes, result.dropped_bytes) == (14, 0)
    assert result.cpu_ms > 0


async def test_a_list_of_words_needs_no_shell_and_no_quoting() -> None:
    _, result, _ = await run(["printf", "<%s>", "a b", "$HOME;", ""])

    assert result is not None
    assert result.output == "<a b><$HOME;><>"


async def test_an_exit_code_that_is_not_expected_is_a_failure_with_the_last_lines() -> None:
    outcome, _, output = await run("seq 100; echo no space left >&2; exit 3")

    text = message(outcome)
    assert text.startswith(f"ShellExitError: the command ended with exit code 3{EXPECTED_0}; its last output:\n90\n")
    assert text.endswith("\n100\nno space left")
    assert not outcome.fatal
    assert output.startswith("1\n2\n")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("kill -9 $$", "was killed by SIGKILL"),
        ("sh -c 'kill -SEGV $$' 2> /dev/null; exit $?", "ended with exit code 139 (a part of it was killed by SIGSEGV)"),
        ("no-such-program 2> /dev/null", "ended with exit code 127 (not found)"),
    ],
)
async def test_a_signal_and_a_telling_code_are_named(command: str, expected: str) -> None:
    outcome, _, _ = await run(command)

    assert message(outcome) == f"ShellExitError: the command {expected}{EXPECTED_0}; it printed nothing"


async def test_other_exit_codes_can_be_expected() -> None:
    _, result, _ = await run("exit 24", ok_codes=[0, 24])
    outcome, _, _ = await run("true", ok_codes=[24, 25])

    assert result is not None
    assert result.exit_code == 24
    assert "ended with exit code 0, expected exit code 24 or 25" in message(outcome)


async def test_a_command_reads_the_text_it_is_given_and_nothing_else() -> None:
    text = "one\ntwo € " * 20_000
    _, given_, _ = await run("wc -c", stdin=text)
    _, none, _ = await run("wc -c")

    assert given_ is not None
    assert none is not None
    assert int(given_.output) == len(text.encode())
    assert int(none.output) == 0


async def test_a_hungry_command_tells_its_memory() -> None:
    size = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10) + 200  # the kernel counts from before the start
    program = f"data = b'x' * ({size} << 20); import os; os.kill(os.getpid(), 9)"
    outcome, _, _ = await run([sys.executable, "-c", program])

    found = re.search(r"was killed by SIGKILL \(it had used (\d+) MiB of memory\)", message(outcome))
    assert found is not None
    assert int(found[1]) >= size


# -- output ------------------------------------------------------------------------------------------------------------


async def test_much_output_is_kept_at_both_ends_and_the_rest_is_counted() -> None:
    _, result, output = await run("echo first; yes | head -c 5000000; echo last", output_max=1_000)

    assert result is not None
    assert (result.output_bytes, result.dropped_bytes) == (5_000_011, 4_999_011)
    assert output.startswith("first\ny\n")
    assert output.endswith("y\nlast\n")
    assert "\n[4999011 bytes of output left out]\n" in output
    assert len(output) == 1_000 + len("\n[4999011 bytes of output left out]\n")
    assert len(result.output) == 4_096


async def test_output_is_there_while_the_command_runs(tmp_path: Path) -> None:
    app, shell = shell_app()
    async with working(app) as w:
        body = w.lease(shell, command=f"echo working; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done")
        await w.until(lambda: w.output(body) == "working\n")
        (tmp_path / "go").touch()
        assert (await w.outcome(body)).kind == OutcomeKind.COMPLETED


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(0, 120))
def test_of_any_output_the_ends_are_passed_on_in_order_and_nothing_is_miscounted(parts: list[bytes], limit: int) -> None:
    kept: list[bytes] = []
    output = Output(kept.append, limit)

    for part in parts:
        output.feed(part)
    output.end()

    whole, passed = b"".join(parts), b"".join(kept)
    assert output.total == len(whole)
    assert output.dropped == max(len(whole) - limit, 0)
    if output.dropped:
        note = b"\n[%d bytes of output left out]\n" % output.dropped
        tail = limit - limit // 2
        assert passed == whole[: limit // 2] + note + whole[len(whole) - tail :]
    else:
        assert passed == whole
    assert output.last(7) == whole[-7:]


# -- surroundings ------------------------------------------------------------------------------------------------------


async def test_a_command_knows_its_task_and_has_the_workers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_WORKER", "seen")
    about = "$FOLIOT_TENANT $FOLIOT_QUEUE $FOLIOT_ATTEMPT; echo $FOLIOT_ATTEMPT_TOKEN $FOLIOT_TASK_ID"
    _, result, _ = await run(f"echo $OF_THE_WORKER $MORE {about}", env={"MORE": "a  b"}, attempt=2)

    assert result is not None
    first, second = result.output.splitlines()
    token, task_id = second.split()
    assert first == "seen a b acme shell 2"
    assert token == f"{task_id}-2"


async def test_a_clean_environment_has_nothing_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_WORKER", "seen")
    _, result, _ = await run("env", clean_env=True, env={"MORE": "1"}, shell="/bin/sh")

    assert result is not None
    names = {line.partition("=")[0] for line in result.output.splitlines() if not line.startswith("FOLIOT_")}
    assert names - {"PWD", "_", "SHLVL"} == {"PATH", "SHELL", "HOME", "USER", "LOGNAME", "MORE"}


async def test_a_command_runs_in_its_folder(tmp_path: Path) -> None:
    _, there, _ = await run("pwd", cwd=str(tmp_path))
    _, home, _ = await run("pwd", cwd="~", env={"HOME": str(tmp_path)})
    (tmp_path / "sub").mkdir()
    _, below, _ = await run("pwd", cwd="~/sub", env={"HOME": str(tmp_path)})
    _, homeless, _ = await run("pwd", cwd="~", env={"HOME": "/no/such"})

    assert [result and result.output.strip() for result in (there, home, below, homeless)] == [
        str(tmp_path), str(tmp_path), f"{tmp_path}/sub", "/",
    ]  # fmt: skip


async def test_another_shell_can_be_named() -> None:
    _, result, _ = await run("echo $0", shell="/bin/bash")

    assert result is not None
    assert result.output == "/bin/bash\n"


@AS_ROOT
async def test_a_command_runs_as_the_user_with_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_WORKER", "secret")
    _, result, _ = await run("id -un; id -G; echo $USER $LOGNAME [$OF_THE_WORKER]", user="nobody", cwd="/")

    assert result is not None
    name, groups, rest = result.output.splitlines()
    assert (name, rest) == ("nobody", "nobody nobody []")
    assert "0" not in groups.split()


async def test_a_user_the_operator_did_not_name_is_refused_for_good() -> None:
    app, shell = shell_app()
    async with working(app) as w:
        outcome = await w.outcome(w.lease(shell, command="true", user="nobody"))

    assert message(outcome) == (
        "ShellRefusedError: a command for user 'nobody' is refused here: the operator allows the worker's own user only"
    )
    assert outcome.fatal


async def test_a_user_that_does_not_exist_is_refused_for_good() -> None:
    app, shell = shell_app(users=["no-such-user"])
    async with working(app) as w:
        outcome = await w.outcome(w.lease(shell, command="true", user="no-such-user"))

    assert message(outcome).endswith("'no-such-user' is refused here: there is no such user on this machine")
    assert outcome.fatal


async def test_a_tenant_the_operator_did_not_name_is_refused_for_good() -> None:
    app, shell = shell_app(tenants=["ops"])
    async with working(app) as w:
        outcome = await w.outcome(w.lease(shell, command="true"))

    assert message(outcome).endswith("for tenant 'acme' is refused here: the operator allows ops only")
    assert outcome.fatal


async def test_limits_hold_in_the_command(tmp_path: Path) -> None:
    _, result, _ = await run("ulimit -n; ulimit -c; nice", limits={"files": 50, "core_mb": 0, "nice": 7})
    busy, _, _ = await run("while :; do :; done", limits={"cpu_s": 1})
    wide, _, _ = await run([sys.executable, "-c", "b'x' * (900 << 20)"], limits={"memory_mb": 600})
    long, _, _ = await run("exec head -c 3000000 /dev/zero > file", limits={"file_mb": 1}, cwd=str(tmp_path))

    assert result is not None
    assert result.output == f"50\n0\n{min(os.nice(0) + 7, 19)}\n"
    assert "was killed by SIGXCPU" in message(busy)
    assert "MemoryError" in message(wide)
    assert "was killed by SIGXFSZ" in message(long)
    assert (tmp_path / "file").stat().st_size == 1 << 20


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"command": "true", "cwd": "/no/such"}, "cwd '/no/such': No such file or directory"),
        ({"command": ["no-such-program", "x"]}, "command 'no-such-program': No such file or directory"),
        ({"command": "true", "shell": "/etc/passwd"}, "command '/etc/passwd': Permission denied"),
        ({"command": ["true", "x" * 300_000]}, "command 'true': Argument list too long"),
        ({"command": "true", "limits": {"files": 1 << 40}}, f"limits.files '{1 << 40}': not allowed to raise maximum limit"),
    ],
)  # fmt: skip
async def test_what_cannot_start_says_at_which_step(arguments: dict[str, Any], expected: str) -> None:
    outcome, _, output = await run(**arguments)

    assert message(outcome) == f"ShellStartError: the command could not be started: {expected}"
    assert not outcome.fatal
    assert output == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"command": " "}, f"field 'command' is empty, {COMMAND}"),
        ({"command": []}, f"field 'command' is empty, {COMMAND}"),
        ({"command": ["", "x"]}, f"field 'command' is empty, {COMMAND}"),
        ({"command": "a\0b"}, "field 'command' has a NUL character, expected text that can be handed to a process"),
        ({"command": "true", "shell": "bash"}, "field 'shell' is 'bash', expected an absolute path such as /bin/bash"),
        ({"command": "true", "env": {"A=B": "c"}},
         "field 'env' has a variable 'A=B', expected names without '=' and NUL characters"),
        ({"command": "true", "env": {"A": "\0"}},
         "field 'env' has a NUL character, expected text that can be handed to a process"),
        ({"command": "true", "limits": {"cpu": 1}}, "field 'limits.cpu' is unknown, "
         "expected one of cpu_s, memory_mb, file_mb, core_mb, files, processes, nice"),
        ({"command": "true", "limits": {"cpu_s": 0}},
         "field 'limits.cpu_s' does not fit, expected a whole number from 1, of seconds"),
        ({"command": "true", "output_max": -1},
         "field 'output_max' does not fit, expected a whole number from 0 to 253952, of bytes"),
        ({"command": "true", "background": "keep"}, "field 'background' does not fit, expected 'kill' or 'leave'"),
        ({"command": "true", "ok_codes": ["a"]},
         "field 'ok_codes[0]' got str, expected a list of exit codes, such as [0, 1]"),
        ({"command": 3}, f"field 'command' got int, {COMMAND}"),
        ({}, f"field 'command' is missing, {COMMAND}"),
    ],
)  # fmt: skip
async def test_a_payload_that_makes_no_sense_fails_for_good_and_is_not_even_taken(
    arguments: dict[str, Any], expected: str
) -> None:
    app, shell = shell_app()
    async with working(app) as w:
        outcome = await w.outcome(w.lease(shell, **arguments))
    with pytest.raises(PayloadError) as refused:
        shell.encode((), arguments)

    assert str(refused.value) == f"payload of 'foliot.shell': {expected}"
    assert message(outcome) == f"PayloadError: payload of 'foliot.shell': {expected}"
    assert outcome.fatal


@pytest.mark.parametrize("option", [{"isolation": "process"}, {"key": "command"}, {"colour": 1}, {"users": "nobody"}])
def test_options_that_make_no_sense_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match=f"option '{next(iter(option))}'"):
        Foliot("ops").add_shell(**option)


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        ({"command": "a  b\n c"}, "$ a b c"),
        ({"command": ["rm", "a b"]}, "$ rm 'a b'"),
        ({"command": "x" * 61}, "$ " + "x" * 57 + "..."),
        ({"command": 3}, ""),
        (None, ""),
    ],
)
def test_a_command_is_told_in_one_short_line(payload: Any, line: str) -> None:
    assert command_line(payload) == line


def test_an_app_runs_no_commands_unless_it_is_told_to() -> None:
    app = Foliot("ops")
    assert app.handlers == {}
    app.add_shell()
    app.add_shell(queue="night")

    assert list(app.handlers) == ["foliot.shell"]
    assert app.queues() == [("default", "night")]


# -- the end -----------------------------------------------------------------------------------------------------------

FAMILY = (  # a shell, its child, a job in a group of its own, and who of them is there
    "set -m; sleep 600 & job=$!; set +m; sh -c 'sleep 600; true' & child=$!; "
    "echo $$ $job $child $(cat /proc/$child/task/$child/children) > {0}.part; mv {0}.part {0}; "
)


@ON_LINUX
@pytest.mark.parametrize("ending", ["timed out", "cancelled"])
async def test_a_command_is_asked_to_end_with_all_it_started(tmp_path: Path, ending: str) -> None:
    app, shell = shell_app()
    command = "trap 'sleep 0.05; echo cleaned up; exit 0' TERM; " + FAMILY.format(tmp_path / "pids") + "wait; wait"
    async with working(app) as w:
        changes = {"timeout_ms": 1_000} if ending == "timed out" else {}
        body = w.lease(shell, changes=changes, command=command, shell="/bin/bash")
        pids = await begun(w, tmp_path / "pids")
        if ending == "cancelled":
            w.cancel(body)
        outcome = await w.outcome(body)
        await gone(*pids)

    assert len(pids) >= 3
    assert outcome.kind == (OutcomeKind.TIMED_OUT if ending == "timed out" else OutcomeKind.CANCELLED)
    assert not outcome.killed
    assert w.output(body).endswith("cleaned up\n")


@ON_LINUX
async def test_a_command_that_does_not_listen_is_killed_with_all_it_started(tmp_path: Path) -> None:
    app, shell = shell_app(cancel_grace="300ms")
    command = "trap '' TERM; " + FAMILY.format(tmp_path / "pids") + "while :; do sleep 0.01; done"
    async with working(app) as w:
        body = w.lease(shell, command=command, shell="/bin/bash")
        pids = await begun(w, tmp_path / "pids")
        w.cancel(body)
        outcome = await w.outcome(body)
        assert not any(map(is_alive, pids))

    assert outcome.kind == OutcomeKind.CANCELLED


@ON_LINUX
async def test_a_child_that_still_cleans_up_when_its_shell_has_ended_keeps_its_grace(tmp_path: Path) -> None:
    app, shell = shell_app()
    child = f"trap 'sleep 0.3; touch {tmp_path}/clean; exit' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.01; done"
    async with working(app) as w:
        body = w.lease(shell, command=f"bash -c \"{child.replace('$', chr(92) + '$')}\" & wait")
        pids = await begun(w, tmp_path / "pid")
        w.cancel(body)
        await w.outcome(body)
        assert not is_alive(*pids)

    assert (tmp_path / "clean").exists()


@ON_LINUX
async def test_what_a_command_leaves_in_the_background_is_killed_or_left_as_asked(tmp_path: Path) -> None:
    command = "sleep 600 > /dev/null 2>&1 & echo $!"
    _, killed, _ = await run(command)
    _, left, _ = await run(command, background="leave")

    assert killed is not None
    assert left is not None
    await gone(int(killed.output))
    assert is_alive(int(left.output))
    os.kill(int(left.output), 9)


@ON_LINUX
async def test_a_worker_that_stops_leaves_nothing_running(tmp_path: Path) -> None:
    app, shell = shell_app()
    async with working(app, config=WorkerConfig(stop_grace_ms=200)) as w:
        w.lease(shell, command=FAMILY.format(tmp_path / "pids") + "trap '' TERM; wait; sleep 600", shell="/bin/bash")
        pids = await begun(w, tmp_path / "pids")

    assert not any(map(is_alive, pids))


@ON_LINUX
async def test_a_command_holds_no_descriptors_when_it_has_ended(tmp_path: Path) -> None:
    app, shell = shell_app(cancel_grace="100ms")
    async with working(app) as w:
        await w.outcome(w.lease(shell, command="true"))
        before = len(os.listdir("/proc/self/fd"))
        await w.outcome(w.lease(shell, command="cat; exit 1", stdin="x"))
        await w.outcome(w.lease(shell, command="true", cwd="/no/such"))
        await w.outcome(w.lease(shell, command="true", background="leave"))
        stopped = w.lease(shell, command=f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.01; done")
        await begun(w, tmp_path / "pid")
        w.cancel(stopped)
        await w.outcome(stopped)
        await w.until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_no_more_commands_run_at_once_than_the_worker_allows(tmp_path: Path) -> None:
    app, shell = shell_app()
    async with working(app, commands=1) as w:
        assert w.credit("shell") == 1
        command = f"mkdir {tmp_path}/alone && sleep 0.05 && rmdir {tmp_path}/alone"
        bodies = [w.lease(shell, command=command) for _ in range(3)]
        outcomes = [await w.outcome(body) for body in bodies]
        await w.until(lambda: w.credit("shell") == 1)

    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.COMPLETED] * 3


@ON_LINUX
async def test_the_process_that_guards_commands_is_replaced_when_it_is_killed() -> None:
    def guards() -> list[int]:
        mine = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
        return [pid for pid in mine if b"shell_watch" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    before = guards()
    app, shell = shell_app()
    async with working(app) as w:
        await w.outcome(w.lease(shell, command="true"))
        (first,) = set(guards()) - set(before)
        os.kill(first, 9)
        await gone(first)
        outcome = await w.outcome(w.lease(shell, command="true"))
        (second,) = set(guards()) - set(before)

    assert outcome.kind == OutcomeKind.COMPLETED
    assert second != first


async def test_a_system_without_process_descriptors_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(pid: int) -> int:
        raise OSError("not here")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    _, result, _ = await run("echo hi")
    app, shell = shell_app(cancel_grace="200ms")
    async with working(app) as w:
        body = w.lease(shell, command=f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.01; done")
        pids = await begun(w, tmp_path / "pid")
        w.cancel(body)
        outcome = await w.outcome(body)

    assert result is not None
    assert result.output == "hi\n"
    assert outcome.kind == OutcomeKind.CANCELLED
    await gone(*pids)
