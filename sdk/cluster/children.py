"""A child process that is looked after: started, watched, and started again when it dies, which is never silent.

What holds: a child's death is said with its code; the pause before the next start grows while it keeps dying and is short
again once it has lived for a while; a child that never got ready is not started again, since then something is wrong that
another start does not mend; one that was drained may be left alone until `begin_again`. No child outlives this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from ...runtime.errors import FoliotError
from ..server_process import tied

log = structlog.get_logger("foliot")

READY: Final = "ready "
"""What the line begins with by which a child says that it is ready."""

AGAIN: Final = signal.SIGUSR1
"""By which a person has `foliot up` start again what was drained."""

_PAUSE_MS: Final = 500
_PAUSE_MAX_MS: Final = 30_000
_SETTLED_S: Final = 60.0
_CODES_MAX: Final = 100
_LINE_MAX: Final = 1 << 20
PROGRAM: Final = "import sys; from foliot.sdk.cli import main; sys.exit(main())"
"""What a child's Python runs."""


class ChildFailedError(FoliotError):
    """A process of the local cluster ended before it was ready."""

    code = "child_failed"

    def __init__(self, name: str, ended: str) -> None:
        super().__init__(f"{name} {ended} before it was ready; what it said is above")
        self.name = name


class Child:
    """One `foliot …` process. `arguments`: its command line. `restart`: whether to start it again when it dies, and
    `restart_drained` when it ended in order. `program`: what its Python runs, which has to act as PROGRAM does. `log`: a
    file to which what it logs is added; None: it goes where this process's goes."""

    def __init__(
        self, name: str, arguments: Sequence[str], *, env: Mapping[str, str] | None = None, restart: bool = True,
        restart_drained: bool = True, program: str = PROGRAM, log: Path | str | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.restart = restart
        self.starts = 0
        self.codes: list[int] = []
        """How its earlier lives ended, the last one last."""
        self._arguments = list(arguments)
        self._program = program
        self._log = log
        self._env = {**os.environ, **(env or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._is_leaving = False
        self._restart_drained = restart_drained
        self._again = asyncio.Event()
        self.is_drained = False
        """It ended in order, and waits to be started again."""

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    # -- life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start it, and from now on look after it. Returns before it is ready."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"child {self.name}")

    async def wait_ready(self) -> None:
        """Return once it is ready, this time or the next. Raises: ChildFailedError if it ended and is not started again."""
        assert self._keeper is not None, f"{self.name} was not started"
        ready = asyncio.ensure_future(self._ready.wait())
        try:
            await asyncio.wait([ready, self._keeper], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if not self._ready.is_set():
            raise ChildFailedError(self.name, self._ended())

    async def stop(self, grace_s: float) -> int | None:
        """Have it drain and end, by force after the grace; return its exit code."""
        self._is_leaving = True
        process = self._process
        if process is not None and process.returncode is None:
            self.resume()
            self._signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), grace_s)
            except TimeoutError:
                log.warning("child_killed", child=self.name, pid=process.pid, grace_s=grace_s)
                self._signal(signal.SIGKILL)
                await process.wait()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        return None if process is None else process.returncode

    async def _spawn(self) -> None:
        self._ready.clear()
        command = tied([sys.executable, "-c", self._program, *self._arguments], death_signal=signal.SIGKILL)
        with contextlib.nullcontext() if self._log is None else open(self._log, "ab") as log_file:  # noqa: ASYNC230
            # A session of its own: Ctrl-C reaches this process alone, which then ends the others in order.
            self._process = await asyncio.create_subprocess_exec(
                *command, env=self._env, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log_file,
                start_new_session=True, limit=_LINE_MAX,
            )  # fmt: skip
        self.starts += 1

    async def _keep(self) -> None:
        pause_ms = _PAUSE_MS
        while True:
            process = self._process
            assert process is not None
            since = asyncio.get_running_loop().create_future()
            settled = asyncio.get_running_loop().call_later(_SETTLED_S, since.set_result, None)
            await self._read(process)
            await process.wait()
            settled.cancel()
            was_ready = self._ready.is_set()
            self._ready.clear()
            if process.returncode is not None:
                self.codes = [*self.codes[-_CODES_MAX:], process.returncode]
            if self._is_leaving:
                return
            is_over = not self.restart or (not was_ready and self.starts == 1)
            if process.returncode == 0 and not is_over and not self._restart_drained:
                await self._stay_drained(process.pid)
            elif process.returncode == 0:  # it was told to leave, by an operator perhaps
                log.info("child_ended", child=self.name, pid=process.pid, starts_again=not is_over)
            else:
                log.error("child_died", child=self.name, pid=process.pid, how=self._ended(), starts_again=not is_over)
            if is_over:
                return
            pause_ms = _PAUSE_MS if since.done() else min(pause_ms * 2, _PAUSE_MAX_MS)
            await asyncio.sleep(pause_ms / 1000)
            await self._spawn()
            log.info("child_started_again", child=self.name, pid=self.pid, starts=self.starts)

    async def _stay_drained(self, pid: int) -> None:
        self._again.clear()
        self.is_drained = True
        log.info("child_drained", child=self.name, pid=pid, start_again=f"kill -{AGAIN.name[3:]} {os.getpid()}")
        try:
            await self._again.wait()
        finally:
            self.is_drained = False

    def begin_again(self) -> None:
        """Start it if it was drained; harmless otherwise."""
        self._again.set()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Take its lines: the one that says it is ready, and others, which are passed on."""
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # a line without end
            async for data in process.stdout:
                line = data.decode(errors="replace")
                if line.startswith(READY):
                    self._ready.set()
                else:
                    sys.stdout.write(line)
                    sys.stdout.flush()

    def _ended(self) -> str:
        code = None if self._process is None else self._process.returncode
        if code is None:
            return "did not end"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    # -- mistreatment --------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End it as a crash would. It is started again, unless `restart` is off."""
        self._signal(signal.SIGKILL)

    def stop_process(self) -> None:
        """Hold it still until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Have it drain, as an operator would."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
