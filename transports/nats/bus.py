"""The bus of one process of a cluster: envelopes as frames over NATS. Implements `runtime.bus.Bus`.

What holds: nothing here waits, and nothing raises but what a local receiver does; what is lost is counted, by reason. What
is sent to an actor of a slot that this very process hosts, or to an address bound here, is handed over in memory; a
broadcast reaches this process once, in memory, and all others over the server. A request that nobody listens to is refused
at once, since the server says so, and so is one that was never written to it. Frames that cannot be read are dropped; if
one is a request it is refused. What is larger than a message of the server's travels in parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import structlog

from ...actors.wire import is_actor, is_taken
from ...runtime.bus import Envelope, Receiver, Refusal, Resolver
from ...runtime.clock import Clock
from ...runtime.errors import FoliotError, NoSuchActorError, UnavailableError
from ..requests import Requests
from .absence import Absences
from .errors import LinkDownError, NatsConfigError, TooLargeError
from .frames import FrameError, Subjects, decode, encode
from .link import NO_RESPONDERS, Delivery, LinkState, NatsLink, Subscription, Taker
from .parts import MAX_BYTES, Parts, is_part

log = structlog.get_logger("foliot.transports.nats")

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LOG_EVERY_MS: Final = 1_000  # of each reason


class NatsBus:
    """`slots`: of the cluster. `name`: this process's, for people; its subjects are unique without it. `prefix`: one word,
    below which all subjects are. Lives on the link's event loop, and is the only bus of its link."""

    def __init__(self, link: NatsLink, *, slots: int, name: str, clock: Clock, prefix: str = "foliot") -> None:
        for setting, word in (("name", name), ("prefix", prefix)):
            if not _NAME.fullmatch(word):
                raise NatsConfigError(setting, repr(word[:80]), "1 to 64 letters, digits, '_' and '-'")
        self.clock = clock
        self.drops: dict[str, int] = {}
        """How many messages were lost in this process, by reason."""
        self._link = link
        self._subjects = Subjects(prefix, slots)
        self._local: dict[str, Receiver] = {}  # bound, or found at a host and kept: one look-up a message
        self._found: dict[str, None] = {}  # the latter
        self._broadcasts: dict[str, list[Receiver]] = {}
        self._hosts: dict[int, Resolver] = {}
        self._subscribed: dict[str, Subscription] = {}  # by subject
        self._logged_ms: dict[str, int] = {}
        self._requests = Requests()
        self._parts = Parts(link.ident)
        self._asked: dict[int, tuple[str, int]] = {}  # by request: its address, and the link's number of its message
        self.reply_address = f"reply.{name}-{link.ident}"
        self._reply_subject = f"{prefix}.to.{self.reply_address}"
        self._mark = link.ident  # of its own broadcasts; nobody listens there, so the server answers them with nothing
        self._subscribed["replies"] = link.subscribe(self._reply_subject, self._take_reply)
        self._subscribed["statuses"] = link.subscribe(f"{self._reply_subject}.*", self._take_status)
        self._absences = Absences(link, f"{prefix}.to.absent.{name}-{link.ident}")
        link.watch(self._link_changed)

    @property
    def dropped(self) -> int:
        """How many messages were lost in this process."""
        return sum(self.drops.values())

    def close(self) -> None:
        """Stop listening; the link stays."""
        self._link.unwatch(self._link_changed)
        self._absences.close()
        for subscription in self._subscribed.values():
            subscription.close()
        self._subscribed.clear()
        self._local.clear()
        self._found.clear()
        self._broadcasts.clear()
        self._hosts.clear()

    # -- listening ---------------------------------------------------------------------------------------------------

    def bind(self, address: str, receiver: Receiver) -> None:
        if "." not in address:
            self._broadcasts.setdefault(address, []).append(receiver)
            self._listen(self._subjects.of(address), self._take_broadcast)
            return
        self._local[address] = receiver
        self._found.pop(address, None)
        if self._subjects.slot_of(address) is None:
            self._listen(self._subjects.of(address), self._take)

    def unbind(self, address: str, receiver: Receiver | None = None) -> None:
        if "." not in address:
            listeners = self._broadcasts.get(address)
            if listeners is None:
                return
            if receiver in listeners:
                listeners.remove(receiver)
                if listeners:
                    return
            del self._broadcasts[address]
            self._ignore(self._subjects.of(address))
            return
        self._local.pop(address, None)
        self._found.pop(address, None)
        if self._subjects.slot_of(address) is None:
            self._ignore(self._subjects.of(address))

    def host(self, slot: int, resolve: Resolver) -> None:
        self._hosts[slot] = resolve
        self._forget_found()
        self._listen(self._subjects.slot(slot), self._take)

    def leave(self, slot: int) -> None:
        if self._hosts.pop(slot, None) is not None:
            self._forget_found()
            self._ignore(self._subjects.slot(slot))

    def _forget_found(self) -> None:
        for address in self._found:
            del self._local[address]
        self._found.clear()

    def _listen(self, subject: str, take: Taker) -> None:
        if subject not in self._subscribed:
            self._subscribed[subject] = self._link.subscribe(subject, take)

    def _ignore(self, subject: str) -> None:
        subscription = self._subscribed.pop(subject, None)
        if subscription is not None:
            subscription.close()

    def _resolve(self, address: str) -> Receiver | None:
        """Return the actor of a slot that is hosted here, if it is one."""
        slot = self._subjects.slot_of(address)
        resolve = self._hosts.get(slot) if slot is not None else None
        receiver = resolve(address) if resolve is not None else None
        if receiver is not None:
            self._local[address] = receiver
            self._found[address] = None
        return receiver

    def _is_here(self, address: str) -> bool:
        """Tell whether an actor's slot is hosted by this process."""
        return bool(self._hosts) and self._subjects.slot_of(address) in self._hosts

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, envelope: Envelope) -> None:
        to = envelope.to
        receiver = self._local.get(to)
        if receiver is not None:
            self._deliver(receiver, envelope)
        elif to == self.reply_address:
            self._requests.answer(envelope.request, envelope.message)
        elif "." not in to:
            self._broadcast(envelope)
        elif self._is_here(to):
            self._deliver(self._resolve(to), envelope)
        else:
            self._travel(envelope)

    def _broadcast(self, envelope: Envelope) -> None:
        for receiver in list(self._broadcasts.get(envelope.to, ())):
            self._deliver(receiver, envelope)
        self._travel(envelope, reply=self._mark)

    def _travel(self, envelope: Envelope, *, reply: str = "") -> None:
        """Put the envelope on its way to other processes."""
        to, sender, request = envelope.to, envelope.sender, envelope.request
        is_own = request != 0 and sender == self.reply_address
        if is_own:
            reply = f"{self._reply_subject}.{request}"
        try:
            number = self._publish(self._subjects.of(to), encode(to, sender, request, envelope.message), reply)
        except FoliotError as error:
            self._refuse(envelope, error)
            return
        if is_own:
            self._asked[request] = (to, number)

    def _publish(self, subject: str, data: bytes, reply: str) -> int:
        """Return the number of the message, or of its last part. Raises: FoliotError, with nothing of it on its way but
        parts that nobody can put together."""
        link = self._link
        if len(data) <= link.max_message or not link.is_up:
            try:
                return link.publish(subject, data, reply=reply)
            except TooLargeError:
                pass  # by its headers
        if len(data) > MAX_BYTES:
            raise TooLargeError(subject, len(data), MAX_BYTES)
        number = 0
        for part in self._parts.cut(data, link.max_message):
            number = link.publish(subject, part, reply=reply)
        return number

    def _deliver(self, receiver: Receiver | None, envelope: Envelope) -> None:
        """Hand over in this process; what cannot be is refused or dropped."""
        try:
            if receiver is None:
                raise NoSuchActorError(envelope.to)
            receiver.deliver(envelope)
        except UnavailableError as error:
            self._refuse(envelope, error)

    def _refuse(self, envelope: Envelope, error: FoliotError) -> None:
        if envelope.request and envelope.sender == self.reply_address:
            self._requests.answer(envelope.request, Refusal.of(error))
            return
        self._lost(error.code, envelope.to, envelope.message, error)
        if envelope.request and envelope.sender.startswith("reply.") and not isinstance(envelope.message, Refusal):
            self.send(Envelope(envelope.sender, Refusal.of(error), envelope.to, envelope.request))

    async def request(self, to: str, message: Any, *, timeout_ms: int) -> Any:
        asked = 0

        def send(number: int) -> None:
            nonlocal asked
            asked = number
            self.send(Envelope(to, message, self.reply_address, number))

        try:
            return await self._requests.ask(f"{type(message).__name__} to {to}", send, timeout_ms=timeout_ms)
        finally:
            self._asked.pop(asked, None)

    async def absent(self, addresses: Iterable[str], message: Any, *, wait_ms: int) -> list[str]:
        """Return those of the addresses where nobody listens, in their order. They are of no actors; each is sent the
        message, which must mean nothing there. `wait_ms`: how long the server may take to say so."""
        of = self._subjects.of
        asked = ((to, of(to), encode(to, "", 0, message)) for to in addresses if to not in self._local)
        return await self._absences.among(asked, wait_ms=wait_ms)

    def _link_changed(self, state: LinkState) -> None:
        """Requests that were not written to the server when its connection ended are refused: nobody got them. The answers
        to the others are lost, or will be, so whoever waits for one need not wait for its deadline to ask again."""
        if not state.is_up:
            for number, (to, put) in list(self._asked.items()):
                if put > state.written:
                    self._requests.answer(number, Refusal.of(LinkDownError(state.reason)))
                else:
                    self._requests.lose(number, f"a request to {to}")

    # -- arriving ----------------------------------------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> None:
        """A frame for an actor of a slot, or for an address that is bound."""
        envelope = self._read(delivery)
        if envelope is None:
            return
        if not is_taken(envelope.to, envelope.message):  # it would end the actor, and many of them the node
            what = f"{type(envelope.message).__name__} is nothing that {envelope.to[:80]!r} takes"
            error = FrameError(what, to=envelope.to, sender=envelope.sender, request=envelope.request)
            self._unread(error, delivery.subject)
            return
        if envelope.request and is_actor(envelope.to) and is_actor(envelope.sender):  # actors do not ask each other
            self._unread(FrameError(f"{envelope.sender[:80]!r} cannot ask"), delivery.subject)
            return
        receiver = self._local.get(envelope.to)
        self._deliver(receiver if receiver is not None else self._resolve(envelope.to), envelope)

    def _take_broadcast(self, delivery: Delivery) -> None:
        if delivery.reply == self._mark:
            return  # its own: it has been handed over
        envelope = self._read(delivery)
        if envelope is not None:
            for receiver in list(self._broadcasts.get(envelope.to, ())):
                self._deliver(receiver, envelope)

    def _take_reply(self, delivery: Delivery) -> None:
        envelope = self._read(delivery)
        if envelope is not None:
            self._requests.answer(envelope.request, envelope.message)

    def _take_status(self, delivery: Delivery) -> None:
        """The server says that nobody listens where a request went."""
        number = delivery.subject.rpartition(".")[2]
        if delivery.status == NO_RESPONDERS and number.isdecimal():
            asked = self._asked.get(int(number))
            if asked is not None:
                self._requests.answer(int(number), Refusal.of(NoSuchActorError(asked[0])))

    def _read(self, delivery: Delivery) -> Envelope | None:
        try:
            data = self._parts.take(delivery.data) if is_part(delivery.data) else delivery.data
            return decode(data) if data is not None else None
        except FrameError as error:
            self._unread(error, delivery.subject)
            return None

    def _unread(self, error: FrameError, subject: str) -> None:
        self._lost(error.code, subject, None, error)
        if error.request and error.sender.startswith("reply.") and error.sender != self.reply_address:
            self.send(Envelope(error.sender, Refusal.of(error), error.to, error.request))

    # -- what was lost -----------------------------------------------------------------------------------------------

    def _lost(self, reason: str, to: str, message: Any, error: FoliotError) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
        now_ms = self.clock.now_ms()
        if abs(now_ms - self._logged_ms.get(reason, -_LOG_EVERY_MS)) >= _LOG_EVERY_MS:
            self._logged_ms[reason] = now_ms
            log.warning(
                "message_dropped", to=to, message=type(message).__name__, error=str(error), reason=reason,
                dropped=self.drops[reason],
            )  # fmt: skip
