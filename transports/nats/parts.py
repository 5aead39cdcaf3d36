"""Messages of actors that are larger than the server takes: cut into parts, and put together where they arrive.

The parts of a message travel in order, below one subject. Where one is missing the message is lost, as any message may be.
Everything is bounded: the size of a message, and how many are being put together; the oldest gives way.

A part is the byte 0xC1, which begins no msgpack document, then u64 who sent it, u32 which of their messages, u16 the number
of the part from 0, u16 how many there are, and its bytes.
"""

from __future__ import annotations

import struct
from typing import Final

from ...runtime.hashing import fnv1a
from .frames import FrameError

MAX_BYTES: Final = 8 * 1024 * 1024
"""Of one message; half of what a connection holds back for its server."""
_OPEN_MAX: Final = 8
_MARK: Final = 0xC1
_HEAD: Final = struct.Struct(">BQIHH")
_ROOM: Final = 512  # for the head, and for what the connection adds to a message


def is_part(data: bytes) -> bool:
    return bool(data) and data[0] == _MARK


class Parts:
    """One end: cuts what is sent, and puts together what arrives. `ident`: tells this end from all others."""

    def __init__(self, ident: str) -> None:
        self._ident = fnv1a(ident.encode())
        self._number = 0
        self._open: dict[tuple[int, int], list[bytes]] = {}

    def cut(self, data: bytes, most: int) -> list[bytes]:
        """Return the parts of a message, none larger than the server takes: `most` bytes."""
        size = most - _ROOM
        count = -(-len(data) // size)
        self._number = (self._number + 1) & 0xFFFFFFFF
        return [
            _HEAD.pack(_MARK, self._ident, self._number, at, count) + data[at * size : (at + 1) * size]
            for at in range(count)
        ]

    def take(self, part: bytes) -> bytes | None:
        """Return the message that is complete with this part; None if none is. Raises: FrameError if nothing can be made of
        it, since another part is missing."""
        if len(part) < _HEAD.size:
            raise FrameError("a part of a message is cut short")
        _, ident, number, at, count = _HEAD.unpack_from(part)
        key = (ident, number)
        if at == 0:
            while len(self._open) >= _OPEN_MAX:
                del self._open[next(iter(self._open))]
            self._open[key] = []
        parts = self._open.get(key)
        if parts is None or len(parts) != at:
            self._open.pop(key, None)
            raise FrameError(f"part {at + 1} of {count} of a message came, and the one before did not")
        parts.append(part)
        if sum(map(len, parts)) > MAX_BYTES + _HEAD.size * count:
            del self._open[key]
            raise FrameError(f"a message in {count} parts has more than {MAX_BYTES} bytes")
        if at + 1 < count:
            return None
        del self._open[key]
        return b"".join([each[_HEAD.size :] for each in parts])
