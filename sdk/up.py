"""`foliot up`: the scheduler and its workers in one process, until it is told to stop."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence

import anyio
import structlog
from anyio.abc import TaskGroup

from ..transports.local import default_socket
from .app import Foliot
from .declared import tell_again
from .loading import load_app
from .logs import configure_logging
from .options import InvalidOptionError
from .scheduler import Scheduler, SchedulerOptions
from .shell import SHELL

log = structlog.get_logger("foliot")


def apps_of(app_ref: str | None, *, shell: bool, shell_users: Sequence[str]) -> list[Foliot]:
    """Return the app that is named, and one for shell commands if they are wanted and it has none.

    Raises: AppLoadError, InvalidOptionError if the app has its own say about users.
    """
    apps = [load_app(app_ref)] if app_ref is not None else []
    if shell and not any(SHELL in app.handlers for app in apps):
        apps.append(Foliot("foliot"))
        apps[-1].add_shell(users=shell_users)
    elif shell_users:
        raise InvalidOptionError("--shell-user", ", ".join(shell_users), "none: the app says so with add_shell(users=[...])")
    return apps


async def run_up(
    app_ref: str | None,
    *,
    shell: bool = False,
    shell_users: Sequence[str] = (),
    database: str = "./foliot.db",
    socket: str | None = None,
    concurrency: int = 2_000,
    threads: int = 32,
    processes: int = 2,
    commands: int = 32,
    shards: int = 2,
    queues: list[str] | None = None,
    labels: dict[str, str] | None = None,
    log_json: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain: running tasks get their grace, what did not start is handed back. A
    second signal ends the process at once, which loses nothing either.

    `shell`: run shell commands too, or only them if no app is named; `shell_users`: as whom, besides this process's user.
    `socket`: where clients connect, by default beside the database.
    Raises: AppLoadError, InvalidOptionError if the app has its own say about users, StoreInUseError, StoreUnusableError, and
    what an actor's supervisor gave up on.
    """
    apps = apps_of(app_ref, shell=shell, shell_users=shell_users)
    configure_logging(json=log_json)
    path = socket or default_socket(database)
    options = SchedulerOptions(
        database=database, socket=path, shards=shards, concurrency=concurrency, threads=threads,
        processes=processes, commands=commands, queues=tuple(queues or ()), labels=labels or {},
    )  # fmt: skip

    async def begin(scheduler: Scheduler, _: TaskGroup) -> None:
        handlers = sum(len(app.handlers) for app in apps)
        log.info("ready", database=database, socket=path, handlers=handlers, concurrency=concurrency)
        tell_again(scheduler.refused)
        ready()

    await serve(apps, options, begin)


async def serve(
    apps: Sequence[Foliot], options: SchedulerOptions, begin: Callable[[Scheduler, TaskGroup], Awaitable[None]]
) -> None:
    """Run a scheduler until SIGTERM or SIGINT, then drain. `begin`: called once it runs, with a group for what else is to
    run meanwhile. Raises: as `run_up`, and what `begin` raises."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with Scheduler(*apps, options=options) as scheduler, anyio.create_task_group() as group:
            await begin(scheduler, group)

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
