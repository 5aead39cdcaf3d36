"""Running commands as a port: started, watched, and ended with all they started.

A command leads a session and process group of its own. What holds: when `run` returns or raises, nothing of the group is
left, unless the order says that what it left in the background may stay; a worker that is killed takes its commands with
it (see `shell_child`, `shell_watch`); and however much a command prints, it takes a bounded share of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import marshal
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from ..runtime.blocking import Blocking, SystemThreads
from ..runtime.clock import Clock, SystemClock, Timer
from .shell import OUTPUT_DEFAULT, ShellStartError
from .shell_guard import Guard
from .shell_output import Output

log = structlog.get_logger("foliot.worker")

STRAGGLE_MS: Final = 300  # how long output may trail behind the command's end
_POLL_MS: Final = (20, 1_000)  # between two looks for processes that were told to stop, growing
_PATIENCE_MS: Final = 10_000  # for killed processes to be gone; only foreign or stuck ones are not
_READ: Final = 64 << 10
_BURST: Final = 1 << 20  # bytes; after these the loop gets a pause from this command
_PAUSE_MS: Final = 10
_CHILD: Final = str(Path(__file__).with_name("shell_child.py"))
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1_024


@dataclass(frozen=True)
class Order:
    """A command to run. `argv`: with its program first, looked up in the command's own PATH."""

    argv: tuple[str, ...]
    shell: str = "/bin/sh"
    env: Mapping[str, str] = field(default_factory=dict)
    clean_env: bool = False
    cwd: str = ""
    user: str = ""
    stdin: bytes = b""
    limits: Mapping[str, int] = field(default_factory=dict)
    output_max: int = OUTPUT_DEFAULT
    leave: bool = False  # what it left in the background may stay
    grace_ms: int = 10_000  # between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Ended:
    """How a command ended. `code`: its exit code, or minus the number of the signal that ended it. `memory_peak`: bytes
    of its largest process, 0 if that is not known to be more than the worker itself has."""

    code: int
    duration_ms: int
    cpu_ms: int
    memory_peak: int
    tail: bytes
    output_bytes: int
    dropped_bytes: int


class Commands(Protocol):
    """Whoever runs commands."""

    async def run(self, order: Order, write: Callable[[bytes], None]) -> Ended:
        """Run a command to its end, its output going to `write`. Cancelled, the command is asked to end and killed after
        the grace, or when cancelled again; only then does this return. Raises: ShellStartError."""
        ...


class SystemCommands:
    """Commands as processes of the operating system."""

    def __init__(self, clock: Clock | None = None, blocking: Blocking | None = None) -> None:
        self._clock = clock or SystemClock()
        self._blocking = blocking or SystemThreads()
        self._guard = Guard()

    async def run(self, order: Order, write: Callable[[bytes], None]) -> Ended:
        running = _Running(order, write, self._clock, asyncio.get_running_loop(), self._guard)
        try:
            running.start(self._blocking)
            await running.over.wait()
        except asyncio.CancelledError:
            running.terminate()
            while not running.over.is_set():
                try:
                    await running.over.wait()
                except asyncio.CancelledError:
                    running.kill()
            raise
        finally:
            running.close()
        return running.ended()


