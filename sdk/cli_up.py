"""`foliot up`: the scheduler and its workers in one process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import click

from .cli_common import counted, guarded

_STRAY_S: Final = 1.0  # for coroutines that were abandoned when their grace was over


@click.command()
@click.option("--app", "app_ref", metavar="MODULE:APP", help="Where the app is, such as shop.tasks:app.")
@click.option("--shell", is_flag=True, help="Run shell commands: whoever reaches the socket can then do what this user can.")
@click.option("--shell-user", "shell_users", multiple=True, metavar="NAME",
              help="Commands may run as this user, too; needs root; repeatable.")  # fmt: skip
@click.option("--db", "database", default="./foliot.db", show_default=True, metavar="PATH", help="The database file.")
@click.option("--socket", metavar="PATH", help="The local socket. [default: next to the database]")
@click.option("--concurrency", type=click.IntRange(1, 100_000), default=2_000, show_default=True, help="Attempts at once.")
@click.option("--threads", type=click.IntRange(1, 10_000), default=32, show_default=True, help="For plain functions.")
@click.option("--processes", type=click.IntRange(0, 1_000), help="For isolated handlers. [default: the number of cores]")
@click.option("--commands", type=click.IntRange(1, 10_000), default=32, show_default=True, help="Shell commands at once.")
@click.option("--shards", type=click.IntRange(1, 1_024), default=2, show_default=True, help="Of a new database.")
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Serve only these. [default: all the app names]")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of its workers; repeatable.")
@click.option("--cluster", "nodes", type=click.IntRange(1, 64), metavar="N",
              help="A cluster of N nodes on this machine instead, with its own NATS and PostgreSQL.")  # fmt: skip
@click.option("--workers", type=click.IntRange(0, 256), default=1, show_default=True, help="Its worker processes.")
@click.option("--data", metavar="DIR", help="Where the cluster keeps everything. [default: nowhere, it is deleted]")
@click.option("--events", is_flag=True, help="The cluster tells what becomes of tasks, for `foliot events`.")
@click.option("--log-json", is_flag=True, help="Log JSON lines.")
def up(
    app_ref: str | None,
    shell: bool,
    shell_users: tuple[str, ...],
    database: str,
    socket: str | None,
    concurrency: int,
    threads: int,
    processes: int | None,
    commands: int,
    shards: int,
    queues: tuple[str, ...],
    labels: tuple[str, ...],
    nodes: int | None,
    workers: int,
    data: str | None,
    events: bool,
    log_json: bool,
) -> None:
    """Run the scheduler and its workers in this process, until Ctrl-C or SIGTERM; then drain.

    Clients and the other commands reach it through its local socket. With --cluster it is a cluster instead: a NATS server,
    a database, nodes and workers, each a process, and clients reach it at the address it prints.
    """

    if app_ref is None and not shell:
        raise click.UsageError("Missing option '--app', such as shop.tasks:app; or --shell, to run shell commands")
    _check_users(shell, shell_users)
    named = dict(label.partition("=")[::2] for label in labels)
    if not all("=" in label for label in labels) or "" in named:
        raise click.BadParameter("a label is KEY=VALUE, such as gpu=true")

    if events and nodes is None:
        raise click.UsageError("--events goes with --cluster: one process alone tells no events")
    if nodes is not None:
        words = _worker_words(app_ref, shell, shell_users, concurrency, threads, processes, commands, queues, labels)
        guarded(lambda: _serve_cluster(nodes, workers, data, words, events=events, log_json=log_json))
        return

    def serve() -> None:
        from .up import run_up

        run_loop(
            run_up(
                app_ref,
                shell=shell,
                shell_users=shell_users,
                database=database,
                socket=socket,
                concurrency=concurrency,
                threads=threads,
                processes=os.cpu_count() or 1 if processes is None else processes,
                commands=commands,
                shards=shards,
                queues=list(queues),
                labels=named,
                log_json=log_json,
            )
        )

    guarded(serve)


def _worker_words(
    app_ref: str | None,
    shell: bool,
    shell_users: Sequence[str],
    concurrency: int,
    threads: int,
    processes: int | None,
    commands: int,
    queues: Sequence[str],
    labels: Sequence[str],
) -> list[str]:
    """Return the words of `foliot worker` for the same options."""
    words = ["--app", app_ref] if app_ref is not None else []
    words += ["--shell"] if shell else []
    words += ["--concurrency", str(concurrency), "--threads", str(threads), "--commands", str(commands)]
    words += ["--processes", str(processes)] if processes is not None else []
    for option, values in (("--shell-user", shell_users), ("--queue", queues), ("--label", labels)):
        words += [word for value in values for word in (option, value)]
    return words


def _serve_cluster(
    nodes: int, workers: int, data: str | None, words: list[str], *, events: bool, log_json: bool
) -> None:  # fmt: skip
    from .cluster.local import LocalCluster, LocalOptions
    from .cluster.up import run_cluster
    from .logs import configure_logging

    configure_logging(json=log_json)
    logs = ["--log-json"] if log_json else []
    told = ["--events"] if events else []
    options = LocalOptions(
        nodes, workers, data, worker_arguments=[*words, *logs], node_arguments=[*logs, *told], restart_drained=False
    )

    def ready(cluster: LocalCluster) -> None:
        click.echo(f"ready: {counted(nodes, 'node')}, {counted(workers, 'worker')}. In other terminals:")
        click.echo(f"  export FOLIOT_ADDRESS={cluster.address}")
        if not events:
            click.echo("it tells no events; for 'foliot events' start it with --events")

    run_loop(run_cluster(options, ready=ready))


def _check_users(shell: bool, users: Sequence[str]) -> None:
    """Raises: click.UsageError if commands could never run as one of the users."""
    if not users:
        return
    if not shell:
        raise click.UsageError("--shell-user goes with --shell")
    from .crontab_plan import own_account, refusal_of

    account = own_account()
    for user in users:
        reason = refusal_of(user, account) if user else "would run as nobody by name, expected a user's name"
        if reason:
            raise click.BadParameter(f"a command {reason}", param_hint="--shell-user")


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(_to_the_end(work))
    else:
        uvloop.run(_to_the_end(work))


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do the work, then end the process even if a handler's coroutine refuses to be cancelled: all that matters is
    closed by then, and closing the loop would wait for it for ever."""
    await work
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left and (await asyncio.wait(left, timeout=_STRAY_S))[1]:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
