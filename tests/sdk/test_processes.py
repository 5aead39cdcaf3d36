"""Child processes: real ones, really killed, and none left behind."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from foliot.actors.messages import OutcomeKind
from foliot.sdk.processes import ProcessConfig, _Stream

from .harness import WorkerHarness, working

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def child_app(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("child_app")


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


async def begun(w: WorkerHarness, path: Path) -> str:
    await w.until(path.exists)
    return path.read_text()  # noqa: ASYNC240


async def test_a_child_runs_attempts_and_is_used_again(child_app: Any) -> None:
    async with working(child_app.app, processes=1) as w:
        first = child_app.pid.decode_result((await w.outcome(w.lease(child_app.pid))).result)
        second = child_app.pid.decode_result((await w.outcome(w.lease(child_app.pid))).result)
        found = child_app.add.decode_result((await w.outcome(w.lease(child_app.add, a=2))).result)

    assert first == second != os.getpid()
    assert found == 3
    await gone(first)


async def test_a_coroutine_in_a_child_has_its_context(child_app: Any) -> None:
    async with working(child_app.app, processes=1) as w:
        body = w.lease(child_app.add_async, a=1, attempt=2, checkpoint=b"\x05")
        found = child_app.add_async.decode_result((await w.outcome(body)).result)

    assert found.pop("token").endswith("-2")
    assert found == {"sum": 2, "checkpoint": 5, "left": True}


@pytest.mark.parametrize(
    ("what", "type_", "message", "fatal", "retry_after_ms"),
    [
        ("value", "ValueError", "bad", False, -1),
        ("key", "KeyError", "'k'", True, -1),
        ("later", "RetryLater", "the handler asked for another attempt in 5000 ms", False, 5_000),
        ("fatal", "Fatal", "never", True, -1),
        ("exit", "SystemExit", "3", False, -1),
        ("hard exit", "ProcessDiedError", "the child process ended with exit code 3", False, -1),
        ("kill", "ProcessDiedError", "the child process was killed by SIGKILL", False, -1),
        ("segfault", "ProcessDiedError", "the child process was killed by SIGSEGV", False, -1),
    ],
)
async def test_failures_and_deaths_are_told_apart(
    child_app: Any, what: str, type_: str, message: str, fatal: bool, retry_after_ms: int
) -> None:
    async with working(child_app.app, processes=1) as w:
        body = w.lease(child_app.failing, what=what)
        outcome = await w.outcome(body)
        again = await w.outcome(w.lease(child_app.add, a=1))  # a child that died is replaced

    assert outcome.kind == OutcomeKind.FAILED
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.message) == (type_, message)
    assert (outcome.fatal, outcome.retry_after_ms) == (fatal, retry_after_ms)
    assert again.kind == OutcomeKind.COMPLETED
    if what == "hard exit":
        assert outcome.error.traceback == "last words\n"
        assert w.output(body) == "last words\n"


async def test_a_payload_that_does_not_fit_fails_for_good(child_app: Any) -> None:
    async with working(child_app.app, processes=1) as w:
        outcome = await w.outcome(w.lease(child_app.add, a="x"))

    assert outcome.error is not None
    assert outcome.error.message == "payload of 'child.add': field 'a' got str, expected int"
    assert outcome.fatal


async def test_a_child_out_of_time_is_killed_even_if_it_holds_the_interpreter(child_app: Any) -> None:
    async with working(child_app.app, processes=1) as w:
        pid = child_app.pid.decode_result((await w.outcome(w.lease(child_app.pid))).result)
        outcome = await w.outcome(w.lease(child_app.endless))
        await gone(pid)

    assert outcome.kind == OutcomeKind.TIMED_OUT
    assert outcome.killed
    assert outcome.error is not None
    assert outcome.error.message == "the attempt ran longer than its timeout of 300 ms"


@pytest.mark.parametrize("name", ["polite", "polite_async"])
async def test_a_child_is_cancelled_cooperatively_and_used_again(child_app: Any, tmp_path: Path, name: str) -> None:
    async with working(child_app.app, processes=1) as w:
        pid = child_app.pid.decode_result((await w.outcome(w.lease(child_app.pid))).result)
        body = w.lease(getattr(child_app, name), path=str(tmp_path / "begun"))
        await begun(w, tmp_path / "begun")
        w.cancel(body)
        outcome = await w.outcome(body)
        after = child_app.pid.decode_result((await w.outcome(w.lease(child_app.pid))).result)

    assert outcome.kind == OutcomeKind.CANCELLED
    assert not outcome.killed
    assert pid == after


async def test_a_child_that_does_not_listen_is_killed_with_what_it_started(child_app: Any, tmp_path: Path) -> None:
    async with working(child_app.app, processes=1) as w:
        body = w.lease(child_app.deaf, path=str(tmp_path / "pids"))
        pids = [int(pid) for pid in (await begun(w, tmp_path / "pids")).split()]
        w.cancel(body)
        outcome = await w.outcome(body)
        await gone(*pids)

    assert outcome.kind == OutcomeKind.CANCELLED
    assert outcome.killed


async def test_an_attempt_whose_child_is_still_starting_can_be_cancelled(child_app: Any) -> None:
    async with working(child_app.app, processes=1) as w:
        body = w.lease(child_app.add, a=1)
        w.cancel(body)
        assert (await w.outcome(body)).kind == OutcomeKind.CANCELLED
        assert (await w.outcome(w.lease(child_app.add, a=1))).kind == OutcomeKind.COMPLETED


async def test_everything_a_child_prints_is_kept_with_its_attempt(child_app: Any) -> None:
    async with working(child_app.app, processes=1) as w:
        body, silent = w.lease(child_app.talking), w.lease(child_app.quiet)
        await w.outcome(body)
        await w.outcome(silent)

    output = w.output(body)
    for text in ("from python\n", "from a subprocess\n", "to stderr\n", "warning  shop: from logging\n",
                 "info     from the context order=5\n"):  # fmt: skip
        assert output.count(text) == 1
    assert "\0" not in output
    assert w.output(silent) == ""
    last = w.progress(body)[-1]
    assert (last.permille, last.note, last.checkpoint) == (500, "half", b"\x81\xa3row\x03")


async def test_a_child_that_closed_its_output_still_answers(child_app: Any) -> None:
    async with working(child_app.app, processes=1) as w:
        outcome = await w.outcome(w.lease(child_app.dup_closed))

    assert outcome.kind == OutcomeKind.COMPLETED


@pytest.mark.parametrize("limits", [{"max_tasks": 2}, {"max_rss": 1}])
async def test_children_are_replaced_when_worn(child_app: Any, limits: dict[str, int]) -> None:
    async with working(child_app.app, processes=ProcessConfig(limit=1, **limits)) as w:
        pids = []
        for _ in range(4):
            pids.append(child_app.pid.decode_result((await w.outcome(w.lease(child_app.pid))).result))

    per_child = limits.get("max_tasks", 1)
    assert len(set(pids)) == 4 // per_child
    assert pids == sorted(pids, key=pids.index)
    await gone(*pids)


async def test_as_many_children_as_allowed_run_at_once(child_app: Any, tmp_path: Path) -> None:
    async with working(child_app.app, processes=2) as w:
        bodies = [w.lease(child_app.polite, path=str(tmp_path / str(number))) for number in range(3)]
        await begun(w, tmp_path / "0")
        await begun(w, tmp_path / "1")
        assert not (tmp_path / "2").exists()
        w.cancel(bodies[0])
        await begun(w, tmp_path / "2")


async def test_a_drain_kills_what_does_not_finish_and_gives_the_attempt_back(child_app: Any, tmp_path: Path) -> None:
    async with working(child_app.app, processes=1) as w:
        body = w.lease(child_app.deaf, path=str(tmp_path / "pids"))
        pids = [int(pid) for pid in (await begun(w, tmp_path / "pids")).split()]
        async with asyncio.timeout(30):
            await w.worker.drain(20)
        outcome = await w.outcome(body)
        await gone(*pids)

    assert outcome.kind == OutcomeKind.INTERRUPTED
    assert outcome.killed


WORKER_THAT_IS_KILLED = """
import asyncio, sys
sys.path[:0] = [{tests!r}, {root!r}]
import child_app
from harness import working

