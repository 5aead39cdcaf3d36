"""A child process: runs attempts of `isolation="process"` handlers, one at a time, for the worker that started it.

The handler runs in the main thread; a second one listens. The child never outlives its worker: when the lifeline breaks,
however the worker died, the kernel kills the child's whole process group (Linux), and the listening thread does so
elsewhere. Started as `python -m foliot.sdk.process_child CHANNEL LIFELINE`, with two inherited file descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import logging
import os
import resource
import runpy
import signal
import socket
import sys
import threading
from collections import deque
from typing import Any

from structlog.typing import FilteringBoundLogger

from ..actors.messages import TaskError, Template
from ..runtime.blocking import SystemThreads
from ..runtime.clock import Clock, SystemClock
from .app import Foliot
from .capture import line, task_logger
from .context import Context
from .failure import Failure, describe
from .frames import (
    AnyFrame,
    AttemptDone,
    FrameReader,
    Hello,
    Logged,
    Ready,
    RunAttempt,
    StopAttempt,
    Told,
    encode_frame,
)
from .handler import Handler

MAIN_ALIAS = "__foliot_main__"  # the name the worker's script is imported under


class ChildAttempt:
    """One attempt in this process; what stands behind its context."""

    def __init__(self, child: Child, frame: RunAttempt) -> None:
        self._child = child
        self._stopped = threading.Event()
        self._reason = ""
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.frame = frame
        self.heard_stop = False
        self.on_loop = False
        self.id = frame.id
        self.attempt = frame.attempt
        self.tenant = frame.tenant
        self.priority = frame.priority
        self.template: Template = frame.template
        self.deadline_ms = frame.deadline_ms
        self.checkpoint = frame.checkpoint
        self.schedule = frame.schedule
        self.tick_ms = frame.tick_ms

    def now_ms(self) -> int:
        return self._child.clock.now_ms()

    def stopping(self) -> str:
        if self._reason:
            self.heard_stop = True
        return self._reason

    def tell(self, permille: int, note: str, checkpoint: bytes | None) -> None:
        self._child.send(Told(permille, note, checkpoint))

    def wait_stop(self, seconds: float) -> None:
        self._stopped.wait(seconds)

    def logger(self) -> FilteringBoundLogger:
        def emit(level: str, text: str, name: str, fields: dict[str, Any]) -> None:
            self._child.send(Logged(level, text, name, {key: str(value) for key, value in fields.items()}))

        return task_logger(emit, self.now_ms)

    def stop(self, reason: str) -> None:
        """Ask the handler to stop. From the listening thread."""
        self._reason = reason
        self._stopped.set()
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):  # the handler's loop has just ended
                loop.call_soon_threadsafe(task.cancel)

    def run(self, handler: Handler[..., Any]) -> bytes:
        """Run the handler and return its encoded result."""
        call = handler.shape.caller(handler.function, takes_context=handler.takes_context)
        context = (Context(self),) if handler.takes_context else ()
        if handler.is_coroutine:
            self.on_loop = True
            result = asyncio.run(self._on_loop(call, context))
        else:
            result = call(self.frame.payload, *context)
        return handler.shape.encode_result(result) if handler.keeps_result else b""

    async def _on_loop(self, call: Any, context: tuple[Context, ...]) -> Any:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        if self._reason and self._task is not None:  # asked to stop before it began
            self._task.cancel()
        try:
            return await call(self.frame.payload, *context)
        except asyncio.CancelledError:
            self.heard_stop = bool(self._reason)
            raise


class Child:
    """This process."""

    def __init__(self, channel: socket.socket, clock: Clock) -> None:
        self.clock = clock
        self._channel = channel
        self._send_lock = threading.Lock()
        self._queue: deque[RunAttempt] = deque()
        self._wake = threading.Semaphore(0)
        self._attempt: ChildAttempt | None = None
        self._main_path = ""
        self._handlers: dict[tuple[str, str], Handler[..., Any]] = {}

    def send(self, frame: AnyFrame) -> None:
        """Send a frame; from any thread."""
        data = encode_frame(frame)
        with self._send_lock:
            try:
                self._channel.sendall(data)
            except OSError:
                die()

    def listen(self) -> None:
        """Read frames until the worker is gone, then end this process and all it started."""
        frames = FrameReader()
        while True:
            try:
                data = self._channel.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                die()
            for frame in frames.feed(data):
                match frame:
                    case Hello():
                        self._main_path = frame.main_path
                        sys.path[:] = frame.path
                        self.send(Ready(os.getpid()))
                    case RunAttempt():
                        self._queue.append(frame)
                        self._wake.release()
                    case StopAttempt():
                        attempt = self._attempt
                        if attempt is not None and attempt.id == frame.id:
                            attempt.stop(frame.reason)

    def serve(self) -> None:
        """Run what comes, for ever; the listening thread ends the process."""
        logging.getLogger().addHandler(_ChildLog(self))
        while True:
            self._wake.acquire()
            frame = self._queue.popleft()
            attempt = self._attempt = ChildAttempt(self, frame)
            done = self._run(attempt)
            self._attempt = None
            for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
                with contextlib.suppress(Exception):
                    stream.flush()
                with contextlib.suppress(OSError):  # a handler may have closed them
                    os.write(descriptor, frame.mark)
            self.send(done)

    def _run(self, attempt: ChildAttempt) -> AttemptDone:
        frame = attempt.frame
        classes: dict[str, type[BaseException]] = {}
        result = b""
        failure: Failure | None = None
        try:
            handler = self._handler(frame.module, frame.qualname, frame.template.handler)
            classes = handler.retry_classes
            result = attempt.run(handler)
        except KeyboardInterrupt:
            failure = Failure(TaskError("KeyboardInterrupt", "the child process was interrupted"))
        except BaseException as error:  # SystemExit and CancelledError as well: the process is not the handler's
            failure = describe(error, frame.template.retry, classes)
        return AttemptDone(
            result,
            failure.error if failure else None,
            failure.fatal if failure else False,
            failure.retry_after_ms if failure else -1,
            attempt.heard_stop,
            _rss_bytes(),
        )

    def _handler(self, module: str, qualname: str, name: str) -> Handler[..., Any]:
        """Import the handler: by its app where the module has it, else by its own name in the module."""
        handler = self._handlers.get((module, name))
        if handler is None:
            place = self._main() if module == "__main__" else importlib.import_module(module)
            apps = [value for value in vars(place).values() if isinstance(value, Foliot) and name in value.handlers]
            target: Any = apps[0].handlers[name] if apps else place
            for part in () if apps else qualname.split("."):
                target = getattr(target, part)
            if not isinstance(target, Handler):
                raise TypeError(f"{module}:{qualname} is a {type(target).__qualname__}, expected a handler")
            handler = self._handlers[module, name] = target
        return handler

    def _main(self) -> Any:
        """Import the script the worker was started with, its `if __name__ == "__main__"` left out."""
        found = sys.modules.get(MAIN_ALIAS)
        if found is None:
            found = type(sys)(MAIN_ALIAS)
            sys.modules[MAIN_ALIAS] = found
            found.__dict__.update(runpy.run_path(self._main_path, run_name=MAIN_ALIAS))
        return found


class _ChildLog(logging.Handler):
    """Sends records of the standard library's logging along with the attempt's output."""

    def __init__(self, child: Child) -> None:
        super().__init__(logging.NOTSET)
        self._child = child

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
        except Exception:
            self.handleError(record)
            return
        level = record.levelname.lower()
        self._child.send(Logged(level, line(self._child.clock.now_ms(), level, f"{record.name}: {text}"), "", {}))


def die() -> None:
    """End this process and everything in its group, at once."""
    os.killpg(0, signal.SIGKILL)


def hold_lifeline(descriptor: int) -> None:
    """Have the kernel kill this process group when the pipe's other end closes, even if no Python code can run."""
    set_signal = getattr(fcntl, "F_SETSIG", None)
    if set_signal is None:
        return
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(descriptor, set_signal, signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    # The pipe never carries a byte, so being readable means that the worker died before this line.
    os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):
        if os.read(descriptor, 1) == b"":
            die()


def _rss_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024


def main() -> None:
    """Serve the worker on the two inherited descriptors."""
    channel_fd, lifeline_fd = int(sys.argv[1]), int(sys.argv[2])
    assert os.getpgrp() == os.getpid(), "a child process leads its own process group"
    os.set_inheritable(channel_fd, False)
    os.set_inheritable(lifeline_fd, False)
    hold_lifeline(lifeline_fd)
    sys.argv = sys.argv[:1]
    child = Child(socket.socket(fileno=channel_fd), SystemClock())
    SystemThreads().start(child.listen, name="foliot-channel")
    child.serve()


if __name__ == "__main__":
    main()
