"""What a shard knows of each queue actor it deals with: how its own messages are numbered, and which grants still count.

A shard numbers what it sends to a queue, so that the queue notices what got lost, and last of all it shows its number once
more, for the case that the last message was the one. Of the queue actors that have lived at an address only the newest may
lease tasks: one that lost its slot without noticing is not listened to, and a grant that comes late or twice is void.
"""

from __future__ import annotations

from typing import Final

from . import messages as m

LINKS_KEPT: Final = 16_384  # queues, before settled ones are forgotten


class QueueLink:
    """One queue. `owner`: (epoch, born_ms) of the newest queue actor heard of; `granted`: its newest grants' number."""

    __slots__ = ("granted", "is_shown", "number", "owner", "sent_ms")

    def __init__(self, number: int) -> None:
        self.number = number  # of the last message sent
        self.sent_ms = 0
        self.is_shown = True  # the last message said nothing: if it is lost, nothing is
        self.owner = (0, 0)
        self.granted = 0

    def hears(self, message: m.QueueStarted | m.ConfirmLeases) -> bool:
        """Take note of who asks, and that grants numbered no higher are void from now on. Returns whether to answer."""
        owner = (message.epoch, message.born_ms)
        if owner > self.owner:
            self.owner, self.granted = owner, message.number
        elif owner == self.owner:
            self.granted = max(self.granted, message.number)
        return message.epoch >= self.owner[0]

    def takes(self, grant: m.GrantLeases) -> bool:
        """Tell whether a grant counts: of the newest queue actor, neither late nor a repetition."""
        owner = (grant.epoch, grant.born_ms)
        if owner != self.owner:
            if owner < self.owner:
                return False
            self.owner = owner
        elif grant.number <= self.granted:
            return False
        self.granted = grant.number
        return True


class QueueLinks:
    """The queues of one shard, by address."""

    def __init__(self) -> None:
        self._links: dict[str, QueueLink] = {}
        self._first = 0  # new links number from here on, beyond what forgotten ones came to
        self._sweep_at = LINKS_KEPT

    def __len__(self) -> int:
        return len(self._links)

    def of(self, queue: str) -> QueueLink:
        """Return the link to a queue."""
        link = self._links.get(queue)
        if link is None:
            link = self._links[queue] = QueueLink(self._first)
        return link

    def next_number(self, queue: str, now_ms: int) -> int:
        """Return the number of a message that is being sent to the queue."""
        link = self._links.get(queue)
        if link is None:
            link = self.of(queue)
        link.number += 1
        link.sent_ms = now_ms
        link.is_shown = False
        return link.number

    def silent_since(self, before_ms: int, wanted: dict[str, None]) -> list[str]:
        """Return the queues that were sent nothing since then and must be shown our number: those `wanted`, and those whose
        last message may be lost."""
        links = self._links
        for queue in wanted:
            if queue not in links:
                self.of(queue)
        return [
            queue
            for queue, link in links.items()
            if link.sent_ms <= before_ms and (not link.is_shown or queue in wanted)
        ]

    @property
    def all_shown(self) -> bool:
        """Tell whether no message is left that could be lost without being noticed."""
        return all(link.is_shown for link in self._links.values())

    def sweep(self, wanted: dict[str, None]) -> None:
        """Forget queues nothing is going on with, once there are many."""
        if len(self._links) < self._sweep_at:
            return
        for queue, link in list(self._links.items()):
            if link.is_shown and queue not in wanted:
                self._first = max(self._first, link.number)
                del self._links[queue]
        self._sweep_at = max(2 * len(self._links), LINKS_KEPT)

    def shift(self, by_ms: int) -> None:
        """The wall clock was set."""
        for link in self._links.values():
            link.sent_ms += by_ms
