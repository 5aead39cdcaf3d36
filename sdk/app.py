"""The app: a name and the handlers that belong to it. Making one does nothing else, so a module with it is cheap to
import by clients, workers and child processes alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

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

if TYPE_CHECKING:
    from ..actors.rules import Calendar
    from .declared import Declared
    from .shell import ShellResult
    from .shell_run import Commands

__all__ = [
    "AsyncHandler", "Decorator", "DuplicateHandlerError", "Foliot", "Handler", "PlainHandler", "Retry", "TaskOptions",
    "UnknownTaskError",
]  # fmt: skip

T = TypeVar("T")
H = TypeVar("H", bound=Handler[..., Any])


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
        self.schedules: dict[str, Declared] = {}
        self.calendars: dict[str, Calendar] = {}

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

    def schedule(self, *args: Any, name: str | None = None, **words: Any) -> Callable[[H], H]:
        """Declare a schedule of a task: the scheduler has it from its next start on, as written here.

            @app.schedule(cron="0 6 * * *", zone="Europe/Berlin")
            @app.task
            async def report() -> None: ...

        `args` and `words` as for `client.schedules.create`; `name`: defaults to the handler's. Several may be stacked, each
        with a name of its own. Raises: UsageError of a kind that names the word, its value and what was expected;
        DuplicateScheduleError.
        """

        def declare(handler: H) -> H:
            from .declared import DuplicateScheduleError, declared  # which apps without schedules do not need

            made = declared(self.name, name, handler, args, dict(words))
            full = made.draft.spec.name
            known = self.schedules.get(full)
            if known is not None and (known.handler is handler or _place(known.handler) != _place(handler)):
                raise DuplicateScheduleError(full, known.handler.name)
            self.schedules[full] = made  # the same place again: its module was loaded anew
            return handler

        return declare

    def calendar(
        self,
        name: str,
        *,
        weekdays: Iterable[str | int] = (),
        dates: Iterable[date | str] = (),
        yearly: Iterable[str] = (),
        easter: Iterable[int] = (),
        nth: Iterable[tuple[str | int, str | int, int]] = (),
        hours: Iterable[str] = (),
        zone: str = "",
    ) -> Calendar:
        """Declare a calendar that schedules may name: the scheduler has it from its next start on, before the schedules.

            app.calendar("holidays", yearly=["12-25", "12-26"], easter=[-2, 1])

        The words are those of `client.calendars.set`. Where somebody set a calendar of that name otherwise, the code's
        replaces it at the next start. Raises: InvalidOptionError, InvalidCalendarError, InvalidZoneError,
        DuplicateCalendarError.
        """
        from .declared import declared_calendar  # which apps without schedules do not need

        words = {"weekdays": weekdays, "dates": dates, "yearly": yearly, "easter": easter, "nth": nth, "hours": hours}
        self.calendars[name] = declared_calendar(self, name, {**words, "zone": zone})
        return self.calendars[name]

    def add_shell(
        self,
        *,
        tenants: Sequence[str] | None = None,
        users: Sequence[str] = (),
        commands: Commands | None = None,
        **options: Any,
    ) -> AsyncHandler[..., ShellResult]:
        """Let workers of this app run shell commands, as the handler `foliot.shell`: whoever may submit a task to them can
        then do what they can. Without this, no worker runs any.

        `tenants`: who may ask for commands, by default all. `users`: as whom commands may be run, besides the worker's own
        user; that takes root. `commands`: what runs them, by default processes. `options`: of `TaskOptions`; the queue is
        `shell`, if none is named. Raises: InvalidOptionError.
        """
        from .shell import QUEUE
        from .shell_handler import shell_handler  # which most apps do not need

        known = TaskOptions.__dataclass_fields__
        for option, value in options.items():
            if option not in known or option in ("isolation", "key"):
                raise InvalidOptionError(option, value, "an option that a handler of commands has", where=self.name)
        handler = shell_handler(
            payload_limit=self.payload_limit, tenants=tenants, users=users, commands=commands,
            options=TaskOptions(**{"queue": QUEUE, **options}),
        )  # fmt: skip
        self.handlers[handler.name] = handler
        return handler

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
