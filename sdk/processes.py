"""Child processes for `isolation="process"`: started on demand, used again, recycled, really killed.

One child runs one attempt at a time. Its output is read from its real streams, so what C code and subprocesses print is
kept too; a mark on both streams tells where an attempt's output ends. What holds: a child that is to go is killed with
its whole process group, and none outlives the worker, even when the worker is killed itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import msgspec
import structlog

from ..runtime.clock import Clock, Timer
from .frames import AttemptDone, FrameReader, Hello, Logged, Ready, RunAttempt, StopAttempt, Told, encode_frame

log = structlog.get_logger("foliot.worker")

TAIL: Final = 4 << 10  # bytes of the last output that explain a death
STRAGGLE_MS: Final = 300  # how long output may trail behind the end of an attempt or process
CLOSE_S: Final = 5.0


@dataclass(frozen=True)
class ProcessConfig:
    """When child processes are started and replaced. 0 means never."""

    limit: int = 1  # children at once
    max_tasks: int = 1_000  # attempts to a child
    max_age_ms: int = 3_600_000
    max_rss: int = 0  # bytes it may hold between two attempts
    start_timeout_ms: int = 30_000


class ProcessJob(Protocol):
    """An attempt as the pool sees it. All are called on the loop."""

    @property
    def job_id(self) -> int: ...
    def begin(self, mark: bytes) -> RunAttempt:
        """The attempt starts now: return what the child has to know."""
        ...

    def output(self, data: bytes) -> None: ...
    def told(self, frame: Told) -> None: ...
    def logged(self, frame: Logged) -> None: ...
    def done(self, frame: AttemptDone) -> None:
        """The attempt ended by itself."""
        ...

    def died(self, how: str, tail: bytes) -> None:
        """The child is gone. `how`: "was killed by SIGKILL", "ended with exit code 3"; `tail`: its last output."""
        ...


class ProcessPool:
    """The child processes of one worker."""

    def __init__(self, config: ProcessConfig, clock: Clock, freed: Callable[[], None]) -> None:
        """`freed`: called when a child can take another attempt."""
        self.config = config
        self.clock = clock
        self._freed = freed
        self._children: list[Child] = []
        self._spawns: dict[asyncio.Task[None], None] = {}
        self._number = 0
        self._closed = False

    @property
    def free(self) -> int:
        """How many more attempts can start now."""
        if self._closed:
            return 0
        return self.config.limit - sum(child.is_busy for child in self._children)

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._children if child.pid]

    def start(self, job: ProcessJob) -> None:
        """Run the attempt in an idle child, or in a new one. Only while `free` is positive."""
        assert self.free > 0
        for child in self._children:
            if child.is_idle:
                child.run(job)
                return
        self._number += 1
        child = Child(self, self._number, job)
        self._children.append(child)
        task = asyncio.get_running_loop().create_task(child.spawn())
        self._spawns[task] = None
        task.add_done_callback(lambda ended: self._spawns.pop(ended, None))

    def stop(self, job: ProcessJob, reason: str) -> None:
        """Tell the attempt's child that it shall stop."""
        for child in self._children:
            if child.job is job:
                child.tell_stop(reason)

    def kill(self, job: ProcessJob) -> None:
        """Kill the child that runs the attempt, with all it started; `died` follows."""
        for child in self._children:
            if child.job is job:
                child.kill()

    async def close(self) -> None:
        """Kill every child and wait until they are gone."""
        self._closed = True
        for child in list(self._children):
            child.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                for task in list(self._spawns):
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
                for child in list(self._children):
                    child.kill()
                    await child.gone.wait()

    def is_worn(self, child: Child, rss: int) -> bool:
        """Tell whether the child shall be replaced before its next attempt."""
        config = self.config
        age_ms = (self.clock.mono_ns() - child.born_ns) // 1_000_000
        return (
            (config.max_tasks > 0 and child.tasks >= config.max_tasks)
            or (config.max_age_ms > 0 and age_ms >= config.max_age_ms)
            or (config.max_rss > 0 and rss >= config.max_rss)
        )

    def removed(self, child: Child) -> None:
        self._children.remove(child)
        self._freed()

    def released(self) -> None:
        self._freed()


