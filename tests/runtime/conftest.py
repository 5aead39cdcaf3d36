"""Fixtures of the runtime's tests."""

from __future__ import annotations

import pytest

from .harness import Harness


@pytest.fixture
async def harness() -> Harness:
    """Return a cell that does not live yet, with its world; async since it belongs to the test's event loop."""
    return Harness()
