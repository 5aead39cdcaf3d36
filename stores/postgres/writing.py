"""How a group is written: one statement, one round trip, one transaction.

The rows of tasks and the ledger are in every statement, those that are rare and those of schedules where there are any. A
statement is a row of function calls, which PostgreSQL makes in their order; `migrations/postgres/002_commit.sql` has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from ...runtime.errors import StaleEpochError
from . import turn as cells
from .turn import Columns, Turn

_WIDTHS: Final = {
    "commit_fence": 9, "commit_before": 7, "commit_tasks": 29, "commit_rare": 36, "commit_schedules": 36, "commit_counts": 5,
}  # fmt: skip
LEASES: Final = "commit_tasks"
"""The column of the answer that says how many leases a shard kept whose list was made shorter."""


class Statements:
    """The prepared statements of one connection."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._prepared: dict[tuple[str, ...], Any] = {}

    async def write(self, writer: tuple[int, int, int], turns: Sequence[Turn], shorten: Sequence[int]) -> list[int]:
        """Write the turns, in one transaction. `writer`: its number, incarnation and the group's number.
        Returns: of shards that were to be shortened and still have leases, shard << 32 | how many.
        Raises: what asyncpg does; then nothing was written, if the server answered."""
        names = ["commit_fence", "commit_tasks", "commit_counts"]
        values: Columns = [*writer, *cells.fence(turns), *cells.tasks(turns), shorten]  # type: ignore[list-item]
        if any(turn.is_rare for turn in turns):
            names.insert(1, "commit_before")
            names.insert(3, "commit_rare")
            values[9:9] = cells.before(turns)
            values += cells.rare(turns)
        if any(turn.has_schedules for turn in turns):
            names.insert(-1, "commit_schedules")
            values += cells.schedules(turns)
        values += cells.counts(turns)
        statement = await self._statement(tuple(names))
        [row] = await statement.fetch(*values)
        left: list[int] = row[LEASES]
        return left

    async def _statement(self, names: tuple[str, ...]) -> Any:
        found = self._prepared.get(names)
        if found is None:
            calls, at = [], 1
            for name in names:
                calls.append(f"{name}({', '.join([f'${number}' for number in range(at, at + _WIDTHS[name])])})")
                at += _WIDTHS[name]
            found = self._prepared[names] = await self._connection.prepare(f"select {', '.join(calls)}")
        return found


def stale(turns: Sequence[Turn], epochs: dict[int, int]) -> list[StaleEpochError | None]:
    """Return an error for each turn under an old epoch."""
    return [
        None if epochs.get(turn.shard) == turn.epoch
        else StaleEpochError(turn.shard, turn.epoch, epochs.get(turn.shard, 0))
        for turn in turns
    ]  # fmt: skip
