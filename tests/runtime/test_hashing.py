"""The published hash vectors: any language, and the broker, must compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from foliot.runtime.hashing import fnv1a, fnv1a_32, slot_of

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs" / "ring-vectors.json").read_text())


@pytest.mark.parametrize(
    ("key", "bits_32", "bits_64"),
    [  # from the authors' own test program
        (b"", 0x811C9DC5, 0xCBF29CE484222325),
        (b"a", 0xE40C292C, 0xAF63DC4C8601EC8C),
        (b"foobar", 0xBF9CF968, 0x85944171F73967E8),
    ],
)
def test_the_hash_is_the_authors_fnv1a(key: bytes, bits_32: int, bits_64: int) -> None:
    assert fnv1a_32(key) == bits_32
    assert fnv1a(key) == bits_64


@pytest.mark.parametrize("vector", VECTORS["hashes"], ids=lambda vector: repr(vector["key"]))
def test_the_published_hashes_hold(vector: dict[str, Any]) -> None:
    key = vector["key"].encode()

    assert f"{fnv1a_32(key):08x}" == vector["fnv1a_32"]
    assert f"{fnv1a(key):016x}" == vector["fnv1a_64"]
    assert slot_of(vector["key"], 64) == vector["slot_of_64"]


def test_slots_are_within_bounds_and_all_used() -> None:
    slots = [slot_of(f"queue.default.q{number}", 64) for number in range(2_000)]

    assert sorted(set(slots)) == list(range(64))


@pytest.mark.parametrize("slots", [1, 2, 4, 64, 128, 256, 512, 3, 100])
def test_a_slot_is_what_the_hash_leaves(slots: int) -> None:
    for key in ("", "a", "schedule.default.größe", *[f"queue.default.q{number}" for number in range(50)]):
        assert slot_of(key, slots) == fnv1a_32(key.encode()) % slots
