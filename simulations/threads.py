"""Threads in a simulated process: there are none.

Generated runs have coroutines only; plain handlers of users' tests run as strands (`simulations.strands`). So whatever asks
for a thread would run outside of the simulation, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable

from ..runtime.blocking import Running
from .loop import EscapeError


class NoThreads:
    """Implements `runtime.blocking.Blocking` by refusing."""

    def start(self, function: Callable[[], None], *, name: str) -> Running:
        raise EscapeError(f"starting the thread {name!r}", "work on the event loop")
