"""What `@app.task(...)` may be told: every option checked where it is written, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ..actors.addresses import InvalidNameError, check_name
from ..actors.labels import InvalidLabelError
from ..actors.labels import parse as parse_label
from ..actors.messages import LOWEST_PRIORITY, Priority, RetryPolicy, Template
from ..runtime.errors import UsageError
from .durations import InvalidRateError, InvalidSpanError, Span, parse_rate, parse_span
from .failure import error_name

Delivery = Literal["at_most_once", "at_least_once", "exactly_once"]
OnConflict = Literal["return_existing", "reject", "replace"]
Isolation = Literal["thread", "process"]
ErrorTypes = type[BaseException] | str | Sequence[type[BaseException] | str]
KeyOption = str | Callable[[Mapping[str, Any]], Any]

MAX_ATTEMPTS: Final = 1_000_000
_PRIORITIES: Final = {
    "critical": Priority.CRITICAL, "high": Priority.HIGH, "normal": Priority.NORMAL, "medium": Priority.NORMAL,
    "low": Priority.LOW,
}  # fmt: skip
_EXPECTED_PRIORITY: Final = f"critical, high, normal (or medium), low, or a number from 0 to {LOWEST_PRIORITY}"


class InvalidOptionError(UsageError):
    """An option that cannot be used. `where`: the handler it was written at, empty for a submission."""

    code = "invalid_option"

    def __init__(self, option: str, value: object, expected: str, *, where: str = "") -> None:
        of = f" of {where!r}" if where else ""
        super().__init__(f"option {option!r}{of} is {value!r:.80}, expected {expected}")
        self.option = option
        self.value = value
        self.expected = expected
        self.where = where


def parse_priority(value: str | int, *, what: str = "priority", where: str = "") -> int:
    """Return the priority as a number, 0 runs first. Raises: InvalidOptionError."""
    if isinstance(value, str) and value.lower() in _PRIORITIES:
        return int(_PRIORITIES[value.lower()])
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LOWEST_PRIORITY:
        return int(value)
    raise InvalidOptionError(what, value, _EXPECTED_PRIORITY, where=where)


@dataclass(frozen=True)
class Retry:
    """How failed attempts are repeated: after base, base * factor, ... at most cap; with `jitter`, a random share of
    that. `fatal` errors are never retried; with `retry_on`, only those are. Types or names, subclasses included."""

    base: Span = "1s"
    factor: float = 2.0
    cap: Span = "5m"
    jitter: bool = True
    fatal: ErrorTypes = ()
    retry_on: ErrorTypes = ()

    def policy(self, where: str = "") -> RetryPolicy:
        """Return the policy that travels. Raises: InvalidOptionError, InvalidSpanError."""
        factor = self.factor
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor <= 1_000:
            raise InvalidOptionError("retry.factor", factor, "a number from 1 to 1000", where=where)
        return RetryPolicy(
            base_ms=span_option("retry.base", self.base, where),
            factor=float(factor),
            cap_ms=span_option("retry.cap", self.cap, where),
            jitter=bool(self.jitter),
            fatal=tuple(_names("retry.fatal", self.fatal, where)),
            retry_on=tuple(_names("retry.retry_on", self.retry_on, where)),
        )

    def classes(self) -> dict[str, type[BaseException]]:
        """Return the types behind the policy's names, as far as they were given as types."""
        both = [*_listed(self.fatal), *_listed(self.retry_on)]
        return {error_name(item): item for item in both if isinstance(item, type)}


