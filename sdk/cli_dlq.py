"""`foliot dlq`: the tasks whose attempts are used up, kept for a person."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click

from .cli_common import EXIT_FAILED, Session, connected, echo_json
from .cli_tasks import print_outcomes, retry_tasks, row_of, show_task
from .client import Client

Command = Callable[[Client, Sequence[str]], Awaitable[Sequence[str]]]


@click.group()
def dlq() -> None:
    """Dead letters: list, show, retry, purge."""


def _filtered(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--handler", default="", help="Those of this handler.")(function)
    function = click.option("--queue", default="", help="Those of this queue.")(function)
    return click.option("--all", "everything", is_flag=True, help="All of the tenant.")(function)


@dlq.command("list")
@click.option("--handler", default="")
@click.option("--queue", default="")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@connected
def list_(session: Session, handler: str, queue: str, limit: int) -> None:
    """List dead letters, newest first."""

    async def work(client: Client) -> None:
        rows = []
        async for info in client.list(states=("dead",), handler=handler, queue=queue, limit=limit):
            if session.as_json:
                echo_json(info)
            else:
                error = f"{info.error.type}: {info.error.message}"[:100] if info.error else ""
                rows.append({**row_of(info), "error": error})
        if not session.as_json:
            columns = ("id", "handler", "queue", "attempt", "ended_at", "error")
            session.rows(rows, columns, empty="no dead letters")

    session.run(work)


@dlq.command()
@click.argument("task_id")
@connected
def show(session: Session, task_id: str) -> None:
    """Show a dead letter with the errors of all its attempts."""
    show_task(session, task_id)


@dlq.command()
@click.argument("task_ids", nargs=-1)
@_filtered
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="New arguments, instead of all old ones.")
@connected
def retry(
    session: Session, task_ids: tuple[str, ...], everything: bool, queue: str, handler: str, params: tuple[str, ...]
) -> None:
    """Queue dead letters again, by id or by filter."""
    if params and not task_ids:
        raise click.UsageError("--param goes with one task only")

    async def again(client: Client, ids: Sequence[str]) -> Sequence[str]:
        return await retry_tasks(client, tuple(ids), params)

    _apply(session, task_ids, everything, queue, handler, again, good="retried")


@dlq.command()
@click.argument("task_ids", nargs=-1)
@_filtered
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@connected
def purge(session: Session, task_ids: tuple[str, ...], everything: bool, queue: str, handler: str, yes: bool) -> None:
    """Delete dead letters for good, by id or by filter."""
    if not yes and not task_ids and (everything or queue or handler):
        if not sys.stdin.isatty():
            raise click.UsageError("deleting by filter needs --yes where nobody can be asked")
        click.confirm("Delete these dead letters for good?", abort=True)

    async def delete(client: Client, ids: Sequence[str]) -> Sequence[str]:
        return await client.purge_many(ids)

    _apply(session, task_ids, everything, queue, handler, delete, good="purged")


def _apply(
    session: Session, task_ids: tuple[str, ...], everything: bool, queue: str, handler: str, command: Command, *, good: str
) -> None:
    """Do it to the named dead letters, or to all that match, page by page."""
    if bool(task_ids) == bool(everything or queue or handler):
        raise click.UsageError("name tasks, or choose them with --all, --handler or --queue")

    async def named(client: Client) -> list[str]:
        states = {info.id: info.state for info in await client.get_many(task_ids)}
        dead = [task_id for task_id in task_ids if states.get(task_id.lower()) == "dead"]
        words = dict(zip(dead, await command(client, dead) if dead else (), strict=True))
        return [words.get(at) or ("not_dead" if at.lower() in states else "not_found") for at in task_ids]

    async def matching(client: Client) -> dict[str, int]:
        counts = {good: 0}
        before = ""
        while True:
            page = await client.page(states=("dead",), queue=queue, handler=handler, before=before, limit=500)
            words = await command(client, [info.id for info in page.tasks]) if page.tasks else ()
            for word in words:
                counts[word] = counts.get(word, 0) + 1
            before = page.next_before
            if not before:
                return counts

    if task_ids:
        print_outcomes(session, task_ids, session.run(named), good=(good,))
        return
    counts = session.run(matching)
    session.document(counts, ", ".join(f"{count} {word}" for word, count in counts.items()))
    if any(word != good for word in counts):
        sys.exit(EXIT_FAILED)
