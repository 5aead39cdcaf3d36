"""The command line against a real scheduler on a real socket: output for people and programs, errors, exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from click.testing import CliRunner, Result
from foliot.sdk.cli import main
from foliot.sdk.cli_common import table
from foliot.sdk.errors import PastDueError, ResultTimeoutError
from foliot.sdk.loading import AppLoadError, load_app

FOLIOT = (sys.executable, "-c", "from foliot.sdk.cli import main; main()")
SHOP = """
from foliot import Context, Fatal, Foliot, Retry

app = Foliot("shop")


@app.schedule(name="shop.yearly", cron="0 0 1 1 *", a=1)
@app.task
async def add(ctx: Context, a: int, b: int = 0) -> int:
    print("adding", a, b)
    return a + b


@app.task(max_attempts=2, retry=Retry(base="10ms"))
async def noisy(ctx: Context) -> None:
    print("attempt", ctx.attempt)
    raise ValueError(f"not in attempt {ctx.attempt}")


@app.task(queue="mail", max_attempts=1)
async def broken(ctx: Context, n: int = 0) -> None:
    if n >= 0:
        raise Fatal(f"cannot do {n}")


@app.task
async def note(name: str, list: list[int], z: None) -> None:
    return None
"""


@contextmanager
def up(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a scheduler with the shop in a process of its own, until it is ready and beyond."""
    (folder / "shop.py").write_text(SHOP)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*FOLIOT, "up", "--app", "shop:app", "--log-json"], cwd=folder, stderr=log)
    try:
        for _ in range(600):
            if b'"ready"' in (folder / "log").read_bytes() or process.poll() is not None:
                break
            sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("up")
    with up(folder):
        yield str(folder / "foliot.sock")


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    """A tenant for each test, so that they do not see each other's tasks."""
    return "".join(char if char.isalnum() else "-" for char in request.node.name)[:60]


class Shell:
    """Runs commands in this process."""

    def __init__(self, socket: str, tenant: str) -> None:
        self.tenant = tenant
        self._env = {"FOLIOT_ADDRESS": socket, "FOLIOT_TENANT": tenant}

    def __call__(self, *args: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, args, env=self._env, input=stdin)

    def text(self, *args: str, code: int = 0, stdin: str | None = None) -> str:
        result = self(*args, stdin=stdin)
        assert result.exit_code == code, result.output
        return result.stdout

    def json(self, *args: str, code: int = 0) -> Any:
        return json.loads(self.text(*args, "--json", code=code))

    def lines(self, *args: str, code: int = 0) -> list[Any]:
        return [json.loads(line) for line in self.text(*args, "--json", code=code).splitlines()]


@pytest.fixture
def sh(socket: str, tenant: str) -> Shell:
    return Shell(socket, tenant)


# -- submitting ------------------------------------------------------------------------------------------------------


def test_a_task_is_submitted_waited_for_and_looked_at(sh: Shell) -> None:
    assert sh.text("submit", "shop.add", "-p", "a=2", "-p", "b=40", "--wait") == "42\n"
    done = sh.json("submit", "shop.add", "--json-payload", '{"a": 1}', "--wait", "--priority", "2")

    assert (done["result"], done["state"]) == (1, "completed")
    shown = sh.json("tasks", "show", done["id"])
    assert (shown["payload"], shown["priority"], shown["state"]) == ({"a": 1}, 2, "completed")
    text = sh.text("tasks", "show", done["id"])
    assert "handler       shop.add" in text
    assert sh.text("tasks", "logs", done["id"]) == "adding 1 0\n"
    assert "over: completed" in sh.json("tasks", "why", done["id"])["text"]


def test_a_payload_comes_from_standard_input_and_text_needs_no_quotes(sh: Shell) -> None:
    task_id = sh.text("submit", "shop.note", "-p", "name=Ann", "-p", 'list=[1,2]', "--json-payload", "-", "--delay", "1h",
                      stdin='{"z": null}').strip()  # fmt: skip

    assert sh.json("tasks", "show", task_id)["payload"] == {"z": None, "name": "Ann", "list": [1, 2]}


