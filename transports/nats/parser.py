"""The reading half of the NATS protocol: bytes in, one call for each operation, no await.

It stands in the place of nats-py's, which matches several regular expressions and awaits a coroutine for each message. What
holds: the owner is called in the order of the bytes; a message is handed over only once it is whole;
what is not the protocol raises, and the session ends.
"""

from __future__ import annotations

from typing import Final, Protocol

from ...runtime.errors import FoliotError

_CRLF: Final = b"\r\n"
_LINE_MAX: Final = 65_536  # an INFO of a large cluster is the longest
_SIZE_MAX: Final = 64 * 1024 * 1024 + _LINE_MAX  # the largest message a server can be set to take


class WireError(FoliotError):
    """Bytes that are not the protocol; nothing after them can be understood."""

    code = "nats_wire"

    def __init__(self, reason: str) -> None:
        super().__init__(f"a NATS server said what cannot be read: {reason[:200]}")
        self.reason = reason


class Owner(Protocol):
    """Who takes what was read."""

    def on_message(self, sid: int, subject: bytes, reply: bytes, head: bytes, data: bytes) -> None: ...
    def on_ping(self) -> None: ...
    def on_pong(self) -> None: ...
    def on_info(self, text: bytes) -> None: ...
    def on_error(self, text: str) -> None: ...


class Parser:
    """Of one connection."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0  # so many bytes must be there before it is worth looking again

    def feed(self, data: bytes) -> None:
        """Take what came. Raises: WireError, and whatever the owner does."""
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return  # a large message is put together once, not at every read
            data = b"".join(self._parts)
        try:
            at = self._read(data)
        except (ValueError, IndexError) as error:  # a word that is no number, or is not there
            raise WireError(str(error)) from error
        rest = len(data) - at
        self._parts = [data[at:] if at else data] if rest else []
        self._have = rest

    def _read(self, data: bytes) -> int:
        """Handle all that is whole in `data`. Returns: where the rest begins."""
        owner, find, total = self._owner, data.find, len(data)
        on_message = owner.on_message
        at = 0
        self._need = 0
        while at < total:
            line_end = find(_CRLF, at)
            if line_end < 0:
                if total - at > _LINE_MAX:
                    raise WireError(f"a line of more than {_LINE_MAX} bytes")
                return at
            kind = data[at]
            if kind == 77:  # M: MSG subject sid [reply] size
                words = data[at:line_end].split()
                size = int(words[-1])
                if words[0] != b"MSG" or not 4 <= len(words) <= 5 or not 0 <= size <= _SIZE_MAX:
                    raise WireError(repr(data[at:line_end]))
                start = line_end + 2
                end = start + size
                if end + 2 > total:
                    self._need = end + 2 - at
                    return at
                on_message(int(words[2]), words[1], words[3] if len(words) == 5 else b"", b"", data[start:end])
                at = end + 2
            elif kind == 72:  # H: HMSG subject sid [reply] size-of-head size
                words = data[at:line_end].split()
                size, head = int(words[-1]), int(words[-2])
                if words[0] != b"HMSG" or not 5 <= len(words) <= 6 or not 0 < head <= size <= _SIZE_MAX:
                    raise WireError(repr(data[at:line_end]))
                start = line_end + 2
                end, body = start + size, start + head
                if end + 2 > total:
                    self._need = end + 2 - at
                    return at
                on_message(
                    int(words[2]), words[1], words[3] if len(words) == 6 else b"", data[start:body], data[body:end]
                )  # fmt: skip
                at = end + 2
            else:
                self._control(data[at:line_end])
                at = line_end + 2
        return at

    def _control(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        match word.strip().upper():
            case b"PING":
                self._owner.on_ping()
            case b"PONG":
                self._owner.on_pong()
            case b"INFO":
                self._owner.on_info(rest)
            case b"-ERR":
                self._owner.on_error(rest.strip().strip(b"'").decode(errors="replace"))
            case b"+OK":
                pass
            case _:
                raise WireError(repr(line))


def headers_of(head: bytes) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of a message's head. The status is 0 if there is none; of a repeated header
    the last counts."""
    first, *lines = head.split(_CRLF)
    words = first.split(None, 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    headers = {}
    if len(words) > 2:
        headers["Description"] = words[2].decode(errors="replace")
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.decode(errors="replace")] = value.strip().decode(errors="replace")
    return status, headers
