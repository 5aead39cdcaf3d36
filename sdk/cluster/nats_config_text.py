"""The text of a nats-server configuration: plain values in, one readable file out.

The server reads a relaxed JSON. Keys that begin with `#` become comments; strings are always quoted, so that no secret can
be taken for a variable or a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ...runtime.errors import UsageError

_BARE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INCLUDE: Final = "include"
_WIDTH: Final = 110


class UnquotableError(UsageError):
    """A text that cannot stand in a configuration, most likely a path."""

    code = "nats_config"

    def __init__(self, text: str) -> None:
        super().__init__(f"{text!r} cannot stand in a configuration, expected characters that can be printed")
        self.text = text


def render(values: Mapping[str, Any]) -> str:
    """Return the configuration as text; key `include` names a file beside it."""
    return "\n".join(_lines(values, "")) + "\n"


def _lines(values: Mapping[str, Any], indent: str) -> list[str]:
    lines: list[str] = []
    for key, value in values.items():
        if key.startswith("#"):
            lines += [f"{indent}# {line}" for line in str(value).splitlines()]
        elif key == _INCLUDE:
            lines.append(f"{indent}include {_scalar(value)}")
        else:
            name = key if _BARE.fullmatch(key) else _scalar(key)
            lines += _entry(f"{indent}{name}", value, indent)
    return lines


def _entry(start: str, value: Any, indent: str) -> list[str]:
    """Return the lines of one key, or of one item of a list: on one line where that is short enough."""
    flat = _flat(value)
    separator = " " if isinstance(value, Mapping) else ": "
    if flat is not None and (len(start) + len(flat) < _WIDTH or not _is_nested(value)):
        return [f"{start}{separator}{flat}"]
    inner = indent + "  "
    if isinstance(value, Mapping):
        return [f"{start} {{", *_lines(value, inner), f"{indent}}}"]
    return [f"{start}: [", *(line for each in value for line in _item(each, inner)), f"{indent}]"]


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str))


def _item(value: Any, indent: str) -> list[str]:
    flat = _flat(value)
    if flat is not None and len(indent) + len(flat) < _WIDTH:
        return [f"{indent}{flat}"]
    if isinstance(value, Mapping):
        return [f"{indent}{{", *_lines(value, indent + "  "), f"{indent}}}"]
    return [f"{indent}{_scalar(value)}"]


def _flat(value: Any) -> str | None:
    """Return the value on one line; None if it has comments, which end a line."""
    if isinstance(value, Mapping):
        parts = []
        for key, each in value.items():
            flat = None if key.startswith("#") else _flat(each)
            if flat is None:
                return None
            parts.append(f"{key if _BARE.fullmatch(key) else _scalar(key)}: {flat}")
        return f"{{{', '.join(parts)}}}"
    if _is_nested(value):
        items = [_flat(each) for each in value]
        return None if None in items else f"[{', '.join(str(item) for item in items)}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if not text.isprintable():  # the server has no escape for most of the others
        raise UnquotableError(text)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
