"""Blocking work as a port: run a function on a thread of its own.

Nothing else in the product starts a thread. The threads are daemons: one that is stuck in foreign code cannot keep the
process from ending, and whoever started it decides how long to wait for the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class Running(Protocol):
    """A function on its way."""

    def is_alive(self) -> bool:
        """Tell whether it still runs."""
        ...

    def join(self, timeout: float | None = None) -> None:
        """Wait, at most `timeout` seconds, until it has returned."""
        ...


class Blocking(Protocol):
    """Whoever can run a function without holding up the event loop."""

    def start(self, function: Callable[[], None], *, name: str) -> Running:
        """Run `function` on its own thread, from now on. An exception it raises ends only that thread."""
        ...


class SystemThreads:
    """Threads of the operating system."""

    def start(self, function: Callable[[], None], *, name: str) -> Running:
        thread = threading.Thread(target=function, name=name, daemon=True)
        thread.start()
        return thread
