"""`foliot up --cluster`: a real cluster on this machine with one command, until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import structlog

from .local import LocalCluster, LocalOptions
from .run import until_signalled

log = structlog.get_logger("foliot")


async def run_cluster(options: LocalOptions, *, ready: Callable[[LocalCluster], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain all of it. `ready`: called once everything runs.

    Raises: as `LocalCluster`.
    """
    leave = anyio.Event()

    def drain(signal: str) -> None:
        log.info("draining", signal=signal)
        leave.set()

    async def serve() -> None:
        async with LocalCluster(options) as cluster:
            ready(cluster)
            await leave.wait()

    await until_signalled(serve, drain)
