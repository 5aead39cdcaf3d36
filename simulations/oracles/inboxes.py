"""What came one-way: what the broker confirmed and did not lose is accepted, once and in order; and no shard's inbox goes
back.

An entry's tasks are known by their payload, which no other entry has. What a fault took from the broker is told by the
broker itself; such an entry may have been accepted before, so its tasks may be there or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ...actors.messages import SubmitTasks
from ...actors.rows import InboxMark
from ..broker_history import BrokerLost, BrokerStored, Posted
from ..history import Claimed, Committed, Final, Observation, TakenBack
from .watch import Watch

Key = tuple[str, int, int]
"""(life of the stream, position, stamp)"""


class Inboxes(Watch):
    """Every entry that was confirmed and not lost becomes its tasks, exactly once; a shard applies the entries of one life
    in their order; how far it has come goes back only where the stream has lost its end."""

    name = "inbox"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._entries: dict[Key, bytes] = {}
        self._keys: dict[bytes, list[Key]] = {}  # by payload, of all entries that have it
        self._lost: dict[Key, None] = {}
        self._posted: dict[bytes, Posted] = {}
        self._marks: dict[int, InboxMark] = {}
        self._taken: dict[bytes, int] = {}  # by payload: tasks there are
        self._last: dict[tuple[int, str], Key] = {}  # by shard and life: the entry whose tasks came last
        return {
            BrokerStored: self._stored, BrokerLost: self._broker_lost, Posted: self._post, Committed: self._committed,
            TakenBack: self._taken_back, Claimed: self._claimed,
        }  # fmt: skip

    def _stored(self, seen: BrokerStored) -> None:
        submit = msgspec.msgpack.decode(seen.data, type=SubmitTasks)
        key = (seen.life, seen.position, seen.stamp)
        self._entries[key] = payload = submit.tasks[0].payload
        self._keys.setdefault(payload, []).append(key)

    def _broker_lost(self, seen: BrokerLost) -> None:
        for position, stamp in seen.entries:
            self._lost[seen.life, position, stamp] = None

    def _post(self, seen: Posted) -> None:
        self._posted[seen.payload] = seen

    def _claimed(self, seen: Claimed) -> None:
        self._last = {key: last for key, last in self._last.items() if key[0] != seen.shard}

    def _taken_back(self, seen: TakenBack) -> None:
        self._marks.clear()
        self._last.clear()

    def _committed(self, seen: Committed) -> None:
        changes = seen.changes
        mark, before = changes.inbox, self._marks.get(changes.shard)
        if mark is not None:
            of_life = before is not None and before.stream == mark.stream
            if before is not None and of_life and before.position >= mark.position and before.stamp >= mark.stamp:
                text = f"shard {changes.shard} went from position {before.position} of its inbox to {mark.position}"
                self.violated("back", seen.at_ns, changes.shard, text)
            self._marks[changes.shard] = mark
        arrived: dict[bytes, int] = {}
        for step in self.tasks.steps:
            payload = step.task.payload
            if not step.before and payload in self._keys:
                arrived[payload] = arrived.get(payload, 0) + 1
        for payload, count in arrived.items():
            self._taken[payload] = self._taken.get(payload, 0) + count
            self._check_order(changes.shard, payload, mark, seen)

    def _check_order(self, shard: int, payload: bytes, mark: InboxMark | None, seen: Committed) -> None:
        if mark is None:
            text = f"shard {shard} accepted an entry of its inbox and did not write how far it has come"
            self.violated("unmarked", seen.at_ns, shard, text)
            return
        of_life = [key for key in self._keys[payload] if key[0] == mark.stream]
        last = self._last.get((shard, mark.stream))
        if not of_life:
            return
        if last is not None and all(key[1] < last[1] and key[2] < last[2] for key in of_life):
            text = f"shard {shard} accepted position {of_life[-1][1]} of its inbox after position {last[1]}"
            self.violated("order", seen.at_ns, shard, text)
        self._last[shard, mark.stream] = min(of_life, key=lambda key: key[1:])

    def end(self, final: Final) -> None:
        if self.bounds.may_lose:  # a store that takes back commits takes back what was accepted, and its mark
            return
        for payload, posted in self._posted.items():
            count, keys = self._taken.get(payload, 0), self._keys.get(payload, [])
            subject = f"entry {posted.position}"
            if count > posted.count:
                text = f"{count} tasks were accepted of an entry with {posted.count}, stored at {_told(keys)}"
                self.violated("twice", final.at_ns, subject, text)
            kept = [key for key in keys if key not in self._lost]
            if posted.outcome == "stored" and kept and count < posted.count:
                text = f"{count} tasks were accepted of an entry with {posted.count}, stored at {_told(keys)} and not lost"
                self.violated("not_accepted", final.at_ns, subject, text)


def _told(keys: list[Key]) -> str:
    return ", ".join(f"{position} of {life}" for life, position, _ in keys) or "no position"
