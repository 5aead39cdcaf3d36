"""What a worker and its child processes say to each other: msgpack arrays behind a length of four bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from ..actors.messages import TaskError, Template

FRAME_LIMIT: Final = 64 << 20  # a length beyond this is no length
HEAD: Final = 4


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The base of all frames."""


class Hello(Frame, frozen=True, tag=True):
    """worker → child, first. How to import what the worker has."""

    path: list[str]
    main_path: str  # the script the worker runs, if handlers are defined in it


class RunAttempt(Frame, frozen=True, tag=True):
    """worker → child. Answered by AttemptDone, with any number of the others before."""

    module: str
    qualname: str
    id: int
    attempt: int
    payload: bytes
    tenant: str
    priority: int
    template: Template
    deadline_ms: int
    checkpoint: bytes
    mark: bytes  # the child ends the attempt's output with it on both streams
    schedule: str = ""
    tick_ms: int = 0


class StopAttempt(Frame, frozen=True, tag=True):
    """worker → child. The attempt shall stop: cooperatively, a kill comes later."""

    id: int
    reason: str


class Ready(Frame, frozen=True, tag=True):
    """child → worker. Attempts may come."""

    pid: int


class Told(Frame, frozen=True, tag=True):
    """child → worker. Progress, a checkpoint, or only a sign of life."""

    permille: int
    note: str
    checkpoint: bytes | None


class Logged(Frame, frozen=True, tag=True):
    """child → worker. A log line as text for the attempt; with a context's logger, also as event for the worker's log."""

    level: str
    text: str
    event: str
    fields: dict[str, str]


class AttemptDone(Frame, frozen=True, tag=True):
    """child → worker. `error` None: completed. `rss`: bytes the child holds now."""

    result: bytes
    error: TaskError | None
    fatal: bool
    retry_after_ms: int
    heard_stop: bool
    rss: int


AnyFrame = Hello | RunAttempt | StopAttempt | Ready | Told | Logged | AttemptDone

_encode = msgspec.msgpack.Encoder().encode
_decode: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(AnyFrame)


def encode_frame(frame: AnyFrame) -> bytes:
    body = _encode(frame)
    return len(body).to_bytes(HEAD, "big") + body


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[AnyFrame]:
        """Yield the frames that are complete with this data. Raises: msgspec.DecodeError if it is no stream of ours."""
        self._data += data
        while len(self._data) >= HEAD:
            size = int.from_bytes(self._data[:HEAD], "big")
            if size > FRAME_LIMIT:
                raise msgspec.DecodeError(f"a frame of {size} bytes, expected at most {FRAME_LIMIT}")
            if len(self._data) < HEAD + size:
                return
            body = bytes(self._data[HEAD : HEAD + size])
            del self._data[: HEAD + size]
            yield _decode.decode(body)