@dataclass(frozen=True)
class TaskOptions:
    """The options of one handler, as written."""

    queue: str = "default"
    pool: str = "default"
    max_attempts: int = 3
    timeout: Span | None = "5m"
    priority: str | int = "normal"
    cost: int = 1
    retry: Retry = Retry()
    wait_timeout: Span | None = None
    total_timeout: Span | None = None
    heartbeat_timeout: Span | None = None
    cancel_grace: Span = "10s"
    delivery: Delivery = "at_least_once"
    require: Sequence[str] = ()
    prefer: Sequence[str] = ()
    key: KeyOption | None = None
    key_limit: int = 0
    key_rate: str | tuple[int, Span] | None = None
    isolation: Isolation | None = None
    dead_letter: bool = True
    dedupe_window: Span = "24h"
    on_conflict: OnConflict = "return_existing"
    result: Literal["keep", "discard"] = "keep"

    def template(self, handler: str) -> Template:
        """Return the template all tasks of the handler share. Raises: InvalidOptionError, InvalidSpanError,
        InvalidRateError, each naming option, value and what was expected."""
        if not isinstance(self.retry, Retry):
            raise InvalidOptionError("retry", self.retry, "Retry(base=..., factor=..., cap=...)", where=handler)
        key_rate, key_rate_ms = 0, 60_000
        if self.key_rate is not None:
            try:
                key_rate, key_rate_ms = parse_rate(self.key_rate, what="key_rate")
            except InvalidRateError as error:
                raise InvalidOptionError("key_rate", self.key_rate, error.expected, where=handler) from error
        _one_of("isolation", self.isolation, (None, "thread", "process"), handler)
        _one_of("result", self.result, ("keep", "discard"), handler)
        _flag("dead_letter", self.dead_letter, handler)
        if not (self.key is None or isinstance(self.key, str) or callable(self.key)):
            raise InvalidOptionError("key", self.key, "a parameter's name or a function", where=handler)
        return Template(
            handler=handler,
            queue=name_option("queue", self.queue, handler),
            pool=name_option("pool", self.pool, handler),
            cost=count_option("cost", self.cost, 1, 1_000_000, handler),
            max_attempts=count_option("max_attempts", self.max_attempts, 1, MAX_ATTEMPTS, handler),
            retry=self.retry.policy(handler),
            timeout_ms=span_option("timeout", self.timeout, handler),
            wait_timeout_ms=span_option("wait_timeout", self.wait_timeout, handler),
            total_timeout_ms=span_option("total_timeout", self.total_timeout, handler),
            heartbeat_timeout_ms=span_option("heartbeat_timeout", self.heartbeat_timeout, handler),
            cancel_grace_ms=span_option("cancel_grace", self.cancel_grace, handler),
            delivery=_one_of("delivery", self.delivery, ("at_most_once", "at_least_once", "exactly_once"), handler),
            require=_labels("require", self.require, handler),
            prefer=_labels("prefer", self.prefer, handler),
            key_limit=count_option("key_limit", self.key_limit, 0, 1_000_000, handler),
            key_rate=key_rate,
            key_rate_ms=key_rate_ms,
            dead_letter=self.dead_letter,
            dedupe_window_ms=span_option("dedupe_window", self.dedupe_window, handler),
            on_conflict=_one_of("on_conflict", self.on_conflict, ("return_existing", "reject", "replace"), handler),
        )


def span_option(option: str, value: Span | None, where: str = "") -> int:
    """Return the span in milliseconds, 0 for None. Raises: InvalidOptionError."""
    if value is None:
        return 0
    try:
        return parse_span(value, what=option)
    except InvalidSpanError as error:
        raise InvalidOptionError(option, value, error.expected, where=where) from error


def count_option(option: str, value: int, least: int, most: int, where: str = "") -> int:
    """Return a whole number within its bounds. Raises: InvalidOptionError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidOptionError(option, value, f"a whole number from {least} to {most}", where=where)
    return value


def name_option(option: str, value: str, where: str = "") -> str:
    """Return a name that can be an address. Raises: InvalidOptionError."""
    try:
        return check_name(option, value)
    except (InvalidNameError, TypeError) as error:
        raise InvalidOptionError(option, value, "1 to 64 letters, digits, '_' and '-'", where=where) from error


def _one_of(option: str, value: Any, allowed: Sequence[Any], where: str) -> Any:
    if value not in allowed:
        names = " or ".join("nothing" if item is None else repr(item) for item in allowed)
        raise InvalidOptionError(option, value, names, where=where)
    return value


def _flag(option: str, value: object, where: str) -> None:
    if not isinstance(value, bool):
        raise InvalidOptionError(option, value, "True or False", where=where)


def _labels(option: str, value: Sequence[str], where: str) -> tuple[str, ...]:
    expected = "a list of requirements such as 'gpu=true', 'zone in (a,b)' or 'mem>=16'"
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidOptionError(option, value, expected, where=where)
    for text in value:
        if not isinstance(text, str):
            raise InvalidOptionError(option, text, expected, where=where)
        try:
            parse_label(text)
        except InvalidLabelError as error:
            raise InvalidOptionError(option, text, f"{expected}: {error}", where=where) from error
    return tuple(value)


def _listed(value: ErrorTypes) -> Sequence[type[BaseException] | str]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def _names(option: str, value: ErrorTypes, where: str) -> list[str]:
    names: list[str] = []
    for item in _listed(value):
        if isinstance(item, type) and issubclass(item, BaseException):
            names.append(error_name(item))
        elif isinstance(item, str) and item:
            names.append(item)
        else:
            raise InvalidOptionError(option, item, "exception types or their names", where=where)
    return names
