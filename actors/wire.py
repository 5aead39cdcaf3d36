"""How messages of the cast travel: as tagged msgpack arrays, of all kinds there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

import msgspec

from ..runtime.bus import Refusal
from ..runtime.membership import NodeBeat, SlotClaimed, SlotReleased
from . import messages as m
from .node_messages import NodeAnswer, NodeMessage
from .schedule_messages import ScheduleAnswer, ScheduleMessage

AnyMessage = (
    m.ShardMessage | m.QueueMessage | m.TenantMessage | m.WorkerMessage | m.SessionMessage
    | m.TasksSubmitted | m.InboxTaken | m.TasksAnswered | m.TasksEnded | m.TasksDescribed | m.LedgerRead | m.QueueConfigured
    | m.QueueRead | m.TasksExplained | m.TenantConfigured | m.TasksAdmitted | m.TenantRead | m.WorkerRead | Refusal
    | NodeBeat | SlotReleased | SlotClaimed | ScheduleMessage | ScheduleAnswer
    | NodeMessage | NodeAnswer
)  # fmt: skip

_TAKEN: Final[Mapping[str, frozenset[Any]]] = {
    "shard": frozenset((*get_args(m.ShardMessage), *get_args(ScheduleMessage))),
    "queue": frozenset(get_args(m.QueueMessage)),
    "tenant": frozenset(get_args(m.TenantMessage)),
    "worker": frozenset(get_args(m.WorkerMessage)),
}
"""What actors take, by the kind in their address."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(AnyMessage).decode


def encode(message: Any) -> bytes:
    """Return the bytes of a message, its tag included."""
    return _encode(message)


def is_actor(address: str) -> bool:
    """Tell whether an address is an actor's of a slot."""
    return address.partition(".")[0] in _TAKEN


def is_taken(address: str, message: Any) -> bool:
    """Tell whether whoever has this address takes such a message; what is no actor's takes any."""
    taken = _TAKEN.get(address.partition(".")[0])
    return taken is None or type(message) in taken


def decode(data: bytes) -> Any:
    """Return the message of these bytes. Raises: msgspec.DecodeError."""
    return _decode(data)