class _Running:
    """One command. Its leader stays a zombie until the group was dealt with, so that no number can have been reused."""

    def __init__(
        self,
        order: Order,
        write: Callable[[bytes], None],
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        guard: Guard,
    ) -> None:
        self.over = asyncio.Event()
        self._order = order
        self._output = Output(write, order.output_max)
        self._clock = clock
        self._loop = loop
        self._guard = guard
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._fds: dict[str, int] = {}
        self._stopping = False
        self._killed_ms = 0  # monotonic; 0: not killed
        self._exited = False
        self._status: tuple[int, resource.struct_rusage] | None = None  # once the leader was collected
        self._reading = False
        self._burst = 0
        self._trouble: tuple[str, str, str] | None = None  # step, value, reason
        self._poll_ms = _POLL_MS[0]
        self._timers: dict[str, Timer] = {}
        self._own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._started_ns = clock.mono_ns()
        self._ended_ns = 0

    # -- begin ---------------------------------------------------------------------------------------------------------

    def start(self, blocking: Blocking) -> None:
        """Start the process. Raises: ShellStartError if the system refuses."""
        theirs: list[int] = []
        try:
            lifeline, order = self._pipe("lifeline", write_end=True), _held(self._told())
            theirs += [lifeline, order]
            trouble, output = self._pipe("trouble"), self._pipe("output")
            theirs += [trouble, output]
            stdin = subprocess.DEVNULL
            if self._order.stdin:
                stdin = _held(self._order.stdin)
                theirs.append(stdin)
            if self._order.leave:
                self._fds["leash"] = os.dup(lifeline)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", _CHILD, str(order), str(lifeline), str(trouble)],
                stdin=stdin, stdout=output, stderr=subprocess.STDOUT, pass_fds=(order, lifeline, trouble),
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ShellStartError("process", "", error.strerror or str(error)) from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._pid = self._process.pid
        self._guard.add(self._pid)
        self._watch(blocking)
        self._reading = True
        self._loop.add_reader(self._fds["output"], self._readable)

    def _told(self) -> bytes:
        order = self._order
        return marshal.dumps(
            {
                "argv": list(order.argv), "shell": order.shell, "env": dict(order.env), "clean_env": order.clean_env,
                "cwd": order.cwd, "user": order.user, "limits": dict(order.limits),
            }
        )  # fmt: skip

    def _pipe(self, name: str, *, write_end: bool = False) -> int:
        """Make a pipe, keep one end, return the other."""
        reader, writer = os.pipe()
        ours, theirs = (writer, reader) if write_end else (reader, writer)
        os.set_blocking(ours, False)
        self._fds[name] = ours
        return theirs

    def _watch(self, blocking: Blocking) -> None:
        """Learn of the leader's end: without collecting it, where the system has process descriptors."""
        try:
            self._fds["process"] = os.pidfd_open(self._pid)
        except (AttributeError, OSError):
            blocking.start(self._wait, name=f"foliot-command-{self._pid}")
        else:
            self._loop.add_reader(self._fds["process"], self._leader_ended)

    def _wait(self) -> None:
        _, status, usage = os.wait4(self._pid, 0)
        self._status = os.waitstatus_to_exitcode(status), usage
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._leader_ended)

    # -- output --------------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = os.read(self._fds["output"], _READ)
        except BlockingIOError:
            return
        if not data:
            self._pause_reading()
            self._close("output")
            if self._exited and self._status is not None:
                self._finish()
            return
        self._output.feed(data)
        self._burst += len(data)
        if self._burst >= _BURST:
            self._burst = 0
            self._pause_reading()
            self._arm("pause", _PAUSE_MS, self._resume_reading)

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fds["output"])

    def _resume_reading(self) -> None:
        if "output" in self._fds and not self.over.is_set():
            self._reading = True
            self._loop.add_reader(self._fds["output"], self._readable)

    # -- end -----------------------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Ask everything of the command to end; kill it after the grace."""
        if self._stopping or not self._pid or self.over.is_set():
            return
        if self._exited and self._status is not None:  # only its output is still waited for
            self._finish()
            return
        self._stopping = True
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        self._arm("grace", self._order.grace_ms, self.kill)

    def kill(self) -> None:
        """Kill everything of the command."""
        if not self._pid or self.over.is_set():
            return
        self._stopping = True
        self._killed_ms = self._killed_ms or self._mono_ms()
        self._signal(signal.SIGKILL)
        if self._exited:
            self._poll_ms = _POLL_MS[0]
            self._arm("poll", 0, self._after_exit)

    def _signal(self, number: signal.Signals) -> None:
        """Send to the group, and to what moved to a group of its own but stayed in the session, as a shell's jobs do."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)
        for pid, group in session_members(self._pid):
            if group != self._pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)

    def _leader_ended(self) -> None:
        if "process" in self._fds:
            self._loop.remove_reader(self._fds["process"])
        if not self._exited and not self.over.is_set():
            self._exited = True
            self._ended_ns = self._clock.mono_ns()
            self._after_exit()

    def _after_exit(self) -> None:
        """The leader is over: see to the rest of its group, then collect it."""
        if self._stopping:
            left = session_members(self._pid)
            if left and not self._out_of_patience():
                if self._killed_ms:
                    self._signal(signal.SIGKILL)
                self._arm("poll", self._poll_ms, self._after_exit)
                self._poll_ms = min(self._poll_ms * 2, _POLL_MS[1])
                return
            if left:
                log.warning("command_left_running", pids=[pid for pid, _ in left])
        if self._stopping or not self._order.leave:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
        self._collect()
        if "output" in self._fds:
            self._arm("straggle", STRAGGLE_MS, self._finish)
        else:
            self._finish()

    def _out_of_patience(self) -> bool:
        return self._killed_ms > 0 and self._mono_ms() - self._killed_ms > _PATIENCE_MS

    def _collect(self) -> None:
        if self._status is None:
            _, status, usage = os.wait4(self._pid, 0)
            self._status = os.waitstatus_to_exitcode(status), usage
        assert self._process is not None
        self._process.returncode = self._status[0]  # it is collected, and must not be waited for again

    def _finish(self) -> None:
        if self.over.is_set():
            return
        if "output" in self._fds:  # what is left in the background has it
            for _ in range(_BURST // _READ):
                with contextlib.suppress(BlockingIOError):
                    if data := os.read(self._fds["output"], _READ):
                        self._output.feed(data)
                        continue
                break
        self._output.end()
        if "leash" in self._fds and not self._stopping:
            _let_go(self._fds["leash"])
        self.over.set()

    def ended(self) -> Ended:
        """Return how it ended. Raises: ShellStartError if it never ran."""
        assert self._status is not None
        if self._trouble:
            step, value, reason = self._trouble
            raise ShellStartError(step, value, reason)
        code, usage = self._status
        peak = usage.ru_maxrss * _RSS_UNIT if usage.ru_maxrss > self._own_peak else 0
        return Ended(
            code, (self._ended_ns - self._started_ns) // 1_000_000, int((usage.ru_utime + usage.ru_stime) * 1_000), peak,
            self._output.last(), self._output.total, self._output.dropped,
        )  # fmt: skip

    def close(self) -> None:
        """Let go of everything; what should still run, since the loop is being closed, is killed."""
        for timer in self._timers.values():
            timer.cancel()
        if not self.over.is_set() and self._pid:
            self._signal(signal.SIGKILL)
        self._guard.remove(self._pid)
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._pause_reading()
            if "process" in self._fds:
                self._loop.remove_reader(self._fds["process"])
        if "trouble" in self._fds:
            with contextlib.suppress(BlockingIOError):
                if data := os.read(self._fds["trouble"], _READ):
                    self._trouble = marshal.loads(data)
        for name in list(self._fds):
            self._close(name)

    def _close(self, name: str) -> None:
        os.close(self._fds.pop(name))

    def _arm(self, name: str, span_ms: int, callback: Callable[[], None]) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = self._clock.call_at_ms(self._clock.now_ms() + span_ms, callback)

    def _mono_ms(self) -> int:
        return self._clock.mono_ns() // 1_000_000


def session_members(session: int) -> list[tuple[int, int]]:
    """Return (pid, process group) of every living process of a session; none where the system has no /proc."""
    found: list[tuple[int, int]] = []
    try:
        entries = os.listdir("/proc")
    except OSError:
        return found
    for entry in entries:
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    state, _, group, its_session = file.read().rpartition(b")")[2].split()[:4]
            except (OSError, ValueError):  # it has just ended
                continue
            if int(its_session) == session and state not in (b"Z", b"X"):
                found.append((int(entry), int(group)))
    return sorted(found)


def _let_go(lifeline: int) -> None:
    """Undo the lifeline: what runs in the background shall live on when its other end closes."""
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags & ~getattr(os, "O_ASYNC", 0))


def _held(data: bytes) -> int:
    """Return a descriptor to read the data from; it lies in memory where the system can do that."""
    make: Any = getattr(os, "memfd_create", None)
    if make is not None:
        descriptor: int = make("foliot")
    else:
        import tempfile  # brings much along that nothing else needs

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
