"""Crontabs as cron reads them, in both formats, and what is said of lines that cannot be honoured."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from foliot.actors.messages import OutcomeKind
from foliot.runtime.errors import UsageError
from foliot.sdk.app import Foliot
from foliot.sdk.crontab import (
    LINES_MAX,
    SIZE_MAX,
    Crontab,
    CrontabEntry,
    CrontabFileError,
    format_of,
    parse_crontab,
    read_crontab,
    split_percent,
)
from hypothesis import given
from hypothesis import strategies as st

from .harness import working

REAL = b"""# /etc/crontab: system-wide crontab
SHELL=/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin

# Example of job definition:
# .---------------- minute (0 - 59)
17 *\t* * *\troot    cd / && run-parts --report /etc/cron.hourly
25 6\t* * *\troot\ttest -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }
MAILTO=""
*/10 8-18/2 1,15 jan-mar mon-fri www-data /usr/bin/php -f /srv/cron.php   \t
#
"""


def system(text: str | bytes) -> Crontab:
    return parse_crontab(text, format="system")


def only(text: str, **options: object) -> CrontabEntry:
    crontab = parse_crontab(text, **options)  # type: ignore[arg-type]
    assert crontab.problems == []
    (entry,) = crontab.entries
    return entry


def reason(text: str, **options: object) -> str:
    """Return what is wrong with the last line, the only problem."""
    crontab = parse_crontab(text, **options)  # type: ignore[arg-type]
    (problem,) = crontab.problems
    assert problem.line == text.count("\n") + 1
    return problem.reason


def test_the_systems_own_format_has_users() -> None:
    crontab = system(REAL)

    assert crontab.problems == []
    assert [(entry.line, entry.when, entry.user, entry.command) for entry in crontab.entries] == [
        (7, "17 * * * *", "root", "cd / && run-parts --report /etc/cron.hourly"),
        (8, "25 6 * * *", "root", "test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }"),
        (10, "*/10 8-18/2 1,15 jan-mar mon-fri", "www-data", "/usr/bin/php -f /srv/cron.php"),
    ]
    assert [entry.mailto for entry in crontab.entries] == [None, None, ""]
    assert crontab.entries[0].environment["PATH"].startswith("/usr/local/sbin:")
    assert [(setting.line, setting.name) for setting in crontab.settings] == [(2, "SHELL"), (3, "PATH"), (9, "MAILTO")]


def test_a_users_format_has_none() -> None:
    entry = only("5 4 * * sun  echo run at 5 after 4 every sunday # not a comment")

    assert (entry.when, entry.user) == ("5 4 * * sun", "")
    assert entry.command == "echo run at 5 after 4 every sunday # not a comment"


@pytest.mark.parametrize(
    ("path", "format"),
    [
        ("/etc/crontab", "system"),
        ("/etc/cron.d/e2scrub_all", "system"),
        ("/etc/cron.d/../crontab", "system"),
        ("/var/spool/cron/crontabs/ann", "user"),
        ("/srv/etc/crontab", "user"),
        ("crontab", "user"),
    ],
)
def test_the_path_tells_the_format(path: str, format: str) -> None:
    assert format_of(path) == format
    assert parse_crontab("", path=path).format == format


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("@reboot", "@reboot"),
        ("@hourly", "0 * * * *"),
        ("@Daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@every_minute", "* * * * *"),
    ],
)
def test_names_of_times_are_understood_in_both_formats(name: str, when: str) -> None:
    entry = only(f"{name} /bin/true")
    (of_system,) = system(f"  {name}\troot\t/bin/true").entries

    assert (entry.when, entry.command) == (when, "/bin/true")
    assert (of_system.when, of_system.user, of_system.command) == (when, "root", "/bin/true")


@pytest.mark.parametrize(
    "data",
    [
        b"* * * * * a\r\n* * * * * b\r\n",
        b"\xef\xbb\xbf* * * * * a\n* * * * * b",
        b"\n\t* * * * *\ta  \n\n * * * * * b\t",
    ],
)
def test_line_ends_and_blanks_of_all_kinds_will_do(data: bytes) -> None:
    crontab = parse_crontab(data)

    assert crontab.problems == []
    assert [entry.command for entry in crontab.entries] == ["a", "b"]


def test_a_blank_that_is_protected_belongs_to_the_command() -> None:
    assert only("* * * * * ls a\\ ").command == "ls a\\ "


@pytest.mark.parametrize(
    ("text", "command", "stdin"),
    [
        ("mail ann", "mail ann", None),
        ("mail ann%hello%there", "mail ann", "hello\nthere\n"),
        ("cat%a%%b%", "cat", "a\n\nb\n"),
        ("cat%", "cat", ""),
        (r"date +\%Y\%m", "date +%Y%m", None),
        (r"date +\%Y%\%d%x", "date +%Y", "%d\nx\n"),
        (r"a\\%b", r"a\\", "b\n"),
        (r"cat%a\\%b", "cat", "a\\%b\n"),
        (r"printf a\nb\\ \%", r"printf a\nb\\ %", None),
        ("ends with \\", "ends with \\", None),
    ],
)
def test_percent_signs_mean_what_they_mean_in_cron(text: str, command: str, stdin: str | None) -> None:
    assert split_percent(text) == (command, stdin)
    assert only(f"* * * * * {text}").stdin == stdin


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("A=1", "A", "1"),
        ("  A  =  1 2  # 3  ", "A", "1 2  # 3"),
        ('A="  1 "', "A", "  1 "),
        ("A='it is \"1\"'", "A", 'it is "1"'),
        ('"A" = 1', "A", "1"),
        ("A=", "A", ""),
        ("A=b=c", "A", "b=c"),
        ("A=it's", "A", "it's"),
        ("PATH=$HOME/bin:$PATH", "PATH", "$HOME/bin:$PATH"),
        ("MAILTO=ann,bob", "MAILTO", "ann,bob"),
    ],
)
def test_settings_are_read_as_cron_reads_them(line: str, name: str, value: str) -> None:
    crontab = parse_crontab(line)

    assert crontab.problems == []
    assert [(setting.name, setting.value) for setting in crontab.settings] == [(name, value)]


def test_a_setting_holds_for_the_lines_below_it() -> None:
    crontab = parse_crontab("* * * * * a\nA=1\nCRON_TZ=Asia/Tokyo\n* * * * * b\nA=2\nMAILTO=ann\n0 5 * * * A=3 c")

    assert [dict(entry.environment) for entry in crontab.entries] == [
        {}, {"A": "1", "CRON_TZ": "Asia/Tokyo"}, {"A": "2", "CRON_TZ": "Asia/Tokyo", "MAILTO": "ann"},
    ]  # fmt: skip
    assert [entry.zone for entry in crontab.entries] == ["", "Asia/Tokyo", "Asia/Tokyo"]
    assert [entry.mailto for entry in crontab.entries] == [None, None, "ann"]
    assert crontab.entries[2].command == "A=3 c"


def test_a_leading_minus_is_no_part_of_the_time() -> None:
    assert [entry.quiet for entry in parse_crontab("-*/5 * * * * a\n-@daily b\n* * * * * c").entries] == [True, True, False]
    assert only("-17 4 * * * a").when == "17 4 * * *"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hello!", "has 1 field, expected 5 and a command"),
        ("this is broken", "has 3 fields, expected 5 and a command, such as '0 5 * * 1 tidy-up'"),
        ("* * \u00a0 * *", "'\\xa0' is no day of month, expected five fields and a command"),
        ("* * * * *", "has no command"),
        ("* * * * * %in", "has no command"),
        ("@hourly", "has no command"),
        ("@sometimes x", "'@sometimes' is unknown, expected one of @reboot, @yearly, "),
        ("* * $x * * y", "'$x' is no day of month, expected five fields and a command"),
        ('A="open', "has a quoted value that does not end with its closing quote"),
        ("A=\"x\" # why", "has a quoted value that does not end with its closing quote"),
        ("2A=x", "'2A' is no name of a variable, expected letters, digits and '_'"),
        ("CRON_TZ=", "CRON_TZ is empty, expected a time zone such as Europe/Berlin"),
        ("SHELL=bash", "SHELL is no absolute path, expected one such as /bin/bash"),
        ("LOGNAME=ann", "LOGNAME is whoever the command runs as, and cannot be set"),
        ("* * * * * a\r* * * * * b", "has a carriage return within the line"),
        ("* * * * * " + "x" * 70_000, "has a command of 70,000 characters, expected at most 65,536"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_honoured_says_why(line: str, expected: str) -> None:
    assert reason(f"# one\n* * * * * fine\n{line}").startswith(expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("* * * * * root", "ends after 'root', expected a user's name and a command"),
        ("* * * * *", "has no user"),
        ("* * * * * /bin/true -x", "'/bin/true' is no user's name, as the system's format has it before the command"),
    ],
)
def test_the_systems_format_without_a_user_is_a_problem(line: str, expected: str) -> None:
    assert reason(line, format="system") == expected


def test_a_line_of_other_bytes_than_utf_8_is_a_problem_and_its_neighbours_are_not() -> None:
    crontab = parse_crontab(b"* * * * * a\n* * * * * caf\xe9\n# \xe9\n* * * * * b")

    assert [entry.command for entry in crontab.entries] == ["a", "b"]
    assert [str(problem) for problem in crontab.problems] == [
        r"line 2: has bytes that are no UTF-8: '* * * * * caf\\udce9'"
    ]  # fmt: skip


def test_what_the_checks_refuse_is_a_problem_of_its_line() -> None:
    def check(text: str) -> None:
        if "61" in text:
            raise UsageError(f"cron {text!r} has no minute 61")

    def check_zone(text: str) -> None:
        if text != "Asia/Tokyo":
            raise UsageError(f"zone {text!r} is not a time zone")

    text = "61 * * * * a\nCRON_TZ=Mars/Base\n1 * * * * b\n@reboot c\nCRON_TZ=Asia/Tokyo\n1 * * * * d"
    crontab = parse_crontab(text, check=check, check_zone=check_zone)

    assert [(problem.line, problem.reason) for problem in crontab.problems] == [
        (1, "cron '61 * * * *' has no minute 61"),
        (2, "zone 'Mars/Base' is not a time zone"),
        (3, "has no time zone, since that of line 2 is a problem"),
    ]
    assert [(entry.command, entry.zone) for entry in crontab.entries] == [("c", ""), ("d", "Asia/Tokyo")]


def test_names_stay_when_other_lines_come_and_go() -> None:
    before = parse_crontab("1 * * * * a\n2 * * * * b\n2 * * * * b", path="/var/spool/cron/ann b")
    after = parse_crontab("A=1\n\n3 * * * * new\n2 * *  * * b  \n1 * * * * a", path="ann b")
    names = [entry.name for entry in before.entries]

    assert names[0].startswith("crontab.ann-b.")
    assert names[2] == f"{names[1]}-2"
    assert [entry.name for entry in after.entries][1:] == [names[1], names[0]]
    assert parse_crontab("1 * * * * a", path="x" * 99).entries[0].name.startswith(f"crontab.{'x' * 32}.")
    assert only("1 * * * * a", path="/etc/cron.d/jobs", format="user").name == "crontab.jobs.cbd9a69964749bc7"


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    large, long = tmp_path / "large", tmp_path / "long"
    large.write_bytes(b"#" * (SIZE_MAX + 1))
    long.write_bytes(b"\n" * LINES_MAX + b"#")
    with pytest.raises(CrontabFileError, match=r"crontab '.*none' cannot be read: No such file or directory, expected"):
        read_crontab(str(tmp_path / "none"))
    with pytest.raises(CrontabFileError, match="cannot be read: Is a directory"):
        read_crontab(str(tmp_path))
    with pytest.raises(CrontabFileError, match="has more than 1,048,576 bytes, expected at most 1,048,576"):
        read_crontab(str(large))
    with pytest.raises(CrontabFileError, match="has 20,001 lines, expected at most 20,000"):
        read_crontab(str(long))
    with pytest.raises(CrontabFileError, match="cannot be read: embedded null byte"):
        read_crontab("a\0b")


def test_as_many_lines_as_are_allowed_may_end_as_lines_do() -> None:
    assert parse_crontab("#\n" * (LINES_MAX - 1) + "* * * * * a\n").entries[0].line == LINES_MAX


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("SHELL=bash", "SHELL is no absolute path, expected one such as /bin/bash"),
        ("HOME='/srv", "has a quoted value that does not end with its closing quote"),
        (b"HOME=/\xff", "has bytes that are no UTF-8"),
        ("RANDOM_DELAY=-1", "RANDOM_DELAY '-1' is no number of minutes, expected 0 to 99999"),
        ("RANDOM_DELAY=NaN", "RANDOM_DELAY 'NaN' is no number of minutes, expected 0 to 99999"),
        ("RANDOM_DELAY=100000", "RANDOM_DELAY '100000' is no number of minutes, expected 0 to 99999"),
    ],
)
def test_what_was_to_go_by_a_setting_that_is_a_problem_does_not_run(setting: str | bytes, reason: str) -> None:
    line = setting if isinstance(setting, bytes) else setting.encode()
    name = line.partition(b"=")[0].decode()

    crontab = parse_crontab(b"1 * * * * a\n" + line + b"\n2 * * * * b\n@reboot c\n" + name.encode() + b"=\n")

    lost = f"would run without its {name}, since that of line 2 is a problem"
    assert [(each.line, each.reason) for each in crontab.problems][:3] == [(2, reason), (3, lost), (4, lost)]
    assert [entry.command for entry in crontab.entries] == ["a"]


@pytest.mark.parametrize(
    "path",
    [path for path in (Path("/etc/crontab"), *sorted(Path("/etc/cron.d").glob("*"))) if path.is_file()],
    ids=str,
)
def test_the_crontabs_of_this_machine_are_read_whole(path: Path) -> None:
    crontab = read_crontab(str(path))

    assert crontab.format == "system"
    assert crontab.problems == []


LINES = st.one_of(
    st.text(max_size=60).map(lambda text: text.replace("\0", "")),
    st.text(alphabet="01*/-,@ \t=%\\\"'#AaRrootmn\r", max_size=60),
    st.from_regex(r"\A[ \t]{0,2}-?(@[a-z]{0,8}|([0-9*/,-]{1,5}[ \t]){1,6})[ -~]{0,20}\Z"),
    st.from_regex(r"\A[A-Z_]{1,6} ?= ?[\"']?[ -~]{0,10}[\"']?\Z"),
)


@given(st.lists(LINES, max_size=12), st.sampled_from(["user", "system"]), st.booleans())
def test_any_text_is_read_and_every_line_is_accounted_for(lines: list[str], format: str, as_bytes: bool) -> None:
    text = "\n".join(lines)
    data = text.encode("utf-8", "surrogatepass") if as_bytes else text
    crontab = parse_crontab(data, format=format)  # type: ignore[arg-type]

    found = [item.line for items in (crontab.entries, crontab.settings, crontab.problems) for item in items]
    shown = text.removeprefix("\ufeff").split("\n")
    expected = [at for at, line in enumerate(shown, 1) if line.strip() and not line.lstrip(" \t").startswith("#")]
    assert sorted(found) == expected
    assert len({entry.name for entry in crontab.entries}) == len(crontab.entries)
    for entry in crontab.entries:
        assert entry.when == "@reboot" or len(entry.when.split()) == 5
        assert entry.command.strip()
        assert bool(entry.user) == (format == "system")


@given(st.binary(max_size=300))
def test_any_bytes_are_read_but_nul(data: bytes) -> None:
    assert parse_crontab(data.replace(b"\0", b"")).format == "user"


@pytest.mark.parametrize("data", [b"\x7fELF\n\0\0 \1\n", "* * * * * fine\n* * * * * a\0b\n"])
def test_a_program_is_no_crontab(data: bytes | str) -> None:
    with pytest.raises(CrontabFileError, match=r"crontab 'tab' has a NUL character, .* expected the text of a crontab"):
        parse_crontab(data, path="tab")


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root can run commands as somebody else")
async def test_an_entry_runs_as_cron_would_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_WORKER", "secret")
    (entry,) = system(
        "SHELL=/bin/bash\nHOME=/usr\nA='1 2'\n"
        "* * * * * nobody id -un; echo $0 $PATH $A [$OF_THE_WORKER]; date +\\%\\%; cat; pwd%one%two"
    ).entries
    app = Foliot("cron")
    shell = app.add_shell(users=["nobody"])
    async with working(app) as w:
        body = w.lease(shell, **entry.arguments())
        outcome = await w.outcome(body)
        output = w.output(body)

    assert outcome.kind == OutcomeKind.COMPLETED, outcome.error
    assert output.splitlines() == ["nobody", "/bin/bash /usr/bin:/bin 1 2 []", "%", "one", "two", "/usr"]
