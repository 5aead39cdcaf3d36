"""A user's app and client as a simulated cluster has them: the same code, with observers at its edges.

The handlers' beginnings and ends, and what clients were told, are what the invariants are checked on. The app itself is left
as it is: each worker process gets a copy whose handlers run the user's functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Any

from ..actors.messages import (
    CancelTasks,
    Kind,
    QueueConfigured,
    RetryTasks,
    SubmitTasks,
    TasksAnswered,
    TasksSubmitted,
    TenantConfigured,
)
from ..actors.table import template_id_of
from ..runtime.ids import to_text
from ..sdk.app import Foliot
from ..sdk.context import RetryLater
from ..sdk.handler import Handler
from ..transports import api
from .client import SimChannel
from .history import BodyEnded, BodyStarted, Commanded, Configured, Submitted
from .loop import EscapeError
from .outside import current_attempt
from .process import Process
from .strands import Strands

_UNSURE = frozenset(("deadline", "no_such_actor", "unavailable"))


class ObservedChannel:
    """A client's channel. Implements `sdk.channel.Channel`."""

    may_repeat = True

    def __init__(self, channel: SimChannel, process: Process) -> None:
        self._channel = channel
        self._process = process

    async def request(self, message: Any, *, timeout_ms: int) -> Any:
        loop = self._process.world.loop
        asked_ns = loop.now_ns
        answer: Any = None
        try:
            answer = await self._channel.request(message, timeout_ms=timeout_ms)
            return answer
        finally:
            self._observe(message, answer, asked_ns)

    async def close(self) -> None:
        await self._channel.close()

    def _observe(self, message: Any, answer: Any, asked_ns: int) -> None:
        """`answer` None: no answer came."""
        match message:
            case SubmitTasks():
                self._submitted(message, answer, asked_ns)
            case CancelTasks():
                self._commanded("cancel", message.ids, answer, asked_ns)
            case RetryTasks():
                self._commanded("retry", message.ids, answer, asked_ns)
            case api.SetQueue():
                fields = {name: getattr(message, name) for name in ("concurrency", "paused", "max_waiting")}
                self._configured("queue", message.queue, fields, isinstance(answer, QueueConfigured), answer, asked_ns)
            case api.SetTenant():
                names = ("concurrency", "weight", "rate", "rate_per_ms", "max_pending")
                fields = {name: getattr(message, name) for name in names}
                self._configured("tenant", message.tenant, fields, isinstance(answer, TenantConfigured), answer, asked_ns)

    def _submitted(self, message: SubmitTasks, answer: Any, asked_ns: int) -> None:
        process, tenant = self._process, message.tenant
        count = len(message.tasks)
        ids, existing, outcome = [0] * count, [False] * count, "unknown" if answer is None else "refused"
        if isinstance(answer, TasksSubmitted):
            outcome = "unknown" if any(refusal.code in _UNSURE for refusal in answer.refused) else "ok"
            ids = list(answer.ids)
            for position in answer.existing:
                existing[position] = True
        templates = [message.templates[task.template] for task in message.tasks]
        kinds = [Kind(tenant, template_id_of(tenant, template), template) for template in templates]
        process.note("submitted", ref=tenant, outcome=outcome, ids=[id for id in ids[:8] if id])
        process.world.observe(
            Submitted(
                process.world.loop.now_ns, asked_ns, process.name, tenant, outcome, kinds, message.tasks, ids, existing
            )
        )  # fmt: skip

    def _commanded(self, command: str, ids: list[int], answer: Any, asked_ns: int) -> None:
        process = self._process
        outcome = "unknown" if answer is None else "ok" if isinstance(answer, TasksAnswered) else "refused"
        words = answer.outcomes if isinstance(answer, TasksAnswered) else [""] * len(ids)
        for id, word in zip(ids, words, strict=True):
            of_one = "unknown" if word == "unavailable" else outcome
            told = word if of_one == "ok" else ""
            process.world.observe(
                Commanded(process.world.loop.now_ns, asked_ns, process.name, command, id, of_one, told)
            )
        process.note("command", what=command, ref="", outcome=outcome, words=list(words[:8]))

    def _configured(
        self, what: str, name: str, fields: dict[str, Any], is_done: bool, answer: Any, asked_ns: int
    ) -> None:
        process = self._process
        outcome = "unknown" if answer is None else "ok" if is_done else "refused"
        limits = {field: int(value) for field, value in fields.items() if value is not None}
        process.note("configured", what=what, name=name, outcome=outcome, **limits)
        process.world.observe(
            Configured(process.world.loop.now_ns, asked_ns, process.name, what, name, outcome, limits)
        )


