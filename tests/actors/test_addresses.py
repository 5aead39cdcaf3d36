"""Which slot an address belongs to, if any."""

from __future__ import annotations

import pytest
from foliot.actors.addresses import (
    queue_address,
    session_address,
    shard_address,
    slot_of_address,
    tenant_address,
    worker_address,
)
from foliot.runtime.hashing import slot_of


def test_a_shard_lives_in_the_slot_of_its_number() -> None:
    assert [slot_of_address(shard_address(shard), 64) for shard in (0, 7, 63)] == [0, 7, 63]


@pytest.mark.parametrize("address", [queue_address("default", "mail"), tenant_address("acme"), worker_address("w1")])
def test_other_actors_live_where_their_address_hashes_to(address: str) -> None:
    assert slot_of_address(address, 64) == slot_of(address, 64)


@pytest.mark.parametrize("address", [session_address("w1"), "reply.a.1", "nodes", "slots", "shards"])
def test_what_is_no_actor_has_no_slot(address: str) -> None:
    assert slot_of_address(address, 64) is None