class Child(asyncio.SubprocessProtocol):
    """One child process. `job`: the attempt it runs or was started for."""

    def __init__(self, pool: ProcessPool, number: int, job: ProcessJob) -> None:
        self.job: ProcessJob | None = job
        self.pid = 0
        self.tasks = 0
        self.born_ns = pool.clock.mono_ns()
        self.gone = asyncio.Event()
        self._pool = pool
        self._number = number
        self._ready = False
        self._doomed = False
        self._returncode: int | None = None
        self._process: asyncio.SubprocessTransport | None = None
        self._channel: asyncio.WriteTransport | None = None
        self._lifeline = -1
        self._mark = b""
        self._streams = {1: _Stream(), 2: _Stream()}
        self._tail = b""
        self._end: AttemptDone | None = None
        self._timer: Timer | None = None

    @property
    def is_idle(self) -> bool:
        return self._ready and self.job is None and not self._doomed

    @property
    def is_busy(self) -> bool:
        """Count it until it is gone: a killed child makes room only once it left."""
        return self.job is not None or self._doomed

    # -- life ----------------------------------------------------------------------------------------------------------

    async def spawn(self) -> None:
        """Start the process. Where the system refuses, the attempt is told."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs_lifeline, self._lifeline = os.pipe()
        try:
            ours.setblocking(False)
            await loop.create_unix_connection(lambda: _Channel(self), sock=ours)
            command = (sys.executable, "-m", "foliot.sdk.process_child", str(theirs.fileno()), str(theirs_lifeline))
            await loop.subprocess_exec(
                lambda: self, *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), theirs_lifeline), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            log.error("child_not_started", error=str(error))
            if not self.pid:
                self._finish(f"could not be started: {error}")
        finally:
            theirs.close()
            os.close(theirs_lifeline)
        if self._returncode is None and self.pid:
            self._arm(self._pool.config.start_timeout_ms, self._slow)
            if self._doomed:
                self._kill_group()

    def run(self, job: ProcessJob) -> None:
        """Run an attempt; the child is idle."""
        self.job = job
        self._begin()

    def tell_stop(self, reason: str) -> None:
        if self.job is not None and self._mark:
            self._send(StopAttempt(self.job.job_id, reason))

    def kill(self) -> None:
        """Kill the process group, now or as soon as it exists."""
        self._doomed = True
        if self.pid and self._returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _begin(self) -> None:
        assert self.job is not None
        self.tasks += 1
        self._tail = b""
        self._end = None
        self._mark = b"\0foliot:%d.%d\0" % (self._number, self.tasks)
        for stream in self._streams.values():
            stream.begin(self._mark)
        self._send(self.job.begin(self._mark))

    def _send(self, frame: Any) -> None:
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write(encode_frame(frame))

    def _slow(self) -> None:
        if not self._ready:
            log.error("child_start_timed_out", pid=self.pid, timeout_ms=self._pool.config.start_timeout_ms)
            self.kill()

    # -- what the child says -------------------------------------------------------------------------------------------

    def connected(self, channel: asyncio.WriteTransport) -> None:
        self._channel = channel
        main = sys.modules.get("__main__")
        main_path = os.path.abspath(path) if (path := getattr(main, "__file__", None)) else ""
        self._send(Hello([os.path.abspath(entry) if entry == "" else entry for entry in sys.path], main_path))

    def heard(self, frame: Any) -> None:
        """Take a frame of the child."""
        match frame:
            case Ready():
                self._ready = True
                self._disarm()
                if self.job is not None and not self._doomed:
                    self._begin()
            case Told() if self.job is not None:
                self.job.told(frame)
            case Logged() if self.job is not None:
                self.job.logged(frame)
            case AttemptDone() if self.job is not None:
                self._end = frame
                self._arm(STRAGGLE_MS, self._ended)
                self._ended_if_complete()

    def channel_lost(self) -> None:
        """A child without channel is of no use; its exit says what happened."""
        self._ready = False
        self.kill()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        stream = self._streams.get(fd)
        if stream is None:
            return
        text = stream.feed(data)
        if text:
            self._tail = (self._tail + text)[-TAIL:]
            if self.job is not None:
                self.job.output(text)
        self._ended_if_complete()

    def _ended_if_complete(self) -> None:
        if self._end is not None and all(stream.ended for stream in self._streams.values()):
            self._ended()

    def _ended(self) -> None:
        """The attempt is over and its output complete, or late enough."""
        self._disarm()
        job, end = self.job, self._end
        if job is None or end is None:
            return
        for stream in self._streams.values():
            if rest := stream.rest():
                job.output(rest)
        self.job, self._end, self._mark = None, None, b""
        if self._pool.is_worn(self, end.rss):
            self.kill()
        job.done(end)
        if not self._doomed:
            self._pool.released()

    # -- its end -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._process = cast(asyncio.SubprocessTransport, transport)
        self.pid = self._process.get_pid()
        if self._doomed:
            self._kill_group()

    def process_exited(self) -> None:
        assert self._process is not None
        self._returncode = self._process.get_returncode()
        self._doomed = True
        self._kill_group()  # what it started and left behind
        self._arm(STRAGGLE_MS, self._buried)

    def connection_lost(self, exc: Exception | None) -> None:
        self._buried()

    def _buried(self) -> None:
        """It is gone and its output complete, or late enough."""
        if self._returncode is None or self.gone.is_set():
            return
        if self._end is not None:  # it had finished its attempt
            self._ended()
        code = self._returncode
        self._finish(f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}")

    def _finish(self, how: str) -> None:
        self._disarm()
        self._doomed = True
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.close()
        job, self.job = self.job, None
        self.gone.set()
        if job is not None:
            for stream in self._streams.values():
                if rest := stream.rest():
                    job.output(rest)
            job.died(how, self._tail)
        self._pool.removed(self)

    def _arm(self, span_ms: int, callback: Callable[[], None]) -> None:
        self._disarm()
        clock = self._pool.clock
        self._timer = clock.call_at_ms(clock.now_ms() + span_ms, callback)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Channel(asyncio.Protocol):
    """The worker's end of the socket to one child."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._frames = FrameReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._child.connected(cast(asyncio.WriteTransport, transport))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._child.heard(frame)
        except msgspec.MsgspecError as error:  # a handler wrote into the channel
            log.error("child_channel_broken", pid=self._child.pid, error=str(error))
            self._child.channel_lost()

    def connection_lost(self, exc: Exception | None) -> None:
        self._child.channel_lost()


class _Stream:
    """One output stream: text until the mark. What comes after it belongs to nobody until the next attempt begins."""

    def __init__(self) -> None:
        self._mark = b""
        self._held = b""  # could be the beginning of the mark
        self.ended = True

    def begin(self, mark: bytes) -> None:
        self._mark = mark
        self._held = b""
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """Return what of the data belongs to the attempt."""
        if self.ended:
            return data if not self._mark else b""
        data = self._held + data
        text, mark, _ = data.partition(self._mark)
        if mark:
            self._held = b""
            self.ended = True
            return text
        start = data.find(b"\0", max(len(data) - len(self._mark) + 1, 0))
        while start >= 0 and not self._mark.startswith(data[start:]):
            start = data.find(b"\0", start + 1)
        if start < 0:
            self._held = b""
            return data
        self._held = data[start:]
        return data[:start]

    def rest(self) -> bytes:
        """Return what was held back, since no more is coming."""
        held, self._held = self._held, b""
        self.ended = True
        return held


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
