"""A reader of the event feed who goes on by its cursor through all faults, and what it heard of the ends of tasks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from foliot import Client
from foliot.runtime.errors import UnavailableError

_ENDS: Final = frozenset({"completed", "failed", "cancelled", "dead", "expired", "skipped"})
_BEHIND_S: Final = 60.0  # a poll at a node that died takes half a minute
_LOOK_S: Final = 0.1

Ends = dict[str, dict[tuple[str, int], None]]
"""By task id: the final states it was told to have reached, each with the attempt."""


class Listener:
    """Follows the feed, as an async context manager. `events`: how many it heard; `missed`: messages that were said to be
    missing."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._since = datetime.now(UTC)
        self.ends: Ends = {}
        self.events = 0
        self.missed = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Listener:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def trouble(self) -> str:
        """Why it ended by itself, if it did."""
        if self._task is None or not self._task.done():
            return ""
        return f"the reader of events ended: {self._task.exception()!r}"

    async def _run(self) -> None:
        cursor = ""
        while True:
            try:
                since = None if cursor else self._since
                async for event in self._client.events(since=since, cursor=cursor, on_missed=self._miss):
                    self.events += 1
                    cursor = event.cursor
                    _take(self.ends, event.task_id, event.after, event.attempt)
            except UnavailableError:
                await asyncio.sleep(_LOOK_S)

    def _miss(self, count: int) -> None:
        self.missed += abs(count)

    async def has_heard(self, ends: Ends) -> None:
        """Return when it has heard of these tasks' ends too, or has had time enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_BEHIND_S):
                while any(task not in self.ends for task in ends):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)

    async def again(self) -> Ends:
        """Read all that is kept once more, from the beginning. Raises: UnavailableError."""
        ends: Ends = {}
        async for event in self._client.events(since=self._since, follow=False, on_missed=lambda count: None):
            _take(ends, event.task_id, event.after, event.attempt)
        return ends


def _take(ends: Ends, task: str, after: str, attempt: int) -> None:
    if after in _ENDS:
        ends.setdefault(task, {})[after, attempt] = None
