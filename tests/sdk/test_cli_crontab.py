"""What crontabs come to, line by line, and how the command line tells it; no scheduler is needed for that."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from foliot.actors.rule_errors import InvalidZoneError
from foliot.sdk.cli import main
from foliot.sdk.crontab_plan import (
    Account,
    MachineZoneError,
    Plan,
    PlanOptions,
    SameNamesError,
    UnhonouredError,
    default_database,
    machine_zone,
    plan_of,
)

SYSTEM = """# /etc/crontab
SHELL=/bin/sh
17 *\t* * *\troot\tcd / && run-parts --report /etc/cron.hourly
25 6\t* * *\tann\ttest -x /usr/sbin/anacron || true
*/10 8-18 * * mon-fri www-data /usr/bin/php -f /srv/cron.php
0 0 * * * nobody-here true
"""
USER = """MAILTO=ops@example.org
30 2 * * * backup
*/5 2 * * * poll
61 * * * * bad
0 0 30 2 * never
@reboot start
MAILTO=
CRON_TZ=America/New_York
RANDOM_DELAY=15
0~30 3 * * * cat%one%two
CRON_TZ=Mars/Olympus
0 4 * * * lost
"""
ANN = Account("ann", False, lambda _: True)
ROOT = Account("root", True, lambda name: name in ("ann", "www-data"))


def plan(tmp_path: Path, text: str, account: Account = ANN, **options: Any) -> Plan:
    path = tmp_path / "tab"
    path.write_text(text)
    return plan_of([str(path)], PlanOptions(**{"zone": "Europe/Berlin", **options}), account)


def problems(found: Plan) -> list[tuple[int, str]]:
    return [(each.problem.line, each.problem.reason) for each in found.problems]


def test_every_line_is_a_job_a_start_up_job_or_a_numbered_problem(tmp_path: Path) -> None:
    found = plan(tmp_path, USER)

    assert [(job.line, job.when, job.zone) for job in found.jobs] == [
        (2, "30 2 * * *", "Europe/Berlin"), (3, "*/5 2 * * *", "Europe/Berlin"), (10, "0~30 3 * * *", "America/New_York"),
    ]  # fmt: skip
    assert [(job.line, job.command) for job in found.reboots] == [(6, "start")]
    assert problems(found) == [
        (4, "cron '61 * * * *' has the minute '61', expected 0-59"),
        (5, "cron '0 0 30 2 *' never fires: it names no day that exists, expected a day that its months have"),
        (11, "zone 'Mars/Olympus' is not a time zone, expected an IANA name such as 'Europe/Berlin'"),
        (12, "has no time zone, since that of line 11 is a problem"),
    ]


def test_a_range_of_drawn_times_is_refused_as_it_is_written_there(tmp_path: Path) -> None:
    ((line, reason),) = problems(plan(tmp_path, "0 1 * * 0~7 a\n"))

    assert line == 1
    assert "0~7" in reason
    assert "h(" not in reason.lower()


def test_a_job_is_what_it_is_to_cron(tmp_path: Path) -> None:
    fixed, wild, late = plan(tmp_path, USER).jobs

    assert fixed.words == {
        "cron": "30 2 * * *", "zone": "Europe/Berlin", "overlap": "allow_all", "max_attempts": 3, "timeout": 0,
        "note": f"{tmp_path}/tab, line 2, MAILTO=ops@example.org",
    }  # fmt: skip
    assert (wild.words["dst_gap"], wild.words["dst_overlap"]) == ("skip", "both")
    assert (late.words["cron"], late.words["jitter"], late.words["hashed"]) == ("H(0-30) 3 * * *", 900, True)
    assert late.words["note"].endswith("line 10, MAILTO=")
    assert late.arguments == {
        "command": "cat", "stdin": "one\ntwo\n", "shell": "/bin/sh", "clean_env": True, "cwd": "~", "user": "",
        "background": "leave",
        "env": {"PATH": "/usr/bin:/bin", "MAILTO": "", "CRON_TZ": "America/New_York", "RANDOM_DELAY": "15"},
    }  # fmt: skip


def test_how_often_and_how_long_can_be_chosen(tmp_path: Path) -> None:
    (job,) = plan(tmp_path, "* * * * * true\n", retries=0, timeout="10m", overlap="skip").jobs

    assert (job.words["max_attempts"], job.words["timeout"], job.words["overlap"]) == (1, "10m", "skip")


def test_only_root_runs_commands_as_others(tmp_path: Path) -> None:
    of_ann = plan(tmp_path, SYSTEM, ANN, format="system")
    of_root = plan(tmp_path, SYSTEM, ROOT, format="system")

    assert [job.user for job in of_ann.jobs] == ["ann"]
    assert problems(of_ann) == [
        (3, "would run as 'root', expected 'ann' or to be started by root"),
        (5, "would run as 'www-data', expected 'ann' or to be started by root"),
        (6, "would run as 'nobody-here', expected 'ann' or to be started by root"),
    ]
    assert [job.user for job in of_root.jobs] == ["root", "ann", "www-data"]
    assert problems(of_root) == [(6, "would run as 'nobody-here', who is not known here")]
    assert [job.arguments["user"] for job in plan(tmp_path, "* * * * * true", ROOT, user="ann").jobs] == ["ann"]


def test_the_owner_of_a_spooled_crontab_is_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foliot.sdk.crontab_plan.SPOOLS", (str(tmp_path),))
    (tmp_path / "ann").write_text("* * * * * true\n")

    found = plan_of([str(tmp_path / "ann")], PlanOptions(zone="UTC"), ROOT)

    assert [job.user for job in found.jobs] == ["ann"]


def test_two_files_of_the_same_name_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "tab" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("* * * * * true\n")

    with pytest.raises(SameNamesError, match="would give schedules the same names, expected other file names"):
        plan_of(list(map(str, paths)), PlanOptions(zone="UTC"), ANN)
    assert len(plan_of([str(paths[0])] * 2, PlanOptions(zone="UTC"), ANN).jobs) == 1


def test_an_unknown_zone_is_refused_and_strictness_refuses_any_problem(tmp_path: Path) -> None:
    with pytest.raises(InvalidZoneError, match="'Europe/Berlin'"):
        plan(tmp_path, "", zone="Europe/Berln")
    with pytest.raises(UnhonouredError, match=r"nothing was done, since .*tab, line 4: cron .* and 3 more, expected lines"):
        plan(tmp_path, USER).check_strictly()
    plan(tmp_path, "* * * * * true\n").check_strictly()


@pytest.mark.parametrize(
    ("environment", "link", "timezone", "zone"),
    [
        ({"TZ": "Asia/Tokyo"}, "/usr/share/zoneinfo/Europe/Berlin", "", "Asia/Tokyo"),
        ({"TZ": ":/usr/share/zoneinfo/Asia/Tokyo"}, "", "", "Asia/Tokyo"),
        ({}, "../usr/share/zoneinfo/Europe/Berlin", "Asia/Tokyo", "Europe/Berlin"),
        ({}, "", "Asia/Tokyo\n", "Asia/Tokyo"),
        ({"TZ": ""}, "", "", "UTC"),
    ],
)
def test_the_machines_zone_is_found_as_the_system_finds_it(
    tmp_path: Path, environment: dict[str, str], link: str, timezone: str, zone: str
) -> None:
    if link:
        os.symlink(link, tmp_path / "localtime")
    if timezone:
        (tmp_path / "timezone").write_text(timezone)

    assert machine_zone(environment, str(tmp_path)) == zone


def test_a_machines_zone_without_a_name_has_to_be_told(tmp_path: Path) -> None:
    with pytest.raises(MachineZoneError, match="'CET-1CEST' is no IANA name, expected --zone"):
        machine_zone({"TZ": "CET-1CEST"}, str(tmp_path))


def test_the_history_lies_beside_the_file_but_never_among_the_systems() -> None:
    home = {"XDG_STATE_HOME": "/home/ann/state"}

    assert default_database("jobs.tab", home, is_root=True) == "jobs.tab.foliot.db"
    assert default_database("/srv/tab", home, is_root=False) == "/srv/tab.foliot.db"
    assert default_database("/etc/crontab", home, is_root=True) == "/var/lib/foliot/crontab.db"
    assert default_database("/etc/x/../cron.d/scrub", home, is_root=False) == "/home/ann/state/foliot/scrub.db"


# -- the command line --------------------------------------------------------------------------------------------------


def crontab(*args: str, stdin: str | None = None) -> Result:
    environment = {"FOLIOT_ADDRESS": "/nowhere.sock", "TZ": "Asia/Tokyo"}
    return CliRunner().invoke(main, ["crontab", *args], input=stdin, env=environment)


def test_a_dry_run_tells_all_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tab"
    path.write_text(USER)

    text = crontab("import", "--dry-run", str(path))
    told = json.loads(crontab("import", "--dry-run", "--json", str(path)).stdout)

    assert text.exit_code == 1
    lines = text.stdout.splitlines()
    assert lines[0].split() == ["line", "when", "zone", "next", "user", "command"]
    assert lines[1].split()[:7] == ["2", "30", "2", "*", "*", "*", "Asia/Tokyo"]
    assert lines[-1] == "3 entries, 5 not honoured"
    assert f"foliot: {path}, line 4: cron '61 * * * *' has the minute '61', expected 0-59: '61 * * * * bad'" in text.stderr
    assert [entry["line"] for entry in told["entries"]] == [2, 3, 10]
    assert all(entry["next"].endswith("Z") for entry in told["entries"])
    assert told["entries"][0]["note"].endswith("line 2, MAILTO=ops@example.org")
    assert [problem["line"] for problem in told["problems"]] == [4, 5, 6, 11, 12]
    assert "expected `foliot crontab run`" in told["problems"][2]["reason"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may import lines of others")
def test_a_dry_run_says_which_users_the_scheduler_has_to_allow() -> None:
    text = "1 * * * * root true\n2 * * * * nobody true\n3 * * * * daemon true\n4 * * * * nobody true\n"
    told = crontab("import", "--dry-run", "--format", "system", "-", stdin=text)
    none = crontab("import", "--dry-run", "--format", "system", "-", stdin=text.splitlines()[0])

    assert told.stderr.splitlines() == [
        "foliot: 3 lines run as another user, whom the scheduler has to allow: "
        "foliot up --shell --shell-user daemon --shell-user nobody"
    ]
    assert none.stderr == ""


def test_a_crontab_comes_from_standard_input_too() -> None:
    result = crontab("import", "--dry-run", "--json", "-", stdin="@daily true\n")

    assert result.exit_code == 0
    (entry,) = json.loads(result.stdout)["entries"]
    assert (entry["when"], entry["zone"], entry["file"]) == ("0 0 * * *", "Asia/Tokyo", "crontab")
    assert "give files, not -" in crontab("run", "-").stderr


def test_the_machines_own_crontabs_import() -> None:
    own = [Path("/etc/crontab"), *sorted(Path("/etc/cron.d").glob("[A-Za-z0-9_-]*"))]
    paths = [str(path) for path in own if path.is_file() and "." not in path.name]
    if not paths:
        pytest.skip("this machine has no crontab")

    told = json.loads(crontab("import", "--dry-run", "--json", *paths).stdout)

    foreign = [each for each in told["problems"] if "would run as" in each["reason"]]
    assert [each for each in told["problems"] if each not in foreign] == []
    assert told["entries"] or foreign
    assert all(entry["next"] and entry["user"] for entry in told["entries"])


def test_what_is_wrong_as_a_whole_is_one_line_and_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "tab").write_text(USER)
    (tmp_path / "program").write_bytes(b"\x7fELF\0\n\1\n")
    for args, line in [
        (("import", "--dry-run", str(tmp_path / "program")), "program' has a NUL character, as programs and other"),
        (("import", str(tmp_path / "none")), "cannot be read: No such file or directory, expected the path of a crontab"),
        (("run", str(tmp_path / "none")), "cannot be read: No such file or directory, expected the path of a crontab"),
        (("run", "--strict", str(tmp_path / "tab")), "tab, line 4: cron '61 * * * *' has the minute '61'"),
        (("import", "--strict", str(tmp_path / "tab")), "tab, line 4: cron '61 * * * *' has the minute '61'"),
        (("import", "--zone", "Mars", str(tmp_path / "tab")), "zone 'Mars' is not a time zone, expected"),
        (("run", "--db", "/proc/none/x.db", str(tmp_path / "tab")), "folder '/proc/none' cannot be made:"),
    ]:
        result = crontab(*args)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
        assert line in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["program", "tab"]
