"""A node's clock against the others': measured, told, and a reason to leave.

The database's clock is the one all nodes share, so it decides; the peers' clocks, as they say when asked, decide only
while the database cannot be asked, and then at least two of them, by their median. Above a second a node warns; above
five it would fire tasks so early or late that others do it better: it drains itself and says why. Only what a
measurement is sure of counts: the time it took is taken off.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import structlog

from ...runtime.clock import Clock
from ...runtime.errors import FoliotError
from .errors import ClockSkewError

log = structlog.get_logger("foliot")


@dataclass(frozen=True)
class SkewConfig:
    """`patience`: measurements in a row that must agree before the node leaves."""

    interval_ms: int = 10_000
    warn_ms: int = 1_000
    drain_ms: int = 5_000
    patience: int = 2


class SkewWatch:
    """`store_now`: asks the database's clock. `peers`: asks how far their clocks are ahead of this one, for sure. `drain`:
    called once, with the error that says why."""

    def __init__(
        self,
        node: str,
        *,
        clock: Clock,
        store_now: Callable[[], Awaitable[int]],
        peers: Callable[[], Awaitable[Sequence[int]]],
        drain: Callable[[ClockSkewError], None],
        config: SkewConfig | None = None,
    ) -> None:
        self._node = node
        self._clock = clock
        self._store_now = store_now
        self._peers = peers
        self._drain = drain
        self._config = config or SkewConfig()
        self._beyond = 0
        self.skew_ms = 0
        """How far this clock is ahead, by the last measurement."""

    async def check_at_start(self) -> None:
        """Raises: ClockSkewError if the node must not join; what asking the database raises."""
        await self._against_store()
        if abs(self.skew_ms) > self._config.drain_ms:
            raise ClockSkewError(self._node, self.skew_ms, self._config.drain_ms, "the database's")

    async def run(self) -> None:
        """Measure until cancelled, or until the node is told to leave."""
        while True:
            await anyio.sleep(self._config.interval_ms / 1000)
            if await self.measure():
                return

    async def measure(self) -> bool:
        """Measure once; tell whether the node was told to leave."""
        config = self._config
        against = "the database's"
        try:
            await self._against_store()
        except FoliotError as error:
            skews = sorted(await self._peers())
            if len(skews) < 2:
                log.info("clock_not_measured", reason=str(error))
                return False
            against = f"the median of {len(skews)} peers'"
            self.skew_ms = -skews[len(skews) // 2]
        if abs(self.skew_ms) <= config.warn_ms:
            self._beyond = 0
            return False
        self._beyond = self._beyond + 1 if abs(self.skew_ms) > config.drain_ms else 0
        log.warning("clock_skewed", node=self._node, skew_ms=self.skew_ms, against=against, drains_above_ms=config.drain_ms)
        if self._beyond >= config.patience:
            self._drain(ClockSkewError(self._node, self.skew_ms, config.drain_ms, against))
            return True
        return False

    async def _against_store(self) -> None:
        before_ms = self._clock.now_ms()
        store_ms = await self._store_now()
        after_ms = self._clock.now_ms()
        self.skew_ms = -sure_lead(store_ms, before_ms, after_ms)


def sure_lead(theirs_ms: int, before_ms: int, after_ms: int) -> int:
    """Return how far a clock that was read between two instants of the own one is ahead of it at least; negative: behind."""
    low, high = theirs_ms - after_ms, theirs_ms - before_ms  # the lead is in between
    return low if low > 0 else high if high < 0 else 0
