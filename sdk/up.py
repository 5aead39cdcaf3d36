"""`foliot up`: the scheduler and its workers in one process, until it is told to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable

import anyio
import structlog

from ..transports.local import default_socket
from .loading import load_app
from .logs import configure_logging
from .scheduler import Scheduler, SchedulerOptions

log = structlog.get_logger("foliot")


async def run_up(
    app_ref: str,
    *,
    database: str = "./foliot.db",
    socket: str | None = None,
    concurrency: int = 2_000,
    threads: int = 32,
    processes: int = 2,
    shards: int = 2,
    queues: list[str] | None = None,
    labels: dict[str, str] | None = None,
    log_json: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain: running tasks get their grace, what did not start is handed back. A
    second signal ends the process at once, which loses nothing either.

    `socket`: where clients connect, by default beside the database. Raises: AppLoadError, StoreInUseError,
    StoreUnusableError, and what an actor's supervisor gave up on.
    """
    app = load_app(app_ref)
    configure_logging(json=log_json)
    path = socket or default_socket(database)
    options = SchedulerOptions(
        database=database, socket=path, shards=shards, concurrency=concurrency, threads=threads,
        processes=processes, queues=tuple(queues or ()), labels=labels or {},
    )  # fmt: skip
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with Scheduler(app, options=options) as scheduler, anyio.create_task_group() as group:
            log.info("ready", database=database, socket=path, handlers=len(app.handlers), concurrency=concurrency)
            ready()

            async def stop_with_the_scheduler() -> None:
                await scheduler.stopped()
                group.cancel_scope.cancel()

            group.start_soon(stop_with_the_scheduler)
            async for number in signals:
                log.info("draining", signal=signal.Signals(number).name)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                break
            group.cancel_scope.cancel()
        log.info("stopped")
