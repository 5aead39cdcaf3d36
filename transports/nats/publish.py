"""Publishing to streams: a window of entries that wait for their confirmation, each with a deadline of its own.

What holds: no more than a window is under way, the others wait in order; an entry that nobody took is tried again under the
same id, so a stream that has it already, within its dedupe window, does not store it twice. Whoever asked hears of each
entry whether it is stored, refused, or unknown.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from ...runtime.clock import Clock
from ...runtime.errors import DeadlineError
from .errors import NoRespondersError
from .link import NatsLink
from .port import NotStoredError, StreamFullError

WINDOW: Final = 16
_TIMEOUT_MS: Final = 5_000
_TRIES: Final = 3  # while a stream elects its leader nobody answers
_PAUSE_MS: Final = 250
_FULL: Final = (10077, 10167, 10122, 10047, 10023)  # of the stream, its subject, its store; too many under way


class Publisher:
    """`window`: entries under way at once. `waiting_max`: callers beyond it that may wait for their turn."""

    def __init__(
        self, link: NatsLink, clock: Clock, *, window: int = WINDOW, waiting_max: int = 1_024, timeout_ms: int = _TIMEOUT_MS
    ) -> None:  # fmt: skip
        self._link = link
        self._clock = clock
        self._window = asyncio.Semaphore(window)
        self._waiting_max = window + waiting_max
        self._timeout_ms = timeout_ms
        self._asked = 0

    async def publish(self, subject: str, data: bytes, *, message_id: str = "") -> int:
        """Store an entry and return its position. Raises: StreamFullError, NotStoredError, NoRespondersError, LinkDownError,
        TooLargeError; DeadlineError, after which it may be stored or not."""
        if self._asked >= self._waiting_max:
            raise StreamFullError(subject, f"{self._asked} entries wait to be stored, the bound")
        self._asked += 1
        try:
            async with self._window:
                return await self._publish(subject, data, message_id)
        finally:
            self._asked -= 1

    async def _publish(self, subject: str, data: bytes, message_id: str) -> int:
        headers = {"Nats-Msg-Id": message_id} if message_id else None
        start_ns, tries = self._clock.mono_ns(), 0
        while True:
            tries += 1
            left_ms = self._timeout_ms - (self._clock.mono_ns() - start_ns) // 1_000_000
            if left_ms <= 0:
                raise DeadlineError(f"an entry to {subject}", self._timeout_ms)
            try:
                answer = await self._link.request(subject, data, timeout_ms=left_ms, headers=headers)
            except NoRespondersError:
                if tries == _TRIES:
                    raise
                await asyncio.sleep(_PAUSE_MS / 1000)
            else:
                return position_of(subject, answer.data)


def position_of(subject: str, answer: bytes) -> int:
    """Return the position a stream confirmed. Raises: StreamFullError, NotStoredError."""
    found: Any = None
    try:
        found = json.loads(answer)
    except ValueError:
        raise NotStoredError(subject, f"no stream answered, but {answer[:80]!r}") from None
    error = found.get("error") if isinstance(found, dict) else {"description": "not an object"}
    if not error and isinstance(found.get("seq"), int):
        position: int = found["seq"]
        return position
    reason = f"{error.get('description', '')} ({error.get('err_code', 0)})" if error else "it named no position"
    if error and error.get("err_code") in _FULL:
        raise StreamFullError(subject, reason)
    raise NotStoredError(subject, reason)
