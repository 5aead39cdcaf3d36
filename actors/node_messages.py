"""What nodes of a cluster ask each other besides the cast's own messages: what lives where, and what was let in.

A node answers under its own address, `node.<name>`. Everything here is for people and for the ledger's balance: nothing that
decides rests on it, so an answer that is missing makes a view smaller and never wrong.
"""

from __future__ import annotations

import msgspec

from ..runtime.bus import Refusal
from .messages import Message, Template


class EdgeEntry(Message, frozen=True):
    """One tenant and queue at one gateway: what the shards had counted when it began (`base_…`), what it let in since."""

    tenant: str
    queue: str
    base_accepted: int = 0
    base_completed: int = 0
    base_fired: int = 0
    accepted: int = 0
    unsettled: int = 0


class EdgeReport(Message, frozen=True):
    """What one gateway let in. `boot`: the life of its node. `knows`: the boots of other nodes it ever heard of; `forgot`:
    there were more than it could remember. `began`: it has taken its base; before that it lets nothing in."""

    boot: str
    since_ms: int
    began: bool
    entries: list[EdgeEntry] = msgspec.field(default_factory=list)
    knows: list[str] = msgspec.field(default_factory=list)
    forgot: bool = False


class EdgesLeft(Message, frozen=True, tag=True):
    """A node leaves: these reports, its own and those that were left to it, are to be counted on. Broadcast."""

    reports: list[EdgeReport]


class ReadPeer(Message, frozen=True, tag=True):
    """`kinds`: of addresses to list. `edges`: whether to report what was let in. Answers: PeerRead."""

    kinds: list[str] = msgspec.field(default_factory=list)
    edges: bool = False


class PeerRead(Message, frozen=True, tag=True):
    """`hosted`: epoch by slot. `members`: whom it sees, itself included. `skew_ms`: its clock against the store's.
    `addresses`: by kind, as many as fit (`cut`: there are more). `reports`: its own first, then those left to it."""

    node: str
    boot: str
    host: str
    pid: int
    product: str
    slots: int
    since_ms: int
    now_ms: int
    is_leaving: bool = False
    skew_ms: int = 0
    hosted: dict[int, int] = msgspec.field(default_factory=dict)
    members: list[str] = msgspec.field(default_factory=list)
    addresses: dict[str, list[str]] = msgspec.field(default_factory=dict)
    cut: bool = False
    reports: list[EdgeReport] = msgspec.field(default_factory=list)
    figures: dict[str, float] = msgspec.field(default_factory=dict)


class DrainPeer(Message, frozen=True, tag=True):
    """Give back every slot, then end. Answers: PeerDraining, at once."""

    why: str = ""


class PeerDraining(Message, frozen=True, tag=True):
    node: str


class HandlerTold(Message, frozen=True):
    """A handler that some worker has: what its tasks have in common."""

    template: Template
    priority: int


class HandlersTold(Message, frozen=True, tag=True):
    """A worker tells which handlers it has. Broadcast at its start, when its broker is back, and when it is asked. Also the
    answer to AskHandlers."""

    handlers: list[HandlerTold]


class AskHandlers(Message, frozen=True, tag=True):
    """Which handlers do you know? Answers: HandlersTold; where it is broadcast, every worker tells."""


class Probe(Message, frozen=True, tag=True):
    """Is anybody there? Means nothing and is not answered: the broker says if it reached nobody."""


NodeMessage = ReadPeer | DrainPeer | EdgesLeft | AskHandlers | Probe
NodeAnswer = PeerRead | PeerDraining | HandlersTold | Refusal

HANDLERS = "handlers"
"""The broadcast address of what workers tell of their handlers."""


def node_address(name: str) -> str:
    """Where a node answers for itself."""
    return f"node.{name}"