# -- handlers ----------------------------------------------------------------------------------------------------------


def observed_app(
    app: Foliot, process: Process, session: Callable[[], str], strands: Strands, told_delay: Callable[[int], None]
) -> Foliot:
    """Return the app as one worker process has it. `told_delay`: told of delays that handlers choose, in milliseconds."""
    own = Foliot(app.name, payload_limit=app.payload_limit)
    body = _Body(process, session, told_delay)
    for name, handler in app.handlers.items():
        own.handlers[name] = _observed_handler(handler, body, strands)
    return own


def _observed_handler(handler: Handler[..., Any], body: _Body, strands: Strands) -> Handler[..., Any]:
    """Return a handler that tells when it begins and ends; what would run in a child process runs as a plain one."""
    function, process = handler.function, body.process

    @wraps(function)
    async def observed(*args: Any, **kwargs: Any) -> Any:
        how = body.begin()
        while process.is_dead:  # noqa: ASYNC110  (killed as it began, so this never goes on)
            await asyncio.sleep(1)
        try:
            return body.ok(how, await function(*args, **kwargs))
        except BaseException as error:
            body.raised(how, error)
            raise
        finally:
            body.end(how)

    @wraps(function)
    def observed_plain(*args: Any, **kwargs: Any) -> Any:
        how = body.begin()
        while process.is_dead and strands.current is not None:
            strands.current.wait()
        try:
            return body.ok(how, function(*args, **kwargs))
        except BaseException as error:
            body.raised(how, error)
            raise
        finally:
            body.end(how)

    own = copy(handler)
    if handler.is_coroutine:
        if handler.mode not in ("async", "command"):
            raise EscapeError(f"a coroutine in a thread or process of its own ({handler.name})", "isolation=None")
        own.function = observed
    else:
        own.function = observed_plain
        own.mode = "thread"
    return own


class _Body:
    """What is observed of the handlers of one process."""

    def __init__(self, process: Process, session: Callable[[], str], told_delay: Callable[[int], None]) -> None:
        self.process = process
        self._session = session
        self._told_delay = told_delay

    def begin(self) -> list[str]:
        """Returns: what becomes of it, to be filled in."""
        process, attempt = self.process, current_attempt()
        assert attempt is not None, "a handler runs without an attempt"
        process.note("body", task=to_text(attempt.id), attempt=attempt.attempt, handler=attempt.template.handler)
        process.world.observe(
            BodyStarted(
                process.world.loop.now_ns, process.name, process.boot, self._session(), attempt.id, attempt.attempt,
                attempt.route.kind, attempt.priority, attempt.body.key,
            )
        )  # fmt: skip
        process.point("handler.start")
        return ["raised"]

    def ok(self, how: list[str], result: Any) -> Any:
        how[0] = "ok"
        return result

    def raised(self, how: list[str], error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            how[0] = "cancelled"
        elif isinstance(error, RetryLater):
            self._told_delay(error.after_ms)

    def end(self, how: list[str]) -> None:
        process, attempt = self.process, current_attempt()
        if process.is_dead or attempt is None:
            return
        process.note("body_end", task=to_text(attempt.id), attempt=attempt.attempt, how=how[0])
        process.world.observe(
            BodyEnded(process.world.loop.now_ns, process.name, process.boot, attempt.id, attempt.attempt, how[0])
        )
