"""The app: a name and the handlers that belong to it. Making one does nothing else, so a module with it is cheap to
import by clients, workers and child processes alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, Protocol, TypeVar, overload

from ..actors.addresses import check_name
from ..runtime.errors import UsageError
from .durations import Span
from .handler import AsyncHandler, Handler, P, PlainHandler
from .options import (
    Delivery,
    InvalidOptionError,
    Isolation,
    KeyOption,
    OnConflict,
    Retry,
    TaskOptions,
    count_option,
)
from .payload import DEFAULT_LIMIT

__all__ = [
    "AsyncHandler", "Decorator", "DuplicateHandlerError", "Foliot", "Handler", "PlainHandler", "Retry", "TaskOptions",
    "UnknownTaskError",
]  # fmt: skip

T = TypeVar("T")


class DuplicateHandlerError(UsageError):
    """Two functions of one app under one name."""

    code = "duplicate_handler"

    def __init__(self, name: str, first: str) -> None:
        super().__init__(f"handler {name!r} is already {first}, expected another function name or name=...")
        self.name = name


class UnknownTaskError(UsageError):
    """No handler of that name here."""

    code = "unknown_task"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        names = ", ".join(sorted(known)[:20]) or "none at all"
        super().__init__(f"handler {name!r} is unknown, expected one of {names}")
        self.name = name


class Decorator(Protocol):
    """What turns a function into a handler, its types kept."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> AsyncHandler[P, T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, T], /) -> PlainHandler[P, T]: ...


class Foliot:
    """A set of handlers under one name, which is the first part of theirs."""

    def __init__(self, name: str, *, payload_limit: int = DEFAULT_LIMIT) -> None:
        """`payload_limit`: bytes of one payload, and of one result. Raises: InvalidNameError, InvalidOptionError."""
        self.name = check_name("app", name)
        self.payload_limit = count_option("payload_limit", payload_limit, 1, 1 << 30, name)
        self.handlers: dict[str, Handler[..., Any]] = {}

    def handler(self, name: str) -> Handler[..., Any]:
        """Return the handler of that name. Raises: UnknownTaskError."""
        found = self.handlers.get(name)
        if found is None:
            raise UnknownTaskError(name, list(self.handlers))
        return found

    def queues(self) -> list[tuple[str, str]]:
        """Return the (pool, queue) pairs its handlers name, in the order of the handlers."""
        pairs = [(handler.template.pool, handler.template.queue) for handler in self.handlers.values()]
        return list(dict.fromkeys(pairs))

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> AsyncHandler[P, T]: ...  # type: ignore[overload-overlap]
    @overload
    def task(self, function: Callable[P, T], /) -> PlainHandler[P, T]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        queue: str = "default",
        pool: str = "default",
        max_attempts: int = 3,
        timeout: Span | None = "5m",
        priority: str | int = "normal",
        cost: int = 1,
        retry: Retry = ...,
        wait_timeout: Span | None = None,
        total_timeout: Span | None = None,
        heartbeat_timeout: Span | None = None,
        cancel_grace: Span = "10s",
        delivery: Delivery = "at_least_once",
        require: Sequence[str] = (),
        prefer: Sequence[str] = (),
        key: KeyOption | None = None,
        key_limit: int = 0,
        key_rate: str | tuple[int, Span] | None = None,
        isolation: Isolation | None = None,
        dead_letter: bool = True,
        dedupe_window: Span = "24h",
        on_conflict: OnConflict = "return_existing",
        result: Literal["keep", "discard"] = "keep",
    ) -> Decorator: ...
    def task(self, *function: Callable[..., Any], **options: Any) -> Any:
        """Make a function a handler: `@app.task`, or `@app.task(queue=..., ...)` with the options of `TaskOptions`.

        `name`: defaults to app and function. Raises: UsageError of a kind that names option, value and expectation.
        """
        name = options.pop("name", None)
        known = TaskOptions.__dataclass_fields__
        for option, value in options.items():
            if option not in known:
                raise InvalidOptionError(option, value, f"one of {', '.join(known)}", where=self.name)
        checked = TaskOptions(**options)
        if function:
            return self._add(function[0], name, checked, sys._getframe(1).f_locals)
        return lambda decorated: self._add(decorated, name, checked, sys._getframe(1).f_locals)

    def _add(
        self, function: Callable[..., Any], name: str | None, options: TaskOptions, local_names: dict[str, Any]
    ) -> Handler[..., Any]:
        full = name or f"{self.name}.{getattr(function, '__name__', '?')}"
        kind: type[Handler[..., Any]] = AsyncHandler if _is_async(function) else PlainHandler
        handler = kind(function, full, options, payload_limit=self.payload_limit, local_names=local_names)
        known = self.handlers.get(full)
        if known is not None and _place(known) != _place(handler):
            raise DuplicateHandlerError(full, f"{known.__module__}.{known.__qualname__}")
        self.handlers[full] = handler  # the same place again: its module was loaded anew
        return handler

    def __repr__(self) -> str:
        return f"<app {self.name}, {len(self.handlers)} handlers>"


def _place(handler: Handler[..., Any]) -> tuple[str, int]:
    code = handler.function.__code__
    return code.co_filename, code.co_firstlineno


def _is_async(function: object) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & 0x80)  # CO_COROUTINE; what is no function is refused later
