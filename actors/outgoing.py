"""What a shard sends at the end of a turn, put together by receiver, so that every message is a batch."""

from __future__ import annotations

from ..runtime.actor import Turn
from . import messages as m
from .addresses import session_address
from .task import KindState, Task


class Outgoing:
    """Collected during a turn, sent once."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._offers: dict[str, dict[tuple[int, int, str], tuple[KindState, list[Task]]]] = {}
        self._releases: dict[str, list[int]] = {}
        self._refused: dict[str, dict[str, int]] = {}
        self._withdrawn: dict[str, list[int]] = {}
        self._cancels: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
        self.bodies: dict[str, list[Task]] = {}
        """Tasks leased in this turn, by session; `leases` turns them into messages."""

    def offer(self, task: Task) -> None:
        """Tell its queue that the task is ready."""
        task.offered = True
        kind = task.kind
        lots = self._offers.get(kind.queue)
        if lots is None:
            lots = self._offers[kind.queue] = {}
        key = (kind.id, task.priority, task.key)
        lot = lots.get(key)
        if lot is None:
            lots[key] = (kind, [task])
        else:
            lot[1].append(task)

    def withdraw(self, task: Task) -> None:
        """Tell its queue that an offered task is no longer ready."""
        task.offered = False
        self._withdrawn.setdefault(task.kind.queue, []).append(task.id)

    def release(self, queue: str, task_id: int) -> None:
        """Tell the queue that the task no longer counts as running."""
        released = self._releases.get(queue)
        if released is None:
            self._releases[queue] = [task_id]
        else:
            released.append(task_id)

    def refuse(self, grant: m.GrantLeases, task_id: int, cost: int) -> None:
        """Tell the queue that a grant came to nothing and the session keeps its credit."""
        self.release(grant.queue, task_id)
        by_session = self._refused.setdefault(grant.queue, {})
        by_session[grant.session] = by_session.get(grant.session, 0) + cost

    def cancel(self, task: Task, reason: str) -> None:
        """Tell the session that holds the task to stop it."""
        ids, attempts = self._cancels.setdefault((task.session, reason), ([], []))
        ids.append(task.id)
        attempts.append(task.attempt)

    def send(self, turn: Turn) -> None:
        """Send all of it."""
        for queue, ids in self._withdrawn.items():
            turn.send(queue, m.WithdrawTasks(self._shard, ids))
        for queue, ids in self._releases.items():
            turn.send(queue, m.ReleaseTasks(self._shard, ids, self._refused.get(queue, {})))
        for queue, by_kind in self._offers.items():
            lots = [
                m.Lot(kind.kind, priority, key, [task.id for task in tasks], [task.due_ms for task in tasks])
                for (_, priority, key), (kind, tasks) in by_kind.items()
            ]
            turn.send(queue, m.OfferTasks(self._shard, lots))
        for (session, reason), (ids, attempts) in self._cancels.items():
            turn.send(session_address(session), m.CancelAttempts(ids, attempts, reason))
        self._withdrawn, self._releases, self._refused, self._offers, self._cancels = {}, {}, {}, {}, {}
