"""Group commit on SQLite: the turns of many shards in one transaction, by whichever way is faster for their number.

What holds: a group is written whole or not at all; a turn under an old epoch refuses the group, and only then it is looked
up which turns are old, and the rest is written without them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ..runtime.errors import StaleEpochError
from .sqlite_small import write_small
from .sqlite_staged import STALE, StagedWriter
from .sqlite_turn import Turn


class GroupWriter:
    """Writes groups on one connection. Used by one thread at a time. `small`: whether small groups go their own way."""

    def __init__(self, connection: sqlite3.Connection, *, small: bool = True) -> None:
        self._connection = connection
        self._staged = StagedWriter(connection)
        self._small = small

    def write(self, turns: Sequence[Turn]) -> list[StaleEpochError | None]:
        """Write the turns in one transaction, durable on return, but for those refused: their errors, by position.
        Raises: sqlite3.Error, and then nothing was written."""
        try:
            self._write(turns)
        except sqlite3.IntegrityError as error:
            if str(error) != STALE:
                raise
        else:
            return [None] * len(turns)
        refused = self._stale(turns)
        self._write([turn for turn, error in zip(turns, refused, strict=True) if error is None])
        return refused

    def _write(self, turns: Sequence[Turn]) -> None:
        if not turns:
            return
        if self._small and len(turns) <= 2 and all(turn.is_small for turn in turns):
            write_small(self._connection, turns)
        else:
            self._staged.write(turns)

    def _stale(self, turns: Sequence[Turn]) -> list[StaleEpochError | None]:
        epochs: dict[int, int] = dict(self._connection.execute("select shard, epoch from shards order by shard"))
        return [
            None if epochs.get(turn.shard) == turn.epoch
            else StaleEpochError(turn.shard, turn.epoch, epochs.get(turn.shard, 0))
            for turn in turns
        ]  # fmt: skip
