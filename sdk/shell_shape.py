"""The arguments of a shell command: what they are in plain words, and what a process could never take.

What holds: an argument that no worker could run is refused wherever a payload meets its handler, which is when a task or a
schedule is submitted, and again by the worker for payloads that came another way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .payload import PayloadError, Shape
from .shell import OUTPUT_MAX, SHELL

_VARIABLE: Final = re.compile(r"[^=\0]+")
_UNFIT: Final = "is refused: "  # how a problem begins that is told in the words of types
_LIMIT: Final = "limits."
_FROM_1: Final = "a whole number from 1"
_FROM_0: Final = "a whole number from 0"

WORDS: Final[Mapping[str, str]] = {
    "command": "a text for the shell, or a list of a program and its arguments",
    "shell": "an absolute path such as /bin/bash",
    "env": 'texts by name, such as {"LC_ALL": "C"}',
    "clean_env": "true or false",
    "cwd": "a folder",
    "user": "a user's name",
    "stdin": "a text",
    "limits": 'limits by name, such as {"cpu_s": 60, "memory_mb": 512}',
    "limits.cpu_s": f"{_FROM_1}, of seconds",
    "limits.memory_mb": f"{_FROM_1}, of MiB",
    "limits.file_mb": f"{_FROM_0}, of MiB",
    "limits.core_mb": f"{_FROM_0}, of MiB",
    "limits.files": _FROM_1,
    "limits.processes": _FROM_1,
    "limits.nice": "a whole number from -20 to 19",
    "output_max": f"a whole number from 0 to {OUTPUT_MAX}, of bytes",
    "ok_codes": "a list of exit codes, such as [0, 1]",
    "background": "'kill' or 'leave'",
}


class ShellShape(Shape):
    """The shape of a command's payload, which also knows what a process can take."""

    __slots__ = ()

    def arguments(self, payload: bytes) -> Any:
        """Return the struct of arguments, defaults filled in. Raises: PayloadError."""
        found = super().arguments(payload)
        argv_of(found.command, found.shell)
        check_env(found.env or {})
        for field in ("cwd", "user"):
            text_of(field, getattr(found, field))
        return found

    def _not_fitting(self, error: Exception) -> PayloadError:
        found = super()._not_fitting(error)
        words = WORDS.get(found.field.partition("[")[0])
        if words is None and found.field.startswith(_LIMIT):
            words = f"one of {', '.join(name.removeprefix(_LIMIT) for name in WORDS if name.startswith(_LIMIT))}"
        if words is None:
            return found
        problem = found.problem if not found.problem.startswith(_UNFIT) else "does not fit"
        return PayloadError(self.handler, found.field, problem, words)


def argv_of(command: str | Sequence[str], shell: str) -> tuple[str, ...]:
    """Return the program and its arguments. Raises: PayloadError."""
    program = command if isinstance(command, str) else "".join(command[:1])
    if not program.strip():
        raise PayloadError(SHELL, "command", "is empty", WORDS["command"])
    if isinstance(command, str):
        if not shell.startswith("/"):
            raise PayloadError(SHELL, "shell", f"is {shell!r:.80}", WORDS["shell"])
        command = [text_of("shell", shell), "-c", command]
    return tuple([text_of("command", part) for part in command])


def check_env(env: Mapping[str, str]) -> None:
    """Raises: PayloadError if a process cannot have such variables."""
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name):
            raise PayloadError(SHELL, "env", f"has a variable {name!r:.80}", "names without '=' and NUL characters")
        text_of("env", value)


def text_of(field: str, text: str) -> str:
    """Return a text that can be handed to a process. Raises: PayloadError."""
    if "\0" in text:
        raise PayloadError(SHELL, field, "has a NUL character", "text that can be handed to a process")
    return text
