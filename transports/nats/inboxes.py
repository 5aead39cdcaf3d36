"""Inboxes: one reader beside each shard that this process hosts, which brings it what was submitted one-way.

What holds: entries are applied in the order of the stream and once each, since the shard commits how far it has come with
the tasks themselves; an entry is acknowledged only after that commit. Whoever takes a shard over deletes the consumer of
the one before, which ends that one's pulls, and makes its own, which brings what was not acknowledged, in order. Where a
shard or its store cannot take entries the reader waits; it never passes one by. What cannot be read, or breaks its shard, is
set aside.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import anyio
import msgspec
import structlog

from ...actors.addresses import shard_address, tenant_address
from ...actors.messages import AdmitTasks, InboxEntry, InboxTaken, SubmitTasks, TakeInbox
from ...actors.rows import InboxMark
from ...runtime.bus import Bus, Refusal
from ...runtime.clock import Clock
from ...runtime.errors import DeadlineError, FoliotError, StaleEpochError, UnavailableError, UsageError
from ..admission import EdgeLimits
from ..entrance import EdgeCount
from .incoming import Incoming, Tally, incoming
from .mail import Decode, MailConfig, MalformedEntryError, decode_submit
from .port import ConsumerConfig, Consumption, Entry, JetStream

log = structlog.get_logger("foliot.transports.nats")

SetAside = Callable[[str, bytes, str, int], Awaitable[None]]
"""Keeps an entry that cannot be applied: (address, bytes, error, instant in milliseconds). See `stores.port.Store`."""

_CONSUMER: Final = re.compile(r"s(\d+)-e(\d+)-(\d+)")
_LOG_EVERY_MS: Final = 1_000
_LIMITED: Final = ("rate_limited", "quota_exceeded")  # what a tenant says


@dataclass(frozen=True)
class InboxConfig:
    """The bounds of the readers."""

    mail: MailConfig
    limits: EdgeLimits = EdgeLimits()
    batch_max: int = 256  # entries to one commit ...
    batch_tasks: int = 1_024  # ... and tasks, but for one entry that has more
    answer_ms: int = 10_000  # how long a shard may take before it is asked again
    pause_ms: int = 50  # between two tries, doubling ...
    pause_max_ms: int = 2_000  # ... up to this
    look_ms: int = 200  # how often it is looked which shards are hosted
    aside_max: int = 100  # entries set aside by one reader in a minute; beyond, they are only counted
    patience: int = 20  # tries of a part for another shard whose queue is full


class _SupersededError(FoliotError):
    """Another node reads this inbox under a later epoch."""

    code: ClassVar[str] = "stale_epoch"


class _BrokenError(FoliotError):
    """The shard could not handle the entries."""


class Inboxes:
    """The readers of one process. `hosted`: the slots it hosts, and the epoch of each (`Node.hosted`). `counts`: where what
    is accepted is counted, the gateway's own (`Gateway.edge_counts`)."""

    def __init__(
        self,
        jetstream: JetStream,
        *,
        bus: Bus,
        hosted: Callable[[], Mapping[int, int]],
        set_aside: SetAside,
        clock: Clock,
        config: InboxConfig,
        counts: dict[tuple[str, str], EdgeCount] | None = None,
        decode: Decode = decode_submit,
    ) -> None:
        self.tally = Tally(counts if counts is not None else {})
        self.config = config
        self.jetstream = jetstream
        self.bus = bus
        self.set_aside = set_aside
        self.clock = clock
        self.decode = decode
        self.hosted = hosted
        self._readers: dict[int, anyio.CancelScope] = {}

    async def run(self) -> None:
        """Read for the shards that are hosted, as they come and go, until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                hosted = self.hosted()
                for shard in [shard for shard in self._readers if shard not in hosted]:
                    self._readers.pop(shard).cancel()
                for shard in sorted(hosted):
                    if shard not in self._readers:
                        scope = self._readers[shard] = anyio.CancelScope()
                        group.start_soon(self._read, shard, scope, name=f"inbox {shard}")
                await asyncio.sleep(self.config.look_ms / 1000)

    async def _read(self, shard: int, scope: anyio.CancelScope) -> None:
        with scope:
            await Reader(shard, self).run()


class Reader:
    """Reads one shard's inbox."""

    def __init__(self, shard: int, inboxes: Inboxes) -> None:
        self._shard = shard
        self._address = shard_address(shard)
        self._all = inboxes
        self._config = inboxes.config
        self._jetstream = inboxes.jetstream
        self._waiting: deque[Entry] = deque()
        self._wake: asyncio.Event = asyncio.Event()
        self._ended = ""
        self._made = 0  # consumers
        self._mark = InboxMark()  # how far the shard is known to be
        self._alone = 0  # entries still to be given to the shard one by one, to find the one that breaks it
        self._broken: tuple[str, int] | None = None  # the entry that did: life of the stream, and its position
        self._limited_ms = -_LOG_EVERY_MS  # when it was last told that a tenant may not have more
        self._aside: deque[int] = deque()  # when entries were set aside in the last minute

    async def run(self) -> None:
        """Read while the shard is hosted, until cancelled."""
        clock, config = self._all.clock, self._config
        pause_ms = config.pause_ms
        while True:
            epoch = self._all.hosted().get(self._shard, 0)
            began_ns = clock.mono_ns()
            try:
                if epoch:
                    await self._read(epoch)
            except FoliotError as error:
                log.warning("inbox_waits", shard=self._shard, epoch=epoch, code=error.code, error=str(error))
            except Exception as error:  # one reader's bug must not end the others
                log.error("inbox_failed", shard=self._shard, epoch=epoch, exc_info=error)
            if clock.mono_ns() - began_ns > config.pause_max_ms * 1_000_000:
                pause_ms = config.pause_ms
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 2, config.pause_max_ms)

    async def _read(self, epoch: int) -> None:
        """Read by a consumer of one's own until it ends. Raises: FoliotError."""
        consumption, life = await self._take_over(epoch)
        try:
            while not self._ended:
                if self._waiting:
                    await self._apply(epoch, life, self._next_batch(), consumption)
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            consumption.close()
            self._waiting.clear()
        log.debug("inbox_ended", shard=self._shard, epoch=epoch, reason=self._ended)

    async def _take_over(self, epoch: int) -> tuple[Consumption, str]:
        """End whoever read before, and begin where that one's acknowledgements end. Returns also which life of the stream
        this is. Raises: _SupersededError, FoliotError."""
        config, jetstream = self._config.mail, self._jetstream
        life = await jetstream.ensure(config.stream)
        for name in sorted(await jetstream.consumers(config.name)):
            match = _CONSUMER.fullmatch(name)
            if match is None or int(match[1]) != self._shard:
                continue
            if int(match[2]) > epoch:
                raise _SupersededError(f"shard {self._shard} is read by {name}, got epoch {epoch}")
            await jetstream.forget(config.name, name)
        self._made += 1
        self._ended = ""
        self._waiting.clear()
        consumer = ConsumerConfig(f"s{self._shard}-e{epoch}-{self._made}", config.filter_of(self._shard))
        consumption = await jetstream.consume(config.name, consumer, self._take, self._end)
        try:
            if await jetstream.ensure(config.stream) != life:  # else its positions would be taken for another life's
                raise UnavailableError(f"stream {config.name} was made again meanwhile")
        except BaseException:
            consumption.close()
            raise
        return consumption, life

    def _take(self, entry: Entry) -> None:
        self._waiting.append(entry)
        self._wake.set()

    def _end(self, reason: str) -> None:
        self._ended = reason
        self._wake.set()

    def _next_batch(self) -> list[Entry]:
        count = 1 if self._alone else min(len(self._waiting), self._config.batch_max)
        self._alone = max(self._alone - 1, 0)
        return [self._waiting.popleft() for _ in range(count)]

    # -- applying ----------------------------------------------------------------------------------------------------

    async def _apply(self, epoch: int, life: str, entries: list[Entry], consumption: Consumption) -> None:
        """Have the shard accept entries, then acknowledge them. Raises: _SupersededError, FoliotError."""
        new = [entry for entry in entries if not self._mark.covers(life, entry.position, entry.stamp)]
        read = [await self._read_entry(life, entry) for entry in new]
        await self._admit(read)
        await self._forward_all(life, read)
        while read:
            batch = self._few(read)
            try:
                await self._give(epoch, life, batch)
            except _BrokenError:
                self._alone = len(entries)
                if len(batch) == 1:
                    self._broken = (life, batch[0].entry.position)
                raise
            read = read[len(batch) :]
        for entry in entries:
            self._jetstream.ack(entry)
            consumption.release(entry)

    def _few(self, read: list[Incoming]) -> list[Incoming]:
        """Return the first entries, as many as one commit should have."""
        tasks = 0
        for index, each in enumerate(read):
            tasks += len(each.own.tasks) if each.own is not None else 0
            if index and tasks > self._config.batch_tasks:
                return read[:index]
        return read

    async def _read_entry(self, life: str, entry: Entry) -> Incoming:
        """Return what an entry asks for; nothing if it cannot be read, or broke the shard before."""
        everyone, limits = self._all, self._config.limits
        if self._broken == (life, entry.position):
            log.error("inbox_entry_broken", shard=self._shard, position=entry.position)  # the shard's cell has set it aside
            everyone.tally.drop("broken")
            return Incoming(entry, None, {})
        now_ms, slots = everyone.clock.now_ms(), self._config.mail.slots
        try:
            found, problem = incoming(entry, self._shard, slots, decode=everyone.decode, now_ms=now_ms, limits=limits)
        except UsageError as error:
            await self._keep(entry, error)
            return Incoming(entry, None, {})
        except Exception as error:  # whatever it is, the next entries must not wait for it
            log.error("inbox_entry_unreadable", subject=entry.subject, position=entry.position, exc_info=error)
            await self._keep(entry, MalformedEntryError(repr(error)))
            return Incoming(entry, None, {})
        if problem is not None:
            await self._keep(entry, problem)
        return found

    async def _keep(self, entry: Entry, error: UsageError) -> None:
        """Set an entry aside for a person. Raises: StoreError; then it is tried again, with what follows it."""
        now_ms = self._all.clock.now_ms()
        while self._aside and not now_ms - 60_000 < self._aside[0] <= now_ms:
            self._aside.popleft()
        is_kept = len(self._aside) < self._config.aside_max
        if is_kept:
            await self._all.set_aside(f"inbox.{self._shard}", entry.data, f"{entry.subject}: {error}", now_ms)
            self._aside.append(now_ms)
            log.warning("inbox_entry_set_aside", subject=entry.subject, position=entry.position, error=str(error))
        self._all.tally.drop("set_aside" if is_kept else "malformed")

    async def _admit(self, read: list[Incoming]) -> None:
        """Ask the tenants. One that submits faster than it may gets its tasks later, one that may have no more gets none."""
        by_tenant: dict[str, list[Incoming]] = {}
        for each in read:
            if each.tasks:
                by_tenant.setdefault(each.tenant, []).append(each)
        for tenant, group in by_tenant.items():
            if not await self._admits(tenant, group) and len(group) > 1:
                for each in group:
                    await self._admits(tenant, [each])

    async def _admits(self, tenant: str, group: list[Incoming]) -> bool:
        """Ask one tenant for a group of entries; returns whether it lets them all in."""
        count = sum(each.tasks for each in group)
        answer, _ = await self._ask(tenant_address(tenant), AdmitTasks(count))
        if not isinstance(answer, Refusal):
            return True
        if len(group) == 1:
            now_ms = self._all.clock.now_ms()
            if abs(now_ms - self._limited_ms) >= _LOG_EVERY_MS:  # all are counted; a tenant must not fill the log
                self._limited_ms = now_ms
                log.warning("inbox_tenant_limited", tenant=tenant, tasks=count, code=answer.code, error=answer.text)
            if answer.code == "rate_limited":
                group[0].postpone(self._all.clock.now_ms() + max(answer.retry_after_ms, 0))
                self._all.tally.drop("postponed", count)
            else:
                group[0].refuse()
                self._all.tally.drop(answer.code, count)
        return False

    async def _forward_all(self, life: str, read: list[Incoming]) -> None:
        """Send other shards their parts: to each one after the other, to all at once."""
        by_shard: dict[int, list[tuple[int, SubmitTasks]]] = {}
        for each in read:
            for shard, part in each.elsewhere.items():
                by_shard.setdefault(shard, []).append((each.entry.position, part))
        if by_shard:
            await asyncio.gather(*[self._forward(shard, life, parts) for shard, parts in by_shard.items()])

    async def _forward(self, shard: int, life: str, parts: list[tuple[int, SubmitTasks]]) -> None:
        """Send another shard its parts: each named by its entry if by nothing else, so that a repetition adds nothing."""
        for position, part in parts:
            if not part.request_id:
                part = msgspec.structs.replace(part, request_id=f"in/{life}/{position}/{shard}")
            self._all.tally.send(part)
            answer, is_certain = await self._ask(shard_address(shard), part)
            self._all.tally.settle(part, answer, is_certain=is_certain)

    async def _give(self, epoch: int, life: str, batch: list[Incoming]) -> None:
        """Give entries to the shard, until it has answered. Raises: _SupersededError, _BrokenError."""
        tally = self._all.tally
        entries = [InboxEntry(each.entry.position, each.entry.stamp, each.own) for each in batch]
        for each in batch:
            if each.own is not None:
                tally.send(each.own)
        answer, is_certain = await self._ask(self._address, TakeInbox(epoch, life, entries))
        if not isinstance(answer, InboxTaken):
            for each in batch:
                if each.own is not None and is_certain:
                    tally.withdraw(each.own)
            if answer.code == StaleEpochError.code:
                raise _SupersededError(answer.text)
            raise _BrokenError(f"shard {self._shard} could not take {len(entries)} entries: {answer.text}")
        for index, each in enumerate(batch):
            self._mark = self._mark.passing(life, each.entry.position, each.entry.stamp)
            if each.own is not None and index in answer.answers:
                tally.settle(each.own, answer.answers[index])

    async def _ask(self, to: str, message: Any) -> tuple[Any, bool]:
        """Return an actor's answer, or its refusal where a retry cannot help, and whether that says all: a refusal of a
        repetition says nothing of the first. Waits while the actor cannot be reached or its store cannot write."""
        config = self._config
        pause_ms, full, is_first = config.pause_ms, 0, True
        while True:
            answer: Any
            try:
                answer = await self._all.bus.request(to, message, timeout_ms=config.answer_ms)
            except (DeadlineError, UnavailableError) as error:
                answer = Refusal.of(error)
            if not isinstance(answer, Refusal) or answer.retry_after_ms < 0 or answer.code in _LIMITED:
                return answer, is_first
            full += answer.code == "overloaded" and isinstance(message, SubmitTasks)
            if full > config.patience:
                return answer, False
            is_first = False
            log.info("inbox_asks_again", shard=self._shard, to=to, code=answer.code, error=answer.text)
            await asyncio.sleep(min(max(pause_ms, answer.retry_after_ms), config.pause_max_ms) / 1000)
            pause_ms = min(pause_ms * 2, config.pause_max_ms)
