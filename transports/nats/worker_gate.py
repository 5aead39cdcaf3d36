"""Where workers of any language register: their sessions on this node, and the requests that belong to them.

A session is held by the node that answered its registration, whose name is in the subject of all its later requests; so
they reach that node or nobody. If the node is gone, the worker registers again with the name of its session and goes on with
it at another one, its leases kept. The tenant is part of the session's name: nobody can go on with a session of another one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Final

from ...actors.addresses import check_name
from ...runtime.bus import Bus, Envelope
from ...runtime.clock import Clock, Timer
from ...runtime.errors import UnavailableError, UsageError
from ...runtime.ids import from_text
from ...runtime.membership import SLOTS, SlotClaimed
from ...runtime.rng import Rng
from . import protocol as p
from .protocol_codec import Codec, Format
from .worker_gate_session import HEARTBEAT_MS, GateLimits, Session, SessionUnknownError

DEAD_AFTER_MS: Final = 30_000  # as worker actors have it
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")
_DONE: Final = p.Done()
_SESSION: Final = re.compile(r"([A-Za-z0-9_-]{1,64})~[A-Za-z0-9_-]{1,48}-[0-9a-f]{20}")


class PoolForbiddenError(UsageError):
    """A worker may serve the pools of its own tenant only."""

    code = "pool_forbidden"

    def __init__(self, pool: str, tenant: str) -> None:
        super().__init__(f"a worker of tenant {tenant!r} cannot serve pool {pool!r}, expected pool {tenant!r}")
        self.pool = pool
        self.tenant = tenant


class SessionForbiddenError(UsageError):
    """A session that is not of the tenant."""

    code = "session_forbidden"

    def __init__(self, session: str, tenant: str) -> None:
        super().__init__(f"{session[:120]!r} is no session of tenant {tenant!r}, expected one that was registered by it")
        self.session = session


class SessionsFullError(UnavailableError):
    """This node holds as many sessions as it may."""

    code = "overloaded"

    def __init__(self, held: int, whose: str) -> None:
        super().__init__(f"{held} worker sessions {whose}, the bound; retry in 5 s", retry_after_ms=5_000)
        self.held = held


class QueuesFullError(UnavailableError):
    """The workers of a tenant on this node serve as many different queues as they may."""

    code = "overloaded"

    def __init__(self, tenant: str, most: int) -> None:
        super().__init__(
            f"workers of tenant {tenant!r} would serve more than {most} queues at this node, the bound; retry in 5 s, or"
            " give tasks fewer queues",
            retry_after_ms=5_000,
        )  # fmt: skip
        self.tenant = tenant
        self.most = most


class WorkerGate:
    """`send`: publishes bytes at a subject, and says whether they were taken. `node`: one word, this node's in subjects."""

    def __init__(
        self, bus: Bus, *, clock: Clock, rng: Rng, slots: int, prefix: str, node: str, codec: Codec,
        send: Callable[[str, bytes], bool], max_push: Callable[[], int], limits: GateLimits | None = None,
    ) -> None:  # fmt: skip
        self.limits = limits or GateLimits()
        self.sessions: dict[str, Session] = {}
        self.dropped = 0
        """Pushes that could not be sent; what was in them is queued again by its shard."""
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._slots = slots
        self._edge = f"{prefix}.v1"
        self._node = node
        self._codec = codec
        self._send = send
        self._max_push = max_push
        self._timer: Timer | None = None
        self._served: dict[str, Counter[str]] = {}  # by tenant: sessions, by the address of each queue they serve

    def start(self) -> None:
        self._bus.bind(SLOTS, self)
        self._sweep_later()

    def close(self) -> None:
        """Tell the workers to go on elsewhere."""
        self._bus.unbind(SLOTS, self)
        if self._timer is not None:
            self._timer.cancel()
        for session in list(self.sessions.values()):
            session.move()

    def deliver(self, envelope: Envelope) -> None:
        """Take what all processes are told of slots."""
        if isinstance(envelope.message, SlotClaimed):
            for session in list(self.sessions.values()):
                session.slot_moved(envelope.message.slot)

    # -- requests ------------------------------------------------------------------------------------------------------

    def answer_at_once(self, tenant: str, ask: p.Beat | p.Credits) -> p.Done:
        """Return the answer to what a session says often, and what needs nobody's answer here. Raises: FoliotError."""
        session = self._session(tenant, ask.session)
        if isinstance(ask, p.Beat):
            session.take_beat(ask, {from_text(held.id): held.attempt for held in ask.held})
        else:
            session.take_credits(ask.queues, refresh=False)
        return _DONE

    async def answer(self, tenant: str, ask: p.Ask, form: Format) -> p.Part:
        """Return the answer to any other request of a worker. Raises: FoliotError."""
        match ask:
            case p.Register():
                return self._register(tenant, ask, form)
            case p.Outcomes():
                return p.Taken(stale=await self._session(tenant, ask.session).report(ask.outcomes))
            case p.Leave():
                self._session(tenant, ask.session).leave()
        return _DONE

    def _session(self, tenant: str, name: str) -> Session:
        session = self.sessions.get(name)
        if session is None or session.tenant != tenant:
            raise SessionUnknownError(name)
        return session

    def _register(self, tenant: str, ask: p.Register, form: Format) -> p.Registered:
        for queue in ask.queues:
            if queue.pool and queue.pool != tenant and queue.pool not in self.limits.open_pools:
                raise PoolForbiddenError(queue.pool, tenant)
        name = self._name(tenant, ask)
        earlier = self.sessions.get(name)
        if earlier is not None:
            earlier.close()  # the worker asks again, since it did not hear the answer
        self._check_room(tenant)
        session = Session(
            tenant, name, form, ask, bus=self._bus, clock=self._clock, slots=self._slots, limits=self.limits,
            push=self._push, encode=lambda part: self._codec.write(part, form), max_push=self._max_push,
            ended=self._forget,
        )  # fmt: skip
        served = self._served.setdefault(tenant, Counter())
        if len(served.keys() | dict.fromkeys(session.queues)) > self.limits.max_queues_of_tenant:
            raise QueuesFullError(tenant, self.limits.max_queues_of_tenant)
        served.update(dict.fromkeys(session.queues, 1))
        self.sessions[name] = session
        session.begin()
        return p.Registered(
            session=name, subject=f"{self._edge}.{tenant}.worker.{self._node}", bodies=self._bodies(session),
            heartbeat_interval_ms=HEARTBEAT_MS, dead_after_ms=DEAD_AFTER_MS,
        )  # fmt: skip

    def _name(self, tenant: str, ask: p.Register) -> str:
        check_name("tenant", tenant)
        if ask.session:
            found = _SESSION.fullmatch(ask.session)
            if found is None or found[1] != tenant:
                raise SessionForbiddenError(ask.session, tenant)
            return ask.session
        word = _NO_NAME.sub("-", ask.name)[:48] or "worker"
        return f"{tenant}~{word}-{self._rng.bits(80):020x}"

    def _check_room(self, tenant: str) -> None:
        if len(self.sessions) >= self.limits.max_sessions:
            raise SessionsFullError(len(self.sessions), "are held by this node")
        own = sum(session.tenant == tenant for session in self.sessions.values())
        if own >= self.limits.max_of_tenant:
            raise SessionsFullError(own, f"of tenant {tenant!r} are held by this node")

    # -- pushes and ends -----------------------------------------------------------------------------------------------

    def _bodies(self, session: Session) -> str:
        return f"{self._edge}.{session.tenant}.bodies.{session.name}"

    def _push(self, session: Session, data: bytes) -> bool:
        taken = self._send(self._bodies(session), data)
        self.dropped += not taken
        return taken

    def _forget(self, session: Session) -> None:
        if self.sessions.get(session.name) is not session:
            return
        del self.sessions[session.name]
        served = self._served[session.tenant]
        served.subtract(dict.fromkeys(session.queues, 1))
        for queue in session.queues:
            if not served[queue]:
                del served[queue]
        if not served:
            del self._served[session.tenant]

    def _sweep_later(self) -> None:
        self._timer = self._clock.call_at_ms(self._clock.now_ms() + self.limits.sweep_ms, self._sweep)

    def _sweep(self) -> None:
        """Forget workers that are silent: they are at another node, or gone, which their worker actor notices."""
        before_ns = self._clock.mono_ns() - self.limits.silent_ms * 1_000_000
        for session in list(self.sessions.values()):
            if session.heard_ns < before_ns:
                session.close()
        self._sweep_later()
