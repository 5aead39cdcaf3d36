"""How an answer of SQLite is packed into one row, and read back: what `sqlite_rows` and its siblings share.

A thread gives the GIL away at every row it fetches, and against a busy event loop gets it back milliseconds later; so
the database itself packs the rows of an answer: numbers and texts into one JSON array, bytes into one blob a column,
with their lengths among the numbers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ..actors.messages import Kind

Statement = tuple[str, Sequence[Any]]

KINDS: Final = (
    "(select json_group_array(json(body)) from kinds where template_id in (select template_id from page)) as kinds"
)
"""Expression for the kinds of the rows of `page`; `kinds_of` is the other half."""

_decode_kinds = msgspec.json.Decoder(list[Kind]).decode


def blob(column: str) -> str:
    """Return the expression that joins a column of bytes, which `group_concat` does as they are."""
    return f"cast(group_concat({column}, '') as blob)"


def fetch(connection: sqlite3.Connection, statement: Statement) -> Any:
    """Run a statement that returns one row, and return that row. All of it is fetched, so no snapshot stays open."""
    rows = connection.execute(*statement).fetchall()
    assert len(rows) == 1
    return rows[0]


def kinds_of(text: str) -> list[Kind]:
    """Return the kinds of a JSON array of their bodies."""
    return _decode_kinds(text)


def encode_json(values: Any) -> str:
    """Return JSON for `json_each`. Not for texts: it cuts them at a NUL."""
    return msgspec.json.encode(values).decode()


def texts(values: Sequence[str], *, first: int) -> tuple[str, list[str | None]]:
    """Return rows for `values` in SQL, and what to bind from parameter `first` on. Bound, not in JSON, which cuts texts at
    a NUL; in few sizes, so that the statements stay prepared. Repeats the last one, and is null where there is none."""
    bound: list[str | None] = [*values] or [None]
    size = 1 << (len(bound) - 1).bit_length()
    bound += bound[-1:] * (size - len(bound))
    return ",".join([f"(?{number})" for number in range(first, first + size)]), bound
