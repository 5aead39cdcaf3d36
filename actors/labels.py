"""Label requirements: what a task asks of the worker that runs it.

`gpu=true`, `gpu!=true`, `zone in (a,b)`, `zone not in (a,b)`, `mem>=16` (also `>`, `<=`, `<`), `gpu` (the label is
there), `!gpu` (it is not). Two numbers compare as numbers, so `mem=16` holds for `16.0`. A label that is missing satisfies
`!=`, `not in` and `!`, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from ..runtime.errors import UsageError

Operator = Literal["exists", "absent", "=", "!=", "in", "not in", ">=", "<=", ">", "<"]

_KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,62}")
_VALUE: Final = re.compile(r"[A-Za-z0-9_.:/+-]{1,63}")
_SPACE: Final = re.compile(r"\s*")
_COMPARISON: Final = re.compile(r">=|<=|!=|==|=|>|<")
_MEMBERSHIP: Final = re.compile(r"(not\s+in|in)\s*(?=\()")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_MAX_TEXT: Final = 2_000


class InvalidLabelError(UsageError):
    """A label requirement that cannot be read."""

    code = "invalid_label"

    def __init__(self, text: str, position: int, expected: str) -> None:
        super().__init__(f"label requirement {text[:80]!r} is wrong at position {position}, expected {expected}")
        self.text = text
        self.position = position
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on a worker's labels; `str` gives it in its plainest spelling."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        match self.operator:
            case "exists":
                return self.key
            case "absent":
                return f"!{self.key}"
            case "in" | "not in":
                return f"{self.key} {self.operator} ({','.join(self.values)})"
            case _:
                return f"{self.key}{self.operator}{self.values[0]}"

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a worker with these labels satisfies the condition."""
        label = labels.get(self.key)
        operator = self.operator
        if operator == "exists":
            return label is not None
        if label is None:
            return operator in ("absent", "!=", "not in")
        if operator == "absent":
            return False
        if operator in ("=", "in"):
            return any(_same(label, value) for value in self.values)
        if operator in ("!=", "not in"):
            return not any(_same(label, value) for value in self.values)
        have, bound = _number(label), _number(self.values[0])
        if have is None or bound is None:
            return False
        if operator == ">=":
            return have >= bound
        if operator == "<=":
            return have <= bound
        return have > bound if operator == ">" else have < bound


def parse(text: str) -> Requirement:
    """Return the requirement a text states. Raises: InvalidLabelError."""
    if len(text) > _MAX_TEXT:
        raise InvalidLabelError(text, _MAX_TEXT, f"at most {_MAX_TEXT} characters")
    at = _skip(text, 0)
    if text.startswith("!", at):
        key, at = _token(_KEY, text, _skip(text, at + 1), "a label name after '!'")
        _end(text, at)
        return Requirement(key, "absent")
    key, at = _token(_KEY, text, at, "a label name")
    after_key = at
    at = _skip(text, at)
    if at == len(text):
        return Requirement(key, "exists")
    membership = _MEMBERSHIP.match(text, at) if at > after_key else None
    if membership is not None:
        values, at = _list(text, membership.end())
        _end(text, at)
        return Requirement(key, "in" if membership[1] == "in" else "not in", values)
    comparison = _COMPARISON.match(text, at)
    if comparison is None:
        raise InvalidLabelError(text, at, "=, !=, >=, <=, >, <, 'in (...)' or 'not in (...)'")
    operator = _OPERATORS[comparison[0]]
    at = _skip(text, comparison.end())
    value, after = _token(_VALUE, text, at, "a value of letters, digits and _.:/+-")
    if operator in (">=", "<=", ">", "<") and _number(value) is None:
        raise InvalidLabelError(text, at, f"a number after {operator}")
    _end(text, after)
    return Requirement(key, operator, (value,))


def parse_all(texts: Iterable[str]) -> tuple[Requirement, ...]:
    """Return the requirements in order. Raises: InvalidLabelError."""
    return tuple(parse(text) for text in texts)


def matches(requirements: Sequence[Requirement], labels: Mapping[str, str]) -> bool:
    """Tell whether all requirements hold; none at all always do."""
    return all(requirement.holds(labels) for requirement in requirements)


def count_matches(requirements: Sequence[Requirement], labels: Mapping[str, str]) -> int:
    """Return how many of the requirements hold."""
    return sum(requirement.holds(labels) for requirement in requirements)


_OPERATORS: Final[dict[str, Operator]] = {
    "=": "=", "==": "=", "!=": "!=", ">=": ">=", "<=": "<=", ">": ">", "<": "<",
}  # fmt: skip


def _list(text: str, at: int) -> tuple[tuple[str, ...], int]:
    """Read `(a, b)`; `at` is its opening bracket."""
    values: list[str] = []
    at += 1
    while True:
        value, at = _token(_VALUE, text, _skip(text, at), "a value of letters, digits and _.:/+-")
        values.append(value)
        at = _skip(text, at)
        if text.startswith(")", at):
            return tuple(values), at + 1
        if not text.startswith(",", at):
            raise InvalidLabelError(text, at, "',' or ')'")
        at += 1


def _token(pattern: re.Pattern[str], text: str, at: int, expected: str) -> tuple[str, int]:
    found = pattern.match(text, at)
    if found is None:
        raise InvalidLabelError(text, at, expected)
    return found[0], found.end()


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # the pattern also matches nothing
    return found.end()


def _end(text: str, at: int) -> None:
    at = _skip(text, at)
    if at != len(text):
        raise InvalidLabelError(text, at, "the end of the requirement")


def _number(text: str) -> Fraction | None:
    return Fraction(text) if _NUMBER.fullmatch(text) else None


def _same(label: str, value: str) -> bool:
    if label == value:
        return True
    number = _number(value)
    return number is not None and number == _number(label)
