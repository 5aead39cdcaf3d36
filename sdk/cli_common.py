"""What all commands share: the way to the scheduler, output for people and for programs, errors and exit codes."""

from __future__ import annotations

import asyncio
import base64
import functools
import getpass
import json
import os
import select
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn, TextIO, TypeVar

import click
import msgspec

from ..runtime.errors import FoliotError, NotFoundError, UnavailableError, UsageError
from .client import Client
from .errors import DuplicateTaskError
from .logs import DEBUG_VARIABLE as DEBUG_VARIABLE

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNAVAILABLE: Final = 3
EXIT_PIPE: Final = 141  # what a shell says of a program that SIGPIPE ended

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """Where to, for whom, and how to print."""

    address: str | None
    tenant: str
    as_json: bool

    def run(self, work: Callable[[Client], Awaitable[T]], *, meet: bool = True) -> T:
        """Connect, do the work, and turn errors into one line and an exit code. `meet`: only if a scheduler is there."""

        async def connected() -> T:
            client = Client(self.address, tenant=self.tenant, on_wait=self.tell)
            try:
                if meet:
                    await client.hello()
                return await work(client)
            finally:
                await client.close()

        return guarded(lambda: asyncio.run(connected()), as_json=self.as_json)

    def rows(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
        """Print one JSON object a line, or a table of `columns`."""
        if self.as_json:
            for row in rows:
                echo_json(row)
        elif not rows:
            click.echo(empty, err=True)
        else:
            table(rows, columns)

    def document(self, value: Mapping[str, Any], text: str) -> None:
        """Print a JSON document, or the text."""
        if self.as_json:
            echo_json(value)
        else:
            click.echo(text)

    def tell(self, text: str) -> None:
        """Print a remark for people, beside what a command prints."""
        if not self.as_json:
            click.echo(f"foliot: {text}", err=True)

    def tell_limit(self, count: int, limit: int) -> None:
        """Say that a list may go on."""
        if count >= limit:
            self.tell(f"the first {count} only, see --limit")

    def tell_declared(self, apps: Mapping[str, str]) -> None:
        """Say of schedules that were changed or deleted that code wins. `apps`: by name, the app whose code declared it."""
        for name, app in list(apps.items())[:1]:
            others = f", as were {len(apps) - 1} more of these" if len(apps) > 1 else ""
            self.tell(
                f"{name!r} was declared in the code of app {app!r}{others}; "
                "what still is will be as the code says again after the next start"
            )


def connected(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a connection, and the `Session` as its first argument."""

    @click.option("--socket", "address", metavar="PATH", envvar="FOLIOT_ADDRESS", help="The scheduler's local socket.")
    @click.option("--tenant", default="default", show_default=True, envvar="FOLIOT_TENANT", help="Whose tasks.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @functools.wraps(function)
    def command(*args: Any, address: str | None, tenant: str, as_json: bool, **kwargs: Any) -> Any:
        return function(Session(address, tenant, as_json), *args, **kwargs)

    return command


# -- errors ------------------------------------------------------------------------------------------------------------


def guarded(work: Callable[[], T], *, as_json: bool = False) -> T:
    """Return what `work` returns; end the process with one line on standard error if it raises."""
    try:
        return work()
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        cause = _innermost(error)
        if isinstance(cause, BrokenPipeError):
            end_if_unread()
        if os.environ.get(DEBUG_VARIABLE):
            raise
        fail(cause, as_json=as_json)


def end_if_unread() -> None:
    """End the process, as other tools end, if who read its output has seen enough, such as `head`. A pipe that broke may
    also be the one to the scheduler, so the streams are asked."""
    unread = [stream.fileno() for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
    if not unread:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in unread:  # the end of the process writes what is left
        os.dup2(nowhere, number)
    os.close(nowhere)
    sys.exit(EXIT_PIPE)


def _is_unread(stream: TextIO) -> bool:
    """Tell whether a stream is a pipe that nobody reads any more."""
    try:
        number = stream.fileno()
    except (OSError, ValueError, AttributeError):  # it is none of the process's own, as in tests
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))


def _innermost(error: BaseException) -> BaseException:
    """Return what a group was raised for: an error raised on purpose before any other."""
    while isinstance(error, BaseExceptionGroup):
        wanted, others = error.split(FoliotError)
        error = (wanted or others or error).exceptions[0]
    return error


def fail(error: BaseException, *, as_json: bool = False) -> NoReturn:
    """Print the error and end the process with its code."""
    code = error.code if isinstance(error, FoliotError) else "internal"
    text = str(error)
    if not isinstance(error, FoliotError):
        text = f"internal error: {type(error).__name__}: {error} (set {DEBUG_VARIABLE}=1 to see where)"
    text = " ".join(text.split())
    if as_json:
        click.echo(json.dumps({"error": {"code": code, "message": text}}, ensure_ascii=False), err=True)
    else:
        click.echo(f"foliot: {text}", err=True)
    sys.exit(exit_code(error))


def exit_code(error: BaseException) -> int:
    """Return what a script learns of an error."""
    if isinstance(error, DuplicateTaskError | NotFoundError):
        return EXIT_FAILED
    if isinstance(error, UsageError):
        return EXIT_USAGE
    return EXIT_UNAVAILABLE if isinstance(error, UnavailableError) else EXIT_FAILED


# -- input -------------------------------------------------------------------------------------------------------------


def parse_arguments(pairs: Iterable[str]) -> dict[str, Any]:
    """Return arguments of `key=value` texts; a value that is JSON is that, any other is text."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not key=value")
        try:
            out[key] = json.loads(value)
        except ValueError:
            out[key] = value
    return out


def parse_object(text: str, where: str = "the payload") -> dict[str, Any]:
    """Return a JSON object. Raises: click.BadParameter."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.BadParameter(f"{where} is a JSON {type(value).__name__}, expected an object of named arguments")
    return value


def current_user() -> str:
    """Return who calls, empty if that cannot be told."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


def tell_unheard(session: Session, client: Client, handler: str) -> None:
    """Say of a handler that no worker of the cluster has told of what becomes of its tasks."""
    doubt = client.unheard_of(handler)
    if doubt:
        session.tell(doubt)


async def is_served(client: Client, queue: str) -> bool:
    """Tell whether some worker serves a queue of that name, in any pool."""
    served = [address.split(".", 2)[-1] for read in await client.workers() for address in read.heartbeat.queues]
    return queue in served


# -- output ------------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return a value in types JSON has: structs as objects, moments as ISO text, bytes in base 64."""
    match value:
        case msgspec.Struct():
            return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        case dict():
            return {str(key): plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case datetime():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode()
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def counted(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def echo_json(value: Any) -> None:
    click.echo(json.dumps(plain(value), ensure_ascii=False))


def cell(value: Any) -> str:
    """Return a value as a table or a line shows it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print a table: drawn on a terminal, else in columns without borders, nothing cut off."""
    cells = [[" ".join(cell(row.get(column)).splitlines()) for column in columns] for row in rows]
    titles = [column.replace("_", " ") for column in columns]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*titles, box=None, header_style="bold")
        for line in cells:
            drawn.add_row(*[Text(text, style=_STYLES.get(text, "")) for text in line])
        Console().print(drawn)
        return
    widths = [max(len(line[at]) for line in [titles, *cells]) for at in range(len(columns))]
    for line in [titles, *cells]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


_STYLES: Final = {
    "completed": "green", "running": "cyan", "dead": "bold red", "failed": "red", "cancelled": "yellow",
    "expired": "yellow", "retrying": "magenta", "alive": "green", "silent": "red", "draining": "yellow",
}  # fmt: skip
