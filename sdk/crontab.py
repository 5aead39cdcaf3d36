"""Crontabs: the files cron reads, parsed as cron reads them, so that they can run here unchanged.

Both formats: a user's (five fields or an @name, then the command) and the system's (a user's name between them, as in
/etc/crontab and /etc/cron.d). What holds: reading never fails for what a line says; every line is an entry, a setting, a
comment, or a problem that names it and says what cron would have expected. Whether a time can be a time is the caller's
`check`, so that this module knows the shape of a crontab only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ..runtime.errors import UsageError
from ..runtime.hashing import fnv1a

SIZE_MAX: Final = 1 << 20  # bytes
LINES_MAX: Final = 20_000
COMMAND_MAX: Final = 64 << 10  # characters, with its standard input
SHOWN_MAX: Final = 200  # characters of a line in a problem

SPECIALS: Final[Mapping[str, str]] = {
    "@reboot": "@reboot",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
    "@every_minute": "* * * * *",
}
ZONE: Final = "CRON_TZ"  # the setting that says in which zone the times below it are meant
PATH: Final = "/usr/bin:/bin"  # of cron's commands, where the crontab says nothing else

Format = Literal["user", "system"]

DELAY: Final = "RANDOM_DELAY"
_MINUTES: Final = re.compile(r"\d{1,5}", re.ASCII)
_NEVER_LOST: Final = ("LOGNAME", "MAILTO")  # what runs does not go by them
_FIELD: Final = re.compile(r"[0-9A-Za-z*,/~?#-]+")
_SETTING: Final = re.compile(r"""[ \t]*("[^"]*"|'[^']*'|[^\s="'#][^\s="']*)[ \t]*=(.*)""", re.DOTALL)
_USER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\$?")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")
_NAMES: Final = ("minute", "hour", "day of month", "month", "day of week")
_EXAMPLE: Final = "such as '0 5 * * 1 tidy-up'"


class CrontabFileError(UsageError):
    """The file as a whole cannot be read."""

    code = "crontab_file"

    def __init__(self, path: str, problem: str, expected: str) -> None:
        super().__init__(f"crontab {path!r} {problem}, expected {expected}")
        self.path = path
        self.problem = problem
        self.expected = expected


@dataclass(frozen=True)
class CrontabEntry:
    """A command and its times. `when`: five fields, or `@reboot`. `stdin`: what follows the first bare `%`, None without
    one. `environment`: the settings above this line. `mailto`: None if nothing was said, empty for nobody. `quiet`: cron
    was told by a leading `-` not to log it. `name`: the same for the same line in a file of the same name."""

    line: int
    when: str
    user: str
    command: str
    stdin: str | None
    environment: Mapping[str, str]
    mailto: str | None
    zone: str
    name: str
    quiet: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a task of `foliot.shell` that runs the command as cron would: at home, with cron's
        environment and no other, and leaving alone what it has started in the background."""
        return {
            "command": self.command, "shell": self.environment.get("SHELL", "/bin/sh"), "stdin": self.stdin or "",
            "env": {"PATH": PATH, **self.environment}, "clean_env": True, "cwd": "~", "user": self.user,
            "background": "leave",
        }  # fmt: skip


@dataclass(frozen=True)
class CrontabProblem:
    """A line that cannot be honoured. `text`: its beginning."""

    line: int
    text: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}: {self.text!r}"


@dataclass(frozen=True)
class CrontabSetting:
    """A line NAME=value."""

    line: int
    name: str
    value: str


@dataclass(frozen=True)
class Crontab:
    """A crontab as read: everything that is neither blank nor a comment is in one of the three lists, once, in order."""

    path: str
    format: Format
    entries: list[CrontabEntry] = field(default_factory=list)
    settings: list[CrontabSetting] = field(default_factory=list)
    problems: list[CrontabProblem] = field(default_factory=list)


Check = Callable[[str], object]
"""Raises UsageError for a text that cannot be meant."""


def read_crontab(
    path: str, *, format: Format | None = None, check: Check | None = None, check_zone: Check | None = None
) -> Crontab:
    """Read a crontab file; see `parse_crontab`. Raises: CrontabFileError."""
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CrontabFileError(path, f"cannot be read: {reason}", "the path of a crontab") from error
    return parse_crontab(data, path=path, format=format, check=check, check_zone=check_zone)


def format_of(path: str) -> Format:
    """Return the format of the crontab at a path: with users' names in cron's own folders, without elsewhere."""
    path = os.path.abspath(path)
    is_system = path == "/etc/crontab" or os.path.dirname(path) == "/etc/cron.d"
    return "system" if is_system else "user"


