"""Arrays by our own codecs: what they bind is what the server reads, and what asyncpg's own would have bound."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from foliot.sdk.servers import LocalPostgres
from foliot.stores.postgres.arrays import _KNOWN_MAX, install, integers

CASES: list[tuple[str, list[Any]]] = [
    ("smallint", [0, -32_768, 32_767, None, 7]),
    ("int", [0, -(2**31), 2**31 - 1, None]),
    ("bigint", [0, -(2**63), 2**63 - 1, None]),
    ("smallint", [-32_768, -1, 32_767]),  # without a null they go another way
    ("int", [-(2**31), -1, 2**31 - 1]),
    ("bigint", [-(2**63), -1, 2**63 - 1]),
    ("bigint", [None]),
    ("bigint", list(range(5_000))),
    ("bytea", [b"", b"\x00\xff", None, b"x" * 70_000]),
    ("bytea", [b"a"] * 300),
    *[(name, []) for name in ("smallint", "int", "bigint", "bytea")],
]


@pytest.fixture
async def pair(postgres_server: LocalPostgres) -> AsyncIterator[tuple[Any, Any]]:
    """A connection with our codecs, and one without."""
    quick, plain = await asyncpg.connect(postgres_server.dsn), await asyncpg.connect(postgres_server.dsn)
    install(quick)
    yield quick, plain
    await quick.close()
    await plain.close()


@pytest.mark.parametrize(("name", "values"), CASES, ids=[f"{name} {len(values)}" for name, values in CASES])
async def test_an_array_arrives_as_it_was_sent(pair: tuple[Any, Any], name: str, values: list[Any]) -> None:
    quick, plain = pair
    question = f"select $1::{name}[] as same, $1::{name}[]::text as text, cardinality($1::{name}[]) as size"

    for sent in (values, tuple(values)):
        row, expected = await quick.fetchrow(question, sent), await plain.fetchrow(question, sent)

        assert list(row["same"]) == values == expected["same"]
        assert (row["text"], row["size"]) == (expected["text"], expected["size"])


async def test_a_value_that_does_not_fit_is_an_error_and_the_connection_goes_on(pair: tuple[Any, Any]) -> None:
    quick, _ = pair
    bounds = (("smallint", 2**15), ("int", 2**31), ("bigint", 2**63))
    beyond: list[tuple[str, Any]] = [(name, value) for name, bound in bounds for value in (bound, -bound - 1)]
    for name, wrong in [*beyond, ("bigint", "x"), ("bytea", 5)]:
        for values in ([wrong], [None, wrong]):
            with pytest.raises(asyncpg.DataError):
                await quick.fetchval(f"select $1::{name}[]", values)

    assert await quick.fetchval("select $1::bigint[]", [1]) == [1]


def test_arrays_of_more_lengths_than_are_kept_are_written_as_well() -> None:
    encode, decode = integers(20, "q")

    for length in (*range(_KNOWN_MAX + 2), 1, _KNOWN_MAX):
        values = list(range(-length, 0))
        assert decode(encode(values)) == values
