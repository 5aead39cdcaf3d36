"""What both kinds of processes of a cluster need: names, their version, and an orderly end."""

from __future__ import annotations

import importlib.metadata
import os
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")


def own_name() -> str:
    """Return a name for this process: its machine and number."""
    return f"{_NO_NAME.sub('-', socket.gethostname())[:48]}-{os.getpid()}"


def product_version() -> str:
    """Return the version of foliot that is installed, empty if none is."""
    try:
        return importlib.metadata.version("foliot")
    except importlib.metadata.PackageNotFoundError:
        return ""


async def shielded(close: Callable[[], Awaitable[None]]) -> None:
    """Close something even while being cancelled."""
    with anyio.CancelScope(shield=True):
        await close()