def parse_crontab(
    data: bytes | str,
    *,
    path: str = "crontab",
    format: Format | None = None,
    check: Check | None = None,
    check_zone: Check | None = None,
) -> Crontab:
    """Return what a crontab says.

    `format`: by default that of the path. `check`: called with five fields, `check_zone`: with a time zone; what they
    refuse is a problem of the line. Raises: CrontabFileError if it is too large or no text, and for nothing else.
    """
    size = len(data)
    if size > SIZE_MAX:
        raise CrontabFileError(path, f"has more than {SIZE_MAX:,} bytes", f"at most {SIZE_MAX:,}")
    # Bytes that are no UTF-8 become what no command here can hold, so that only their line is a problem.
    text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
    if "\0" in text:
        raise CrontabFileError(path, "has a NUL character, as programs and other binary files have", "the text of a crontab")
    lines = text.removeprefix("\ufeff").split("\n")
    if not lines[-1]:
        lines.pop()  # the last line ends with a newline, as it should
    if len(lines) > LINES_MAX:
        raise CrontabFileError(path, f"has {len(lines):,} lines", f"at most {LINES_MAX:,}")
    crontab = Crontab(path, format or format_of(path))
    _Reader(crontab, check, check_zone).read(lines)
    return crontab


class _Refused(Exception):  # noqa: N818  (never leaves this module)
    """A line is a problem, for this reason."""


class _Reader:
    """Goes through the lines, with the settings made so far."""

    def __init__(self, crontab: Crontab, check: Check | None, check_zone: Check | None) -> None:
        self._crontab = crontab
        self._check = check
        self._check_zone = check_zone
        self._lost: dict[str, int] = {}  # by name, the lines of settings that were refused: what is below was to go by them
        self._environment: dict[str, str] = {}
        self._seen: Mapping[str, str] | None = None  # a copy of it, shared by the entries that follow each other
        self._names: dict[str, int] = {}

    def read(self, lines: list[str]) -> None:
        for number, line in enumerate(lines, 1):
            line = line.removesuffix("\r")
            stripped = line.lstrip(" \t")
            if not stripped.strip() or stripped.startswith("#"):
                continue
            try:
                self._line(number, line, stripped)
            except _Refused as refused:
                self._crontab.problems.append(CrontabProblem(number, _shown(line), str(refused)))

    def _line(self, number: int, line: str, stripped: str) -> None:
        setting = None if stripped.startswith(("@", "*", "-*", "-@")) else _SETTING.fullmatch(line)
        if setting is not None:
            name = _unquoted(setting[1])
            if _NAME.fullmatch(name) and name not in _NEVER_LOST:
                self._lost[name] = number
        try:
            line.encode()
        except UnicodeEncodeError:
            raise _Refused("has bytes that are no UTF-8") from None
        if "\r" in line:
            raise _Refused("has a carriage return within the line")
        if setting is not None:
            self._set(number, name, setting[2])
        else:
            self._entry(number, stripped)

    def _set(self, number: int, name: str, value: str) -> None:
        if not _NAME.fullmatch(name):
            raise _Refused(f"{name!r:.40} is no name of a variable, expected letters, digits and '_'")
        if name == "LOGNAME":
            raise _Refused("LOGNAME is whoever the command runs as, and cannot be set")
        value = _value(value)
        if name == "SHELL" and not value.startswith("/"):
            raise _Refused("SHELL is no absolute path, expected one such as /bin/bash")
        if name == ZONE:
            if not value:
                raise _Refused(f"{ZONE} is empty, expected a time zone such as Europe/Berlin")
            _checked(self._check_zone, value)
        if name == DELAY and value and not _MINUTES.fullmatch(value):
            raise _Refused(f"{DELAY} {value!r:.40} is no number of minutes, expected 0 to 99999")
        self._lost.pop(name, None)
        self._environment[name] = value
        self._seen = None
        self._crontab.settings.append(CrontabSetting(number, name, value))

    def _entry(self, number: int, text: str) -> None:
        quiet = text.startswith("-")
        when, rest = self._when(text[1:] if quiet else text)
        user = ""
        if self._crontab.format == "system":
            user, rest = _word(rest)
            if not rest.strip():
                raise _Refused(f"ends after {user!r:.40}, expected a user's name and a command" if user else "has no user")
            if not _USER.fullmatch(user):
                raise _Refused(f"{user!r:.40} is no user's name, as the system's format has it before the command")
        command, stdin = split_percent(_trimmed(rest))
        if not command.strip():
            raise _Refused("has no command")
        if len(rest) > COMMAND_MAX:
            raise _Refused(f"has a command of {len(rest):,} characters, expected at most {COMMAND_MAX:,}")
        if when != "@reboot":
            _checked(self._check, when)
            if ZONE in self._lost:
                raise _Refused(f"has no time zone, since that of line {self._lost[ZONE]} is a problem")
        for name, line in self._lost.items():
            if name != ZONE:
                raise _Refused(f"would run without its {name:.40}, since that of line {line} is a problem")
        if self._seen is None:
            self._seen = dict(self._environment)
        self._crontab.entries.append(
            CrontabEntry(
                number, when, user, command, stdin, self._seen, self._seen.get("MAILTO"),
                self._seen.get(ZONE, ""), self._name(when, user, _trimmed(rest)), quiet,
            )
        )  # fmt: skip

    def _when(self, text: str) -> tuple[str, str]:
        """Return the times of a line, and what follows them."""
        if text.startswith("@"):
            name, rest = _word(text)
            known = SPECIALS.get(name.lower())
            if known is None:
                raise _Refused(f"{name!r:.40} is unknown, expected one of {', '.join(SPECIALS)}")
            return known, rest
        fields: list[str] = []
        rest = text
        count = len(re.split(r"[ \t]+", text.strip(" \t")))
        if count < len(_NAMES):
            raise _Refused(f"has {count} field{'s' * (count != 1)}, expected {len(_NAMES)} and a command, {_EXAMPLE}")
        for name in _NAMES:
            word, rest = _word(rest)
            if not _FIELD.fullmatch(word):
                raise _Refused(f"{word!r:.40} is no {name}, expected five fields and a command, {_EXAMPLE}")
            fields.append(word)
        return " ".join(fields), rest

    def _name(self, when: str, user: str, rest: str) -> str:
        """Return a name that stays when other lines come and go: by the file's name and what the line says."""
        name = f"{prefix_of(self._crontab.path)}{fnv1a(chr(0).join((when, user, rest)).encode()):016x}"
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}-{count}"


