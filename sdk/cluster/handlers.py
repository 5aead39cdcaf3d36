"""Which handlers there are in a cluster, so that a task named by text gets its handler's queue and options.

Workers tell; nodes remember. It is knowledge for convenience: any handler may be named, since its worker may come later, and
what a node was not told it does not miss. A node that begins asks another node, or all workers if it is alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import anyio

from ...actors.messages import Template
from ...actors.node_messages import HANDLERS, AskHandlers, HandlersTold, HandlerTold
from ...runtime.bus import Bus, Envelope
from ...transports.nats.link import LinkState, NatsLink
from ...transports.peers import Peers
from ..app import Foliot

_KNOWN_MAX: Final = 1_024  # an answer has to fit into a message
_HEAR_S: Final = 1.0


class HandlerBook:
    """A node's memory of handlers, the oldest first."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: dict[str, tuple[Template, int]] = {}
        self._has_heard = anyio.Event()

    async def begin(self, peers: Peers) -> None:
        """Listen, and learn what is known already."""
        self._bus.bind(HANDLERS, self)
        answer = await peers.ask_any(AskHandlers())
        if isinstance(answer, HandlersTold):
            self._learn(answer.handlers)
        else:
            self._bus.send(Envelope(HANDLERS, AskHandlers()))

    def end(self) -> None:
        self._bus.unbind(HANDLERS, self)

    def deliver(self, envelope: Envelope) -> None:
        if type(envelope.message) is HandlersTold:
            self._learn(envelope.message.handlers)

    async def wait(self) -> None:
        """Wait until somebody has told of handlers, but not for long: there may be no workers."""
        with anyio.move_on_after(_HEAR_S):
            await self._has_heard.wait()

    def _learn(self, handlers: Iterable[HandlerTold]) -> None:
        self._has_heard.set()
        for handler in handlers:
            name = handler.template.handler
            self._known.pop(name, None)
            self._known[name] = (handler.template, handler.priority)
            if len(self._known) > _KNOWN_MAX:
                del self._known[next(iter(self._known))]

    def known(self) -> dict[str, tuple[Template, int]]:
        """Return template and default priority by name."""
        return self._known

    def told(self) -> HandlersTold:
        return HandlersTold([HandlerTold(template, priority) for template, priority in self._known.values()])


class HandlerTeller:
    """A worker's end: tells at its start, whenever its broker is back, and when asked."""

    def __init__(self, apps: Iterable[Foliot], bus: Bus, link: NatsLink) -> None:
        handlers = [handler for app in apps for handler in app.handlers.values()]
        self._told = HandlersTold([HandlerTold(each.template, each.default_priority) for each in handlers[:_KNOWN_MAX]])
        self._bus = bus
        self._link = link

    def begin(self) -> None:
        self._bus.bind(HANDLERS, self)
        self._link.watch(self._link_changed)  # which tells at once

    def end(self) -> None:
        self._link.unwatch(self._link_changed)
        self._bus.unbind(HANDLERS, self)

    def deliver(self, envelope: Envelope) -> None:
        if type(envelope.message) is AskHandlers:
            self._tell()

    def _link_changed(self, state: LinkState) -> None:
        if state.is_up:
            self._tell()

    def _tell(self) -> None:
        self._bus.send(Envelope(HANDLERS, self._told))
