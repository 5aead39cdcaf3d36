"""What every process that hosts shards does besides: retention in small steps, and figures of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
import structlog

from ..runtime.clock import Clock
from ..runtime.errors import StoreError
from ..runtime.node import Node
from ..stores.port import Store

log = structlog.get_logger("foliot")

_INTERVAL_S: Final = 30
_STEP: Final = 1_000  # rows of one commit


async def tidy(
    store: Store, clock: Clock, retention_ms: int, *, is_mine: Callable[[], bool] = lambda: True,
    check: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Retention, in small steps, so that no commit waits long. `is_mine`: whether it is this process's affair at the moment;
    `check`: called first, raises if it is better to stop than to accept what cannot last."""
    while True:
        await anyio.sleep(_INTERVAL_S)
        check()
        before_ms = clock.now_ms() - retention_ms
        try:
            while is_mine() and await store.retain(before_ms, limit=_STEP) == _STEP:  # noqa: ASYNC110
                await anyio.sleep(0.05)  # commits go first
        except StoreError as error:
            log.warning("retention_postponed", error=str(error))


def figures_of(store: Store, node: Node, dropped: int) -> dict[str, float]:
    """Return what this process measured of itself: CPU by stage in ns, commits, rows. `dropped`: messages, by its bus."""
    stats = store.stats
    found: dict[str, float] = {
        "store.commits": stats.commits, "store.shard_commits": stats.shard_commits, "store.rows": stats.rows,
        "store.busy_ns": stats.busy_ns, "store.encode_ns": stats.encode_ns, "bus.dropped": dropped,
    }  # fmt: skip
    for address, cell in node.cells.items():
        kind = address.partition(".")[0]
        for name, busy_ns in cell.stats.busy_ns.items():
            found[f"{kind}.{name}_ns"] = found.get(f"{kind}.{name}_ns", 0) + busy_ns
        for name in ("turns", "messages", "restarts", "set_aside"):
            found[f"{kind}.{name}"] = found.get(f"{kind}.{name}", 0) + getattr(cell.stats, name)
    return found
