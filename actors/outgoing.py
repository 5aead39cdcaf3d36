"""What a shard sends at the end of a turn, put together by receiver, so that every message is a batch.

What a queue is told is numbered (`actors.queue_links`): first what is no longer ready, then what has ended, then what is
ready; or, where the queue asked for it, all there is.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..runtime.actor import Turn
from . import messages as m
from .addresses import session_address
from .queue_links import QueueLinks
from .states import State
from .task import KindState, Task

Lots = dict[tuple[int, int, str], tuple[KindState, list[Task]]]

_RUNNING = State.RUNNING


class Outgoing:
    """Collected during a turn, sent once. `epoch`: the shard's."""

    def __init__(self, shard: int, epoch: int) -> None:
        self._shard = shard
        self._epoch = epoch
        self.links = QueueLinks()
        self._offers: dict[str, Lots] = {}
        self._full: dict[str, None] = {}  # queues that are to be told everything
        self._shown: dict[str, None] = {}  # queues that are to be shown our number
        self._releases: dict[str, list[int]] = {}
        self._refused: dict[str, dict[str, int]] = {}
        self._withdrawn: dict[str, list[int]] = {}
        self._cancels: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
        self.bodies: dict[str, list[Task]] = {}
        """Tasks leased in this turn, by session; `leases` turns them into messages."""

    def offer(self, task: Task) -> None:
        """Tell its queue that the task is ready."""
        kind = task.kind
        if not task.offered:
            task.offered = True
            kind.offered += 1
        lots = self._offers.get(kind.queue)
        if lots is None:
            lots = self._offers[kind.queue] = {}
        _add(lots, kind, task)

    def tell_all(self, queue: str) -> None:
        """Tell the queue all that is offered and all that runs."""
        self._full[queue] = None

    def show_number(self, queue: str) -> None:
        """Let the queue notice whether it has missed something."""
        self._shown[queue] = None

    def withdraw(self, task: Task) -> None:
        """Tell its queue that an offered task is no longer ready."""
        task.offered = False
        task.kind.offered -= 1
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

    def send(self, tasks: Iterable[Task], turn: Turn) -> None:
        """Send all of it. `tasks`: all there are in memory."""
        shard, epoch, now_ms = self._shard, self._epoch, turn.now_ms
        next_number = self.links.next_number
        for queue, ids in self._withdrawn.items():
            turn.send(queue, m.WithdrawTasks(shard, ids, epoch, next_number(queue, now_ms)))
        for queue, ids in self._releases.items():
            link = self.links.of(queue)
            refused = self._refused.get(queue, {})
            number = next_number(queue, now_ms)
            turn.send(queue, m.ReleaseTasks(shard, ids, refused, epoch, number, link.owner, link.granted))
        if self._full:
            self._send_full(tasks, turn)
        for queue, lots in self._offers.items():
            turn.send(queue, m.OfferTasks(shard, _messages_of(lots), [], epoch, next_number(queue, now_ms)))
        for queue in self._shown:
            link = self.links.of(queue)
            if link.sent_ms != now_ms or link.is_shown:
                number = next_number(queue, now_ms)
                turn.send(queue, m.OfferTasks(shard, [], epoch=epoch, number=number))
                link.is_shown = True
        for (session, reason), (ids, attempts) in self._cancels.items():
            turn.send(session_address(session), m.CancelAttempts(ids, attempts, reason))
        self._withdrawn, self._releases, self._refused, self._offers, self._cancels = {}, {}, {}, {}, {}
        self._shown = {}

    def _send_full(self, tasks: Iterable[Task], turn: Turn) -> None:
        """Tell queues everything, in place of what has become ready in this turn."""
        offered: dict[str, Lots] = {queue: {} for queue in self._full}
        leased: dict[str, dict[tuple[int, int, str, str], list[Task]]] = {queue: {} for queue in self._full}
        for task in tasks:
            queue = task.kind.queue
            if queue not in self._full:
                continue
            if task.offered:
                _add(offered[queue], task.kind, task)
            elif task.state == _RUNNING:
                key = (task.kind.id, task.priority, task.key, task.session)
                leased[queue].setdefault(key, []).append(task)
        for queue in self._full:
            self._offers.pop(queue, None)
            for _, waiting in offered[queue].values():
                waiting.sort(key=_age)
            running = [
                m.LeasedLot(same[0].kind.kind, priority, key, session, [task.id for task in same])
                for (_, priority, key, session), same in leased[queue].items()
            ]
            link = self.links.of(queue)
            number = self.links.next_number(queue, turn.now_ms)
            message = m.OfferTasks(
                self._shard, _messages_of(offered[queue]), running, self._epoch, number,
                full=True, owner=link.owner, granted=link.granted,
            )  # fmt: skip
            turn.send(queue, message)
        self._full = {}


def _add(lots: Lots, kind: KindState, task: Task) -> None:
    key = (kind.id, task.priority, task.key)
    lot = lots.get(key)
    if lot is None:
        lots[key] = (kind, [task])
    else:
        lot[1].append(task)


def _age(task: Task) -> tuple[int, int]:
    return task.due_ms, task.id


def _messages_of(lots: Lots) -> list[m.Lot]:
    return [_lot_of(kind, priority, key, tasks) for (_, priority, key), (kind, tasks) in lots.items()]


def _lot_of(kind: KindState, priority: int, key: str, tasks: list[Task]) -> m.Lot:
    """Return a lot in order of readiness, which its tasks have already, unless some of them were interrupted."""
    ready_ms = [task.due_ms for task in tasks]
    in_order = sorted(ready_ms)
    if ready_ms != in_order:
        tasks = sorted(tasks, key=lambda task: (task.due_ms, task.id))
    return m.Lot(kind.kind, priority, key, [task.id for task in tasks], in_order)
