"""A client's way to the gateways of a simulated cluster. Implements `sdk.channel.Channel`.

It behaves as the local channel does: a request whose repetition changes nothing is sent again within its deadline, to
another node; any other is reported as unknown.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..runtime.errors import DeadlineError, UnavailableError
from ..transports import api
from ..transports.gateway import Gateway
from ..transports.repeats import as_unknown, is_settled, may_repeat
from .bus import SimBus
from .process import Process

_TRY_MS: Final = 4_000  # until another node is asked
_BACKOFF_MS: Final = 100  # between two tries, doubling ...
_BACKOFF_MAX_MS: Final = 2_000  # ... up to this
_TAKEN_MAX: Final = 4_096  # requests remembered by a gateway


def gateway_address(node: str) -> str:
    return f"gateway.{node}"


class SimChannel:
    """`nodes`: names of the nodes, asked in turn."""

    may_repeat = True

    def __init__(self, bus: SimBus, nodes: Sequence[str]) -> None:
        self._bus = bus
        self._clock = bus.clock
        self._nodes = list(nodes)
        self._at = 0

    async def request(self, message: Any, *, timeout_ms: int) -> Any:
        """Return the answer, which may be a Refusal. Raises: UnavailableError, DeadlineError."""
        data = api.encode_request(message)
        what = type(message).__name__
        repeatable = may_repeat(message)
        wait_ms = getattr(message, "wait_ms", 0)
        copies = 0
        unknown: Any = None
        backoff_ms = _BACKOFF_MS
        mono_ns = self._clock.mono_ns
        deadline_ns = mono_ns() + timeout_ms * 1_000_000
        while True:
            left_ms = (deadline_ns - mono_ns()) // 1_000_000
            if left_ms <= 0:
                if unknown is not None:
                    return unknown
                raise DeadlineError(what, timeout_ms)
            node = self._nodes[self._at % len(self._nodes)]
            try:
                try_ms = min(left_ms, _TRY_MS + wait_ms) if repeatable else left_ms
                copies += 1
                reply = await self._bus.request_frame(gateway_address(node), data, what, timeout_ms=try_ms)
                answer = api.decode_answer(reply)
                if copies == 1 or is_settled(message, answer):
                    return answer
                unknown = as_unknown(answer)
            except DeadlineError as error:
                self._at += 1
                if not repeatable:
                    raise DeadlineError(what, timeout_ms) from error
                continue
            except UnavailableError:  # nobody is there
                self._at += 1
            await asyncio.sleep(backoff_ms / 1000)
            backoff_ms = min(backoff_ms * 2, _BACKOFF_MAX_MS)

    async def close(self) -> None:
        """Nothing to let go of: the bus belongs to the process."""


def serve_gateway(bus: SimBus, gateway: Gateway, node: str) -> Callable[[], None]:
    """Let a node's gateway answer what clients send it, each request once: a connection delivers none twice, whatever
    becomes of packets. Returns what ends that."""
    loop = asyncio.get_running_loop()
    answering: dict[asyncio.Task[None], None] = {}
    taken: OrderedDict[tuple[str, int], None] = OrderedDict()

    def take(data: bytes, sender: str, request: int, source: Process) -> None:
        if request and (sender, request) in taken:
            return
        taken[sender, request] = None
        if len(taken) > _TAKEN_MAX:
            taken.popitem(last=False)
        task = loop.create_task(answer(data, sender, request), name="gateway")
        answering[task] = None
        task.add_done_callback(lambda done: answering.pop(done, None))

    async def answer(data: bytes, sender: str, request: int) -> None:
        reply = await gateway.handle(api.decode_request(data))
        if request:
            bus.answer_frame(sender, api.encode(reply), request, type(reply).__name__)

    def close() -> None:
        bus.unbind_frames(gateway_address(node))
        for task in list(answering):
            task.cancel()

    bus.bind_frames(gateway_address(node), take)
    return close
