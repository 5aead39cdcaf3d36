"""`foliot up --cluster`: a real cluster on this machine with one command, until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import structlog

from .children import AGAIN
from .local import LocalCluster, LocalOptions
from .run import until_signalled

log = structlog.get_logger("foliot")


async def run_cluster(options: LocalOptions, *, ready: Callable[[LocalCluster], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain all of it; SIGUSR1 starts again what was drained. `ready`: called once
    everything runs.

    Raises: as `LocalCluster`.
    """
    leave = anyio.Event()

    def drain(signal: str) -> None:
        log.info("draining", signal=signal)
        leave.set()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        async with LocalCluster(options) as cluster:
            loop.add_signal_handler(AGAIN, cluster.begin_again)
            try:
                ready(cluster)
                await leave.wait()
            finally:
                loop.remove_signal_handler(AGAIN)

    await until_signalled(serve, drain)
