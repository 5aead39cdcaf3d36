"""`foliot events`: what becomes of tasks, as a cluster tells it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import click

from .cli_common import Session, connected, echo_json
from .client import Client
from .client_events import TaskEvent
from .durations import Span

_ALL: Final = "520w"  # events are kept for a day by default, and never so long


@click.command()
@click.option("--since", metavar="SPAN", help="Begin so long ago, such as 1h, or at a moment. [default: all that is kept]")
@click.option("--cursor", default="", metavar="TEXT", help="Go on from an event seen earlier (--json shows its cursor).")
@click.option("--follow", "-f", is_flag=True, help="Wait for more, until Ctrl-C. Alone: what comes from now on.")
@connected
def events(session: Session, since: str | None, cursor: str, follow: bool) -> None:
    """Print what becomes of tasks: every change of their states, in a cluster whose nodes run with --events."""
    if since is not None and cursor:
        raise click.UsageError("give --since or --cursor, not both")

    async def read(client: Client) -> None:
        begin = _since(since, follow)
        async for event in client.events(begin, cursor=cursor, follow=follow, on_missed=missed, on_silent=silent):
            if session.as_json:
                echo_json(event)
            else:
                click.echo(_line(event))

    def missed(count: int) -> None:
        lost = "the feed itself was lost, and what was told before"
        session.tell(lost if count < 0 else f"{count} messages of events are missing here")

    def silent(nodes: Sequence[str]) -> None:
        session.tell(f"{', '.join(nodes)} tell no events, so what they do is missing here: start them with --events")

    session.run(read)


def _since(text: str | None, follow: bool) -> Span | datetime | None:
    """Return where to begin. A text that begins as a date is a moment."""
    if text is None:
        return None if follow else _ALL
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text


def _line(event: TaskEvent) -> str:
    at = event.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    attempt = f"  attempt {event.attempt}" if event.attempt else ""
    return f"{at}Z  {event.task_id}  {event.before or '-'} -> {event.after}{attempt}"