def test_very_many_tasks_come_from_a_file(sh: Shell, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("".join(f'{{"a": {n}}}\n' for n in range(1_200)) + "\n")

    told = sh.json("submit", "shop.add", "--from", str(tmp_path / "lines"), "--delay", "1h")

    assert (told["submitted"], told["accepted"], told["refused"]) == (1_200, 1_200, 0)
    assert len(sh.lines("tasks", "list", "--limit", "5000")) == 1_200


def test_a_file_with_a_bad_line_names_it(sh: Shell, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b'{"a": 1}\n\n[1]\n{"a": "x"}\nnonsense\n{"a": 2}\n{"a": "\xff"}\n')

    text = sh.text("submit", "shop.add", "--delay", "1h", "--from", str(tmp_path / "lines"), code=1)
    told = sh.json("submit", "shop.add", "--delay", "1h", "--from", str(tmp_path / "lines"), code=1)

    lines = text.splitlines()
    assert lines[0] == "2 accepted, 0 were there already, 4 refused"
    assert lines[1] == "  task 2: line 3 is a JSON list, expected an object of named arguments"
    assert lines[2].startswith("  task 3: ")
    assert "a" in lines[2]
    assert lines[3].startswith("  task 4: line 5 is not JSON: ")
    assert lines[4].startswith("  task 6: line 7: ")
    assert (told["submitted"], told["accepted"], told["refused"]) == (6, 2, 4)
    assert [refusal["position"] for refusal in told["refusals"]] == [1, 2, 3, 5]


def test_a_file_can_be_submitted_again_where_each_line_has_its_dedupe_key(sh: Shell, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text('{"a": 1}\n{"a": 2}\n{"b": 2}\n')
    again = ("submit", "shop.add", "--delay", "1h", "--from", str(tmp_path / "lines"), "--dedupe-from", "a")

    first, second = sh.json(*again, code=1), sh.json(*again, code=1)

    assert (first["accepted"], first["existing"], first["refused"]) == (2, 0, 1)
    assert (second["accepted"], second["existing"], second["refused"]) == (0, 2, 1)
    assert "line 3 has no short text or whole number as 'a'" in first["refusals"][0]["text"]
    assert sh("submit", "shop.add", "--dedupe-from", "a").exit_code == 2


def test_a_failed_task_fails_the_command_that_waits_for_it(sh: Shell) -> None:
    result = sh("submit", "shop.broken", "-p", "n=3", "--wait")
    told = sh.json("submit", "shop.broken", "-p", "n=3", "--wait", code=1)

    assert result.exit_code == 1
    assert "foliot: task" in result.stderr
    assert "is a dead letter after 1 attempt: Fatal: cannot do 3" in result.stderr
    assert (told["state"], told["error"]["code"]) == ("dead", "task_failed")


def test_a_dedupe_key_that_is_held_is_told_or_refused(sh: Shell) -> None:
    first = sh.json("submit", "shop.add", "-p", "a=1", "--delay", "1h", "--dedupe-key", "d")
    again = sh("submit", "shop.add", "-p", "a=1", "--dedupe-key", "d")
    refused = sh("submit", "shop.add", "-p", "a=1", "--dedupe-key", "d", "--on-conflict", "reject")

    assert (again.stdout, again.stderr) == (f"{first['id']}\n", "(was there already)\n")
    assert refused.exit_code == 1
    assert first["id"] in refused.stderr


def test_a_queue_that_nobody_serves_is_remarked_upon(sh: Shell) -> None:
    strange = sh("submit", "shop.add", "-p", "a=1", "--delay", "1h", "--queue", "mial")
    served = sh("submit", "shop.add", "-p", "a=1", "--delay", "1h", "--queue", "mail")
    paused = sh("queues", "pause", "nobodys")
    sh.text("queues", "resume", "nobodys")

    assert "no worker serves queue 'mial'" in strange.stderr
    assert (served.exit_code, served.stderr) == (0, "")
    assert paused.exit_code == 0
    assert paused.stderr == "no worker serves queue 'nobodys' and no task has named it yet\n"


# -- tasks and dead letters --------------------------------------------------------------------------------------------


def test_tasks_are_listed_cancelled_and_retried(sh: Shell) -> None:
    ids = [sh.json("submit", "shop.add", "-p", f"a={n}", "--delay", "1h")["id"] for n in range(3)]

    assert [row["id"] for row in sh.lines("tasks", "list", "--state", "scheduled")] == ids[::-1]
    table = sh.text("tasks", "list", "--limit", "2").splitlines()
    assert table[0].split() == ["id", "state", "handler", "queue", "priority", "attempt", "due", "at", "updated", "at"]
    assert [line.split()[:3] for line in table[1:]] == [[at, "scheduled", "shop.add"] for at in (ids[2], ids[1])]
    assert "due in 59m" in sh.text("tasks", "why", ids[0])
    assert [row["outcome"] for row in sh.lines("tasks", "cancel", *ids[:2])] == ["cancelled", "cancelled"]
    assert [row["outcome"] for row in sh.lines("tasks", "cancel", *ids[1:], code=1)] == ["ended", "cancelled"]
    assert sh.text("tasks", "retry", ids[0], "-p", "a=7").split() == ["id", "outcome", ids[0], "retried"]
    assert sh.json("tasks", "show", ids[0])["payload"] == {"a": 7}


def test_every_attempt_has_its_traceback_and_its_output(sh: Shell) -> None:
    task_id = sh.json("submit", "shop.noisy", "--wait", code=1)["id"]

    shown = sh.text("dlq", "show", task_id)
    for attempt in (1, 2):
        assert f"\nattempt {attempt}, failed\n    Traceback" in shown
        assert shown.count(f"\n    ValueError: not in attempt {attempt}\n") == 1
    assert sh.text("tasks", "logs", task_id) == "--- attempt 1 ---\nattempt 1\n--- attempt 2 ---\nattempt 2\n"
    assert sh.text("tasks", "logs", task_id, "--attempt", "2") == "attempt 2\n"
    assert "counted anew" not in shown

    sh.text("dlq", "retry", task_id)
    assert sh.text("tasks", "logs", task_id, "--follow").endswith("--- attempt 4 ---\nattempt 4\n")
    assert "attempt       4 (counted anew since a retry)" in sh.text("tasks", "show", task_id)


def test_dead_letters_are_listed_shown_retried_and_purged(sh: Shell) -> None:
    ids = [sh.json("submit", "shop.broken", "-p", f"n={n}", "--wait", code=1)["id"] for n in range(4)]
    alive = sh.json("submit", "shop.add", "-p", "a=1", "--delay", "1h")["id"]

    assert [row["id"] for row in sh.lines("dlq", "list")] == ids[::-1]
    assert "Fatal: cannot do 3" in sh.text("dlq", "list").splitlines()[1]
    shown = sh.text("dlq", "show", ids[0])
    assert "error         Fatal: cannot do 0" in shown

    assert [row["outcome"] for row in sh.lines("dlq", "retry", ids[0], "-p", "n=-1")] == ["retried"]
    assert sh.text("submit", "shop.add", "-p", "a=0", "--wait") == "0\n"
    assert [row["outcome"] for row in sh.lines("dlq", "purge", alive, ids[1], code=1)] == ["not_dead", "purged"]
    assert sh("dlq", "purge", "--all").exit_code == 2
    assert sh.json("dlq", "purge", "--handler", "shop.broken", "--yes")["purged"] >= 2
    assert sh.lines("dlq", "list") == []
    assert sh.json("tasks", "show", alive)["state"] == "scheduled"


def test_dead_letters_are_retried_by_filter(sh: Shell) -> None:
    for n in range(3):
        sh.text("submit", "shop.broken", "-p", f"n={n}", "--queue", "mail", "--wait", code=1)

    assert sh.json("dlq", "retry", "--queue", "mail") == {"retried": 3}
    assert sh.json("dlq", "retry", "--handler", "other") == {"retried": 0}
    assert sh("dlq", "retry").exit_code == 2


# -- queues, tenants, workers, the ledger ------------------------------------------------------------------------------


def test_a_queue_is_paused_explained_and_resumed(sh: Shell) -> None:
    assert "paused by ann" in sh.text("queues", "pause", "slow", "--by", "ann", "--why", "lunch")
    waiting = sh.json("submit", "shop.add", "-p", "a=1", "--queue", "slow")["id"]

    assert "lunch" in sh.text("tasks", "why", waiting)
    row = next(line for line in sh.text("queues", "list").splitlines() if line.startswith("slow"))
    assert row.endswith("by ann: lunch")
    assert not sh.json("queues", "resume", "slow")["paused"]
    assert sh.json("queues", "limit", "slow", "--concurrency", "2", "--ageing", "5s")["ageing_ms"] == 5_000
    assert sh("queues", "limit", "slow").exit_code == 2
    assert [row["config"]["concurrency"] for row in sh.lines("queues", "list") if row["config"]["queue"] == "slow"] == [2]


def test_a_tenants_rate_is_limited_and_the_refusal_is_unavailable(sh: Shell, tenant: str) -> None:
    assert "1 tasks per 3600s" in sh.text("tenants", "limit", tenant, "--rate", "1/hour")
    sh.text("submit", "shop.add", "-p", "a=1")

    refused = sh("submit", "shop.add", "-p", "a=1")

    assert refused.exit_code == 3
    assert refused.stderr.count("\n") == 1
    row = next(line for line in sh.text("tenants", "list").splitlines() if line.startswith(tenant))
    assert "1/3600s" in row
    assert sh.json("tenants", "limit", tenant, "--rate", "none")["rate"] == 0


def test_workers_are_listed(sh: Shell) -> None:
    (row,) = sh.lines("workers")

    assert row["state"] == "alive"
    assert row["heartbeat"]["worker"] in sh.text("workers")


def test_the_ledger_balances(sh: Shell, tenant: str) -> None:
    sh.text("submit", "shop.add", "-p", "a=1", "--wait")

    told = sh.json("verify")
    text = sh.text("verify")

    assert told["balanced"]
    assert [line["completed"] for line in told["lines"] if line["tenant"] == tenant] == [1]
    assert text.splitlines()[-1].startswith("balanced: ")


def test_what_ticks_made_is_told_apart_from_what_clients_sent(sh: Shell, tenant: str) -> None:
    sh.text("submit", "shop.add", "-p", "a=1", "--wait")
    sh.text("schedules", "create", "sum", "shop.add", "-p", "a=40", "--every", "1d")
    sh.text("schedules", "trigger", "sum", "--wait")

    (line,) = [each for each in sh.json("verify")["lines"] if each["tenant"] == tenant]
    columns, *rows = [row.split() for row in sh.text("verify").splitlines()]
    shown = dict(zip(columns, next(row for row in rows if row[0] == tenant), strict=True))

    assert (line["edge"], line["fired"], line["stored"]) == (1, 1, 2)
    assert (shown["edge"], shown["fired"], shown["stored"]) == ("1", "1", "2")


# -- errors and help ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["tasks", "show", "0000000000001"], 1, "there is no task '0000000000001'"),
        (["tasks", "show", "what"], 2, "'what' is not an id"),
        (["submit", "bad name"], 2, "handler 'bad name' is not a name"),
        (["submit", "shop.add", "--delay", "-5s"], 2, "is negative"),
        (["submit", "shop.add", "--at", "9999-01-01T00:00:00Z"], 2, "100 years"),
        (["submit", "shop.add", "--priority", "11"], 2, "a number from 0 to 9"),
        (["submit", "shop.add", "-p", "novalue"], 2, "'novalue' is not key=value"),
        (["submit", "shop.add", "--json-payload", "{"], 2, "is not JSON"),
        (["submit", "shop.add", "--frob"], 2, "submit --help)"),
        (["submit", "shop.add", "--from", "no-such-file"], 2, "No such file"),
        (["submit", "shop.add", "--at", "2020-01-01T00:00:00Z", "--past", "refuse"], 2, "the task was due"),
        (["tasks", "list", "--state", "odd"], 2, "'odd' is not one of"),
        (["up"], 2, "Missing option '--app'"),
        (["up", "--app", "a:b", "--label", "gpu"], 2, "a label is KEY=VALUE"),
        (["bench", "latency", "--frob"], 2, "bench latency --help)"),
        (["frobnicate"], 2, "there is no command 'frobnicate', expected one of up, submit"),
        (["up", "--app", "no_such_module:app"], 2, "does not import: ModuleNotFoundError"),
        (["up", "--app", "json:dumps"], 2, "expected a Foliot app in json"),
    ],
)
def test_an_error_is_one_clear_line_and_a_code(sh: Shell, args: list[str], code: int, words: str) -> None:
    result = sh(*args)

    assert result.exit_code == code
    assert words in result.stderr
    assert result.stderr.startswith("foliot: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    as_json = sh(*args, "--json")
    if args[0] != "up":  # which has no answer to give
        assert as_json.exit_code == code
        assert set(json.loads(as_json.stderr)["error"]) == {"code", "message"}


@pytest.mark.parametrize(
    ("line", "where"),
    [("app.schedule(cron='61 * * * *')(work)", "broken_shop.py:7)"), ("import no_such_module", "broken_shop.py:7)")],
)
def test_an_app_that_does_not_import_names_the_line_that_is_not_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, where: str
) -> None:
    head = "from foliot import Foliot\n\napp = Foliot('broken')\n@app.task\ndef work() -> None:\n    pass\n"
    (tmp_path / "broken_shop.py").write_text(head + line + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(AppLoadError) as caught:
        load_app("broken_shop:app")
    assert where in str(caught.value)


def test_without_a_scheduler_every_command_says_how_to_start_one(tmp_path: Path) -> None:
    for args in (["verify"], ["tasks", "list"], ["submit", "a.b"], ["queues", "list"], ["dlq", "list"]):
        result = CliRunner().invoke(main, [*args, "--socket", str(tmp_path / "none")])

        assert result.exit_code == 3
        assert result.stderr.startswith("foliot: no scheduler listens at")
        assert "foliot up --app module:app" in result.stderr
        assert result.stderr.count("\n") == 1


def test_an_error_is_json_where_json_is_asked_for(sh: Shell) -> None:
    result = sh("tasks", "show", "what", "--json")

    assert json.loads(result.stderr)["error"]["code"] == "invalid_id"


def test_every_command_has_help_and_json() -> None:
    def commands(*path: str) -> Iterator[tuple[str, ...]]:
        result = CliRunner().invoke(main, [*path, "--help"])
        assert result.exit_code == 0
        names = result.stdout.partition("Commands:\n")[2]
        if not names:
            yield path
        for line in names.splitlines():
            if line.strip() and not line.startswith("    "):
                yield from commands(*path, line.split()[0])

    found = list(commands())

    expected: list[tuple[str, ...]] = [("submit",), ("tasks", "why"), ("dlq", "purge"), ("queues", "limit")]
    assert {*expected, ("tenants", "list"), ("verify",)} <= set(found)
    for path in found:
        if path[0] not in ("up", "node", "worker", "bench"):  # they run until they are told to stop
            assert "--json" in CliRunner().invoke(main, [*path, "--help"]).stdout, path


def test_a_table_in_a_pipe_has_a_line_for_each_row_and_nothing_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    table([{"error": "line one\n  line two", "payload": {"a": [1, None]}}, {"error": "x" * 200}], ["error", "payload"])

    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["line", "one", "line", "two", '{"a":', "[1,", "null]}"]
    assert second.split() == ["x" * 200, "-"]


def test_help_is_there_without_loading_the_rest() -> None:
    code = "import sys; from foliot.sdk.cli import main; main(['--help'], standalone_mode=False); "
    code += "print(sorted({'msgspec', 'rich', 'structlog', 'asyncio', 'anyio', 'aiosqlite'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert "Run the scheduler and its workers" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_up_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with up(tmp_path) as process:
        done = subprocess.run(
            [*FOLIOT, "submit", "shop.add", "-p", "a=42", "--wait"], cwd=tmp_path, capture_output=True, timeout=60
        )
        second = subprocess.run([*FOLIOT, "up", "--app", "shop:app"], cwd=tmp_path, capture_output=True, timeout=60)
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)

    assert (done.stdout, done.returncode) == (b"42\n", 0)
    assert (second.returncode, second.stderr.count(b"\n")) == (2, 1)
    assert b"in use by" in second.stderr
    assert code == 0
    assert not (tmp_path / "foliot.sock").exists()


def test_long_spans_are_told_in_units_people_have() -> None:
    assert "due 2516d 11h ago" in str(PastDueError(217_423_706_541))
    assert "after 1h;" in str(ResultTimeoutError("x", 3_600_000))
