"""The ring: everyone computes the same owners, and a departure moves nothing but the leaver's slots."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from foliot.runtime.errors import NoMembersError
from foliot.runtime.hashing import fnv1a
from foliot.runtime.ring import Move, Ring, _mix, point_of, points_of
from hypothesis import given, settings
from hypothesis import strategies as st

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs" / "ring-vectors.json").read_text())
MANY_SLOTS = 4_000  # enough that a node's count shows its part of the circle

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
members = st.lists(names, min_size=2, max_size=12, unique=True)


def written_from_the_definition(nodes: list[str], points_per_node: int, key: bytes) -> str:
    """Return a key's owner by the text of the module docstring, without sorting or bisection."""
    modulus, gamma = 1 << 64, 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % modulus
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % modulus
        return z ^ (z >> 31)

    at = mix((fnv1a(key) + gamma) % modulus)
    points = {
        mix((fnv1a(node.encode()) + i * gamma) % modulus): node for node in nodes for i in range(1, points_per_node + 1)
    }
    return points[min(points, key=lambda point: (point - at) % modulus)]


@pytest.mark.parametrize("case", VECTORS["rings"], ids=lambda case: f"{len(case['members'])} nodes")
def test_the_published_owners_hold(case: dict[str, Any]) -> None:
    ring = Ring(case["members"], points_per_node=case["points_per_node"])

    assert [ring.owner(slot) for slot in range(case["slots"])] == case["owners"]


@pytest.mark.parametrize("vector", VECTORS["points"], ids=lambda vector: repr(vector["key"]))
def test_the_published_points_hold(vector: dict[str, Any]) -> None:
    assert f"{point_of(vector['key'].encode()):016x}" == vector["point"]
    assert [f"{point:016x}" for point in points_of(vector["key"], 3)] == vector["first_three_as_node"]


@settings(max_examples=30)
@given(members, st.integers(0, 1_000), st.integers(1, 16))
def test_the_owner_is_the_one_the_definition_names(nodes: list[str], slot: int, points: int) -> None:
    assert Ring(nodes, points_per_node=points).owner(slot) == written_from_the_definition(
        nodes, points, f"slot-{slot}".encode()
    )


@settings(max_examples=30)
@given(members, st.randoms(use_true_random=False))
def test_order_and_repetition_of_members_do_not_matter(nodes: list[str], random: Random) -> None:
    shuffled = nodes + nodes[:1]
    random.shuffle(shuffled)

    one, other = Ring(nodes), Ring(shuffled)

    assert one == other
    assert one.moves(other, 256) == []


@settings(max_examples=20)
@given(members, st.data())
def test_when_a_node_leaves_only_its_slots_move(nodes: list[str], data: st.DataObject) -> None:
    leaver = data.draw(st.sampled_from(nodes))
    before, after = Ring(nodes), Ring(node for node in nodes if node != leaver)

    moves = before.moves(after, MANY_SLOTS)

    assert [move.slot for move in moves] == before.slots_of(leaver, MANY_SLOTS)
    assert {move.before for move in moves} <= {leaver}
    assert leaver not in {move.after for move in moves}
    share = len(moves) / MANY_SLOTS * len(nodes)  # 1.0: exactly 1/n of the slots
    assert 0.55 < share < 1.55
    assert after.moves(before, MANY_SLOTS) == [Move(move.slot, move.after, move.before) for move in moves]


@settings(max_examples=20)
@given(members)
def test_every_node_has_its_part(nodes: list[str]) -> None:
    ring = Ring(nodes)

    counts = [len(ring.slots_of(node, MANY_SLOTS)) for node in nodes]

    assert sum(counts) == MANY_SLOTS
    mean = MANY_SLOTS / len(nodes)
    assert 0.55 * mean < min(counts)
    assert max(counts) < 1.55 * mean


@settings(max_examples=30)
@given(members, st.binary(max_size=12), st.integers(0, 15))
def test_owners_are_distinct_and_the_first_is_the_owner(nodes: list[str], key: bytes, count: int) -> None:
    owners = Ring(nodes).owners(key, count)

    assert len(owners) == len(set(owners)) == min(count, len(nodes))
    assert set(owners) <= set(nodes)
    if count:
        assert owners[:1] == Ring(nodes).owners(key, 1)


@settings(max_examples=30)
@given(members, st.integers(0, 255))
def test_the_second_owner_is_who_takes_over(nodes: list[str], slot: int) -> None:
    first, second = Ring(nodes).owners(b"slot-%d" % slot, 2)

    assert Ring(nodes).owner(slot) == first
    assert Ring(node for node in nodes if node != first).owner(slot) == second


def test_the_mixer_is_the_published_splitmix64() -> None:
    seed, gamma = 1234567, 0x9E3779B97F4A7C15

    outputs = [_mix((seed + i * gamma) % (1 << 64)) for i in (1, 2, 3)]

    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_similar_short_keys_are_far_apart() -> None:
    top_bytes = {point_of(b"slot-%d" % slot) >> 56 for slot in range(64)}

    assert len(top_bytes) > 50  # 57 are to be expected of chance; FNV-1a alone has 2


def test_a_single_node_has_everything() -> None:
    assert Ring(["a"]).slots_of("a", 64) == list(range(64))


def test_an_empty_ring_names_nobody() -> None:
    ring = Ring([])

    for ask in (lambda: ring.owner(0), lambda: ring.owners(b"k", 1), lambda: ring.slots_of("a", 64)):
        with pytest.raises(NoMembersError, match="the ring has no members, expected at least one live node"):
            ask()
    assert repr(ring) == "Ring([], points_per_node=128)"
