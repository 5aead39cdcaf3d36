"""Saying things again after the way to the broker was interrupted.

Once is not enough: servers that were all started anew take their clients before they have found each other, and what is sent
in that moment reaches nobody on another server, without anybody being told. Later than that, what was lost would only be
noticed by what is repeated every ten seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from ...transports.nats.link import LinkState

PAUSES_S: Sequence[float] = (0.0, 1.0, 2.0)
"""Before each time."""


class Renewal:
    """Calls `renew`, which is harmless when repeated, some times after each interruption."""

    def __init__(self, renew: Callable[[], None], pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._renew = renew
        self._pauses_s = pauses_s
        self._back = anyio.Event()

    def link_changed(self, state: LinkState) -> None:
        """Hear how the connection stands."""
        if state.is_up and state.sessions > 1:
            self._back.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._back.wait()
            self._back = anyio.Event()
            for pause_s in self._pauses_s:
                await anyio.sleep(pause_s)
                self._renew()
