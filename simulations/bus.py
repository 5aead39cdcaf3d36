"""The bus of a simulated process: messages as bytes over the simulated network. Implements `runtime.bus.Bus`.

What it promises is what a broker does: at most once, to all who listen at that moment; in order between two processes
unless the link is made to break that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ..actors.wire import decode, encode
from ..runtime.bus import Envelope, Receiver, Refusal, Resolver
from ..runtime.cell import Cell
from ..runtime.errors import NoSuchActorError, UnavailableError
from ..transports.requests import Requests
from .history import Delivered
from .process import Process

Taker = Callable[[bytes, str, int, Process], None]
"""Takes a frame: (data, sender's address, request number, sender)."""
_REFUSED_MAX: Final = 256


class SimBus:
    """One process's end."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.clock = process.clock
        self._network = process.world.network
        self._receivers: dict[str, Receiver] = {}
        self._broadcasts: dict[str, list[Receiver]] = {}
        self._takers: dict[str, Taker] = {}
        self._hosts: dict[int, Resolver] = {}
        self._known: dict[str, Receiver] = {}  # found before, until it is unbound or ends
        self._reply_address = f"reply.{process.name}.{process.boot}"
        self._requests = Requests()
        self._counts: dict[str, int] = {}
        self._refused: dict[tuple[str, int], None] = {}  # who asked and their requests that were refused, the last of them
        self.dropped = 0
        process.bus = self
        self._network.listen(self._network.bound, self._reply_address, process)

    # -- listening ---------------------------------------------------------------------------------------------------

    def bind(self, address: str, receiver: Receiver) -> None:
        if "." not in address:
            self._broadcasts.setdefault(address, []).append(receiver)
        else:
            self._receivers[address] = receiver
            self._known.pop(address, None)
        if not self._process.is_dead:
            self._network.listen(self._network.bound, address, self._process)

    def unbind(self, address: str, receiver: Receiver | None = None) -> None:
        listeners = self._broadcasts.get(address)
        if listeners is not None and receiver in listeners:
            listeners.remove(receiver)
            if listeners:
                return
        self._broadcasts.pop(address, None)
        self._receivers.pop(address, None)
        self._known.pop(address, None)
        self._network.ignore(self._network.bound, address, self._process)

    def host(self, slot: int, resolve: Resolver) -> None:
        self._hosts[slot] = resolve
        self._known.clear()
        if not self._process.is_dead:
            self._network.listen(self._network.hosts, slot, self._process)

    def leave(self, slot: int) -> None:
        self._hosts.pop(slot, None)
        self._known.clear()
        self._network.ignore(self._network.hosts, slot, self._process)

    def bind_frames(self, address: str, taker: Taker) -> None:
        """Take what is sent to `address` as bytes of another protocol than the actors'."""
        self._takers[address] = taker
        self._network.listen(self._network.bound, address, self._process)

    def unbind_frames(self, address: str) -> None:
        self._takers.pop(address, None)
        self._network.ignore(self._network.bound, address, self._process)

    @property
    def left(self) -> list[str]:
        """What is still bound, sorted."""
        return sorted([*self._receivers, *self._broadcasts, *self._takers, *(f"slot {slot}" for slot in self._hosts)])

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, envelope: Envelope) -> None:
        process = self._process
        if not process.point("bus.send"):
            return
        to = envelope.to
        count = self._counts[to] = self._counts.get(to, 0) + 1
        message = envelope.message
        if type(message) is Refusal:
            self._refused[to, envelope.request] = None
            if len(self._refused) > _REFUSED_MAX:
                del self._refused[next(iter(self._refused))]
        self._carry(to, encode(message), envelope.sender, envelope.request, count, type(message).__name__)

    def send_frame(self, to: str, data: bytes, request: int, what: str) -> None:
        """Send bytes of another protocol; the answer comes to this process under the same number."""
        if self._process.point("bus.send"):
            self._carry(to, data, self._reply_address, request, 0, what)

    def answer_frame(self, to: str, data: bytes, request: int, what: str) -> None:
        """Answer a frame."""
        if self._process.point("bus.send"):
            self._carry(to, data, "", request, -1, what)

    def _carry(self, to: str, data: bytes, sender: str, request: int, count: int, what: str) -> None:
        process, network = self._process, self._network
        listeners = network.listeners(to)
        names = [listener.name for listener in listeners]
        moments: list[int] = []
        for listener in listeners:
            if listener is process:  # at once, as a bus in memory does
                moments.append(0)
                self.arrive(to, data, sender, request, count, process)
            else:
                bus = listener.bus
                assert bus is not None
                moments.append(network.carry(process, listener, bus.arrive, to, data, sender, request, count, process))
        if what != "NodeBeat":
            process.note("send", to=to, msg=what, src=sender, rx=names, at=moments)
        if not listeners and request and sender == self._reply_address:
            self._process.world.loop.call_later(0.001, self._nobody, to, request)

    def _nobody(self, to: str, request: int) -> None:
        self._requests.answer(request, Refusal.of(NoSuchActorError(to)))

    async def request(self, to: str, message: Any, *, timeout_ms: int) -> Any:
        def send(number: int) -> None:
            self.send(Envelope(to, message, self._reply_address, number))

        return await self._requests.ask(f"{type(message).__name__} to {to}", send, timeout_ms=timeout_ms)

    async def request_frame(self, to: str, data: bytes, what: str, *, timeout_ms: int) -> bytes:
        """Send a frame and return the bytes of its answer. Raises: DeadlineError, UnavailableError."""

        def send(number: int) -> None:
            self.send_frame(to, data, number, what)

        answer = await self._requests.ask(f"{what} to {to}", send, timeout_ms=timeout_ms)
        if isinstance(answer, Refusal):
            raise UnavailableError(answer.text)
        assert isinstance(answer, bytes)
        return answer

    # -- arriving ----------------------------------------------------------------------------------------------------

    def _find(self, to: str) -> Receiver | None:
        """Return who is bound to an address, or the actor of a slot that is hosted here."""
        receiver = self._receivers.get(to)
        if receiver is None:
            slot = self._network.slot_of(to)
            resolve = self._hosts.get(slot) if slot is not None else None
            receiver = resolve(to) if resolve is not None else None
        if receiver is not None:
            self._known[to] = receiver
        return receiver

    def arrive(
        self, to: str, data: bytes, sender: str, request: int, count: int, source: Process, *, is_copy: bool = False
    ) -> None:  # fmt: skip
        """Take what came, in this process's lane. A copy that cannot be delivered is not refused: the other one was. Nor is
        one taken whose other one was refused, since whoever sent it was told that nothing of it was done."""
        if is_copy and (sender, request) in self._refused:
            return
        receiver = self._known.get(to)
        if receiver is None:
            broadcast = self._broadcasts.get(to)
            if broadcast is not None:
                envelope = Envelope(to, decode(data), sender, request)
                for listener in list(broadcast) if len(broadcast) > 1 else broadcast:
                    listener.deliver(envelope)
                return
            if to == self._reply_address:
                self._requests.answer(request, data if count == -1 else decode(data))
                return
            taker = self._takers.get(to)
            if taker is not None:
                taker(data, sender, request, source)
                return
            if count < 1:  # a frame of another protocol, and whoever took those has gone
                if request and not is_copy:
                    self.send(Envelope(sender, Refusal.of(NoSuchActorError(to)), to, request))
                return
            receiver = self._find(to)
        envelope = Envelope(to, decode(data), sender, request)
        try:
            if receiver is None:
                raise NoSuchActorError(to)
            receiver.deliver(envelope)
        except UnavailableError as error:
            self.dropped += 1
            if request and not is_copy and sender.startswith("reply."):
                self.send(Envelope(sender, Refusal.of(error), to, request))
            return
        if isinstance(receiver, Cell):
            self._process.world.observe(
                Delivered(
                    self._process.world.loop.now_ns, to, self._process.label, sender, source.label, count,
                    len(receiver), receiver.capacity,
                )
            )  # fmt: skip
