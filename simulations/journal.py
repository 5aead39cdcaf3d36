"""What the product logs during a run: into the trace, by event and level, and nowhere else.

An event with an exception is something nobody handled, whatever the product made of it.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

from .world import World


@contextmanager
def logs_into(world: World) -> Iterator[None]:
    """Send what is logged inside the block to the world's trace."""

    def take(logger: Any, level: str, event: MutableMapping[str, Any]) -> Any:
        note_log(world, level, event)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[take], wrapper_class=structlog.make_filtering_bound_logger(0))
    try:
        yield
    finally:
        structlog.configure(**before)


def note_log(world: World, level: str, event: MutableMapping[str, Any]) -> None:
    """Put what the running process logged into the trace."""
    process = world.loop.lane.name
    if level in ("warning", "error", "critical") and not world.loop.lane.is_dead:
        name = str(event.get("event", ""))
        world.loop.trace.note(world.loop.now_ns, process, 0, "log", level=level, event=name)
        world.count(f"log.{name}")
        error = event.get("exc_info")
        if error:
            kind = type(error).__name__ if isinstance(error, BaseException) else "exception"
            world.trouble(process, f"{name}:{kind}", f"{name}: {error!r} {event.get('address', '')}")
