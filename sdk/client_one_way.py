"""Submitting one-way: a batch is handed to the broker, and whoever hands it over waits for nobody else.

What holds: what was handed over is in the broker's stream, and some shard accepts it, once, as soon as there is one that
can. What cannot be accepted by then, since a quota is used up, say, nobody is told of but the operator. All repetitions of a
batch carry one request id, so one whose confirmation was lost is not accepted twice. No node has to be there: a task whose
handler is known here by its name only travels in the public protocol's form, and the node that takes it in adds the
handler's own queue and options.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from ..actors.messages import SubmitTasks, TaskRefusal, TasksSubmitted
from ..runtime.clock import Clock
from ..runtime.errors import FoliotError, UnavailableError
from ..runtime.rng import Rng
from .bulk import Bulk
from .client_cluster import Broker
from .client_spec import Spec, assemble

if TYPE_CHECKING:
    from ..transports.nats import protocol as p
    from ..transports.nats.link import NatsLink
    from ..transports.nats.mail import MailSender

SLOTS: Final = 64
"""How many slots a cluster has that nobody was asked about; a wrong number costs a message between its nodes."""

_TOGETHER_MAX: Final = 256  # single tasks in one entry
_SENDING_MAX: Final = 64  # entries under way
_BACKOFF_MS: Final = 25
_BACKOFF_MAX_MS: Final = 1_000


class NoInboxError(UnavailableError):
    """The broker has no stream for one-way submissions."""

    code = "no_inbox"

    def __init__(self) -> None:
        super().__init__(
            "the broker keeps no one-way submissions: no node has ever begun there, or JetStream is off; "
            "start one with 'foliot node', which makes the stream; from then on none has to be there"
        )


class OneWay:
    """Hands over tasks for one client. `slots`: of the cluster, as far as it is known."""

    def __init__(self, broker: Broker, tenant: str, *, clock: Clock, rng: Rng, timeout_ms: int) -> None:
        self.slots = SLOTS
        self._broker = broker
        self._tenant = tenant
        self._clock = clock
        self._rng = rng
        self._timeout_ms = timeout_ms
        self._name = f"{rng.bits(64):016x}"
        self._number = 0
        self._waiting: list[tuple[Spec, asyncio.Future[None]]] = []
        self._sending: dict[asyncio.Task[None], None] = {}
        self._room = asyncio.Semaphore(_SENDING_MAX)
        self._sender: tuple[NatsLink, int, MailSender] | None = None

    def request_id(self) -> str:
        """Return a name for a batch that nobody else uses."""
        self._number += 1
        return f"{self._name}-{self._number:x}"

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._sending or self._waiting:
            await asyncio.gather(*self._sending, asyncio.sleep(0), return_exceptions=True)

    # -- single tasks --------------------------------------------------------------------------------------------------

    async def one(self, spec: Spec) -> None:
        """Return when the broker has the task. Those of one moment travel together. Raises: UsageError, UnavailableError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append((spec, future))
        await future

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _TOGETHER_MAX):
            task = asyncio.get_running_loop().create_task(self._send_together(waiting[start : start + _TOGETHER_MAX]))
            self._sending[task] = None
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.pop(task, None)

    async def _send_together(self, batch: list[tuple[Spec, asyncio.Future[None]]]) -> None:
        async with self._room:
            batch = [(spec, future) for spec, future in batch if not future.done()]
            if not batch:
                return
            errors: list[FoliotError | None]
            try:
                errors = await self._patiently([spec for spec, _ in batch], self.request_id())
            except FoliotError as error:
                errors = [error] * len(batch)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                return
        for (_, future), found in zip(batch, errors, strict=True):
            if future.done():
                continue
            if found is None:
                future.set_result(None)
            else:
                future.set_exception(found)

    async def _patiently(self, specs: list[Spec], request_id: str) -> list[FoliotError | None]:
        """Send until the broker has it, or the client's timeout is over. Raises: UnavailableError."""
        started_ns, backoff_ms = self._clock.mono_ns(), _BACKOFF_MS
        while True:
            try:
                return await self.send(specs, request_id)
            except UnavailableError as error:
                waited_ms = (self._clock.mono_ns() - started_ns) // 1_000_000
                if waited_ms + backoff_ms >= self._timeout_ms:
                    raise
                self._broker.tell_wait(f"waiting for the broker: {error}", started_ns)
                await asyncio.sleep(min(max(backoff_ms, error.retry_after_ms), _BACKOFF_MAX_MS) / 1000)
                backoff_ms = min(backoff_ms * 2, _BACKOFF_MAX_MS)

    # -- one entry -----------------------------------------------------------------------------------------------------

    async def send(self, specs: list[Spec], request_id: str) -> list[FoliotError | None]:
        """Hand over a batch, in parts if it is too large for one entry; returns what is wrong with each task, by position.
        Raises: UnavailableError, after which it may be sent again under the same id; NotStoredError."""
        from ..transports.admission import TooLargeError as EntryTooLargeError
        from ..transports.nats.errors import NoRespondersError, TooLargeError

        by_name = [position for position, spec in enumerate(specs) if spec.wishes is not None]
        if by_name and len(by_name) < len(specs):
            return await self._send_both(specs, by_name, request_id)
        try:
            if by_name:
                await self._send_names(specs, request_id)
            else:
                templates, tasks, checked = assemble(specs)
                sender = await self._ready()
                await sender.send(SubmitTasks(self._tenant, templates, tasks, request_id, checked))
        except NoRespondersError as error:
            raise NoInboxError from error
        except (EntryTooLargeError, TooLargeError) as error:
            if len(specs) == 1:
                return [error]
            middle = len(specs) // 2
            first = await self.send(specs[:middle], f"{request_id}0")
            return first + await self.send(specs[middle:], f"{request_id}1")
        return [None] * len(specs)

    async def _send_both(self, specs: list[Spec], by_name: list[int], request_id: str) -> list[FoliotError | None]:
        """Hand over two batches, of those known by name only and of the others."""
        errors: list[FoliotError | None] = [None] * len(specs)
        others = [position for position, spec in enumerate(specs) if spec.wishes is None]
        for part, positions in (("n", by_name), ("o", others)):
            found = await self.send([specs[position] for position in positions], f"{request_id}{part}")
            for position, error in zip(positions, found, strict=True):
                errors[position] = error
        return errors

    async def _send_names(self, specs: list[Spec], request_id: str) -> None:
        """Hand over tasks whose handlers' own options the node adds. Raises: as `MailSender.send`."""
        from ..transports.admission import TooLargeError as EntryTooLargeError
        from ..transports.nats import protocol as p
        from ..transports.nats.mail import MailConfig
        from ..transports.nats.streams import NatsStreams

        data = msgspec.msgpack.encode(p.Submit(tasks=[_task_of(spec) for spec in specs], request_id=request_id))
        bound = MailConfig(self.slots).max_entry_bytes
        if len(data) > bound:
            raise EntryTooLargeError("the size of a one-way batch in bytes", len(data), bound)
        link = await self._broker.link(self._timeout_ms)
        subject = f"{self._broker.prefix}.v{p.VERSION}.{self._tenant}.in.{request_id}"
        await NatsStreams(link, clock=self._clock).publish(subject, data)

    async def _ready(self) -> MailSender:
        link = await self._broker.link(self._timeout_ms)
        if self._sender is None or self._sender[:2] != (link, self.slots):
            from ..transports.nats.mail import MailConfig, MailSender
            from ..transports.nats.streams import NatsStreams

            config = MailConfig(self.slots, prefix=self._broker.prefix)
            made = MailSender(NatsStreams(link, clock=self._clock), config=config, rng=self._rng)
            self._sender = (link, self.slots, made)
        return self._sender[2]

    # -- very many tasks -----------------------------------------------------------------------------------------------

    async def many(
        self,
        specs: Iterable[Spec] | AsyncIterable[Spec],
        *,
        progress: Callable[[int], object] | None,
        batch: int,
        in_flight: int,
        patience_ms: int,
    ) -> _OneWayBulk:
        """Hand over all of them, `in_flight` batches at a time. Raises: BulkStoppedError."""
        bulk = _OneWayBulk(self, self._clock, progress, patience_ms)
        await bulk.send_all(specs, batch, in_flight)
        return bulk


