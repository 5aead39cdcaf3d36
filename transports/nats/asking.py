"""Requests of a link: each under a reply subject of its own, all below one subscription.

What holds: each ends once, by the first answer, by its deadline, or at once when it is known that nobody got it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from ...runtime.errors import DeadlineError
from .errors import ApiError, LinkDownError, NoRespondersError, NotPermittedError, OutboundFullError

NO_RESPONDERS: Final = 503
_REFUSED_SUBJECT: Final = re.compile(r'Publish to "([^"]+)"', re.IGNORECASE)


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message that came. `reply`: where the sender wants the answer, or empty. `status`: a number by which the server
    speaks itself, 503 for nobody listens; else 0."""

    subject: str
    data: bytes
    reply: str = ""
    headers: dict[str, str] | None = None
    status: int = 0


class Inbox:
    """`subject`: below it are the reply subjects. `publish`: a link's, with the reply subject; it returns the number of the
    message. `bound`: how many may wait."""

    def __init__(self, subject: str, publish: Callable[..., int], *, bound: int) -> None:
        self.subject = f"{subject}.*"
        self._prefix = subject
        self._publish = publish
        self._bound = bound
        self._asked: dict[int, _Asked] = {}
        self._asks = 0

    async def request(
        self, subject: str, data: bytes, *, timeout_ms: int, headers: Mapping[str, str] | None = None
    ) -> Delivery:
        """See `NatsLink.request`."""
        if len(self._asked) >= self._bound:
            raise OutboundFullError(len(self._asked), 0)
        loop = asyncio.get_running_loop()
        self._asks += 1
        number = self._asks
        put = self._publish(subject, data, reply=f"{self._prefix}.{number}", headers=headers)
        asked = self._asked[number] = _Asked(subject, loop.create_future(), put)
        timer = loop.call_later(timeout_ms / 1000, asked.fail, DeadlineError(f"a request to {subject}", timeout_ms))
        try:
            answer = await asked.future
        finally:
            timer.cancel()
            del self._asked[number]
        if answer.status == NO_RESPONDERS and not answer.data:
            raise NoRespondersError(subject)
        return answer

    def take(self, delivery: Delivery) -> None:
        """An answer came; one that nobody waits for any more is dropped."""
        number = delivery.subject.rpartition(".")[2]
        asked = self._asked.get(int(number)) if number.isdecimal() else None
        if asked is not None and not asked.future.done():
            asked.future.set_result(delivery)

    def not_permitted(self, text: str) -> bool:
        """The server refused a message; it names the subject. Returns whether anybody waits for an answer to it."""
        refused = _REFUSED_SUBJECT.search(text)
        waiting = [asked for asked in self._asked.values() if refused is not None and asked.subject == refused[1]]
        for asked in waiting:
            asked.fail(NotPermittedError(asked.subject, text))
        return bool(waiting)

    def not_written(self, after: int, reason: str) -> None:
        """Messages with a higher number than `after` will not be written any more."""
        for asked in list(self._asked.values()):
            if asked.put > after:
                asked.fail(LinkDownError(reason))


class _Asked:
    """A request that waits for its answer. `put`: the number of its message."""

    __slots__ = ("future", "put", "subject")

    def __init__(self, subject: str, future: asyncio.Future[Delivery], put: int) -> None:
        self.subject = subject
        self.future = future
        self.put = put

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def api_answer(op: str, answer: Delivery) -> dict[str, Any]:
    """Return what JetStream answered. Raises: ApiError."""
    try:
        found = json.loads(answer.data)
    except ValueError as error:
        raise ApiError(op, answer.status, 0, f"the answer is no JSON: {answer.data[:80]!r}") from error
    if not isinstance(found, dict):
        raise ApiError(op, answer.status, 0, f"the answer is no object: {answer.data[:80]!r}")
    refused = found.get("error")
    if isinstance(refused, dict):
        description = str(refused.get("description", ""))
        raise ApiError(op, int(refused.get("code", 0)), int(refused.get("err_code", 0)), description)
    return found
