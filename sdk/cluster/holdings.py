"""What a node says of the shards it hosts: one line when their number has come to rest, not a line for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import anyio
import structlog

log = structlog.get_logger("foliot")

_LOOK_S: Final = 1.0  # moves that follow each other sooner are told together


class Holdings:
    """`hosted`: the slots of this moment. `slots`: how many there are in all."""

    def __init__(self, hosted: Callable[[], Iterable[int]], slots: int) -> None:
        self._hosted = hosted
        self._slots = slots
        self._told: frozenset[int] = frozenset()
        self._seen: frozenset[int] = frozenset()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await anyio.sleep(_LOOK_S)

    def look(self) -> None:
        """Say what changed, if it is as it was at the last look."""
        seen, self._seen = self._seen, frozenset(self._hosted())
        if self._seen != seen or self._seen == self._told:
            return
        gained, lost = len(self._seen - self._told), len(self._told - self._seen)
        self._told = self._seen
        log.info("shards_hosted", hosted=len(self._seen), of=self._slots, gained=gained, lost=lost)
