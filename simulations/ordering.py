"""Order where libraries keep sets: anyio's cancel scopes, for the time of a run.

A scope keeps its tasks and child scopes in sets and cancels them in the order those are iterated, which is the order of
memory addresses. Tasks get a hash of their own (`loop.SimTask`); scopes keep theirs in the order of joining, by the class
below. Both are needed. A contract test pins the private names this relies on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from anyio._backends import _asyncio as backend

T = TypeVar("T")


class OrderedSet(Generic[T]):
    """As much of a set as a cancel scope uses, in the order of adding."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: dict[int, T] = {}  # by identity, as scopes compare

    def add(self, item: T) -> None:
        self._items[id(item)] = item

    def remove(self, item: T) -> None:
        del self._items[id(item)]

    def discard(self, item: T) -> None:
        self._items.pop(id(item), None)

    def __contains__(self, item: object) -> bool:
        return id(item) in self._items

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._items.values()))

    def __len__(self) -> int:
        return len(self._items)


@contextmanager
def ordered_scopes() -> Iterator[None]:
    """Let cancel scopes that are made inside the block keep order. Blocks may be nested."""
    scope: Any = backend.CancelScope
    original = scope.__init__

    def initialise(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._tasks = OrderedSet()
        self._child_scopes = OrderedSet()

    scope.__init__ = initialise
    try:
        yield
    finally:
        scope.__init__ = original
