"""Changes made to code at run time and taken back: how a bug is planted.

An `Edit` replaces a piece of a function's source, so a planted bug reads like a diff, follows the code around it, and fails
loudly when the piece is no longer there. A `Swap` replaces a value. What holds: on leaving, everything is as it was.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final
from unittest.mock import patch

_ANNOTATIONS: Final = annotations.compiler_flag


class CannotPlantError(AssertionError):
    """The code has changed so that the bug cannot be planted as it is described."""

    def __init__(self, where: str, text: str, times: int) -> None:
        super().__init__(f"{where} has {times} times what is to be replaced, expected once:\n{text}")
        self.where = where


def _function_of(found: Any) -> Any:
    """Return what is behind a property, a static or a class method."""
    return found.fget if isinstance(found, property) else getattr(found, "__func__", found)


@functools.cache  # what is on disk may change during a long hunt
def _source_of(function: FunctionType) -> str:
    return getattr(function, "planted_source", None) or inspect.getsource(function)


@dataclass(frozen=True)
class Edit:
    """`owner`: the class or module that has the function `name`. `old`, `new`: pieces of its source, indented as in it;
    `new` may be empty."""

    owner: Any
    name: str
    old: str
    new: str

    def changed(self) -> Any:
        """Return the function with the change. Raises: CannotPlantError."""
        found = inspect.getattr_static(self.owner, self.name)
        function = _function_of(found)
        source = _source_of(function)
        times = source.count(self.old)
        if times != 1:
            raise CannotPlantError(f"{self.owner.__name__}.{self.name}", self.old, times)
        source = source.replace(self.old, self.new)
        text = textwrap.dedent(source)
        code = compile(text, f"<planted in {function.__qualname__}>", "exec", flags=_ANNOTATIONS, dont_inherit=True)
        names: dict[str, Any] = {}
        exec(code, function.__globals__, names)
        made = names[self.name]  # decorated as in the source
        _function_of(made).planted_source = source  # so that it can be changed further
        return made

    @contextmanager
    def made(self) -> Iterator[None]:
        with patch.object(self.owner, self.name, self.changed()):
            yield


@dataclass(frozen=True)
class Swap:
    """`owner`: the module or class that has the value `name`."""

    owner: Any
    name: str
    value: Any

    @contextmanager
    def made(self) -> Iterator[None]:
        with patch.object(self.owner, self.name, self.value):
            yield


Change = Edit | Swap


@contextmanager
def planted(changes: Sequence[Change]) -> Iterator[None]:
    """Make the changes for as long as the block lasts. Raises: CannotPlantError."""
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change.made())
        yield
