"""What a queue actor knows of each shard: how far it has heard it, and whether it waits for an answer.

Each shard numbers its messages, by incarnation (its epoch) and queue. What is late, or comes twice, is not taken. Where
something is missing, or a shard began anew, the shard is asked for all it has, at most once a second, until it has answered.
"""

from __future__ import annotations

from typing import Final

from ..runtime.actor import Turn
from . import messages as m
from .addresses import shard_address

ASK_AGAIN_MS: Final = 1_000
EAGER_ASKS: Final = 20  # then more rarely, doubling ...
ASK_AGAIN_MAX_MS: Final = 30_000  # ... up to this


class ShardLinks:
    """The shards as one queue actor sees them. `unheard`: those that have not said what runs since it began, and are still
    waited for; `granted`: number of the newest grants."""

    def __init__(self, queue: str, shards: int, epoch: int) -> None:
        self._queue = queue
        self.epoch = epoch
        self.born_ms = 0
        self.granted = 0
        self.unheard = dict.fromkeys(range(shards))
        self._epochs = [-1] * shards
        self._numbers = [0] * shards
        self._asked_ms = [0] * shards
        self._asking: dict[int, tuple[int, int]] = {}  # shard → (times asked, when to ask next)
        self._due_ms: int | None = None

    @property
    def owner(self) -> tuple[int, int]:
        """What tells this queue actor from others at its address."""
        return self.epoch, self.born_ms

    def begin(self, turn: Turn) -> None:
        """Ask every shard for all it has."""
        self.born_ms = turn.now_ms
        for shard in range(len(self._epochs)):
            self._ask(shard, 0, turn)
        self._plan()

    def takes(self, message: m.OfferTasks | m.ReleaseTasks | m.WithdrawTasks, turn: Turn) -> bool:
        """Tell whether a message is to be taken: it is new, of the newest incarnation of its shard."""
        shard = message.shard
        if message.number == self._numbers[shard] + 1 and message.epoch == self._epochs[shard]:
            self._numbers[shard] = message.number
            return True
        known = self._epochs[shard]
        if message.epoch < known or (message.epoch == known and message.number <= self._numbers[shard]):
            return False
        self._epochs[shard] = message.epoch
        self._numbers[shard] = message.number
        self.ask(shard, turn)
        return True

    def settled(self, message: m.OfferTasks | m.ReleaseTasks) -> int:
        """Return the number up to which the shard had seen the grants of this queue actor when it spoke."""
        return message.granted if message.owner == self.owner else 0

    def answered(self, message: m.OfferTasks) -> None:
        """A shard has told all it has."""
        if message.owner == self.owner:
            self._asking.pop(message.shard, None)
            self.unheard.pop(message.shard, None)
            self._plan()
        elif message.owner > self.owner and message.owner[0] == self.epoch:
            self.born_ms = message.owner[1] + 1  # the clock was set back between an earlier actor here and this one

    def ask(self, shard: int, turn: Turn) -> None:
        """See to it that a shard tells all it has, soon."""
        if shard in self._asking:
            return
        again_ms = self._asked_ms[shard] + ASK_AGAIN_MS
        if again_ms <= turn.now_ms:
            self._ask(shard, 0, turn)
        else:
            self._asking[shard] = 0, again_ms
        self._plan()

    def due_ms(self) -> int | None:
        return self._due_ms

    def on_time(self, turn: Turn) -> None:
        """Ask again where no answer came; stop waiting for a shard that was asked often enough."""
        if self._due_ms is None or turn.now_ms < self._due_ms:
            return
        for shard, (times, at_ms) in list(self._asking.items()):
            if at_ms <= turn.now_ms:
                if times >= EAGER_ASKS:
                    self.unheard.pop(shard, None)
                self._ask(shard, times, turn)
        self._plan()

    def shift(self, by_ms: int) -> None:
        """The wall clock was set."""
        self._asked_ms = [at_ms + by_ms for at_ms in self._asked_ms]
        self._asking = {shard: (times, at_ms + by_ms) for shard, (times, at_ms) in self._asking.items()}
        self._plan()

    def _ask(self, shard: int, times: int, turn: Turn) -> None:
        turn.send(shard_address(shard), m.QueueStarted(self._queue, self.epoch, self.born_ms, self.granted))
        after_ms = min(ASK_AGAIN_MS << min(max(times + 1 - EAGER_ASKS, 0), 5), ASK_AGAIN_MAX_MS)
        self._asked_ms[shard] = turn.now_ms
        self._asking[shard] = times + 1, turn.now_ms + after_ms

    def _plan(self) -> None:
        self._due_ms = min((at_ms for _, at_ms in self._asking.values()), default=None)
