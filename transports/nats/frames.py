"""How an envelope of the actors travels over NATS, and below which subjects.

A frame is a msgpack array: version, to, sender, request, message. The message is what `actors.wire` defines, a tagged array,
in place. Subjects, below one prefix: `slot.<n>` for the actors of a slot, `to.<address>` for what is bound by its address,
`all.<address>` for broadcasts.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ...actors.addresses import slot_of_address
from ...actors.wire import AnyMessage
from ...runtime.bus import Envelope
from ...runtime.errors import FoliotError

VERSION: Final = 1
_KNOWN_MAX: Final = 16_384  # addresses whose subjects are remembered


class FrameError(FoliotError):
    """Bytes that are no frame, or one of another version. `sender`, `request`: of a request that can be refused."""

    code = "malformed"

    def __init__(self, reason: str, *, to: str = "", sender: str = "", request: int = 0) -> None:
        super().__init__(f"a frame cannot be read: {reason}; expected one of version {VERSION}")
        self.reason = reason
        self.to = to
        self.sender = sender
        self.request = request


class _Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    version: int
    to: str
    sender: str
    request: int
    message: AnyMessage


class _Outside(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The same, whose message is left as it is: written, and read when the message is not understood."""

    version: int
    to: str
    sender: str
    request: int
    message: Any


class _Unread(msgspec.Struct, frozen=True, array_like=True, gc=False):
    version: int
    to: str
    sender: str
    request: int
    message: msgspec.Raw


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Frame).decode
_decode_outside = msgspec.msgpack.Decoder(_Unread).decode


def encode(to: str, sender: str, request: int, message: Any) -> bytes:
    """Return the frame of a message."""
    return _encode(_Outside(VERSION, to, sender, request, message))


def decode(data: bytes) -> Envelope:
    """Return the envelope of a frame. Raises: FrameError."""
    try:
        frame = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _reading_outside(data, str(error)) from error
    if frame.version != VERSION:
        raise FrameError(f"version {frame.version}", to=frame.to, sender=frame.sender, request=frame.request)
    return Envelope(frame.to, frame.message, frame.sender, frame.request)


def _reading_outside(data: bytes, reason: str) -> FrameError:
    """Return what can be said of a frame whose message is not understood: of a newer process, say."""
    try:
        frame = _decode_outside(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return FrameError(reason)
    return FrameError(reason, to=frame.to, sender=frame.sender, request=frame.request)


class Subjects:
    """The subjects of addresses, remembered: the hash of an address costs more than all else of a message."""

    def __init__(self, prefix: str, slots: int) -> None:
        self.prefix = prefix
        self._slots = slots
        self._known: dict[str, str] = {}

    def of(self, address: str) -> str:
        """Return the subject of an address."""
        subject = self._known.get(address)
        if subject is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            subject = self._known[address] = self._find(address)
        return subject

    def _find(self, address: str) -> str:
        if "." not in address:
            return f"{self.prefix}.all.{address}"
        slot = self.slot_of(address)
        return self.slot(slot) if slot is not None else f"{self.prefix}.to.{address}"

    def slot_of(self, address: str) -> int | None:
        """Return the slot an actor lives in, None for other addresses, and for what only looks like an actor's."""
        try:
            return slot_of_address(address, self._slots)
        except ValueError:
            return None

    def slot(self, slot: int) -> str:
        return f"{self.prefix}.slot.{slot}"
