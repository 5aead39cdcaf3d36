"""`foliot schedules pause`, `resume`, `delete` and `trigger`: to the ones named, or to all whose name begins so."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import click

from ..actors.schedule_messages import MISSED, OVERLAPS
from .cli_common import EXIT_FAILED, Session, connected, current_user, echo_json, plain
from .cli_tasks import print_outcomes
from .client import Client
from .schedule_errors import ScheduleNotFoundError
from .schedule_views import ScheduleInfo

_CHUNK: Final = 500
Do = Callable[[Client, Sequence[str]], Awaitable[Sequence[str]]]


def _chosen(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--prefix", default="", help="Those whose name begins so.")(function)
    function = click.option("--all", "everything", is_flag=True, help="All of the tenant.")(function)
    return click.argument("names", nargs=-1)(function)


@click.command()
@_chosen
@click.option("--why", default="", help="Shown with the schedule.")
@click.option("--by", help="Who paused it. [default: you]")
@connected
def pause(session: Session, names: tuple[str, ...], everything: bool, prefix: str, why: str, by: str | None) -> None:
    """Fire nothing until it is resumed; what runs goes on."""
    who = current_user() if by is None else by

    async def do(client: Client, some: Sequence[str]) -> Sequence[str]:
        return await client.schedules.pause(list(some), why=why, by=who)

    _apply(session, names, everything, prefix, do, good=("paused", "unchanged"))


@click.command()
@_chosen
@click.option("--missed", type=click.Choice((*MISSED, "own")), default="skip", show_default=True,
              help="Which of the ticks that passed fire now; own: as the schedule says.")  # fmt: skip
@connected
def resume(session: Session, names: tuple[str, ...], everything: bool, prefix: str, missed: str) -> None:
    """Tick again. Of the ticks that passed meanwhile none fires, unless --missed says so."""

    async def do(client: Client, some: Sequence[str]) -> Sequence[str]:
        return await client.schedules.resume(list(some), missed="" if missed == "own" else missed)

    _apply(session, names, everything, prefix, do, good=("resumed", "unchanged", "over"))


@click.command()
@_chosen
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@connected
def delete(session: Session, names: tuple[str, ...], everything: bool, prefix: str, yes: bool) -> None:
    """Delete schedules with their history; tasks they made go on."""
    if (everything or prefix) and not names and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("deleting by --prefix or --all needs --yes where nobody can be asked")
        click.confirm("Delete these schedules for good?", abort=True)

    declared: dict[str, str] = {}

    async def do(client: Client, some: Sequence[str]) -> Sequence[str]:
        for info in await client.schedules.get_many(some) if names else ():
            note(info)
        return await client.schedules.delete(list(some))

    def note(info: ScheduleInfo) -> None:
        if info.declared_in:
            declared[info.name] = info.declared_in

    try:
        _apply(session, names, everything, prefix, do, good=("deleted",), note=note)
    finally:
        session.tell_declared(declared)


def _apply(
    session: Session, names: tuple[str, ...], everything: bool, prefix: str, do: Do, *, good: tuple[str, ...],
    note: Callable[[ScheduleInfo], None] = lambda info: None,
) -> None:  # fmt: skip
    """Do it to the named schedules, or to all that match, page by page, each of which is shown to `note` before."""
    if bool(names) == bool(everything or prefix) or (everything and prefix):
        raise click.UsageError("name schedules, or choose them with --prefix, or --all")

    async def named(client: Client) -> list[str]:
        words = list(await do(client, names))
        if words == ["not_found"]:
            raise ScheduleNotFoundError(names[0], session.tenant)
        return words

    async def matching(client: Client) -> dict[str, int]:
        counts = {good[0]: 0}
        some: list[str] = []

        async def flush() -> None:
            for word in await do(client, some) if some else ():
                counts[word] = counts.get(word, 0) + 1
            some.clear()

        async for info in client.schedules.list(prefix=prefix):
            note(info)
            some.append(info.name)
            if len(some) == _CHUNK:
                await flush()
        await flush()
        return counts

    if names:
        print_outcomes(session, names, session.run(named), good=good, column="name")
        return
    counts = session.run(matching)
    session.document(counts, ", ".join(f"{count} {word}" for word, count in counts.items()))
    if any(word not in good for word in counts):
        sys.exit(EXIT_FAILED)


@click.command()
@click.argument("name")
@click.option("--overlap", type=click.Choice(OVERLAPS), default=None, help="Instead of the schedule's own, for this once.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@connected
def trigger(session: Session, name: str, overlap: str | None, wait: bool) -> None:
    """Run a schedule's task now.

    Whatever its rule says; prints the task's id.
    """

    async def work(client: Client) -> dict[str, Any]:
        task = await client.schedules.trigger(name, overlap=overlap or "")
        if task is None:
            return {"schedule": name, "outcome": "buffered", "task": None}
        record: dict[str, Any] = {"schedule": name, "outcome": "triggered", "task": task.id}
        if wait:
            if not session.as_json:
                click.echo(f"{task.id} triggered, waiting", err=True)
            record["result"] = plain(await task.result())
        return record

    record = session.run(work)
    if record["task"] is None and not session.as_json:
        click.echo(f"{name} is running; the trigger was put behind that run", err=True)
        return
    if "result" in record and not session.as_json:
        echo_json(record["result"])
        return
    session.document(record, str(record["task"]))
