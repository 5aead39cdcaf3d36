"""Requests of one process that wait for their answers, each with a number and a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..runtime.errors import DeadlineError, UnavailableError


class AnswerLostError(DeadlineError):
    """The connection was lost while a request was under way."""

    def __init__(self, what: str) -> None:
        UnavailableError.__init__(self, f"{what} was under way when the connection was lost; its outcome is unknown")
        self.what = what
        self.timeout_ms = 0


class Requests:
    """What one end of a transport has asked. Lives on one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0

    async def ask(self, what: str, send: Callable[[int], None], *, timeout_ms: int) -> Any:
        """Send a request under the number it gets, and return its answer. `what`: for the error. Raises: DeadlineError."""
        loop = asyncio.get_running_loop()
        self._number += 1
        number = self._number
        future = self._waiting[number] = loop.create_future()
        timer = loop.call_later(timeout_ms / 1000, self._late, number, what, timeout_ms)
        try:
            send(number)
            return await future
        finally:
            timer.cancel()
            self._waiting.pop(number, None)

    def answer(self, number: int, message: Any) -> None:
        """Take an answer; one that nobody waits for any more is dropped."""
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(message)

    def lose(self, number: int, what: str) -> None:
        """Fail a request whose answer will not come; harmless if it was answered."""
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_exception(AnswerLostError(what))

    def _late(self, number: int, what: str, timeout_ms: int) -> None:
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_exception(DeadlineError(what, timeout_ms))
