"""The worker's side of `shell_watch`: one small process for all commands, started with the first.

What holds: whatever runs in a command's session is known to that process, so a worker that is killed leaves none of it
running. Should that process be killed itself, the next command starts another and tells it everything.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from pathlib import Path
from typing import Any, Final

import structlog

from .shell_watch import stat

log = structlog.get_logger("foliot.worker")

_SCRIPT: Final = str(Path(__file__).with_name("shell_watch.py"))
_START: Final = 19  # the field of a process's start among those `stat` returns


class Guard:
    """Knows the sessions that must not outlive this process."""

    def __init__(self) -> None:
        self._sessions: dict[int, str] = {}
        self._pipe = -1
        self._end: weakref.finalize[Any, Any] | None = None

    def add(self, session: int) -> None:
        """A command leads this session."""
        fields = stat(session)
        if len(fields) > _START:  # else it is gone, or this is no Linux
            self._sessions[session] = fields[_START]
            if self._pipe < 0 or not self._tell(f"+{session} {fields[_START]}\n"):
                self._begin()

    def remove(self, session: int) -> None:
        """The command is over."""
        if self._sessions.pop(session, None) is not None:
            self._tell(f"-{session}\n")

    def _tell(self, text: str) -> bool:
        try:
            os.write(self._pipe, text.encode())
        except OSError:
            return False
        return True

    def _begin(self) -> None:
        if self._end is not None:
            self._end()
        reader, writer = os.pipe()
        try:
            pid = os.posix_spawn(
                sys.executable, [sys.executable, "-I", "-S", _SCRIPT], os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)], setsid=True,
            )  # fmt: skip
        except OSError as error:
            os.close(writer)
            log.warning("command_guard_not_started", error=str(error))
            return
        finally:
            os.close(reader)
        os.set_blocking(writer, False)
        self._pipe = writer
        self._end = weakref.finalize(self, _end, writer, pid)
        self._tell("".join(f"+{session} {start}\n" for session, start in self._sessions.items()))


def _end(pipe: int, pid: int) -> None:
    """Close the pipe, on which the process ends, and collect it."""
    os.close(pipe)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
