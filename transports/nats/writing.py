"""The writing half of the NATS protocol: subjects and headers checked, so that no word of a caller can become a command.

Pure functions, and one memory of subjects that were checked, since most are used again and again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ...runtime.rng import Rng
from .errors import InvalidSubjectError

_SUBJECT: Final = re.compile(r"[!-)+-=?-~]+")  # printable, no space, no wildcard
_PATTERN: Final = re.compile(r"[!-~]+")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE: Final = re.compile(r"[^\r\n\x00]*")
_KNOWN_MAX: Final = 16_384  # subjects that are remembered


class Heads:
    """The beginnings of publications, by subject."""

    def __init__(self) -> None:
        self._known: dict[str, bytes] = {}

    def of(self, subject: str) -> bytes:
        """Return `PUB` and the subject. Raises: InvalidSubjectError."""
        head = self._known.get(subject)
        if head is None:
            if not subject:
                raise InvalidSubjectError(subject, "printable characters without spaces and wildcards")
            head = b"PUB %b " % checked(subject)
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[subject] = head
        return head


def checked(subject: str) -> bytes:
    """Return the bytes of a subject, which may be empty. Raises: InvalidSubjectError."""
    if subject and not _SUBJECT.fullmatch(subject):
        raise InvalidSubjectError(subject, "printable characters without spaces and wildcards")
    return subject.encode("ascii")


def header_block(headers: Mapping[str, str]) -> bytes:
    """Return the headers as they stand before a message. Raises: InvalidSubjectError."""
    lines = ["NATS/1.0"]
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidSubjectError(f"{name}: {value}", "a name of letters, digits and '-', and a value of one line")
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def subscribe_line(subject: str, group: str, sid: int) -> bytes:
    """Return the command that begins a subscription. Raises: InvalidSubjectError."""
    if not _PATTERN.fullmatch(subject) or (group and not _SUBJECT.fullmatch(group)):
        raise InvalidSubjectError(subject, "printable characters without spaces")
    return f"SUB {subject} {group} {sid}\r\n".encode("ascii")


def unique(rng: Rng) -> str:
    """Return 16 letters and digits that no other call of any process returns."""
    number, letters = rng.bits(80), "0123456789abcdefghjkmnpqrstvwxyz"
    return "".join(letters[number >> shift & 31] for shift in range(75, -1, -5))
