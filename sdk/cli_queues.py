"""`foliot queues`: list, pause, resume, limit."""

from __future__ import annotations

from typing import Any

import click

from ..actors.messages import QueueConfig
from ..transports.api import QueueView
from .cli_common import Session, cell, connected, current_user, is_served, plain
from .client import Client
from .client_views import moment


@click.group()
def queues() -> None:
    """List, pause, resume and limit queues."""


def _row(view: QueueView) -> dict[str, Any]:
    config = view.config
    paused = f"by {config.paused_by or 'somebody'}" if config.paused else ""
    if config.paused and config.paused_why:
        paused += f": {config.paused_why}"
    return {
        "pool": config.pool,
        "queue": config.queue,
        "waiting": view.waiting,
        "running": view.running,
        "offered": sum(view.offered.values()),
        "free": view.free_credits,
        "workers": view.sessions,
        "concurrency": config.concurrency or None,
        "max_waiting": config.max_waiting or None,
        "paused": paused,
    }


@queues.command("list")
@connected
def list_(session: Session) -> None:
    """List queues: what waits (timers included) and runs, free slots of workers, limits."""
    views = session.run(lambda client: client.queues())
    if session.as_json:
        session.rows([plain(view) for view in views], (), empty="")
        return
    columns: tuple[str, ...] = ("queue", "waiting", "running", "free", "workers", "concurrency", "max_waiting", "paused")
    rows = [_row(view) for view in views]
    if any(row["pool"] != "default" for row in rows):
        columns = ("pool", *columns)
    session.rows(rows, columns, empty="no queues yet: a queue appears with its first task")


def _print(session: Session, config: QueueConfig) -> None:
    text = f"queue {config.queue}: concurrency {config.concurrency or 'unlimited'}"
    text += f", at most {config.max_waiting} waiting" if config.max_waiting else ""
    text += f", ageing {config.ageing_ms / 1000:g}s" if config.ageing_ms else ", no ageing"
    if config.paused:
        text += f", paused by {config.paused_by or 'somebody'} at {cell(moment(config.paused_at_ms))}"
        text += f": {config.paused_why}" if config.paused_why else ""
    session.document(plain(config), text)


@queues.command()
@click.argument("queue")
@click.option("--pool", default="default")
@click.option("--why", default="", help="Shown to whoever asks why a task does not run.")
@click.option("--by", help="Who paused it. [default: you]")
@connected
def pause(session: Session, queue: str, pool: str, why: str, by: str | None) -> None:
    """Start nothing more from a queue; what runs goes on."""
    who = by if by is not None else current_user()

    async def work(client: Client) -> tuple[bool, QueueConfig]:
        known = [view.config.queue for view in await client.queues() if view.config.pool == pool]
        is_strange = queue not in known and not await is_served(client, queue)
        return is_strange, await client.pause_queue(queue, pool=pool, by=who, why=why)

    is_strange, config = session.run(work)
    if is_strange:
        click.echo(f"no worker serves queue {queue!r} and no task has named it yet", err=True)
    _print(session, config)


@queues.command()
@click.argument("queue")
@click.option("--pool", default="default")
@connected
def resume(session: Session, queue: str, pool: str) -> None:
    """Let a paused queue go on."""
    _print(session, session.run(lambda client: client.resume_queue(queue, pool=pool)))


@queues.command()
@click.argument("queue")
@click.option("--pool", default="default")
@click.option("--concurrency", type=click.IntRange(0), help="Slots running at once; 0: no limit.")
@click.option("--max-waiting", type=click.IntRange(0), help="Refuse submissions beyond this; 0: no limit.")
@click.option("--ageing", metavar="SPAN", help="Waiting this long raises a task by one priority; 0: never.")
@connected
def limit(
    session: Session, queue: str, pool: str, concurrency: int | None, max_waiting: int | None, ageing: str | None
) -> None:
    """Change a queue's limits."""
    if concurrency is None and max_waiting is None and ageing is None:
        raise click.UsageError("nothing to change: give --concurrency, --max-waiting or --ageing")
    config = session.run(
        lambda client: client.limit_queue(queue, pool=pool, concurrency=concurrency, max_waiting=max_waiting, ageing=ageing)
    )
    _print(session, config)
