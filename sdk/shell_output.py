"""What is kept of a command's output: the beginning as it comes, and the end.

What holds: at most `limit` bytes are passed on, plus one line that says how much was left out between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

TAIL: Final = 4 << 10  # bytes of the end that explain a result or a failure
_NOTE: Final = b"\n[%d bytes of output left out]\n"


class Tail:
    """Passes output on to `write`, and remembers its end."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._recent = b""

    def write(self, data: bytes) -> None:
        """Take some output."""
        self._recent = (self._recent + data[-TAIL:])[-TAIL:]
        self._write(data)

    def text(self) -> str:
        """Return the end of what was taken."""
        return self._recent.decode("utf-8", "replace")


class Output:
    """The output of one command. `write`: takes what is kept, the beginning at once, the end at the end."""

    def __init__(self, write: Callable[[bytes], None], limit: int) -> None:
        self.total = 0
        self.dropped = 0
        self._write = write
        self._head = limit // 2  # bytes still to be passed on at once
        self._tail_max = limit - limit // 2
        self._recent_max = max(self._tail_max, TAIL)
        self._recent = bytearray()  # the last of everything

    def feed(self, data: bytes) -> None:
        """Take some output."""
        self.total += len(data)
        if self._head > 0:
            self._write(data[: self._head])
        self._head -= len(data)
        recent = self._recent
        recent += data
        if len(recent) > 2 * self._recent_max:
            del recent[: -self._recent_max]

    def end(self) -> None:
        """No more comes: pass on the end, and what is missing before it as a number."""
        held = -self._head if self._head < 0 else 0
        self._head = 0
        if not held:
            return
        self.dropped = max(held - self._tail_max, 0)
        if self.dropped:
            self._write(_NOTE % self.dropped)
        self._write(bytes(self._recent[len(self._recent) - (held - self.dropped) :]))

    def last(self, size: int = TAIL) -> bytes:
        """Return the last bytes of everything."""
        return bytes(self._recent[-size:])
