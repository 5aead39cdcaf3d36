"""The nodes of a cluster as one: what a gateway tells is gathered from all members, with a deadline.

Each node answers for itself at `node.<name>`; the one that gathers asks all it sees at once. A member that does not answer
in time is left out, and whatever rests on completeness is told so. A node that leaves in order hands what its gateway has
counted to the others, so that the ledgers still compare; what a killed one had counted is gone, and then only that part of
the comparison is made which stays true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from ..actors.messages import LedgerEntry
from ..actors.node_messages import (
    AskHandlers,
    DrainPeer,
    EdgeEntry,
    EdgeReport,
    EdgesLeft,
    HandlersTold,
    PeerDraining,
    PeerRead,
    ReadPeer,
    node_address,
)
from ..runtime.bus import Bus, Envelope, Refusal
from ..runtime.errors import FoliotError, NotFoundError
from ..runtime.membership import NODES
from ..runtime.node import Node
from .balance import Baseline, EdgeSnapshot, Key
from .entrance import EdgeCount

log = structlog.get_logger("foliot.transports")

_ASK_MS: Final = 1_000
_LEFT_MAX: Final = 256  # reports of nodes that left
_ADDRESSES_MAX: Final = 8_192  # of a kind, in one answer: it has to fit into a message


class MemberNotFoundError(NotFoundError):
    """No node of that name is a member."""

    code = "member_not_found"

    def __init__(self, name: str, members: Sequence[str]) -> None:
        super().__init__(f"there is no member {name[:80]!r}, expected one of {', '.join(members[:20])}")
        self.name = name


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself that does not change."""

    name: str
    host: str
    pid: int
    product: str
    slots: int
    since_ms: int


@dataclass(frozen=True)
class Edges:
    """What all gateways together let in. `boots`: whose reports these are."""

    baseline: Baseline
    snapshot: EdgeSnapshot
    boots: tuple[str, ...]
    since_ms: int


