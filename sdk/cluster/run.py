"""Running one process of a cluster until it is told to stop: a signal drains it, a second one ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio
import structlog

log = structlog.get_logger("foliot")


class Member(Protocol):
    """A node or a worker."""

    async def run(self, *, ready: Callable[[], None]) -> None: ...

    def drain(self, why: str = "") -> None: ...


async def run_member(member: Member, *, ready: Callable[[], None]) -> None:
    """Run it until SIGTERM or SIGINT, then drain. Ending at once loses nothing either. Raises: as `member.run`."""
    await until_signalled(lambda: member.run(ready=ready), member.drain)


async def until_signalled(work: Callable[[], Awaitable[None]], drain: Callable[[str], None]) -> None:
    """Do the work; the first signal calls `drain` with its name, and the work is then waited for."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:

            async def listen() -> None:
                async for number in signals:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    signal.signal(signal.SIGINT, signal.SIG_DFL)
                    drain(signal.Signals(number).name)
                    return

            group.start_soon(listen)
            await work()
            group.cancel_scope.cancel()
    log.info("stopped")
