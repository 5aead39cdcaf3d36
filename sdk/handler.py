"""A handler: a user's function, the template of its tasks, and the shape of its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, Literal, ParamSpec, TypeVar, get_type_hints

import msgspec

from ..actors.addresses import check_handler
from .context import Context
from .options import InvalidOptionError, TaskOptions, parse_priority
from .payload import PayloadError, Shape, SignatureError

P = ParamSpec("P")
R = TypeVar("R")

KEY_LIMIT = 200  # characters of a concurrency key
Mode = Literal["async", "thread", "process", "command"]  # command: a coroutine that waits for a command of its own


class Handler(Generic[P, R]):
    """What `@app.task` makes of a function. It can still be called as the plain function it was.

    `mode`: where attempts run. `takes_context`: the function's first parameter is the context, which is no argument.
    """

    shape_type: type[Shape] = Shape

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        options: TaskOptions,
        *,
        payload_limit: int,
        local_names: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises: SignatureError, InvalidOptionError, InvalidNameError."""
        _check_function(function, name)
        self.name = check_handler(name)
        self.function: Any = function
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.template = options.template(name)
        self.default_priority = parse_priority(options.priority, where=name)
        self.keeps_result = options.result == "keep"
        self.retry_classes = options.retry.classes()
        self.mode: Mode = options.isolation or ("async" if self.is_coroutine else "thread")
        parameters = list(inspect.signature(function).parameters.values())
        hints = _hints(function, name, local_names)
        self.takes_context = bool(parameters) and _is_context(parameters[0], hints)
        for parameter in parameters[1:]:
            if hints.get(parameter.name) is Context:
                raise SignatureError(name, parameter.name, "is a Context", "the context as first parameter")
        taken = parameters[1:] if self.takes_context else parameters
        self.shape = self.shape_type(name, taken, hints, limit=payload_limit)
        self._key = options.key
        if isinstance(self._key, str) and self._key not in [parameter.name for parameter in taken]:
            raise InvalidOptionError("key", self._key, "the name of one of its parameters, or a function", where=name)
        if self.mode == "process" and "<locals>" in function.__qualname__:
            raise InvalidOptionError(
                "isolation",
                "process",
                "a function at the top of a module, which a child process can import",
                where=name,
            )
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the payload of a call. Raises: PayloadError, PayloadTooLargeError."""
        return self.shape.encode(args, kwargs)

    def decode(self, payload: bytes) -> dict[str, Any]:
        """Return a payload's arguments by name, defaults filled in. Raises: PayloadError."""
        return self.shape.decode(payload)

    def prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bytes, str]:
        """Return the payload of a call and its concurrency key. Raises: PayloadError, PayloadTooLargeError."""
        payload, arguments = self.shape.prepare(args, kwargs)
        if self._key is None:
            return payload, ""
        return payload, self.key_of(msgspec.structs.asdict(arguments))

    def key_of(self, kwargs: Mapping[str, Any]) -> str:
        """Return the concurrency key of a call with these arguments, defaults filled in; empty if it has none."""
        if self._key is None:
            return ""
        try:
            value = kwargs[self._key] if isinstance(self._key, str) else self._key(kwargs)
            key = "" if value is None else str(value)
        except Exception as error:
            problem = f"gives no concurrency key: {type(error).__name__}: {error}"
            raise PayloadError(self.name, "", problem, "arguments its key function takes") from error
        if len(key) > KEY_LIMIT:
            raise PayloadError(self.name, "", f"gives a concurrency key of {len(key)} characters", f"at most {KEY_LIMIT}")
        return key

    def decode_result(self, data: bytes) -> R:
        """Return a result as the type the function is annotated with."""
        result: R = self.shape.decode_result(data)
        return result

    def __repr__(self) -> str:
        return f"<handler {self.name}>"


class PlainHandler(Handler[P, R]):
    """A handler made of a plain function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, here and now."""
        result: R = self.function(*args, **kwargs)
        return result


class AsyncHandler(Handler[P, R]):
    """A handler made of a coroutine function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function itself, here and now."""
        coroutine: Coroutine[Any, Any, R] = self.function(*args, **kwargs)
        return coroutine


def _check_function(function: object, name: str) -> None:
    if not inspect.isfunction(function):
        raise SignatureError(name, "", f"is that of a {type(function).__name__}", "a function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise SignatureError(name, "", "is that of a generator", "a function that returns its result")


def _hints(function: Callable[..., Any], name: str, local_names: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the annotations as types. Names of the place of decoration help where the module's do not."""
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:
        try:
            return get_type_hints(function, localns=dict(local_names or {}), include_extras=True)
        except Exception as error:
            raise SignatureError(name, "", f"cannot be read: {error}", "annotations that can be looked up") from error


def _is_context(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> bool:
    if hints.get(parameter.name) is Context:
        return True
    return parameter.name == "ctx" and parameter.name not in hints