class Peers:
    """A node's own answers, and its questions to the others. `figures`: what it measured of itself; `report`: what its
    gateway let in; `drain`: called when somebody asks the node to leave."""

    def __init__(
        self,
        facts: NodeFacts,
        *,
        bus: Bus,
        node: Node,
        now_ms: Callable[[], int],
        skew_ms: Callable[[], int] = lambda: 0,
        figures: Callable[[], dict[str, float]],
        report: Callable[[], tuple[Baseline | None, dict[Key, EdgeCount]]],
        drain: Callable[[str], None],
        handlers: Callable[[], HandlersTold] = lambda: HandlersTold([]),
    ) -> None:
        self._facts = facts
        self._bus = bus
        self._node = node
        self._now_ms = now_ms
        self._skew_ms = skew_ms
        self._figures = figures
        self._report = report
        self._drain = drain
        self._handlers = handlers
        self._left: dict[str, EdgeReport] = {}  # by boot, the oldest first
        self._forgot = False
        self.is_leaving = False

    def begin(self) -> None:
        self._bus.bind(node_address(self._facts.name), self)
        self._bus.bind(NODES, self)

    def end(self) -> None:
        """Leave what was counted to the others, and answer no more."""
        reports = [self._own_report(), *self._left.values()]
        for report in reports:  # one each, since a message has its bound
            self._bus.send(Envelope(NODES, EdgesLeft([report])))
        self._bus.unbind(node_address(self._facts.name))
        self._bus.unbind(NODES, self)

    # -- answering -----------------------------------------------------------------------------------------------------

    def deliver(self, envelope: Envelope) -> None:
        message = envelope.message
        if type(message) is EdgesLeft:
            self._inherit(message.reports)
            return
        answer: Any = None
        if type(message) is ReadPeer:
            answer = self.read(message)
        elif type(message) is DrainPeer:
            self._drain(message.why)
            answer = PeerDraining(self._facts.name)
        elif type(message) is AskHandlers:
            answer = self._handlers()
        if answer is not None and envelope.sender:
            self._bus.send(Envelope(envelope.sender, answer, envelope.to, envelope.request))

    def read(self, question: ReadPeer) -> PeerRead:
        facts = self._facts
        found = {kind: self._node.addresses(kind) for kind in question.kinds}
        membership = self._node.membership
        return PeerRead(
            facts.name, self._node.boot, facts.host, facts.pid, facts.product, facts.slots, facts.since_ms, self._now_ms(),
            is_leaving=self.is_leaving, skew_ms=self._skew_ms(), hosted=dict(self._node.hosted),
            members=membership.alive if membership is not None else [facts.name],
            addresses={kind: addresses[:_ADDRESSES_MAX] for kind, addresses in found.items()},
            cut=any(len(addresses) > _ADDRESSES_MAX for addresses in found.values()),
            reports=[self._own_report(), *self._left.values()] if question.edges else [],
            figures=self._figures(),
        )  # fmt: skip

    def _own_report(self) -> EdgeReport:
        baseline, counts = self._report()
        membership = self._node.membership
        knows = membership.lives if membership is not None else []
        forgot = self._forgot or (membership is not None and membership.forgot_lives)
        entries: list[EdgeEntry] = []
        if baseline is not None:
            for tenant, queue in sorted({*baseline.accepted, *baseline.completed, *baseline.fired, *counts}):
                key = (tenant, queue)
                count = counts.get(key) or EdgeCount()
                entries.append(
                    EdgeEntry(
                        tenant, queue, baseline.accepted.get(key, 0), baseline.completed.get(key, 0),
                        baseline.fired.get(key, 0), count.accepted, count.unsettled,
                    )
                )  # fmt: skip
        return EdgeReport(self._node.boot, self._facts.since_ms, baseline is not None, entries, knows, forgot)

    def _inherit(self, reports: Iterable[EdgeReport]) -> None:
        for report in reports:
            if report.boot != self._node.boot:
                self._left.setdefault(report.boot, report)
                if len(self._left) > _LEFT_MAX:
                    del self._left[next(iter(self._left))]
                    self._forgot = True

    # -- asking --------------------------------------------------------------------------------------------------------

    @property
    def members(self) -> list[str]:
        membership = self._node.membership
        return membership.alive if membership is not None else [self._facts.name]

    async def gather(self, question: ReadPeer) -> list[PeerRead]:
        """Return the answers of all members that gave one in time, by name."""
        answers = await asyncio.gather(*[self._ask(name, question) for name in self.members])
        return [answer for answer in answers if isinstance(answer, PeerRead)]

    async def _ask(self, name: str, question: Any) -> Any:
        if name == self._facts.name and type(question) is ReadPeer:
            return self.read(question)
        try:
            return await self._bus.request(node_address(name), question, timeout_ms=_ASK_MS)
        except FoliotError as error:
            return Refusal.of(error)

    async def directory(self, kind: str) -> list[str]:
        """Return the addresses of a kind that live anywhere, sorted."""
        reads = await self.gather(ReadPeer([kind]))
        if any(read.cut for read in reads):
            log.warning("directory_cut", kind=kind, shown=_ADDRESSES_MAX)
        return sorted({address for read in reads for address in read.addresses.get(kind, ())})

    async def ask_any(self, question: Any) -> Any:
        """Return the answer of one of the others, None if there are none or it did not answer."""
        own = self._facts.name
        other = next((name for name in self.members if name != own), None)
        answer = None if other is None else await self._ask(other, question)
        return None if isinstance(answer, Refusal) else answer

    async def drain(self, name: str, why: str) -> PeerDraining | Refusal:
        """Have a member leave. Raises: MemberNotFoundError."""
        members = self.members
        if name not in members:
            raise MemberNotFoundError(name, members)
        answer: PeerDraining | Refusal = await self._ask(name, DrainPeer(why))
        return answer

    async def edges(self) -> Edges:
        """Return what all gateways let in since the earliest of them began."""
        reads = await self.gather(ReadPeer([], edges=True))
        reports = {report.boot: report for read in reads for report in reversed(read.reports)}
        reports.update({read.reports[0].boot: read.reports[0] for read in reads if read.reports})  # each knows itself best
        return merged([reports[boot] for boot in sorted(reports)])


def merged(reports: Sequence[EdgeReport]) -> Edges:
    """Put reports of different boots together. The baseline is the earliest: counters only grow, and nobody lets anything in
    before its own baseline is taken."""
    began = [report for report in reports if report.began]
    bases: list[dict[Key, EdgeEntry]] = [{(entry.tenant, entry.queue): entry for entry in at.entries} for at in began]
    keys = sorted({key for base in bases for key in base})
    entries: list[LedgerEntry] = []
    edge: dict[Key, tuple[int, int]] = {}
    for key in keys:
        here = [base.get(key) or EdgeEntry(*key) for base in bases]
        entries.append(
            LedgerEntry(
                *key,
                accepted=min(entry.base_accepted for entry in here),
                completed=min(entry.base_completed for entry in here),
                fired=min(entry.base_fired for entry in here),
            )
        )
        edge[key] = (sum(entry.accepted for entry in here), sum(entry.unsettled for entry in here))
    boots = tuple(report.boot for report in reports)
    known = {boot for report in reports for boot in report.knows}
    is_whole = known <= set(boots) and not any(report.forgot for report in reports)
    since_ms = min((report.since_ms for report in began), default=0)
    return Edges(Baseline.of(entries), EdgeSnapshot(edge, None, is_whole), boots, since_ms)