class _OneWayBulk(Bulk[Spec]):
    """One bulk call under way. `handed_over`: tasks the broker has."""

    name = "specs"
    expected = "an iterable of specs, such as (client.spec(...) for ...)"

    def __init__(
        self, one_way: OneWay, clock: Clock, progress: Callable[[int], object] | None, patience_ms: int
    ) -> None:  # fmt: skip
        super().__init__(clock, progress, patience_ms)
        self.handed_over = 0
        self._one_way = one_way

    def size_of(self, item: Spec) -> int:
        return len(item.payload)

    def sender(self) -> Callable[[list[Spec]], Awaitable[TasksSubmitted]]:
        request_id = self._one_way.request_id()

        async def send(specs: list[Spec]) -> TasksSubmitted:
            errors = await self._one_way.send(specs, request_id)
            refused = [TaskRefusal(at, error.code, str(error)) for at, error in enumerate(errors) if error is not None]
            return TasksSubmitted([0] * len(specs), refused=refused)

        return send

    def take(self, answer: TasksSubmitted, positions: list[int], start: int, size: int) -> None:
        self.handed_over += len(positions) - len(answer.refused)

    def taken(self) -> int:
        return self.handed_over


def _task_of(spec: Spec) -> p.TaskIn:
    """Return a task in the public form: what its call asked for, and nothing that its handler says."""
    from ..transports.nats import protocol as p

    wishes, template = spec.wishes, spec.template
    assert wishes is not None
    return p.TaskIn(
        handler=template.handler,
        payload=msgspec.Raw(spec.payload),
        queue=wishes.queue,
        pool=template.pool,
        priority=None if wishes.priority is None else spec.priority,
        due_ms=spec.due_ms,
        key=spec.key,
        dedupe_key=spec.dedupe_key,
        on_conflict=template.on_conflict if wishes.on_conflict is not None else None,  # type: ignore[arg-type]
        max_attempts=wishes.max_attempts,
        timeout_ms=None if wishes.timeout is None else template.timeout_ms,
    )
