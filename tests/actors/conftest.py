"""Fixtures of the actor tests."""

from __future__ import annotations

import pytest

from .harness_shard import ShardHarness


@pytest.fixture
def shard() -> ShardHarness:
    return ShardHarness()
