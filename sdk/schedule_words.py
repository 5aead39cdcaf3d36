"""From a call to a definition: a user's words for one schedule, turned into a template and a `ScheduleSpec`.

The words of schedules are told apart from the handler's arguments by their names, which always belong to the schedule; an
argument of such a name goes into `arguments={...}`. Words that repeat, as in a bulk call, are understood once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ..actors.messages import Priority, Template
from ..actors.rules import Rule
from ..actors.schedule_messages import MISSED, OVERLAPS, ScheduleSpec
from ..transports.schedule_api import ScheduleView
from ..transports.schedule_checks import MAX_CATCHUP, check_schedule_name
from .client_spec import Options, SpecMaker, changed_template, text_option
from .durations import parse_span
from .handler import Handler
from .options import InvalidOptionError, count_option, parse_priority
from .rules import RULE_WORDS, rule_of

_USUAL: Final[dict[str, Any]] = {
    "overlap": "skip", "missed": "skip", "grace": "1m", "max_lateness": 0, "max_catchup": 100, "pause_after": 0, "note": "",
}  # fmt: skip
POLICY_WORDS: Final = tuple(_USUAL)
TASK_WORDS: Final = ("priority", "key", "queue", "max_attempts", "timeout")
WORDS: Final = frozenset((*RULE_WORDS, *POLICY_WORDS, *TASK_WORDS))
_CACHE_MAX: Final = 8_192  # plans
_NOTE_MAX: Final = 4_096
_COUNT_MAX: Final = 1_000_000_000


class Draft(msgspec.Struct, frozen=True, gc=False):
    """One schedule ready to be sent. `spec.template` is 0."""

    template: Template
    spec: ScheduleSpec


class _Plan(msgspec.Struct, frozen=True):
    """What a handler and words mean, whatever the name and the arguments."""

    rule: Rule
    options: Options
    policies: dict[str, Any]
    template: Template
    priority: int


class DraftMaker:
    """Makes drafts."""

    def __init__(self, specs: SpecMaker) -> None:
        self._specs = specs
        self._plans: dict[tuple[Any, ...], _Plan] = {}

    def make(
        self, name: str, handler: Handler[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any],
        *, declared_in: str = "",
    ) -> Draft:  # fmt: skip
        """Return the definition of a call. Raises: UsageError naming the word or argument."""
        words, arguments = split(kwargs)
        plan = self._plan(handler, words)
        payload, key = self._specs.payload_of(handler, args, arguments)
        if plan.options.key is not None:
            key = plan.options.key
        spec = ScheduleSpec(
            check_schedule_name(name), 0, payload, plan.rule, plan.priority, key, declared_in=declared_in, **plan.policies
        )
        return Draft(plan.template, spec)

    def change(self, view: ScheduleView, handler: Handler[..., Any] | str | None, kwargs: dict[str, Any]) -> Draft:
        """Return a stored definition changed by words; arguments, if there are any, replace all it had.
        Raises: UsageError."""
        words, arguments = split(kwargs)
        spec, template = view.spec, view.template
        changes: dict[str, Any] = {"template": 0, **_policies(words)}
        rule_words = {word: words[word] for word in words if word in RULE_WORDS}
        if rule_words:
            changes["rule"] = rule_of(rule_words, spec.rule)
        options = _options(words)
        if handler is not None or arguments:
            changes["payload"], key = self._specs.payload_of(handler or template.handler, (), arguments)
            if handler is not None:
                template, priority = self._specs.template_of(handler, Options())
                changes |= {"priority": priority, "key": key}
        template = changed_template(template, options)
        if options.priority is not None:
            changes["priority"] = parse_priority(options.priority)
        if options.key is not None:
            changes["key"] = text_option("key", options.key)
        return Draft(template, msgspec.structs.replace(spec, **changes))

    def _plan(self, handler: Handler[..., Any] | str, words: dict[str, Any]) -> _Plan:
        key = (handler, self._specs.lessons, *words.items())
        try:
            plan = self._plans.get(key)
        except TypeError:  # a list of moments, say
            return self._planned(handler, words)
        if plan is None:
            plan = self._planned(handler, words)
            if len(self._plans) >= _CACHE_MAX:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _planned(self, handler: Handler[..., Any] | str, words: dict[str, Any]) -> _Plan:
        rule = rule_of({word: words[word] for word in words if word in RULE_WORDS})
        options = _options(words)
        if options.key is not None:
            text_option("key", options.key)
        template, priority = self._specs.template_of(handler, options)
        if rule.precision == "high" and options.priority is None:
            priority = min(priority, int(Priority.HIGH))
        return _Plan(rule, options, _policies(words), template, priority)


def split(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the words of a schedule and the arguments of its handler. Raises: InvalidOptionError."""
    words: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for name, value in kwargs.items():
        (words if name in WORDS else arguments)[name] = value
    given = arguments.pop("arguments", None)
    if given is not None:
        if not isinstance(given, Mapping):
            raise InvalidOptionError("arguments", given, "the handler's arguments by name")
        arguments.update(given)
    return words, arguments


def _options(words: Mapping[str, Any]) -> Options:
    return Options(**{word: words[word] for word in TASK_WORDS if word in words})


def _policies(words: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a ScheduleSpec that these words set; None means the default."""
    out: dict[str, Any] = {}
    for word, usual in _USUAL.items():
        if word not in words:
            continue
        value = usual if words[word] is None else words[word]
        match word:
            case "overlap" | "missed":
                known = OVERLAPS if word == "overlap" else MISSED
                if value not in known:
                    raise InvalidOptionError(word, value, " or ".join(map(repr, known)))
                out[word] = value
            case "grace" | "max_lateness":
                out[f"{word}_ms"] = parse_span(value, what=word)
            case "max_catchup":
                out[word] = count_option(word, value, 0, MAX_CATCHUP)
            case "pause_after":
                out[word] = count_option(word, value, 0, _COUNT_MAX)
            case _:
                if not isinstance(value, str) or len(value) > _NOTE_MAX:
                    raise InvalidOptionError(word, value, f"a text of at most {_NOTE_MAX} characters")
                out[word] = value
    return out


def assemble(drafts: list[Draft]) -> tuple[list[Template], list[ScheduleSpec]]:
    """Return the templates and schedules of one request; each template is sent once."""
    templates: list[Template] = []
    index_of: dict[int, int] = {}  # by identity: the drafts keep their templates alive
    schedules: list[ScheduleSpec] = []
    for draft in drafts:
        index = index_of.get(id(draft.template))
        if index is None:
            index = index_of[id(draft.template)] = len(templates)
            templates.append(draft.template)
        schedules.append(msgspec.structs.replace(draft.spec, template=index) if index else draft.spec)
    return templates, schedules
