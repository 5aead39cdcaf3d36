"""What clients of the public protocol ask, carried out by the gateway of this node.

Each operation is turned into the edge's own request and its answer back; the tenant comes from the subject alone. Tasks of
one submission are refused one by one, so that a bad one does not hold up the others. Holds no state but what handlers there
are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

from ...actors.messages import (
    CancelTasks,
    RetryTasks,
    SubmitTasks,
    TasksAnswered,
    TasksEnded,
    TaskSpec,
    TasksSubmitted,
    Template,
    WatchTasks,
)
from ...actors.states import state_named
from ...runtime.bus import Refusal
from ...runtime.clock import Clock
from ...runtime.errors import FoliotError, UsageError
from ...runtime.ids import from_text, to_text
from .. import api
from ..admission import EdgeLimits, InvalidOptionError, TooLargeError
from . import protocol as p
from .feed import FeedDesk, NoEventsError
from .protocol_codec import Format, to_store
from .protocol_views import end_of, error_of, info_of, spec_of

R = TypeVar("R")
_KNOWN_FOR_MS: Final = 1_000
_TIMEOUT_MS: Final = 30_000
_DUPLICATE: Final = "existing_id"


class Gate(Protocol):
    """Who carries requests out: a gateway."""

    async def handle(self, request: Any, *, timeout_ms: int) -> Any:
        """Return the answer, a Refusal among them; never raises but when cancelled."""
        ...


class RefusedCallError(FoliotError):
    """The gateway's refusal on its way to whoever asked."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


