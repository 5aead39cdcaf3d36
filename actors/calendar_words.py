"""Expressions over calendar names: `weekdays and not (holidays_de or holidays_fr)`.

`not` binds before `and`, `and` before `or`; parentheses group. A name is made of small letters, digits, `_`, `.` and `-`.
An error says at which character, counted from 0, the expression stops making sense.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .rule_errors import InvalidCalendarError

MAX_TEXT: Final = 1_000
MAX_DEPTH: Final = 50

_TOKEN: Final = re.compile(r"\s*([a-z0-9_.-]+|[()])")
OPERATORS: Final = ("and", "or", "not")


@dataclass(frozen=True, slots=True)
class Name:
    name: str
    position: int


@dataclass(frozen=True, slots=True)
class Not:
    of: Expression


@dataclass(frozen=True, slots=True)
class Both:
    """`and` if `is_and`, else `or`."""

    left: Expression
    right: Expression
    is_and: bool


Expression = Name | Not | Both


def parse(text: str) -> Expression:
    """Return an expression as a tree. Raises: InvalidCalendarError."""
    if len(text) > MAX_TEXT:
        raise InvalidCalendarError("calendar", text, f"is {len(text)} characters long", f"at most {MAX_TEXT}")
    parser = _Parser(text)
    tree = parser.either(0)
    if parser.token:
        raise parser.wrong("'and', 'or' or the end")
    return tree


def names_of(tree: Expression) -> tuple[Name, ...]:
    """Return the names in an expression, in the order they are written."""
    match tree:
        case Name():
            return (tree,)
        case Not():
            return names_of(tree.of)
        case Both():
            return names_of(tree.left) + names_of(tree.right)


class _Parser:
    """Descends through the grammar; `token` is the next one, empty at the end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, int]] = []
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                at += len(text[at:]) - len(text[at:].lstrip())
                raise self._error(at, "a calendar's name in small letters, 'and', 'or', 'not' or a parenthesis")
            self._tokens.append((match[1], match.start(1)))
            at = match.end()
        self._tokens.append(("", len(text)))
        self._next = 0

    @property
    def token(self) -> str:
        return self._tokens[self._next][0]

    def wrong(self, expected: str) -> InvalidCalendarError:
        return self._error(self._tokens[self._next][1], expected)

    def _error(self, at: int, expected: str) -> InvalidCalendarError:
        return InvalidCalendarError("calendar", self._text, f"is wrong at position {at}", expected)

    def either(self, depth: int) -> Expression:
        tree = self._both(depth)
        while self.token == "or":
            self._next += 1
            tree = Both(tree, self._both(depth), False)
        return tree

    def _both(self, depth: int) -> Expression:
        tree = self._single(depth)
        while self.token == "and":
            self._next += 1
            tree = Both(tree, self._single(depth), True)
        return tree

    def _single(self, depth: int) -> Expression:
        token, at = self._tokens[self._next]
        if depth > MAX_DEPTH:
            raise self.wrong(f"at most {MAX_DEPTH} levels")
        if not token or token == ")" or token in ("and", "or"):
            raise self.wrong("a calendar's name, 'not' or '('")
        self._next += 1
        if token == "not":
            return Not(self._single(depth + 1))
        if token != "(":
            return Name(token, at)
        tree = self.either(depth + 1)
        if self.token != ")":
            raise self.wrong("')', 'and' or 'or'")
        self._next += 1
        return tree
