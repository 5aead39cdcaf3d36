"""`foliot submit`: one task from arguments, or very many from a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import click

from .cli_common import EXIT_FAILED, Session, connected, echo_json, parse_arguments, parse_object, plain
from .client import Client
from .client_spec import Options, Spec
from .errors import TaskEndedError


@click.command()
@click.argument("handler")
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="An argument; JSON, else text.")
@click.option("--json-payload", metavar="JSON", help="All arguments as a JSON object; - reads standard input.")
@click.option("--from", "source", type=click.File("r"), metavar="FILE", help="A task for each line, a JSON object each.")
@click.option("--delay", metavar="SPAN", help="Run after this long, such as 10m.")
@click.option("--at", metavar="MOMENT", help="Run at an ISO 8601 moment with an offset.")
@click.option("--past", type=click.Choice(["run", "refuse"]), default="run", help="What to do if the moment has passed.")
@click.option("--priority", help="critical, high, normal, low, or 0 (first) to 9.")
@click.option("--queue", help="Instead of the handler's queue.")
@click.option("--key", help="Concurrency key.")
@click.option("--dedupe-key", help="Submit at most once within a day.")
@click.option("--on-conflict", type=click.Choice(["return_existing", "reject", "replace"]), help="If the key is held.")
@click.option("--max-attempts", type=int)
@click.option("--timeout", metavar="SPAN", help="Of one attempt.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option("--wait-timeout", metavar="SPAN", help="Wait no longer than this.")
@connected
def submit(
    session: Session,
    handler: str,
    params: tuple[str, ...],
    json_payload: str | None,
    source: TextIO | None,
    wait: bool,
    wait_timeout: str | None,
    priority: str | None,
    **chosen: Any,
) -> None:
    """Submit a task of HANDLER, such as shop.send_receipt, and print its id."""
    number = int(priority) if priority is not None and priority.isascii() and priority.isdigit() else priority
    options = Options(priority=number, **chosen)
    if source is not None:
        if params or json_payload or wait:
            raise click.UsageError("--from goes with neither --param, --json-payload nor --wait")
        session.run(lambda client: _submit_lines(session, client, handler, source, options))
        return
    arguments = {}
    if json_payload is not None:
        arguments = parse_object(sys.stdin.read() if json_payload == "-" else json_payload)
    arguments |= parse_arguments(params)

    async def work(client: Client) -> None:
        task = await client.submit_with(handler, arguments, options)
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
        session.document(record, task.id + (" (was there already)" if task.existing else ""))

    session.run(work)


async def _submit_lines(session: Session, client: Client, handler: str, source: TextIO, options: Options) -> None:
    def specs() -> Iterator[Spec]:
        for number, line in enumerate(source, 1):
            if line.strip():
                yield client.spec_with(handler, parse_object(line, f"line {number}"), options)

    with _progress(session) as progress:
        result = await client.submit_many(specs(), progress=progress)
    record = {
        "submitted": result.submitted,
        "accepted": result.accepted,
        "existing": result.existing,
        "refused": result.refused_count,
        "refusals": [plain(refusal) for refusal in result.refused[:100]],
    }
    text = f"{result.accepted} accepted, {result.existing} were there already, {result.refused_count} refused"
    for refusal in result.refused[:20]:
        text += f"\n  task {refusal.position + 1}: {refusal.text}"
    session.document(record, text)
    if result.refused_count:
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
