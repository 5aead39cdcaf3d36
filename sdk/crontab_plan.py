"""From crontabs to schedules of shell commands: what each line comes to here, and what of it cannot be honoured.

What holds: every line that asks for something is a job, a start-up job, or a problem with its number; a job means here what
it means to cron, but for local times that a clock change skips (see docs/schedules.md). Nothing is asked of a scheduler.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..actors.cron import parse
from ..actors.hours import check_zone
from ..actors.rule_errors import InvalidCronError
from ..runtime.errors import UsageError
from .crontab import DELAY, Crontab, CrontabEntry, CrontabProblem, Format, parse_crontab, read_crontab
from .shell_handler import own_user

REBOOT: Final = "@reboot"
SPOOLS: Final = ("/var/spool/cron", "/var/spool/cron/crontabs", "/var/spool/cron/tabs")
_RANDOM: Final = re.compile(r"(\d*)~(\d*)", re.ASCII)
_BOUNDS: Final = ((0, 59), (0, 23), (1, 28), (1, 12), (0, 6))
_MAILTO_MAX: Final = 1_000
_PATH_MAX: Final = 1_000
_DRAWN: Final = re.compile(r"h\((\w+)-(\w+)\)", re.IGNORECASE)


class MachineZoneError(UsageError):
    """The machine's time zone has no IANA name."""

    code = "machine_zone"

    def __init__(self, value: str) -> None:
        super().__init__(f"the machine's time zone {value!r} is no IANA name, expected --zone Europe/Berlin or the like")
        self.value = value


class SameNamesError(UsageError):
    """Two crontabs whose schedules would have the same names."""

    code = "same_names"

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"crontabs {first!r} and {second!r} would give schedules the same names, expected other file names")
        self.paths = (first, second)


class UnhonouredError(UsageError):
    """Some lines cannot be honoured, and all were to be."""

    code = "crontab_lines"

    def __init__(self, problems: Sequence[str]) -> None:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        super().__init__(f"nothing was done, since {problems[0]}{more}, expected lines that can be honoured")
        self.problems = list(problems)


@dataclass(frozen=True)
class Account:
    """As whom commands run if nothing else is said, and whether they may run as others."""

    name: str
    is_root: bool
    knows: Callable[[str], bool]


@dataclass(frozen=True)
class PlanOptions:
    """How to read crontabs. `format`: None: by the path. `zone`: of times without CRON_TZ. `user`: as whom the commands of
    a user's crontab run, empty: its owner by its place, else oneself. `retries`: after a failure."""

    zone: str
    format: Format | None = None
    user: str = ""
    overlap: str = "allow_all"
    retries: int = 2
    timeout: str | int = 0


@dataclass(frozen=True)
class Job:
    """A line that can be honoured. `words`: of `client.schedules.create`; of a start-up job, those of its task only."""

    path: str
    line: int
    name: str
    when: str
    zone: str
    user: str
    command: str
    words: Mapping[str, Any]
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Unhonoured:
    """A line of a file that cannot be honoured."""

    path: str
    problem: CrontabProblem

    def __str__(self) -> str:
        return f"{self.path}, {self.problem}"


@dataclass
class Plan:
    """What crontabs come to, in order of the files and lines. `reboots`: jobs that run once at the start."""

    jobs: list[Job] = field(default_factory=list)
    reboots: list[Job] = field(default_factory=list)
    problems: list[Unhonoured] = field(default_factory=list)

    def check_strictly(self) -> None:
        """Raises: UnhonouredError if there is any problem."""
        if self.problems:
            raise UnhonouredError([str(problem) for problem in self.problems])

    def refuse_reboots(self, reason: str) -> None:
        """Make problems of the start-up jobs."""
        for job in self.reboots:
            self.problems.append(Unhonoured(job.path, CrontabProblem(job.line, f"{REBOOT} {job.command}"[:200], reason)))
        self.reboots.clear()
        self.problems.sort(key=lambda each: (each.path, each.problem.line))


def own_account() -> Account:
    """Return the account of this process."""

    def knows(name: str) -> bool:
        try:
            pwd.getpwnam(name)
        except KeyError:
            return False
        return True

    return Account(own_user(), os.geteuid() == 0, knows)


def others_of(plan: Plan, account: Account) -> list[str]:
    """Return the users of a plan's jobs whom a worker of this account has to be allowed to run commands as."""
    return sorted({job.user for job in plan.jobs} - {"", account.name})


def plan_of(paths: Sequence[str], options: PlanOptions, account: Account, *, stdin: bytes = b"") -> Plan:
    """Return what the crontabs at these paths come to; `-` is `stdin`.

    Raises: CrontabFileError, SameNamesError, InvalidZoneError.
    """
    check_zone(options.zone)
    plan = Plan()
    names: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        checks: dict[str, Any] = {
            "format": options.format, "check": _check_times, "check_zone": check_zone,
        }  # fmt: skip
        crontab = parse_crontab(stdin, **checks) if path == "-" else read_crontab(path, **checks)
        _add(plan, crontab, options, account)
        for job in [*plan.jobs, *plan.reboots]:
            if names.setdefault(job.name, job.path) != job.path:
                raise SameNamesError(names[job.name], job.path)
    return plan


