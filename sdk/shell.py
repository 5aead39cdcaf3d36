"""Shell commands as tasks, seen from outside: what the handler `foliot.shell` takes, gives, and fails with.

An exit code that is not expected is a failure like any other, with the last lines of the output as its reason, and is
retried by policy. What runs the commands is in `shell_handler`; a client needs no more than this.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec

from ..runtime.errors import FoliotError, UsageError
from .capture import LIMIT
from .context import Fatal
from .payload import PayloadError

SHELL: Final = "foliot.shell"  # the handler's name
QUEUE: Final = "shell"
OUTPUT_MAX: Final = LIMIT - (8 << 10)  # bytes; room is left for the notes and for log lines
OUTPUT_DEFAULT: Final = 128 << 10
_MESSAGE_LINES: Final = 12
_MESSAGE_CHARACTERS: Final = 2_000

AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
NotNegative = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class ShellLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a command may use; None: what the worker may. For each of its processes, `processes` for its user in all."""

    cpu_s: AtLeastOne | None = None
    memory_mb: AtLeastOne | None = None  # of address space
    file_mb: NotNegative | None = None  # of a file it writes
    core_mb: NotNegative | None = None  # of a core dump
    files: AtLeastOne | None = None  # open at once
    processes: AtLeastOne | None = None
    nice: Annotated[int, msgspec.Meta(ge=-20, le=19)] | None = None


class ShellResult(msgspec.Struct, frozen=True):
    """How a command ended; one of `exit_code` and `signal` is None. `output`: its last 4 KiB, the logs have more. `cpu_ms`:
    with the start. `memory_peak`: bytes of its largest process, 0 if that is not known to be more than the worker's."""

    exit_code: int | None
    signal: str | None
    duration_ms: int
    cpu_ms: int
    memory_peak: int
    output: str
    output_bytes: int
    dropped_bytes: int


class ShellExitError(FoliotError):
    """The command ended with an exit code that is not expected, or by a signal; one of both is None."""

    code = "shell_exit"

    def __init__(self, result: ShellResult, ok_codes: Sequence[int]) -> None:
        expected = " or ".join(map(str, ok_codes)) or "none at all"
        text = f"the command {_how(result)}, expected exit code {expected}"
        lines = last_lines(result.output)
        super().__init__(f"{text}; its last output:\n{lines}" if lines else f"{text}; it printed nothing")
        self.exit_code = result.exit_code
        self.signal = result.signal
        self.result = result


class ShellRefusedError(Fatal):
    """This worker does not run the command, whatever happens: by its operator's choice, or since it cannot."""

    code = "shell_refused"

    def __init__(self, what: str, value: str, reason: str) -> None:
        super().__init__(f"a command for {what} {value!r} is refused here: {reason}")
        self.what = what
        self.value = value
        self.reason = reason


class ShellStartError(FoliotError):
    """The command never ran. `step`: user, cwd, command, limits.NAME, ...; `value`: what was asked for."""

    code = "shell_start"

    def __init__(self, step: str, value: str, reason: str) -> None:
        what = f"{step} {value!r}" if value else step
        super().__init__(f"the command could not be started: {what}: {reason}")
        self.step = step
        self.value = value
        self.reason = reason


class ShellNotServedError(UsageError):
    """No worker of this scheduler runs shell commands."""

    code = "shell_not_served"

    def __init__(self) -> None:
        super().__init__("no worker here runs shell commands, expected `foliot up --shell`, or an app with app.add_shell()")


def shell_arguments(command: str | Sequence[str], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a submission. Raises: PayloadError if the command is neither a text nor a list."""
    if isinstance(command, bytes) or not isinstance(command, str | Sequence):
        raise PayloadError(SHELL, "command", f"got {type(command).__name__}", "a text or a list of texts")
    return {"command": command if isinstance(command, str) else list(command), **arguments}


def command_line(payload: Any, *, limit: int = 60) -> str:
    """Return the command of a payload as one line that begins with `$`, shortened; empty if there is none in it."""
    command = payload.get("command") if isinstance(payload, dict) else None
    if isinstance(command, list):
        command = shlex.join(map(str, command))
    if not isinstance(command, str):
        return ""
    line = " ".join(command.split())
    return f"$ {line}" if len(line) <= limit else f"$ {line[: limit - 3]}..."


def _how(result: ShellResult) -> str:
    peak = f" (it had used {result.memory_peak >> 20} MiB of memory)" if result.memory_peak else ""
    if result.signal is not None:
        return f"was killed by {result.signal}{peak}"
    code = result.exit_code or 0
    if code in (126, 127):
        return f"ended with exit code {code} ({'not found' if code == 127 else 'found, but not to be executed'})"
    if 128 < code < 128 + signal.NSIG:
        return f"ended with exit code {code} (a part of it was killed by {signal_name(code - 128)}){peak}"
    return f"ended with exit code {code}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_lines(output: str) -> str:
    """Return the end of an output that explains how it ended: a few lines."""
    lines = output.rstrip().splitlines()[-_MESSAGE_LINES:]
    return "\n".join(lines)[-_MESSAGE_CHARACTERS:]
