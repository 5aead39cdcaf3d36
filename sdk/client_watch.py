"""Waiting for tasks to end, as many as there are, with a bounded number of requests.

The first waiters get a long poll each, so that a result arrives the moment it is there. Beyond those, waiters share
short polls of many ids.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ..actors.messages import TaskEnd, TasksEnded, WatchTasks
from ..runtime.bus import Refusal
from ..runtime.clock import Clock
from ..runtime.errors import FoliotError
from .channel import Channel
from .errors import error_of

_ALONE_MAX: Final = 16  # long polls at once
_ALONE_WAIT_MS: Final = 15_000
_GROUPS_MAX: Final = 4  # short polls at once ...
_GROUP_IDS: Final = 256  # ... of this many ids each
_GROUP_WAIT_MS: Final = 100
_MARGIN_MS: Final = 10_000
_RETRY_MAX_MS: Final = 1_000


class Watcher:
    """Waits for one client."""

    def __init__(self, channel: Channel, tenant: str, *, clock: Clock) -> None:
        self._channel = channel
        self._tenant = tenant
        self._clock = clock
        self._alone = 0
        self._waiting: dict[int, list[asyncio.Future[TaskEnd]]] = {}  # by task id, oldest first
        self._groups: dict[asyncio.Task[None], None] = {}

    async def end_of(self, task_id: int, timeout_ms: int | None) -> TaskEnd | None:
        """Return how the task ended, or None if it has not within `timeout_ms` (None: wait for ever).

        Raises: UnavailableError if the scheduler does not answer.
        """
        if self._alone >= _ALONE_MAX:
            return await self._in_group(task_id, timeout_ms)
        self._alone += 1
        try:
            started_ns = self._clock.mono_ns()
            while True:
                left_ms = _ALONE_WAIT_MS
                if timeout_ms is not None:
                    left_ms = timeout_ms - (self._clock.mono_ns() - started_ns) // 1_000_000
                ended = await self._poll([task_id], max(min(left_ms, _ALONE_WAIT_MS), 0))
                if ended:
                    return ended[0]
                if left_ms <= 0:
                    return None
        finally:
            self._alone -= 1

    async def close(self) -> None:
        """Stop polling; waiters are cancelled."""
        for task in self._groups:
            task.cancel()
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()
        self._waiting.clear()

    async def _poll(self, ids: list[int], wait_ms: int) -> list[TaskEnd]:
        """Return those that ended within `wait_ms`. Raises: UnavailableError, UsageError."""
        message = WatchTasks(self._tenant, ids, wait_ms)
        answer = await self._channel.request(message, timeout_ms=wait_ms + _MARGIN_MS)
        if isinstance(answer, Refusal):
            if answer.retry_after_ms < 0:
                raise error_of(answer)
            await asyncio.sleep(min(answer.retry_after_ms, _RETRY_MAX_MS) / 1000)
            return []
        assert isinstance(answer, TasksEnded), f"{type(answer).__name__} answered WatchTasks"
        return answer.ended

    async def _in_group(self, task_id: int, timeout_ms: int | None) -> TaskEnd | None:
        future: asyncio.Future[TaskEnd] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(task_id, []).append(future)
        if len(self._groups) < _GROUPS_MAX and len(self._waiting) > len(self._groups) * _GROUP_IDS:
            group = asyncio.get_running_loop().create_task(self._run_group())
            self._groups[group] = None
            group.add_done_callback(lambda task: self._groups.pop(task, None))
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                return await future
        except TimeoutError:
            return None

    async def _run_group(self) -> None:
        """Poll as long as anybody waits: the oldest first, each in turn."""
        while self._waiting:
            taken: dict[int, list[asyncio.Future[TaskEnd]]] = {}
            for task_id in list(self._waiting)[:_GROUP_IDS]:
                alive = [future for future in self._waiting.pop(task_id) if not future.done()]
                if alive:
                    taken[task_id] = alive
            if not taken:
                continue
            try:
                ended = await self._poll(list(taken), _GROUP_WAIT_MS)
            except asyncio.CancelledError:
                for futures in taken.values():
                    for future in futures:
                        future.cancel()
                raise
            except FoliotError as error:
                for futures in taken.values():
                    for future in futures:
                        if not future.done():
                            future.set_exception(error)
                continue
            for end in ended:
                for future in taken.pop(end.id, ()):
                    if not future.done():
                        future.set_result(end)
            for task_id, futures in taken.items():
                self._waiting.setdefault(task_id, []).extend(futures)
