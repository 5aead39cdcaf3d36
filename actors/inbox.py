"""A shard's inbox: what was submitted one-way, applied in order and once, however often it comes.

The reader beside the shard brings the entries of a stream; how far the shard has come is committed with the tasks they make,
so an entry that comes again after a crash, a move or a lost acknowledgement is known and passed. What always holds: no entry
is applied before all that came before it are, even where the store has to be asked first.
"""

from __future__ import annotations

from typing import Final

from ..runtime.actor import Turn
from ..runtime.bus import Refusal
from ..runtime.errors import StaleEpochError
from . import messages as m
from .intake import Intake
from .rows import ShardImage
from .settings import Settings

BUSY_MS: Final = 100


class Inbox:
    """The inbox of one shard. `mark`: how far it has come."""

    def __init__(self, image: ShardImage, intake: Intake, settings: Settings) -> None:
        self.mark = image.inbox
        self._shard = image.shard
        self._intake = intake
        self._settings = settings
        self._reader_epoch = 0  # the highest that has spoken
        self._is_busy = False

    def take(self, message: m.TakeInbox, turn: Turn) -> None:
        """Apply entries, those that were not before."""
        if message.epoch < self._reader_epoch:
            turn.reply(Refusal.of(StaleEpochError(self._shard, message.epoch, self._reader_epoch)))
            return
        self._reader_epoch = message.epoch
        if self._is_busy:  # its reader gave up waiting too early; whatever is under way counts
            text = f"the inbox of shard {self._shard} is at work; retry in {BUSY_MS} ms"
            turn.reply(Refusal("overloaded", text, retry_after_ms=BUSY_MS))
            return
        self._is_busy = True
        self._go_on(message, 0, {}, turn)

    def _go_on(
        self, message: m.TakeInbox, start: int, answers: dict[int, m.TasksSubmitted | Refusal], turn: Turn
    ) -> None:  # fmt: skip
        """Apply the entries from `start` on, up to one for which something is looked up first."""
        for index in range(start, len(message.entries)):
            entry = message.entries[index]
            if self.mark.covers(message.stream, entry.position, entry.stamp):
                continue
            if entry.submit is not None:
                answer = self._settings.too_many_waiting(entry.submit) or self._intake.take(
                    entry.submit, turn, _Resume(self, message, index, answers)
                )
                if answer is None:
                    return
                answers[index] = answer
            self._pass(message.stream, entry, turn)
        self._is_busy = False
        turn.changes.fence = True
        turn.reply(m.InboxTaken(answers))

    def _pass(self, stream: str, entry: m.InboxEntry, turn: Turn) -> None:
        self.mark = turn.changes.inbox = self.mark.passing(stream, entry.position, entry.stamp)


class _Resume:
    """Goes on with an inbox once an entry is accepted."""

    __slots__ = ("_answers", "_inbox", "_index", "_message")

    def __init__(
        self, inbox: Inbox, message: m.TakeInbox, index: int, answers: dict[int, m.TasksSubmitted | Refusal]
    ) -> None:  # fmt: skip
        self._inbox = inbox
        self._message = message
        self._index = index
        self._answers = answers

    def __call__(self, turn: Turn, answer: m.TasksSubmitted) -> None:
        self._answers[self._index] = answer
        self._inbox._pass(self._message.stream, self._message.entries[self._index], turn)
        self._inbox._go_on(self._message, self._index + 1, self._answers, turn)
