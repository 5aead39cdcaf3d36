"""One-way submissions on the wire: where they go, how they are stored, and what an entry of an inbox asks for.

A client publishes a batch to `<prefix>.v1.<tenant>.in.<word>` and waits for the stream's confirmation only: the broker has
it then, and some shard will accept it. The servers themselves find the shard, as the hash of the word, and store the entry
as `<prefix>.in.<shard>.<tenant>`. The tenant is the subject's, whatever the entry says. Tasks with a dedupe key belong to
the shard their key hashes to; a client that sends them to another one costs a message, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from ...actors.addresses import check_name
from ...actors.messages import SubmitTasks
from ...runtime.errors import UsageError
from ...runtime.hashing import slot_of
from ...runtime.rng import Rng
from ..admission import TooLargeError
from .port import Entry, Publishing, StreamConfig
from .protocol import PREFIX

STREAM: Final = "FOLIOT_IN"
"""What the stream is called, with the usual prefix."""
_JSON: Final = b"{[ \t\r\n"  # with none of these begins a msgpack array or map

Decode = Callable[[Entry], SubmitTasks]


class MalformedEntryError(UsageError):
    """An entry of an inbox that cannot be read."""

    code = "malformed"

    def __init__(self, reason: str) -> None:
        super().__init__(f"an entry cannot be read: {reason}; expected SubmitTasks")
        self.reason = reason


@dataclass(frozen=True)
class MailConfig:
    """The stream of all inboxes. `max_waiting`: entries of one tenant in one shard, so that none fills it for others."""

    slots: int
    prefix: str = "foliot"
    replicas: int = 1  # 3 in a cluster of brokers
    max_waiting: int = 10_000
    max_entries: int = 2_000_000
    max_bytes: int = 1 << 30
    max_entry_bytes: int = 600 * 1024

    @property
    def name(self) -> str:
        """What the stream is called: of each prefix there is another."""
        return stream_name(self.prefix, STREAM)

    @property
    def stream(self) -> StreamConfig:
        """Return the stream. Its dedupe window is as short as can be, since ids in it are common to all tenants."""
        public = f"{self.prefix}.v1.*.in.*"
        return StreamConfig(
            self.name, (public,), max_consumers=self.slots * 4, retention="workqueue", discard="new", replicas=self.replicas,
            max_bytes=self.max_bytes, max_entries=self.max_entries, max_per_subject=self.max_waiting,
            max_entry_bytes=self.max_entry_bytes,
            transform=(public, f"{self.prefix}.in.{{{{partition({self.slots},2)}}}}.{{{{wildcard(1)}}}}"),
        )  # fmt: skip

    def filter_of(self, shard: int) -> str:
        """Return what the entries of a shard are stored as."""
        return f"{self.prefix}.in.{shard}.*"


def stream_name(prefix: str, usual: str) -> str:
    """Return the name of a stream of the cluster with this prefix; `usual`: with the usual one."""
    return usual if prefix == PREFIX else f"{prefix}{usual.removeprefix(PREFIX.upper())}"


def words(slots: int) -> list[str]:
    """Return, by slot, the smallest number that hashes to it, as a word of a subject."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < slots:
        found.setdefault(slot_of(str(number), slots), str(number))
        number += 1
    return [found[slot] for slot in range(slots)]


def parts_of(submit: SubmitTasks, free: int, slots: int) -> dict[int, SubmitTasks]:
    """Return a batch by shard: tasks with a dedupe key go where it hashes to, the others to `free`."""
    found: dict[int, list[int]] = {}
    for position, spec in enumerate(submit.tasks):
        slot = slot_of(f"{submit.tenant}/{spec.dedupe_key}", slots) if spec.dedupe_key else free
        found.setdefault(slot, []).append(position)
    if len(found) == 1:
        return dict.fromkeys(found, submit)
    return {
        slot: msgspec.structs.replace(submit, tasks=[submit.tasks[position] for position in positions])
        for slot, positions in found.items()
    }


def named(part: SubmitTasks, shard: int, slots: int) -> SubmitTasks:
    """Return a shard's part under the name that every edge gives it, so that a repetition by another way is known."""
    if not part.request_id or slots == 1:
        return part
    return msgspec.structs.replace(part, request_id=f"{part.request_id}/{shard}")


_decode_msgpack = msgspec.msgpack.Decoder(SubmitTasks).decode
_decode_json = msgspec.json.Decoder(SubmitTasks).decode
_encode = msgspec.msgpack.Encoder().encode


def decode_submit(entry: Entry) -> SubmitTasks:
    """Return what an entry asks for: the message as an array, in msgpack or JSON. Raises: MalformedEntryError."""
    data = entry.data
    try:
        return _decode_json(data) if data[:1] and data[:1] in _JSON else _decode_msgpack(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEntryError(str(error)) from error


def tenant_of(entry: Entry) -> str:
    """Return who sent an entry."""
    return entry.subject.rpartition(".")[2]


def submit_of(entry: Entry, decode: Decode) -> SubmitTasks:
    """Return what an entry asks for, in the name of the tenant in its subject. Raises: UsageError."""
    tenant = check_name("tenant", tenant_of(entry))
    submit = decode(entry)
    return submit if submit.tenant == tenant else msgspec.structs.replace(submit, tenant=tenant)


class MailSender:
    """A client's end: hands batches to the broker."""

    def __init__(self, publishing: Publishing, *, config: MailConfig, rng: Rng) -> None:
        self._publishing = publishing
        self._config = config
        self._words = words(config.slots)
        self._turn = rng.below(config.slots)

    async def send(self, submit: SubmitTasks) -> Sequence[int]:
        """Hand over a batch; returns the positions of its parts once the broker has them, which is no promise of a shard.

        Where the batch has a request id, it may be sent again after any error, and what was accepted is not accepted twice
        within the ten minutes that shards remember it. Raises: StreamFullError, NotStoredError, DeadlineError,
        UnavailableError, UsageError; parts before the failing one are stored.
        """
        config = self._config
        tenant = check_name("tenant", submit.tenant)
        if submit.request_id:
            free = slot_of(submit.request_id, config.slots)
        else:
            free = self._turn = (self._turn + 1) % config.slots
        encoded = [(slot, _encode(part)) for slot, part in parts_of(submit, free, config.slots).items()]
        for _, data in encoded:
            if len(data) > config.max_entry_bytes:
                raise TooLargeError("the size of a one-way batch in bytes", len(data), config.max_entry_bytes)
        return [
            await self._publishing.publish(f"{config.prefix}.v1.{tenant}.in.{self._words[slot]}", data)
            for slot, data in encoded
        ]
