"""What is made of parts that are entered one by one, and left the other way round, also when one cannot be entered."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self


class Assembly:
    """An async context manager whose parts `_start` enters, by `_stack`."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def _start(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()