def prefix_of(path: str) -> str:
    """Return how the names of all entries of the crontab at a path begin."""
    base = _UNSAFE.sub("-", os.path.basename(path)).strip("-") or "crontab"
    return f"crontab.{base[:32]}."


def split_percent(text: str) -> tuple[str, str | None]:
    """Return a command and its standard input: the first `%` ends the command, further ones are line ends, and `\\%` is
    the character itself. The input ends with a line end, as cron sees to.

    Source: do_command.c of ISC cron 4.1, in which a backslash protects what follows it in the command, another backslash
    too, but in the input a `%` only.
    """
    parts = re.findall(r"\\.|%|[^\\%]+|\\$", text, re.DOTALL)
    if "%" not in parts:
        return "".join("%" if part == "\\%" else part for part in parts), None
    at = parts.index("%")
    command = "".join("%" if part == "\\%" else part for part in parts[:at])
    stdin = re.sub(r"\\%|%", lambda found: "%" if len(found[0]) > 1 else "\n", "".join(parts[at + 1 :]))
    return command, stdin if not stdin or stdin.endswith("\n") else stdin + "\n"


def _word(text: str) -> tuple[str, str]:
    """Return the first word, and what follows the blanks after it."""
    parts = re.split(r"[ \t]+", text.lstrip(" \t"), maxsplit=1)
    return parts[0], parts[1] if len(parts) > 1 else ""


def _unquoted(text: str) -> str:
    return text[1:-1] if text[:1] in ("'", '"') else text


def _value(text: str) -> str:
    """Return a setting's value: without blanks around it, and without quotes if it stands in a pair of them."""
    text = text.strip(" \t")
    if text[:1] not in ("'", '"'):
        return text
    if text.find(text[0], 1) != len(text) - 1 or len(text) < 2:
        raise _Refused("has a quoted value that does not end with its closing quote")
    return text[1:-1]


def _trimmed(text: str) -> str:
    """Return a command without blanks at its end, but for one that a backslash protects."""
    trimmed = text.rstrip(" \t")
    return text if trimmed.endswith("\\") else trimmed


def _checked(check: Check | None, text: str) -> None:
    try:
        if check is not None:
            check(text)
    except UsageError as error:
        raise _Refused(str(error)) from error


def _shown(line: str) -> str:
    text = line.strip().encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "..."
