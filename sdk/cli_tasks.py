"""`foliot tasks`: list, show, cancel, retry, logs, why."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import click

from ..actors.states import State
from .cli_common import EXIT_FAILED, Session, cell, connected, echo_json, parse_arguments, plain, table
from .client import Client
from .client_views import TaskInfo

COLUMNS: Final = ("id", "state", "handler", "queue", "priority", "attempt", "due_at", "updated_at")
_FOLLOW_S: Final = 0.3
_FINAL: Final = [state.label for state in State if state.is_final]


@click.group()
def tasks() -> None:
    """List, show, cancel and retry tasks; their logs; why they wait."""


def row_of(info: TaskInfo) -> dict[str, Any]:
    return {name: getattr(info, name) for name in info.__struct_fields__}


@tasks.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice([state.label for state in State]))
@click.option("--queue", default="")
@click.option("--handler", default="")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@click.option("--before", default="", metavar="ID", help="Only tasks older than this one.")
@click.option("--all-tenants", is_flag=True)
@connected
def list_(
    session: Session, states: tuple[str, ...], queue: str, handler: str, limit: int, before: str, all_tenants: bool
) -> None:
    """List tasks, newest first."""

    async def work(client: Client) -> None:
        rows = []
        chosen = client.list(
            states=states, queue=queue, handler=handler, limit=limit, before=before, all_tenants=all_tenants
        )
        async for info in chosen:
            if session.as_json:
                echo_json(info)
            else:
                rows.append(row_of(info))
        if not session.as_json:
            columns = (*COLUMNS[:1], "tenant", *COLUMNS[1:]) if all_tenants else COLUMNS
            session.rows(rows, columns, empty="no such tasks")

    session.run(work)


@tasks.command()
@click.argument("task_id")
@connected
def show(session: Session, task_id: str) -> None:
    """Show all that is known of a task."""
    show_task(session, task_id)


def show_task(session: Session, task_id: str) -> None:
    """Print a task with its history."""
    info = session.run(lambda client: client.get(task_id))
    if session.as_json:
        echo_json(info)
        return
    for name in info.__struct_fields__:
        value = getattr(info, name)
        if name in ("attempts", "error") or value in (None, "", False):
            continue
        text = cell(value)
        if name == "attempt" and info.attempt > info.max_attempts:
            text += " (counted anew since a retry)"
        click.echo(f"{name.replace('_', ' '):<14}{text}")
    if info.error is not None:
        click.echo(f"{'error':<14}{info.error.type}: {info.error.message}")
        if not any(at.error and at.error.traceback for at in info.attempts):
            _print_traceback(info.error.traceback)
    if info.attempts:
        click.echo("\nattempts that did not complete")
        rows = [
            {**plain(at), "ended_at": at.ended_at, "error": f"{at.error.type}: {at.error.message}" if at.error else ""}
            for at in info.attempts
        ]
        table(rows, ("attempt", "outcome", "worker", "ended_at", "error"))
    for at in info.attempts:
        if at.error and at.error.traceback:
            click.echo(f"\nattempt {at.attempt}, {at.outcome}")
            _print_traceback(at.error.traceback)


def _print_traceback(text: str) -> None:
    for line in text.rstrip().splitlines():
        click.echo(f"    {line}")


@tasks.command()
@click.argument("task_ids", nargs=-1, required=True)
@click.option("--reason", default="")
@connected
def cancel(session: Session, task_ids: tuple[str, ...], reason: str) -> None:
    """End tasks before they are done.

    Prints `cancelled`, `cancelling` (it runs; it was told, and is killed after a grace), `ended` (too late) or
    `not_found` for each.
    """
    outcomes = session.run(lambda client: client.cancel_many(task_ids, reason=reason))
    print_outcomes(session, task_ids, list(outcomes), good=("cancelled", "cancelling"))


@tasks.command()
@click.argument("task_ids", nargs=-1, required=True)
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="New arguments, instead of all old ones.")
@connected
def retry(session: Session, task_ids: tuple[str, ...], params: tuple[str, ...]) -> None:
    """Queue ended tasks again, their attempts counted anew."""
    outcomes = session.run(lambda client: retry_tasks(client, task_ids, params))
    print_outcomes(session, task_ids, outcomes, good=("retried",))


async def retry_tasks(client: Client, task_ids: tuple[str, ...], params: tuple[str, ...]) -> list[str]:
    """Return a word for each task; new arguments are for one task only."""
    if not params:
        return list(await client.retry_many(task_ids))
    if len(task_ids) != 1:
        raise click.UsageError("--param goes with one task only")
    return [await client.retry(task_ids[0], payload=parse_arguments(params))]


def print_outcomes(
    session: Session, ids: tuple[str, ...], outcomes: list[str], *, good: tuple[str, ...], column: str = "id"
) -> None:
    """Print what became of each; fail if any word is not good."""
    rows = [{column: id, "outcome": word} for id, word in zip(ids, outcomes, strict=True)]
    session.rows(rows, (column, "outcome"), empty="nothing to do")
    if not all(word in good for word in outcomes):
        sys.exit(EXIT_FAILED)


@tasks.command()
@click.argument("task_id")
@click.option("--attempt", type=click.IntRange(0), default=0, help="Of this attempt only.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the task ends.")
@connected
def logs(session: Session, task_id: str, attempt: int, follow: bool) -> None:
    """Print what a task's attempts wrote and logged; each under a line of its own if there are several."""

    async def work(client: Client) -> None:
        shown: dict[int, int] = {}  # characters, by attempt
        above = 0  # the attempt whose output was printed last
        while True:
            is_over = not follow or (await client.get(task_id)).state in _FINAL
            texts = await client.logs_by_attempt(task_id, attempt=attempt)
            new = {number: text[shown.get(number, 0) :] for number, text in texts.items()}
            if session.as_json:
                if not follow or any(new.values()):
                    echo_json({"id": task_id, "text": "".join(new.values())})
            else:
                for number, text in new.items():
                    if text and number != above and len(texts) > 1:
                        click.echo(f"--- attempt {number} ---")
                    click.echo(text, nl=False)
                    above = number if text else above
            shown = {number: len(text) for number, text in texts.items()}
            if is_over:
                return
            await asyncio.sleep(_FOLLOW_S)

    session.run(work)


@tasks.command()
@click.argument("task_id")
@connected
def why(session: Session, task_id: str) -> None:
    """Say why a task does not run, or where it is."""
    found = session.run(lambda client: client.why(task_id))
    text = f"{found.state}: {found.text}"
    if found.ahead:
        text += f"; {found.ahead} tasks are before it"
    session.document(plain(found), text)