class PublicCalls:
    """Answers the operations of `protocol.CALLS`. `max_payload`: tells the bytes of one message on this connection.
    `feed`: where events are read."""

    def __init__(
        self, gate: Gate, *, clock: Clock, max_payload: Callable[[], int], limits: EdgeLimits | None = None,
        feed: FeedDesk | None = None,
    ) -> None:  # fmt: skip
        self._gate = gate
        self._clock = clock
        self._max_payload = max_payload
        self._feed_desk = feed
        self._limits = limits or EdgeLimits()
        self._known: dict[str, tuple[Template, int]] = {}
        self._known_ns = -1
        self._routes: dict[type, Callable[[str, Any, Format], Awaitable[p.Part]]] = {
            p.Ping: self._ping,
            p.Submit: self._submit,
            p.Get: self._get,
            p.List: self._list,
            p.Cancel: self._cancel,
            p.Retry: self._retry,
            p.Wait: self._wait,
            p.Queues: self._queues,
            p.Feed: self._feed,
        }

    async def answer(self, tenant: str, ask: p.Ask, form: Format) -> p.Part:
        """Return the answer to a request. Raises: FoliotError, `RefusedCallError` among them."""
        return await self._routes[type(ask)](tenant, ask, form)

    async def _ask(self, request: Any, expected: type[R], timeout_ms: int = _TIMEOUT_MS) -> R:
        answer = await self._gate.handle(request, timeout_ms=timeout_ms)
        if isinstance(answer, Refusal):
            raise RefusedCallError(answer)
        assert isinstance(answer, expected), f"{type(answer).__name__} answered {type(request).__name__}"
        return answer

    def _ids(self, ids: list[str]) -> list[int]:
        if len(ids) > self._limits.max_ids:
            raise TooLargeError("the number of ids", len(ids), self._limits.max_ids)
        return [from_text(text) for text in ids]

    async def _ping(self, tenant: str, ask: p.Ping, form: Format) -> p.Pong:
        welcome = await self._ask(api.Hello(), api.Welcome)
        return p.Pong(
            version=p.VERSION, product=welcome.product, shards=welcome.shards, now_ms=welcome.now_ms,
            max_payload=self._max_payload(),
        )  # fmt: skip

    # -- submitting --------------------------------------------------------------------------------------------------

    async def _learn(self) -> None:
        """Know the handlers there are; the gateway is asked at most once a second."""
        now_ns = self._clock.mono_ns()
        if self._known_ns < 0 or now_ns - self._known_ns >= _KNOWN_FOR_MS * 1_000_000:
            welcome = await self._ask(api.Hello(), api.Welcome)
            self._known = {view.template.handler: (view.template, view.priority) for view in welcome.handlers}
            self._known_ns = now_ns

    async def _submit(self, tenant: str, ask: p.Submit, form: Format) -> p.Submitted:
        if len(ask.tasks) > self._limits.max_tasks:
            raise TooLargeError("the number of tasks in a batch", len(ask.tasks), self._limits.max_tasks)
        if not ask.tasks:
            raise InvalidOptionError("tasks", "empty", "at least one task")
        await self._learn()
        now_ms = self._clock.now_ms()
        answers: list[p.TaskOut] = [p.TaskOut()] * len(ask.tasks)
        templates: dict[Template, int] = {}
        specs: list[TaskSpec] = []
        positions: list[int] = []
        for position, task in enumerate(ask.tasks):
            try:
                specs.append(
                    spec_of(task, tenant, templates, form, now_ms=now_ms, known=self._known, limits=self._limits)
                )
                positions.append(position)
            except UsageError as error:
                answers[position] = p.TaskOut(error=error_of(Refusal.of(error)))
        if not specs:
            return p.Submitted(tasks=answers)
        request = SubmitTasks(tenant, list(templates), specs, ask.request_id)
        submitted = await self._ask(request, TasksSubmitted)
        existing = set(submitted.existing)
        for at, (position, task_id) in enumerate(zip(positions, submitted.ids, strict=True)):
            if task_id:
                answers[position] = p.TaskOut(id=to_text(task_id), existing=at in existing)
        for refused in submitted.refused:
            details = {_DUPLICATE: to_text(refused.existing_id)} if refused.existing_id else {}
            error_ = p.Error(code=refused.code, text=refused.text, details=details)
            answers[positions[refused.position]] = p.TaskOut(error=error_)
        return p.Submitted(tasks=answers, repeated=submitted.repeated)

    # -- looking and waiting -----------------------------------------------------------------------------------------

    async def _get(self, tenant: str, ask: p.Get, form: Format) -> p.Found:
        found = await self._ask(api.GetTasks(tenant, self._ids(ask.ids)), api.TasksFound)
        return p.Found(tasks=[info_of(view, form) for view in found.tasks])

    async def _list(self, tenant: str, ask: p.List, form: Format) -> p.Listed:
        states = []
        for name in ask.states:
            try:
                states.append(int(state_named(name)))
            except KeyError as error:
                raise InvalidOptionError("states", name, "names of states, such as queued or completed") from error
        before = from_text(ask.before) if ask.before else 0
        request = api.ListTasks(tenant, states, ask.queue, ask.handler, before, ask.limit)
        listed = await self._ask(request, api.TasksListed)
        next_before = to_text(listed.next_before) if listed.next_before else ""
        return p.Listed(tasks=[info_of(view, form) for view in listed.tasks], next_before=next_before)

    async def _wait(self, tenant: str, ask: p.Wait, form: Format) -> p.Ended:
        ids = self._ids(ask.ids)
        wait_ms = min(ask.timeout_ms, self._limits.max_wait_ms)
        answer = await self._ask(WatchTasks(tenant, ids, wait_ms), TasksEnded, wait_ms + _TIMEOUT_MS)
        ended = {end.id: end for end in answer.ended}
        return p.Ended(
            ended=[end_of(ended[number], form) for number in dict.fromkeys(ids) if number in ended],
            alive=[to_text(number) for number in dict.fromkeys(ids) if number not in ended],
        )

    async def _queues(self, tenant: str, ask: p.Queues, form: Format) -> p.QueuesTold:
        stats = await self._ask(api.ReadStats(), api.StatsRead)
        queues = await self._ask(api.ListQueues(), api.QueuesListed)
        paused: dict[str, list[str]] = {}
        for view in queues.queues:
            if view.config.paused:
                paused.setdefault(view.config.queue, []).append(view.config.pool)
        told = [
            p.QueueInfo(
                queue=tally.queue, accepted=tally.accepted, waiting=tally.waiting, running=tally.running,
                paused_in=paused.get(tally.queue, []),
            )
            for tally in stats.tallies if tally.tenant == tenant
        ]  # fmt: skip
        return p.QueuesTold(queues=told)

    async def _feed(self, tenant: str, ask: p.Feed, form: Format) -> p.FeedPage:
        if self._feed_desk is None:
            raise NoEventsError
        return await self._feed_desk.read(tenant, ask)

    # -- commands ----------------------------------------------------------------------------------------------------

    async def _cancel(self, tenant: str, ask: p.Cancel, form: Format) -> p.Answered:
        answer = await self._ask(CancelTasks(tenant, self._ids(ask.ids), ask.reason), TasksAnswered)
        return p.Answered(outcomes=answer.outcomes)

    async def _retry(self, tenant: str, ask: p.Retry, form: Format) -> p.Answered:
        payload = to_store(ask.payload, form) if bytes(ask.payload) else None
        answer = await self._ask(RetryTasks(tenant, self._ids(ask.ids), payload), TasksAnswered)
        return p.Answered(outcomes=answer.outcomes)
