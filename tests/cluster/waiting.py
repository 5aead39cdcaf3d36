"""Waiting for what comes true in its own time, generously: a deadline here is for what never comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from foliot.runtime.errors import UnavailableError

GENEROUS_S: Final = 45
"""For what takes a second or two, on the slowest of machines."""


async def until(holds: Callable[[], Awaitable[Any]]) -> Any:
    """Return what is true at last; what cannot be asked now is asked again. Raises: TimeoutError."""
    async with asyncio.timeout(GENEROUS_S):
        while True:
            try:
                found = await holds()
            except UnavailableError:
                found = None
            if found:
                return found
            await asyncio.sleep(0.02)
