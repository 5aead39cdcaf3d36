"""What must hold of any process: mailboxes, unhandled errors, what is left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..history import Delivered, LeftBehind, Observation, ProcessChanged, Trouble
from .watch import Watch

Line = tuple[str, str, str, str]
"""(receiving process, address, sending process, sender)"""


class Mailbox(Watch):
    """A mailbox is bounded, and takes each sender's messages in the order they were sent.

    A sender that starts anew counts from 1 again, while messages of its earlier life may still be under way.
    """

    name = "mailbox"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._lines: dict[Line, tuple[int, int, int]] = {}  # (the sender's boots then, newest number, that of earlier lives)
        self._boots: dict[str, int] = {}
        return {Delivered: self._delivered, ProcessChanged: self._process}

    def _delivered(self, seen: Delivered) -> None:
        if seen.depth > seen.capacity:
            text = f"mailbox {seen.address} of {seen.process} holds {seen.depth} messages, its bound is {seen.capacity}"
            self.violated("overfull", seen.at_ns, seen.address, text)
        if not self.bounds.ordered:
            return
        line = (seen.process, seen.address, seen.sender_process, seen.sender)
        boots = self._boots.get(seen.sender_process, 0)
        known, newest, earlier = self._lines.get(line, (boots, 0, 0))
        if known != boots:
            newest, earlier = 0, max(newest, earlier)
        number = seen.number
        if earlier and number > earlier and number != newest + 1:
            earlier = number  # it may be of an earlier life
        elif number >= newest:
            newest = number
        else:
            text = f"{seen.address} of {seen.process} got message {number} of {seen.sender} after its message {newest}"
            self.violated("order", seen.at_ns, seen.address, text)
        self._lines[line] = (boots, newest, earlier)

    def _process(self, seen: ProcessChanged) -> None:
        if seen.what == "started":
            self._boots[seen.process] = self._boots.get(seen.process, 0) + 1
            self._lines = {line: newest for line, newest in self._lines.items() if line[0] != seen.process}


class Unhandled(Watch):
    """No exception reaches the loop, no task dies silently, nothing is logged as an error."""

    name = "unhandled"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        return {Trouble: self._trouble}

    def _trouble(self, seen: Trouble) -> None:
        self.violated(seen.what, seen.at_ns, seen.process, f"{seen.process}: {seen.what}: {seen.text}")


class Hygiene(Watch):
    """A process that stops by itself leaves nothing: no task, no timer, no binding."""

    name = "hygiene"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        return {LeftBehind: self._left}

    def _left(self, seen: LeftBehind) -> None:
        text = f"{seen.process} stopped and left {seen.what} {seen.name}"
        self.violated(seen.what, seen.at_ns, f"{seen.process}/{seen.name}", text)