def _add(plan: Plan, crontab: Crontab, options: PlanOptions, account: Account) -> None:
    problems = list(crontab.problems)
    for entry in crontab.entries:
        user = entry.user or options.user or _owner(crontab.path)
        reason = refusal_of(user, account)
        if reason:
            problems.append(CrontabProblem(entry.line, f"{entry.when} {entry.user} {entry.command}"[:200], reason))
            continue
        job = _job(crontab.path, entry, replace(options, user=user))
        (plan.reboots if entry.when == REBOOT else plan.jobs).append(job)
    problems.sort(key=lambda problem: problem.line)
    plan.problems += [Unhonoured(crontab.path, problem) for problem in problems]


def _owner(path: str) -> str:
    """Return whose crontab lies at a path: in cron's spool the file's name says it."""
    folder, name = os.path.split(os.path.abspath(path))
    return name if folder in SPOOLS else ""


def refusal_of(user: str, account: Account) -> str:
    """Say why a command cannot run as a user, empty if it can."""
    if not user or user == account.name:
        return ""
    if not account.is_root:
        return f"would run as {user!r}, expected {account.name!r} or to be started by root"
    return "" if account.knows(user) else f"would run as {user!r}, who is not known here"


def _job(path: str, entry: CrontabEntry, options: PlanOptions) -> Job:
    zone = entry.zone or options.zone
    words: dict[str, Any] = {"max_attempts": options.retries + 1, "timeout": options.timeout}
    if entry.when != REBOOT:
        words |= {"cron": _plain(entry.when), "zone": zone, "overlap": options.overlap, "note": _note(path, entry)}
        if any(text.startswith("*") for text in entry.when.split()[:2]):
            # Cron runs these by the wall clock as it goes, and moves and leaves out others only.
            words |= {"dst_gap": "skip", "dst_overlap": "both"}
        delay = int(entry.environment.get(DELAY) or 0)  # minutes, as was checked when it was read
        if delay:
            words |= {"jitter": delay * 60, "hashed": True}
    arguments = {**entry.arguments(), "user": options.user}
    return Job(path, entry.line, entry.name, entry.when, zone, options.user, entry.command, words, arguments)


def _note(path: str, entry: CrontabEntry) -> str:
    place = path if path == "crontab" else os.path.abspath(path)
    note = f"{place[-_PATH_MAX:]}, line {entry.line}"
    note = note if entry.mailto is None else f"{note}, MAILTO={entry.mailto[:_MAILTO_MAX]}"
    return "".join([each if each.isprintable() else "?" for each in note])


def _check_times(when: str) -> None:
    """Raises: InvalidCronError, in the words of the crontab."""
    try:
        parse(_plain(when))
    except InvalidCronError as error:
        problem, expected = (_DRAWN.sub(r"\1~\2", text) for text in (error.problem, error.expected))
        raise InvalidCronError(when, problem, expected) from error


def _plain(when: str) -> str:
    """Return times of cronie, which has `10~40` for any one value of a range, as ours, which draw it from the name."""
    out = []
    for text, (low, high) in zip(when.split(), _BOUNDS, strict=True):
        tokens = []
        for token in text.split(","):
            found = _RANDOM.fullmatch(token)
            tokens.append(f"H({found[1] or low}-{found[2] or high})" if found else token)
        out.append(",".join(tokens))
    return " ".join(out)


# -- the machine -------------------------------------------------------------------------------------------------------


def machine_zone(environment: Mapping[str, str], etc: str = "/etc") -> str:
    """Return the IANA name of the machine's time zone: by TZ, the link /etc/localtime, or /etc/timezone; UTC where none of
    these is. Raises: MachineZoneError."""
    name = environment.get("TZ", "").removeprefix(":") or _linked(os.path.join(etc, "localtime"))
    if not name:
        try:
            with open(os.path.join(etc, "timezone"), encoding="utf-8") as file:
                name = file.readline(200).strip()
        except (OSError, UnicodeDecodeError):
            name = ""
    name = name.rpartition("zoneinfo/")[2]
    try:
        check_zone(name or "UTC")
    except UsageError as error:
        raise MachineZoneError(name) from error
    return name or "UTC"


def _linked(path: str) -> str:
    try:
        target = os.readlink(path)
    except OSError:
        return ""
    return target if "zoneinfo/" in target else os.path.realpath(path)


def default_database(path: str, environment: Mapping[str, str], *, is_root: bool) -> str:
    """Return where the history of a crontab is kept: beside it. Of one in the system's own folders, where cron would take
    it for a crontab, in /var/lib/foliot for root, else in ~/.local/state/foliot."""
    full = os.path.abspath(path)
    if not full.startswith(("/etc/", "/var/spool/", "/usr/")):
        return f"{path}.foliot.db"
    state = environment.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join("/var/lib" if is_root else state, "foliot", f"{os.path.basename(full)}.db")
