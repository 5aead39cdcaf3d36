"""The two formats of the public protocol: msgpack and JSON, and documents between them.

A header `Content-Type` says which format a message has; without it, the first byte does: no msgpack map begins with `{`, `[`
or white space. Documents (payloads, results) are kept as msgpack and never opened where both sides speak that; for JSON they
are translated. What does not fit a format is refused with a sentence, or shown as the bytes it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import Raw

from ...runtime.errors import UsageError
from .protocol import VERSION, Ask, Part

Format = Literal["msgpack", "json"]
A = TypeVar("A", bound=Ask)

_JSON_BEGINS: Final = frozenset(b'{[ \t\r\n"')
_TYPES: Final[tuple[tuple[str, Format], ...]] = (
    ("application/json", "json"),
    ("text/json", "json"),
    ("application/msgpack", "msgpack"),
    ("application/x-msgpack", "msgpack"),
    ("application/vnd.msgpack", "msgpack"),
)
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError)
_NIL: Final = b"\xc0"
_EMPTY_MAP: Final = b"\x80"
_DEPTH_MAX: Final = 200  # levels of a document that is translated


class RequestUnreadableError(UsageError):
    """Bytes that are not the request they should be."""

    code = "malformed"

    def __init__(self, op: str, reason: str) -> None:
        super().__init__(f"the request {op[:80]!r} cannot be read: {reason}; see docs/protocol.md")
        self.op = op
        self.reason = reason


class ContentTypeError(UsageError):
    """A format nobody here reads."""

    code = "content_type"

    def __init__(self, given: str) -> None:
        super().__init__(f"Content-Type is {given[:80]!r}, expected application/msgpack or application/json")
        self.given = given


class PublicVersionError(UsageError):
    """The request is of another version of the public protocol."""

    code = "version"

    def __init__(self, theirs: int) -> None:
        super().__init__(f"the request is of version {theirs} of the protocol, expected {VERSION}")
        self.theirs = theirs


class DocumentError(UsageError):
    """A document that the other format does not have."""

    code = "payload"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the document cannot be read: {reason}; expected numbers of at most 64 bits and moderate depth")
        self.reason = reason


def format_of(data: bytes, headers: Mapping[str, str] | None) -> Format:
    """Return the format of a message. Raises: ContentTypeError."""
    for name, value in (headers or {}).items():
        if name.lower() == "content-type":
            given = value.partition(";")[0].strip().lower()
            for known, form in _TYPES:
                if given == known:
                    return form
            raise ContentTypeError(value)
    return sniffed(data)


def sniffed(data: bytes) -> Format:
    """Return the format that the first byte tells; nothing at all is JSON, as people type it."""
    return "json" if not data or data[0] in _JSON_BEGINS else "msgpack"


class Codec:
    """Decoders by operation, and the encoders. Made once for a listener."""

    def __init__(self, calls: Mapping[str, tuple[type[Ask], type[Part]]]) -> None:
        self._readers: dict[tuple[str, Format], Callable[[bytes], Any]] = {}
        for op, (ask, _) in calls.items():
            self._readers[op, "json"] = msgspec.json.Decoder(ask).decode
            self._readers[op, "msgpack"] = msgspec.msgpack.Decoder(ask).decode
        self._writers: dict[Format, Callable[[Any], bytes]] = {
            "json": msgspec.json.Encoder().encode,
            "msgpack": msgspec.msgpack.Encoder().encode,
        }

    def read(self, op: str, data: bytes, form: Format) -> Any:
        """Return the request of these bytes. Raises: RequestUnreadableError, PublicVersionError."""
        try:
            ask = self._readers[op, form](data or b"{}" if form == "json" else data)
        except _UNREADABLE as error:
            raise RequestUnreadableError(op, str(error) or type(error).__name__) from error
        if ask.version != VERSION:
            raise PublicVersionError(ask.version)
        return ask

    def write(self, part: Part, form: Format) -> bytes:
        """Return the bytes of a message."""
        return self._writers[form](part)


# -- documents ---------------------------------------------------------------------------------------------------------


def to_store(document: Raw, form: Format, *, absent: bytes = _EMPTY_MAP) -> bytes:
    """Return a document as msgpack; `absent` for one that was not given. Raises: DocumentError."""
    data = bytes(document)
    if not data:
        return absent
    if form == "msgpack":
        return data
    try:
        return msgspec.msgpack.encode(msgspec.json.decode(data))
    except _UNREADABLE as error:
        raise DocumentError(str(error) or type(error).__name__) from error


def result_to_store(document: Raw, form: Format) -> bytes:
    """Return a result as it is kept: nothing at all stands for null. Raises: DocumentError."""
    data = to_store(document, form, absent=b"")
    return b"" if data == _NIL else data


def to_wire(data: bytes, form: Format) -> Raw:
    """Return a kept document as a peer reads it. What is no document is shown as bytes."""
    if not data:
        return Raw(_NIL if form == "msgpack" else b"null")
    if form == "msgpack":
        return Raw(data if is_document(data) else msgspec.msgpack.encode(data))
    try:
        return Raw(msgspec.json.encode(_plain(msgspec.msgpack.decode(data, strict=False), 0)))
    except (*_UNREADABLE, TypeError, ValueError):
        return Raw(msgspec.json.encode(data))


def is_document(data: bytes) -> bool:
    """Tell whether the bytes are one whole msgpack value."""
    try:
        msgspec.msgpack.decode(data, type=Raw)
    except _UNREADABLE:
        return False
    return True


def _plain(value: Any, depth: int) -> Any:
    """Return a value in types JSON has."""
    if depth > _DEPTH_MAX:
        raise DocumentError(f"more than {_DEPTH_MAX} levels")
    match value:
        case dict():
            return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, depth + 1) for item in value]
        case msgspec.msgpack.Ext():
            return {"ext": value.code, "data": bytes(value.data)}
        case datetime():
            return value.isoformat()
        case _:
            return value


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    return msgspec.json.encode(_plain(key, 0)).decode().strip('"')