async def main():
    async with working(child_app.app, processes=2) as w:
        w.lease(child_app.deaf, path={deaf!r})
        w.lease(child_app.holding, path={holding!r})
        await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_children_die_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    # The second one holds its interpreter, so only the kernel can end it.
    code = textwrap.dedent(WORKER_THAT_IS_KILLED).format(
        tests=str(HERE), root=str(HERE.parent), deaf=str(tmp_path / "deaf"), holding=str(tmp_path / "holding")
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        async with asyncio.timeout(30):
            while not ((tmp_path / "deaf").exists() and (tmp_path / "holding").exists()):
                assert worker.poll() is None
                await asyncio.sleep(0.01)
        pids = [int(pid) for name in ("deaf", "holding") for pid in (tmp_path / name).read_text().split()]
        assert all(is_alive(pid) for pid in pids)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    await gone(*pids)


def test_a_stream_is_cut_at_the_mark_wherever_the_pieces_end() -> None:
    mark = b"\0foliot:1.1\0"
    text = b"a\0b\0foliot:1.0\0 tail \0foli"
    whole = text + mark + b"late"
    for size in range(1, len(whole) + 1):
        stream = _Stream()
        stream.begin(mark)
        out = b"".join(stream.feed(whole[at : at + size]) for at in range(0, len(whole), size))
        assert (out, stream.ended) == (text, True)


def test_what_could_have_been_a_mark_is_not_lost() -> None:
    stream = _Stream()
    stream.begin(b"\0foliot:1.1\0")

    assert stream.feed(b"text\0fol") == b"text"
    assert stream.rest() == b"\0fol"
