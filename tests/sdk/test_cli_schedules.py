"""Schedules, backfills and calendars on the command line: previews alone, all else against a real scheduler."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from foliot.sdk.cli import main

from .test_cli import FOLIOT, Shell, up

HOLIDAYS = """# some holidays of Germany
01-01 # New Year
easter-2
Easter +1
12-25
2026-12-24
nov thu 4
"""


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("schedules")
    with up(folder):
        yield str(folder / "foliot.sock")


@pytest.fixture
def sh(socket: str, request: pytest.FixtureRequest) -> Shell:
    tenant = "".join(char if char.isalnum() else "-" for char in request.node.name)[:60]
    return Shell(socket, tenant)


def preview(*args: str) -> Any:
    """Run a preview where there is no scheduler, nor anything else."""
    result = CliRunner().invoke(main, ["schedules", "preview", *args, "--json"], env={"FOLIOT_ADDRESS": "/nowhere.sock"})
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*args: str) -> str:
    """Return the one line that a preview fails with."""
    result = CliRunner().invoke(main, ["schedules", "preview", *args], env={"FOLIOT_ADDRESS": "/nowhere.sock"})
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    return line


def unread(*args: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose output nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run([*FOLIOT, *args], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(writer)


# -- output nobody reads -----------------------------------------------------------------------------------------------


def test_a_command_whose_output_nobody_reads_ends_without_a_word(sh: Shell, socket: str) -> None:
    sh.text("schedules", "create", "some", "shop.add", "-p", "a=1", "-p", "b=2", "--every", "1h")

    rule = unread("schedules", "preview", "--cron", "* * * * *", "--count", "5000")
    asked = unread("schedules", "list", "--json", "--socket", socket, "--tenant", sh.tenant)
    helped = unread("schedules", "create", "--help")

    assert [(ended.returncode, ended.stderr) for ended in (rule, asked, helped)] == [(141, "")] * 3


# -- previews without a scheduler --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "ticks"),
    [
        (["--cron", "30 2 * * *"], ["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]),
        (["--cron", "30 2 * * *", "--dst-gap", "skip"],
         ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"]),
        (["--every", "day at 18:00"], ["2026-03-28T17:00:00Z", "2026-03-29T16:00:00Z", "2026-03-30T16:00:00Z"]),
        (["--every", "1.5s"], ["2026-03-28T00:00:00Z", "2026-03-28T00:00:01.500Z", "2026-03-28T00:00:03Z"]),
        (["--after", "12h"], ["2026-03-28T00:00:00Z", "2026-03-28T12:00:00Z", "2026-03-29T00:00:00Z"]),
        (["--at", "2026-03-29T12:00", "--at", "2026-03-29T12:00Z"], ["2026-03-29T10:00:00Z", "2026-03-29T12:00:00Z"]),
        (["--cron", "0 12 * * *", "--calendar", "weekends"],
         ["2026-03-28T11:00:00Z", "2026-03-29T10:00:00Z", "2026-04-04T10:00:00Z"]),
        (["--cron", "0 12 * * *", "--limit", "2"], ["2026-03-28T11:00:00Z", "2026-03-29T10:00:00Z"]),
    ],
)  # fmt: skip
def test_a_rule_is_previewed_with_no_scheduler_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], ticks: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    told = preview(*options, "--zone", "Europe/Berlin", "--start", "2026-03-28T00:00:00Z", "--count", "3")

    assert told == {"ticks": ticks}
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_hour_is_as_the_rule_says() -> None:
    berlin = ("--cron", "30 2 * * *", "--zone", "Europe/Berlin", "--start", "2026-10-25", "--until", "2026-10-26")

    assert preview(*berlin, "--dst-overlap", "both")["ticks"] == ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]
    assert preview(*berlin, "--dst-overlap", "last")["ticks"] == ["2026-10-25T01:30:00Z"]
    assert preview(*berlin)["ticks"] == ["2026-10-25T00:30:00Z"]


def test_details_tell_what_is_special_about_a_tick() -> None:
    options = ("--cron", "30 2 * * *", "--zone", "Europe/Berlin", "--start", "2026-03-28", "--count", "2")

    told = preview(*options, "--details")
    table = CliRunner().invoke(main, ["schedules", "preview", *options]).stdout.splitlines()

    assert told["local"] == ["2026-03-28T02:30:00+01:00", "2026-03-29T03:30:00+02:00"]
    assert told["notes"] == [[], ["dst_gap"]]
    assert table[0].split() == ["tick", "local", "notes"]
    assert table[2].split() == ["2026-03-29T01:30:00Z", "2026-03-29", "03:30:00", "Sun", "CEST", "dst_gap"]


def test_hashed_values_are_those_of_the_schedule_of_that_name() -> None:
    options = ("--cron", "H H * * *", "--start", "2026-01-01", "--count", "1")

    assert preview("report", *options) == preview("report", *options)
    assert preview("report", *options) != preview("invoice", *options)


def test_the_last_business_day_of_the_month_in_berlin_is_no_german_holiday(tmp_path: Path) -> None:
    (tmp_path / "holidays_de.txt").write_text("12-31\n05-29\n")  # as if these were some

    told = preview(
        "--cron", "0 18 L * *", "--calendar", "weekdays and not holidays_de", "--excluded", "previous",
        "--calendar-file", str(tmp_path / "holidays_de.txt"), "--zone", "Europe/Berlin", "--start", "2026-05-01",
        "--count", "8", "--details",
    )  # fmt: skip

    assert [text[:16] for text in told["local"]] == [
        "2026-05-28T18:00", "2026-06-30T18:00", "2026-07-31T18:00", "2026-08-31T18:00", "2026-09-30T18:00",
        "2026-10-30T18:00", "2026-11-30T18:00", "2026-12-30T18:00",
    ]  # fmt: skip
    assert told["notes"][0] == ["moved from 2026-05-31T18:00:00"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--cron", "0 0 30 2 *"],
         "cron '0 0 30 2 *' never fires: it names no day that exists, expected a day that its months have"),
        (["--cron", "61 * * * *"], "cron '61 * * * *' has the minute '61', expected 0-59"),
        (["--cron", "999999999999 * * * *"], "has the minute '999999999999', expected 0-59"),
        (["--cron", "* * * * *", "--zone", "Europe/Berln"],
         "zone 'Europe/Berln' is not a time zone, expected 'Europe/Berlin' or"),
        (["--every", "0s"], "every '0s' is no interval, expected 1 ms or more"),
        (["--every", "1h", "--start", "2026-03-29", "--end", "2026-03-28"],
         "end '2026-03-28' is before the start, expected a moment at or after '2026-03-29'"),
        (["--every", "1h", "--start", "2026-03-29", "--until", "2026-03-28"],
         "until '2026-03-28T00:00:00Z' is not after the start, expected a moment after the start 2026-03-29T00:00:00Z"),
        (["--every", "1h", "--start", "tomorrow"], "start 'tomorrow' is not a moment, expected"),
        (["--cron", "0 0 1 1 * ", "--end", "2020-01-01Z"], "end '2020-01-01Z' is not a moment, expected"),
        (["--cron", "0 0 1 1 * ", "--end", "2020-01-01"],
         "end '2020-01-01T00:00:00Z' is past, expected an end at or after 20"),
        (["--every", "1h", "--cron", "* * * * *"],
         "--cron and --every are given together, expected exactly one of --cron, --every, --after, --at"),
        (["--cron", "* * * * *", "--dst-gap", "sometimes"], "'sometimes' is not one of 'shift', 'skip'"),
        (["--cron", "0 0 * * sat", "--calendar", "weekdays"],
         "calendar 'weekdays' excludes every tick within the years searched, expected one that allows"),
        (["--cron", "0 0 * * *", "--calendar", "weekdays but"], "calendar 'weekdays but' is wrong at position 9, expected"),
        (["--count", "3"], "give NAME, or a rule: --cron, --every, --after or --at"),
        (["--cron", "* * * * *", "--calendar-file", "none.txt"],
         "calendar file 'none.txt' cannot be read: No such file or directory, expected the path of a file"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_field_value_and_expectation(options: list[str], line: str) -> None:
    assert line in refused(*options)


def test_a_calendar_file_names_its_wrong_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.txt"
    path.write_text("12-25\nChristmas\n")
    wrong = ("--cron", "0 0 * * *", "--calendar", "odd", "--calendar-file", str(path))

    assert f"{str(path)!r} has 'Christmas' on line 2, expected 2026-12-24, 12-25, easter-2" in refused(*wrong)
    path.write_text("17:00-09:00\n")
    assert "hours of calendar 'odd' '17:00-09:00' cannot be meant, expected a part of one day" in refused(*wrong)
    path.write_text("# nothing yet\n")
    assert "has neither days nor hours for 'odd', which would be every moment, expected 2026-12-24, 12-25" in refused(*wrong)
    path.write_text('{"odd": {"yearly": ["13-01"]}}')
    assert "yearly of calendar 'odd' '13-01' cannot be meant, expected a day of the year such as '12-25'" in refused(*wrong)
    path.write_text('{"odd": {"annually": []}}')
    assert "has the word 'annually' in calendar 'odd', expected one of weekdays, dates, yearly" in refused(*wrong)


# -- with a scheduler --------------------------------------------------------------------------------------------------


def test_a_schedule_is_created_looked_at_changed_and_deleted(sh: Shell) -> None:
    made = sh.json("schedules", "create", "report", "shop.add", "-p", "a=1", "--cron", "0 6 * * 1-5", "--zone",
                   "Europe/Berlin", "--overlap", "buffer_one", "--note", "for the boss", "--timeout", "none")  # fmt: skip

    assert (made["name"], made["state"], made["when"], made["zone"]) == ("report", "active", "0 6 * * 1-5", "Europe/Berlin")
    assert (made["payload"], made["overlap"], made["grace"], made["note"]) == ({"a": 1}, "buffer_one", "1m", "for the boss")
    text = sh.text("schedules", "show", "report")
    assert "when          0 6 * * 1-5, Europe/Berlin" in text
    assert ('payload       {"a": 1}' in text, "max attempts  3" in text, "timeout" in text) == (True, True, False)
    assert (made["max_attempts"], made["timeout"]) == (3, None)
    assert text.count("\nnext  ") == 3
    assert [each["name"] for each in sh.lines("schedules", "list", "--prefix", "rep")] == ["report"]
    assert sh.lines("schedules", "list", "--paused") == []
    assert len(sh.json("schedules", "preview", "report", "--count", "4")["ticks"]) == 4

    again = sh("schedules", "create", "report", "shop.add", "-p", "a=1", "--cron", "0 7 * * *")
    assert (again.exit_code, "is there already, expected a new name; `--replace` replaces it" in again.stderr) == (2, True)

    change = ("report", "--cron", "0 6,18 * * 1-5")
    told = sh.json("schedules", "diff", *change, "--count", "10")
    assert (len(told["gone"]), len(told["come"]), len(told["stay"])) == (0, 5, 5)
    compared = sh("schedules", "diff", *change)
    assert {line.split()[0] for line in compared.stdout.splitlines()[1:]} == {"+", "="}
    assert re.fullmatch(r"foliot: the ticks up to \S+Z were compared\n", compared.stderr)
    assert sh.json("schedules", "update", *change, "--note", "")["when"] == "0 6,18 * * 1-5"
    assert sh.json("schedules", "show", "report")["zone"] == "Europe/Berlin"
    assert sh.text("schedules", "delete", "report").split() == ["name", "outcome", "report", "deleted"]
    gone = sh("schedules", "show", "report")
    assert (gone.exit_code, "there is no schedule 'report'" in gone.stderr) == (1, True)


def test_a_trigger_runs_it_now_and_history_tells(sh: Shell) -> None:
    sh.text("schedules", "create", "sum", "shop.add", "-p", "a=40", "-p", "b=2", "--every", "1d")

    assert sh.text("schedules", "trigger", "sum", "--wait") == "42\n"
    (tick,) = sh.lines("schedules", "history", "sum")
    assert (tick["source"], tick["outcome"]) == ("trigger", "completed")
    assert sh.json("tasks", "show", tick["task"])["result"] == 42
    assert sh.text("schedules", "history", "sum").splitlines()[0].split()[:2] == ["tick", "fired"]


def test_many_are_paused_resumed_and_deleted_by_prefix(sh: Shell) -> None:
    for name in ("a.1", "a.2", "b.1"):
        sh.text("schedules", "create", name, "shop.add", "-p", "a=1", "--every", "1d")

    assert sh.json("schedules", "pause", "--prefix", "a.", "--why", "moving") == {"paused": 2}
    assert [each["paused_why"] for each in sh.lines("schedules", "list", "--paused")] == ["moving", "moving"]
    assert sh.lines("schedules", "resume", "a.1", "b.1") == [
        {"name": "a.1", "outcome": "resumed"}, {"name": "b.1", "outcome": "unchanged"},
    ]  # fmt: skip
    assert sh.text("schedules", "pause", "a.2", "--why", "moved").split() == ["name", "outcome", "a.2", "paused"]
    assert sh.json("schedules", "show", "a.2")["paused_why"] == "moved"
    assert sh.text("schedules", "pause", "a.2").split()[-1] == "unchanged"
    hinted = sh("schedules", "preview", "a.2", "--count", "1")
    assert hinted.stderr == "foliot: schedule 'a.2' is paused, moved: none of these fires before it is resumed\n"
    assert sh("schedules", "list", "--limit", "2").stderr == "foliot: the first 2 only, see --limit\n"
    assert sh("schedules", "list", "--limit", "4").stderr == ""
    assert sh.lines("schedules", "pause", "b.1", "c.1", code=1)[1] == {"name": "c.1", "outcome": "not_found"}
    assert "needs --yes" in sh("schedules", "delete", "--all").stderr
    assert "name schedules, or choose them" in sh("schedules", "delete").stderr
    assert sh.json("schedules", "delete", "--prefix", "a.", "--yes") == {"deleted": 2}
    assert sh.json("schedules", "delete", "--all", "--yes") == {"deleted": 1}
    assert sh.lines("schedules", "list") == []


def test_what_a_scheduler_refuses_is_one_line(sh: Shell) -> None:
    wrong = ("schedules", "create", "x", "shop.add")
    for options, line in [
        (("-p", "a=1", "--cron", "0 0 30 2 *"), "never fires"),
        (("-p", "a=one", "--every", "1h"), "a"),
        (("-p", "a=1", "--cron", "0 0 * * *", "--calendar", "nobody"), "calendar 'nobody' is not there, expected one"),
        (("-p", "a=1"), "exactly one of --cron, --every, --after, --at"),
    ]:
        result = sh(*wrong, *options)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
        assert line in result.stderr
    unknown = sh("schedules", "create", "x", "shop.nothing", "--every", "1h")
    assert (unknown.exit_code, "'shop.nothing'" in unknown.stderr) == (2, True)
    both = sh("schedules", "create", "x", "--shell", "true", "-p", "command=false", "--every", "1h")
    assert (both.exit_code, "the command is given by --shell and among the arguments" in both.stderr) == (2, True)
    shell = sh("schedules", "create", "x", "--shell", "true", "--every", "1h")
    assert (shell.exit_code, "no worker here runs shell commands" in shell.stderr) == (2, True)
    assert sh.lines("schedules", "list") == []


def test_a_past_window_is_filled(sh: Shell) -> None:
    sh.text("schedules", "create", "days", "shop.add", "-p", "a=1", "--cron", "0 12 * * *", "--zone", "Europe/Berlin")
    window = ("days", "--start", "2026-03-28", "--end", "2026-03-31")

    assert sh.json("schedules", "backfill", *window, "--dry-run")["ticks"] == [
        "2026-03-28T11:00:00Z", "2026-03-29T10:00:00Z", "2026-03-30T10:00:00Z",
    ]  # fmt: skip
    assert sh("schedules", "backfill", *window, "--dry-run").stderr == "3 would fire, 0 would be left out\n"
    sh.text("schedules", "create", "often", "shop.add", "-p", "a=1", "--every", "1m")
    many = sh("schedules", "backfill", "often", "--start", "2026-03-28", "--end", "2026-03-31", "--dry-run")
    assert many.stderr == "1000 and more would fire, 0 would be left out up to the last of these\n"
    sh.text("schedules", "create", "poll", "shop.add", "-p", "a=1", "--after", "1h", "--start", "2199-01-01")
    delay = sh("schedules", "backfill", "poll", "--start", "2026-03-28", "--end", "2026-03-31", "--dry-run")
    assert (delay.exit_code, "is 'poll', expected one with ticks in the past: a fixed delay" in delay.stderr) == (2, True)
    id = sh.text("schedules", "backfill", *window, "--concurrency", "3").strip()
    for _ in range(200):
        shown = sh.json("backfills", "show", id)
        if shown["status"] == "done":
            break
    assert (shown["status"], shown["fired"], shown["start"]) == ("done", 3, "2026-03-27T23:00:00Z")
    assert [each["id"] for each in sh.lines("backfills", "list", "days")] == [id]
    assert sh.json("backfills", "cancel", id) == {"id": id, "outcome": "ended"}
    assert "started" not in sh("schedules", "backfill", "days", "--start", "2026-03-28", "--end", "2999-01-01").stdout
    assert [tick["source"] for tick in sh.lines("schedules", "history", "days")] == ["backfill"] * 3
    assert sh.text("schedules", "history", "days").count(f"  backfill {id}  ") == 3


def test_calendars_come_from_options_and_files_and_are_shared(sh: Shell, tmp_path: Path) -> None:
    (tmp_path / "holidays_de.txt").write_text(HOLIDAYS)
    (tmp_path / "two.json").write_text('{"mornings": {"hours": ["06:00-12:00"]}, "office": {"weekdays": ["mon", "tue"]}}')

    (made,) = sh.lines("calendars", "set", "--file", str(tmp_path / "holidays_de.txt"))
    assert (made["name"], made["version"], made["yearly"], made["easter"]) == ("holidays_de", 1, ["01-01", "12-25"], [-2, 1])
    assert (made["dates"], made["nth"]) == (["2026-12-24"], [["nov", "thu", 4]])
    assert sh.text("calendars", "set", "--file", str(tmp_path / "two.json")).splitlines() == [
        "mornings, version 1: 06:00-12:00", "office, version 1: mon tue",
    ]  # fmt: skip
    again = tmp_path / "again.txt"
    again.write_text(sh.text("calendars", "show", "holidays_de"))
    assert sh.json("calendars", "set", "holidays_de", "--file", str(again)) == {**made, "version": 2}
    assert [each["name"] for each in sh.lines("calendars", "list")] == ["holidays_de", "mornings", "office"]

    sh.text("schedules", "create", "x", "shop.add", "-p", "a=1", "--cron", "0 8 * * *", "--calendar", "not holidays_de")
    rule = ("--cron", "0 8 * * *", "--calendar", "not holidays_de", "--start", "2026-12-24", "--count", "1")
    assert sh.json("schedules", "preview", *rule)["ticks"] == ["2026-12-26T08:00:00Z"]
    used = sh("calendars", "delete", "holidays_de")
    assert (used.exit_code, "'x'" in used.stderr) == (2, True)
    assert sh.json("calendars", "set", "office", "--weekday", "wed", "--hours", "09:00-17:00")["version"] == 2
    assert sh.json("calendars", "delete", "office") == {"name": "office", "outcome": "deleted"}
    missing = sh("calendars", "show", "office")
    assert (missing.exit_code, "office" in missing.stderr) == (1, True)
    assert "would be every day" in sh("calendars", "set", "empty").stderr
    (tmp_path / "empty.txt").write_text("# none yet\n")
    refused_file = sh("calendars", "set", "--file", str(tmp_path / "empty.txt"))
    assert (refused_file.exit_code, "has neither days nor hours" in refused_file.stderr) == (2, True)
    assert sh.json("calendars", "set", "--file", str(tmp_path / "empty.txt"), "--force")["version"] == 1


def test_a_calendar_that_ends_schedules_needs_force(sh: Shell) -> None:
    sh.text("calendars", "set", "open", "--weekday", "mon")
    sh.text("schedules", "create", "x", "shop.add", "-p", "a=1", "--cron", "0 8 * * mon", "--calendar", "open")

    ending = ("calendars", "set", "open", "--weekday", "tue")
    done = sh(*ending)
    assert (done.exit_code, "calendar 'open' would let 'x' never tick again" in done.stderr) == (2, True)
    forced = sh(*ending, "--force")
    assert (forced.exit_code, "version 2" in forced.stdout) == (0, True)
    assert "foliot: forced: calendar 'open' would let 'x' never tick again" in forced.stderr


def test_who_changes_or_deletes_what_code_declares_is_told_that_code_wins(socket: str) -> None:
    sh = Shell(socket, "default")
    again = "foliot: 'shop.yearly' was declared in the code of app 'shop'; what still is will be as the code says again"

    changes = [
        sh("schedules", "update", "shop.yearly", "--note", "x"),
        sh("schedules", "create", "shop.yearly", "shop.add", "-p", "a=2", "--every", "1d", "--replace"),
        sh("schedules", "update", "shop.yearly", "--note", "y"),  # nobody's code declared this one
        sh("schedules", "delete", "shop.yearly"),
    ]

    assert [change.exit_code for change in changes] == [0] * 4
    assert [again in change.stderr for change in changes] == [True, True, False, False]


def test_a_moment_that_does_not_exist_is_refused_or_said_to_be_read_otherwise() -> None:
    rule = ("schedules", "preview", "--zone", "Europe/Berlin")
    gap = CliRunner().invoke(main, [*rule, "--at", "2027-03-28T02:30", "--start", "2026-01-01", "--json"])
    past = CliRunner().invoke(main, [*rule, "--at", "2020-01-01"])

    assert (gap.exit_code, json.loads(gap.stdout)) == (0, {"ticks": ["2027-03-28T01:30:00Z"]})
    assert gap.stderr == "foliot: at '2027-03-28T02:30' does not exist in Europe/Berlin, read as 2027-03-28T03:30:00\n"
    assert (past.exit_code, past.stderr) == (0, "no tick from now on; --start shows those of the past\n")
    assert "is not a moment, since day" in refused("--every", "1h", "--start", "2026-02-30")


def test_a_stored_schedule_is_previewed_from_a_moment_that_has_passed(sh: Shell) -> None:
    sh.text("schedules", "create", "x", "shop.add", "-p", "a=1", "--cron", "0 8 * * *", "--zone", "Europe/Berlin")

    told = sh.json("schedules", "preview", "x", "--start", "2024-01-01", "--until", "2024-01-03")
    assert told == {"ticks": ["2024-01-01T07:00:00Z", "2024-01-02T07:00:00Z"]}
    wrong = sh("schedules", "preview", "x", "--start", "2024-01-03", "--until", "2024-01-01")
    assert (wrong.exit_code, "until '2023-12-31T23:00:00Z' is not after the start" in wrong.stderr) == (2, True)
