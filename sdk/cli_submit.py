"""`foliot submit`: one task from arguments, or very many from a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

import click
import msgspec

from ..actors.messages import TaskRefusal
from .cli_common import (
    EXIT_FAILED,
    Session,
    connected,
    echo_json,
    is_served,
    parse_arguments,
    parse_object,
    plain,
    tell_unheard,
)
from .client import Client
from .client_spec import Options, Spec
from .errors import TaskEndedError, UnknownTaskError
from .payload import PayloadError
from .shell import SHELL, ShellNotServedError

_SHOWN: Final = 100  # refusals in JSON
_SHOWN_AS_TEXT: Final = 20
# Bytes that are no UTF-8 become what no payload can hold, so that their line is refused and not the whole file.
_Lines: Final = click.File("r", encoding="utf-8", errors="surrogateescape")


@click.command()
@click.argument("handler", required=False)
@click.option("--shell", "command", metavar="COMMAND", help="Instead of HANDLER: run this shell command.")
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="An argument; JSON, else text.")
@click.option("--json-payload", metavar="JSON", help="All arguments as a JSON object; - reads standard input.")
@click.option("--from", "source", type=_Lines, metavar="FILE", help="A task for each line, a JSON object each.")
@click.option("--delay", metavar="SPAN", help="Run after this long, such as 10m.")
@click.option("--at", metavar="MOMENT", help="Run at an ISO 8601 moment with an offset.")
@click.option("--past", type=click.Choice(["run", "refuse"]), default="run", help="What to do if the moment has passed.")
@click.option("--priority", help="critical, high, normal, low, or 0 (first) to 9.")
@click.option("--queue", help="Instead of the handler's queue.")
@click.option("--key", help="Concurrency key.")
@click.option("--dedupe-key", help="Submit at most once within a day.")
@click.option("--dedupe-from", metavar="FIELD", help="With --from: HANDLER:VALUE of this argument is each line's key.")
@click.option("--on-conflict", type=click.Choice(["return_existing", "reject", "replace"]), help="If the key is held.")
@click.option("--max-attempts", type=int)
@click.option("--timeout", metavar="SPAN", help="Of one attempt.")
@click.option("--one-way", is_flag=True, help="Hand it to a cluster's broker and wait for no answer: no id, no refusal.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option("--wait-timeout", metavar="SPAN", help="Wait no longer than this.")
@connected
def submit(
    session: Session,
    handler: str | None,
    command: str | None,
    params: tuple[str, ...],
    json_payload: str | None,
    source: TextIO | None,
    dedupe_from: str | None,
    one_way: bool,
    wait: bool,
    wait_timeout: str | None,
    priority: str | None,
    **chosen: Any,
) -> None:
    """Submit a task of HANDLER, such as shop.send_receipt, and print its id."""
    if (handler is None) == (command is None):
        raise click.UsageError("give HANDLER, such as shop.send_receipt, or --shell COMMAND")
    if command is not None:
        if source is not None:
            raise click.UsageError("--from goes with a HANDLER, not with --shell")
        handler = SHELL
    assert handler is not None
    if one_way and (wait or wait_timeout is not None):
        raise click.UsageError("--one-way goes without --wait: nobody learns the task's id")
    number = int(priority) if priority is not None and priority.isascii() and priority.isdigit() else priority
    options = Options(priority=number, **chosen)
    if source is not None:
        if params or json_payload or wait:
            raise click.UsageError("--from goes with neither --param, --json-payload nor --wait")
        if dedupe_from and options.dedupe_key is not None:
            raise click.UsageError("give --dedupe-key or --dedupe-from, not both")
        lines = _Specs(handler, source, options, dedupe_from or "")
        session.run(lambda client: _submit_lines(session, client, lines, one_way=one_way), meet=not one_way)
        return
    if dedupe_from:
        raise click.UsageError("--dedupe-from goes with --from only")
    arguments = {}
    if json_payload is not None:
        arguments = parse_object(sys.stdin.read() if json_payload == "-" else json_payload)
    arguments |= parse_arguments(params)
    if command is not None:
        if "command" in arguments:
            raise click.UsageError("the command is given by --shell and among the arguments, expected one of them")
        arguments["command"] = command

    async def work(client: Client) -> None:
        if one_way:
            await _warn_unheard(session, client, handler, one_way=True)
            await client.submit_one_way_with(handler, arguments, options)
            session.document({"handed_over": 1}, "handed over")
            return
        await _warn_unheard(session, client, handler)
        await _warn_unserved(client, options)
        try:
            task = await client.submit_with(handler, arguments, options)
        except UnknownTaskError as error:
            raise (ShellNotServedError() if handler == SHELL else error) from error
        record: dict[str, Any] = {"id": task.id, "existing": task.existing}
        if wait or wait_timeout is not None:
            if not session.as_json:
                click.echo(f"{task.id} submitted, waiting", err=True)
            try:
                record["result"] = plain(await task.result(wait_timeout))
            except TaskEndedError as error:
                if not session.as_json:
                    raise
                failed = {"code": error.code, "message": str(error)}
                echo_json({**record, "state": error.state, "error": failed})
                sys.exit(EXIT_FAILED)
            record["state"] = "completed"
            if not session.as_json:
                echo_json(record["result"])
                return
        session.document(record, task.id)
        if task.existing and not session.as_json:
            click.echo("(was there already)", err=True)

    session.run(work, meet=not one_way)


async def _warn_unheard(session: Session, client: Client, handler: str, *, one_way: bool = False) -> None:
    """Say of a handler that no worker has told of that the task may fail; of one-way tasks if a node is there to ask."""
    if one_way and not await client.meet_if_there():
        session.tell("no node is there: the broker keeps it until one is")
        return
    tell_unheard(session, client, handler)


async def _warn_unserved(client: Client, options: Options) -> None:
    if options.queue and not await is_served(client, options.queue):
        click.echo(f"no worker serves queue {options.queue!r}: the task waits until one does", err=True)


class _Specs:
    """The tasks of a file. A line that makes none is kept as a refusal, and the others go on."""

    def __init__(self, handler: str, source: TextIO, options: Options, dedupe_from: str) -> None:
        self.handler = handler
        self._source = source
        self.options = options
        self._dedupe_from = dedupe_from
        self.bad: list[TaskRefusal] = []  # the first of them
        self.bad_count = 0

    def made(self, client: Client) -> Iterator[Spec]:
        position = -1
        for number, line in enumerate(self._source, 1):
            if not line.strip():
                continue
            position += 1
            try:
                yield self._spec(client, line, f"line {number}")
            except click.BadParameter as error:
                self._refuse(TaskRefusal(position, "payload", error.message))
            except PayloadError as error:
                self._refuse(TaskRefusal(position, error.code, f"line {number}: {error}"))

    def _spec(self, client: Client, line: str, where: str) -> Spec:
        arguments = parse_object(line, where)
        options = self.options
        if self._dedupe_from:
            value = arguments.get(self._dedupe_from)
            key = f"{self.handler}:{value}"
            if not isinstance(value, str | int) or not key.isprintable() or len(key) > 256:
                raise click.BadParameter(f"{where} has no short text or whole number as {self._dedupe_from!r}")
            options = msgspec.structs.replace(options, dedupe_key=key)
        return client.spec_with(self.handler, arguments, options)

    def _refuse(self, refusal: TaskRefusal) -> None:
        self.bad_count += 1
        if len(self.bad) < _SHOWN:
            self.bad.append(refusal)

    def merged(self, refused: Iterable[TaskRefusal]) -> list[TaskRefusal]:
        """Return the first refusals of both kinds, by position in the file."""
        moved = []
        for refusal in refused:  # their positions do not count the bad lines before them
            position = refusal.position
            for bad in self.bad:
                position += bad.position <= position
            moved.append(msgspec.structs.replace(refusal, position=position))
        return sorted([*self.bad, *moved], key=lambda refusal: refusal.position)[:_SHOWN]


async def _submit_lines(session: Session, client: Client, lines: _Specs, *, one_way: bool) -> None:
    await _warn_unheard(session, client, lines.handler, one_way=one_way)
    if not one_way:
        await _warn_unserved(client, lines.options)
    submit = client.submit_many_one_way if one_way else client.submit_many
    with _progress(session) as progress:
        result = await submit(lines.made(client), progress=progress)
    refused_count = result.refused_count + lines.bad_count
    refused = lines.merged(result.refused)
    record: dict[str, Any] = {
        "submitted": result.submitted + lines.bad_count,
        "accepted": result.accepted,
        "existing": result.existing,
        "refused": refused_count,
        "refusals": [plain(refusal) for refusal in refused],
    }
    text = f"{result.accepted} accepted, {result.existing} were there already, {refused_count} refused"
    if one_way:
        record = {"handed_over": result.accepted, "refused": refused_count, "refusals": record["refusals"]}
        text = f"{result.accepted} handed over, {refused_count} refused"
    for refusal in refused[:_SHOWN_AS_TEXT]:
        text += f"\n  task {refusal.position + 1}: {refusal.text}"
    session.document(record, text)
    if refused_count:
        sys.exit(EXIT_FAILED)


@contextmanager
def _progress(session: Session) -> Iterator[Callable[[int], object] | None]:
    """Show a count and a rate on a terminal, nothing elsewhere."""
    if session.as_json or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} tasks"), TextColumn("{task.speed:,.0f}/s"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("submit", total=None)
        yield lambda count: bar.update(task, completed=count)
