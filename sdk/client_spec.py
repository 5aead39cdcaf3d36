"""From a call to a task: what the user wrote, turned into a template and a payload.

Options and the handler's own arguments share one namespace; a name the handler has as a parameter belongs to the
handler. Making a spec is on the hot path of bulk submissions, so the common case without options does no more than
encode the payload.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from ..actors.addresses import check_handler
from ..actors.messages import Priority, TaskSpec, Template
from ..runtime.clock import Clock
from ..transports.api import HandlerView
from .durations import Span, parse_span, to_instant_ms
from .errors import PastDueError
from .handler import Handler
from .options import MAX_ATTEMPTS, InvalidOptionError, count_option, name_option, parse_priority, span_option
from .payload import Packer, PayloadError

_CACHE_MAX: Final = 1_024
_CONFLICTS: Final = ("return_existing", "reject", "replace")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How one task differs from its handler's template. None: as the handler says."""

    queue: str | None = None
    priority: int | str | None = None
    delay: Span | None = None
    at: datetime | str | None = None
    dedupe_key: str | None = None
    key: str | None = None
    on_conflict: str | None = None
    max_attempts: int | None = None
    timeout: Span | None = None
    past: str = "run"


_NO_WISHES: Final = Options()
OPTION_NAMES: Final = frozenset(Options.__struct_fields__)


class Spec(msgspec.Struct, frozen=True, gc=False):
    """One task ready to be sent. `due_ms` 0: now."""

    template: Template
    payload: bytes
    due_ms: int = 0
    priority: int = int(Priority.NORMAL)
    key: str = ""
    dedupe_key: str = ""
    checked: bool = True  # the payload was made by its handler's signature
    wishes: Options | None = None  # of a handler whose own options are not known here: what the call itself asked for


