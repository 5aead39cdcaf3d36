"""The trace of a run: what happened, in order, with causes; and its digest, by which two runs are compared.

One JSON object to an event: `i` its index, `t` simulated nanoseconds, `n` the process (or machine), `b` its boot, `k` the
kind, `c` the index of the event that led to it (-1: none), and fields of its own, integers and short strings only.
Nothing that differs between two processes of the operating system may enter: no addresses, no `repr`, no text of
exceptions, no process ids, no wall clock of the machine the simulation runs on.

Level 1 is what means something (messages sent, commits, faults, handlers, violations) and is always digested; level 2 adds
each delivery and each step of the loop, for finding where two runs part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec

SEMANTIC: Final = 1
STEPS: Final = 2
_encode = msgspec.json.Encoder().encode


class Trace:
    """Collects events. `keep`: whether the lines are kept, else only the digest is. `level`: 1 or 2."""

    def __init__(self, *, keep: bool = False, level: int = SEMANTIC) -> None:
        self.level = level
        self.keep = keep
        self.lines: list[bytes] = []
        self.count = 0
        self.cause = -1
        """The index of the event that led to what runs now; the loop sets it before each step."""
        self._hash = hashlib.blake2b(digest_size=16)
        self._pending: list[bytes] = []

    def note(self, at_ns: int, process: str, boot: int, kind: str, /, **fields: Any) -> int:
        """Add an event and return its index; what is scheduled from now on in this step has it as its cause."""
        return self.add(at_ns, process, boot, kind, fields)

    def add(self, at_ns: int, process: str, boot: int, kind: str, fields: dict[str, Any]) -> int:
        """The same, with the fields as a dictionary."""
        index = self.count
        line = _encode({"i": index, "t": at_ns, "n": process, "b": boot, "k": kind, "c": self.cause, **fields})
        self.count = index + 1
        self.cause = index
        pending = self._pending
        pending.append(line)
        if len(pending) >= 256:
            self._flush()
        return index

    def digest(self) -> str:
        """Return the digest of everything so far, 32 hexadecimal digits."""
        self._flush()
        return self._hash.copy().hexdigest()

    def finish(self) -> list[bytes]:
        """Return the kept lines."""
        self._flush()
        return self.lines

    def _flush(self) -> None:
        pending = self._pending
        if pending:
            self._hash.update(b"\n".join(pending))
            if self.keep:
                self.lines += pending
            pending.clear()


def write_trace(header: dict[str, Any], lines: Iterable[bytes]) -> bytes:
    """Return a trace file: the header as its first line, then an event to a line."""
    return b"\n".join([_encode(header), *lines]) + b"\n"