class SpecMaker:
    """Makes specs; remembers the templates it derived."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pack = Packer().pack
        self._templates: dict[tuple[Any, ...], Template] = {}
        self._spans: dict[str, int] = {}
        self._known: dict[str, HandlerView] = {}
        self.lessons = 0  # how often it learned what handlers there are

    def learn(self, handlers: Iterable[HandlerView]) -> None:
        """Know these handlers by name from now on: tasks that name one get its template and priority."""
        self._known = {handler.template.handler: handler for handler in handlers}
        self._templates.clear()
        self.lessons += 1

    def known(self) -> Sequence[str]:
        """Return the names of the handlers it learned of."""
        return list(self._known)

    def make(self, handler: Handler[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Spec:
        """Return the spec of a call. Raises: UsageError naming the argument or option."""
        if OPTION_NAMES.isdisjoint(kwargs):
            if isinstance(handler, str):
                payload = self._payload_of_name(handler, args, kwargs)
                wishes = None if handler in self._known else _NO_WISHES
                priority = self._priority_of_name(handler)
                return Spec(self._template(handler, None), payload, 0, priority, checked=False, wishes=wishes)
            payload, key = _handler(handler).prepare(args, kwargs)
            return Spec(handler.template, payload, 0, handler.default_priority, key)
        own: Sequence[str] = () if isinstance(handler, str) else parameters_of(_handler(handler))
        options = {name: kwargs.pop(name) for name in [*kwargs] if name in OPTION_NAMES and name not in own}
        return self.make_with(handler, args, kwargs, Options(**options))

    def make_with(
        self, handler: Handler[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
    ) -> Spec:
        """Return the spec of a call whose options are told apart from its arguments."""
        payload, key = self.payload_of(handler, args, kwargs)
        template, priority = self.template_of(handler, options)
        return Spec(
            template,
            payload,
            self._due_ms(options),
            priority,
            key if options.key is None else text_option("key", options.key),
            "" if options.dedupe_key is None else text_option("dedupe_key", options.dedupe_key),
            not isinstance(handler, str),
            options if isinstance(handler, str) and handler not in self._known else None,
        )

    def payload_of(
        self, handler: Handler[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, str]:
        """Return the payload of a call and its concurrency key. Raises: PayloadError, InvalidOptionError."""
        if isinstance(handler, str):
            return self._payload_of_name(handler, args, kwargs), ""
        return _handler(handler).prepare(args, kwargs)

    def template_of(self, handler: Handler[..., Any] | str, options: Options) -> tuple[Template, int]:
        """Return the template and the priority of a handler's tasks as options change them. Raises: InvalidOptionError."""
        priority = self._priority_of_name(handler) if isinstance(handler, str) else _handler(handler).default_priority
        if options.priority is not None:
            priority = parse_priority(options.priority)
        return self._template(handler, options), priority

    def _payload_of_name(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        if args:
            raise PayloadError(name, "", f"has {len(args)} positional arguments", "arguments by name for a handler's name")
        try:
            return self._pack(kwargs)
        except (TypeError, ValueError, OverflowError) as error:
            raise PayloadError(name, "", f"cannot be encoded: {error}", "values msgpack has") from error

    def _priority_of_name(self, name: str) -> int:
        known = self._known.get(name)
        return known.priority if known is not None else int(Priority.NORMAL)

    def _template_of_name(self, name: str) -> Template:
        known = self._known.get(name)
        return known.template if known is not None else Template(check_handler(name))

    def _template(self, handler: Handler[..., Any] | str, options: Options | None) -> Template:
        if options is None:
            key: tuple[Any, ...] = (handler,)
        else:
            key = (handler, options.queue, options.on_conflict, options.max_attempts, options.timeout)
        try:
            template = self._templates.get(key)
        except TypeError:  # an option that is no option's value, which `_changes` refuses by name
            template = None
        if template is None:
            template = self._template_of_name(handler) if isinstance(handler, str) else handler.template
            if options is not None:
                template = changed_template(template, options)
            if len(self._templates) >= _CACHE_MAX:
                self._templates.clear()
            self._templates[key] = template
        return template

    def _span_ms(self, delay: Span) -> int:
        """Return a delay; texts are remembered, since a bulk submission repeats them."""
        if not isinstance(delay, str):
            return parse_span(delay, what="delay")
        span_ms = self._spans.get(delay)
        if span_ms is None:
            span_ms = parse_span(delay, what="delay")
            if len(self._spans) >= _CACHE_MAX:
                self._spans.clear()
            self._spans[delay] = span_ms
        return span_ms

    def _due_ms(self, options: Options) -> int:
        if options.past not in ("run", "refuse"):
            raise InvalidOptionError("past", options.past, "'run' or 'refuse'")
        if options.delay is not None:
            if options.at is not None:
                raise InvalidOptionError("at", options.at, "either a delay or a moment, not both")
            delay_ms = self._span_ms(options.delay)
            return self._clock.now_ms() + delay_ms if delay_ms else 0
        if options.at is None:
            return 0
        due_ms = to_instant_ms(options.at, self._clock, what="at")
        late_ms = self._clock.now_ms() - due_ms
        if late_ms > 0 and options.past == "refuse":
            raise PastDueError(late_ms)
        return due_ms if late_ms < 0 else 0


def parameters_of(handler: Handler[..., Any]) -> tuple[str, ...]:
    """Return the names of the handler's own parameters, in order."""
    names: tuple[str, ...] = handler.shape.struct.__struct_fields__
    return names


def _handler(handler: Any) -> Handler[..., Any]:
    if not isinstance(handler, Handler):
        raise InvalidOptionError("handler", handler, "a function made a task with @app.task, or a handler's name")
    return handler


def text_option(option: str, value: object) -> str:
    """Return a key. Raises: InvalidOptionError."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > 256:
        raise InvalidOptionError(option, value, "at most 256 printable characters")
    return value


def changed_template(template: Template, options: Options) -> Template:
    """Return a template as these options change it. Raises: InvalidOptionError."""
    return msgspec.structs.replace(template, **_changes(options))


def _changes(options: Options) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if options.queue is not None:
        out["queue"] = name_option("queue", options.queue)
    if options.on_conflict is not None:
        if options.on_conflict not in _CONFLICTS:
            raise InvalidOptionError("on_conflict", options.on_conflict, " or ".join(_CONFLICTS))
        out["on_conflict"] = options.on_conflict
    if options.max_attempts is not None:
        out["max_attempts"] = count_option("max_attempts", options.max_attempts, 1, MAX_ATTEMPTS)
    if options.timeout is not None:
        out["timeout_ms"] = span_option("timeout", options.timeout)
    return out


def assemble(specs: Sequence[Spec]) -> tuple[list[Template], list[TaskSpec], bool]:
    """Return the templates and tasks of one batch, and whether all payloads are checked; each template is sent once."""
    templates: list[Template] = []
    index_of: dict[int, int] = {}  # by identity: the specs keep their templates alive
    tasks: list[TaskSpec] = []
    add = tasks.append
    checked = True
    last: Template | None = None
    index = 0
    for spec in specs:
        template = spec.template
        if not spec.checked:
            checked = False
        if template is not last:
            last = template
            known = index_of.get(id(template))
            if known is None:
                known = index_of[id(template)] = len(templates)
                templates.append(template)
            index = known
        add(TaskSpec(index, spec.payload, spec.due_ms, spec.priority, spec.key, spec.dedupe_key))
    return templates, tasks, checked
