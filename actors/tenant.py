"""The tenant actor: who may. Admission by rate and quota, and the tenant's concurrency over all its queues.

Its settings are kept by the tenant's home shard, its usage is reported by all shards; both are asked for when it starts,
and requests wait until the settings are there. A quota counts what shards have reported as waiting plus what was admitted
since, so it is exact but for reports under way; before it refuses for long, reports that may be out of date are asked for
again. Of two tenant actors that live for a moment, queues go by the one of the higher epoch.
"""

from __future__ import annotations

from collections import deque
from typing import Final, assert_never

from ..runtime.actor import Actor, Turn
from ..runtime.bus import Refusal
from ..runtime.hashing import slot_of
from . import messages as m
from .addresses import shard_address, tenant_address
from .limits import TokenBucket
from .shares import PermitShares
from .steps import Steps

HELD_MAX: Final = 1_024  # requests that wait for the settings
ADMITTED_MS: Final = 5_000  # what was admitted is in the shards, and reported, after so long
RECOVERY_MS: Final = 15_000  # after so long nobody goes by permits any more that no later actor has confirmed
QUOTA_RETRY_MS: Final = 1_000
ASK_AGAIN_MS: Final = 1_000  # settings that did not arrive are asked for again, doubling ...
ASK_AGAIN_MAX_MS: Final = 30_000  # ... up to this
DOUBT_MS: Final = 10_000  # a report this old is asked for again before it keeps tasks out


class TenantActor(Actor[m.TenantMessage]):
    """One tenant. `shards`: how many there are; `epoch`: of the slot it lives in."""

    def __init__(self, tenant: str, shards: int, *, epoch: int = 0) -> None:
        self._tenant = tenant
        self._shards = shards
        self._config: m.TenantConfig | None = None
        self._configured = (0, 0)  # (epoch, number) of the settings
        self._steps = Steps()
        self._doubted_ms = 0  # when reports were last asked for again
        self._bucket: TokenBucket | None = None
        self._held: list[tuple[str, int, m.AdmitTasks | m.ReadTenant]] = []  # (sender, request, message)
        self._usage: dict[int, tuple[int, int, int]] = {}  # by shard: (waiting, running, when reported)
        self._reported: dict[int, tuple[int, int]] = {}  # by shard: (epoch, number) of its report
        self._admitted: deque[tuple[int, int]] = deque()  # (when, how many) not yet in every report
        self._admitted_count = 0
        self._permits = PermitShares(tenant, epoch)
        self._recovered_ms = 0
        self._unheard = dict.fromkeys(range(shards))  # shards that have not said who may hold permits
        self._silent: dict[str, None] = {}  # queues that may, and have not told of them
        self._heard: dict[str, None] = {}  # queues that have, as long as this matters
        self._ask_at_ms = 0
        self._ask_after_ms = ASK_AGAIN_MS

    def started(self, turn: Turn) -> None:
        self._steps.taken(turn)
        self._recovered_ms = turn.now_ms + RECOVERY_MS
        self._ask_shards(turn)

    def handle(self, message: m.TenantMessage, turn: Turn) -> None:
        if turn.now_ms != self._steps.latest_ms:
            self._take_time(turn)
        match message:
            case m.AdmitTasks() | m.ReadTenant():
                if self._config is None:
                    self._hold(message, turn)
                else:
                    self._answer(turn.sender, turn.request, message, self._config, turn)
            case m.ReportUsage():
                self._reported_by(message, turn)
            case m.WantPermits():
                self._permits.report(message, turn.now_ms)
                if self._recovered_ms and not message.partial:
                    self._heard[message.queue] = None
                    self._silent.pop(message.queue, None)
                    self._recover()
                self._share(turn)
            case m.ConfigureTenant():
                self._configure(message, turn)
            case _:
                assert_never(message)

    def end_turn(self, turn: Turn) -> None:
        if turn.now_ms != self._steps.latest_ms:
            self._take_time(turn)

    def due_ms(self) -> int | None:
        if self._config is None:
            return self._ask_at_ms
        dues = [self._permits.due_ms()]
        if self._recovered_ms and self._config.concurrency:
            dues += [self._recovered_ms, self._ask_at_ms if self._unheard else None]
        return min((due for due in dues if due is not None), default=None)

    def on_time(self, turn: Turn) -> None:
        if turn.now_ms != self._steps.latest_ms:
            self._take_time(turn)
        if self._config is None:
            if self._ask_at_ms <= turn.now_ms:
                self._ask_shards(turn)
            return
        if self._recovered_ms <= turn.now_ms:
            self._end_recovery()
        elif self._unheard and self._ask_at_ms <= turn.now_ms:
            self._ask_shards(turn)
        self._permits.on_time(turn.now_ms)
        self._share(turn)

    # -- settings ------------------------------------------------------------------------------------------------------

    def _ask_shards(self, turn: Turn) -> None:
        for shard in range(self._shards) if self._config is None else self._unheard:
            turn.send(shard_address(shard), m.TenantStarted(self._tenant))
        self._ask_at_ms = turn.now_ms + self._ask_after_ms
        self._ask_after_ms = min(2 * self._ask_after_ms, ASK_AGAIN_MAX_MS)

    def _configure(self, message: m.ConfigureTenant, turn: Turn) -> None:
        config = message.config
        if message.number:
            home = slot_of(tenant_address(self._tenant), self._shards)
            turn.send(shard_address(home), m.TenantConfigured(config, message.number))
        if (message.epoch, message.number) < self._configured:
            return
        self._configured = (message.epoch, message.number)
        before, self._config = self._config, config
        if not config.rate:
            self._bucket = None
        elif self._bucket is None:
            self._bucket = TokenBucket(
                config.rate, max(config.rate_per_ms, 1), now_ms=turn.now_ms, burst=config.burst
            )  # fmt: skip
        elif before is None or (config.rate, config.rate_per_ms, config.burst) != (
            before.rate, before.rate_per_ms, before.burst
        ):  # fmt: skip
            self._bucket = self._bucket.changed(
                config.rate, max(config.rate_per_ms, 1), now_ms=turn.now_ms, burst=config.burst
            )  # fmt: skip
        self._permits.concurrency = config.concurrency
        held, self._held = self._held, []
        for sender, request, waiting in held:
            self._answer(sender, request, waiting, config, turn)
        self._share(turn)

    def _hold(self, message: m.AdmitTasks | m.ReadTenant, turn: Turn) -> None:
        """Keep a request until the settings are there; the caller's own time-out bounds how long that matters."""
        if not turn.request:
            return
        if len(self._held) >= HELD_MAX:
            text = f"tenant {self._tenant!r} is starting and {HELD_MAX} requests wait for it already; retry in 200 ms"
            turn.reply(Refusal("overloaded", text, retry_after_ms=200))
        else:
            self._held.append((turn.sender, turn.request, message))

    # -- admission -------------------------------------------------------------------------------------------------------

    def _answer(
        self, sender: str, request: int, message: m.AdmitTasks | m.ReadTenant, config: m.TenantConfig, turn: Turn
    ) -> None:  # fmt: skip
        if isinstance(message, m.AdmitTasks):
            answer: object = self._admit(message.count, config, turn.now_ms)
            if isinstance(answer, Refusal) and answer.code == "quota_exceeded":
                self._doubt(turn)
        else:
            waiting = sum(waiting for waiting, _, _ in self._usage.values())
            running = sum(running for _, running, _ in self._usage.values())
            tokens = -1 if self._bucket is None else self._bucket.tokens(turn.now_ms)
            answer = m.TenantRead(config, waiting, running, tokens)
        if request:
            turn.send(sender, answer, request=request)

    def _admit(self, count: int, config: m.TenantConfig, now_ms: int) -> m.TasksAdmitted | Refusal:
        """Admit all of a batch or nothing of it. A batch larger than the bucket passes when the bucket is full, and
        leaves it in debt."""
        if config.max_pending:
            self._forget_admitted(now_ms)
            waiting = sum(waiting for waiting, _, _ in self._usage.values()) + self._admitted_count
            if waiting + count > config.max_pending:
                text = (
                    f"tenant {self._tenant!r} may have {config.max_pending} tasks waiting; {waiting} wait and "
                    f"{count} more were asked for"
                )
                hopeless = count > config.max_pending
                return Refusal("quota_exceeded", text, retry_after_ms=-1 if hopeless else QUOTA_RETRY_MS)
        bucket = self._bucket
        if bucket is not None:
            wait_ms = bucket.wait_ms(count, now_ms)
            if wait_ms:
                text = (
                    f"tenant {self._tenant!r} may submit {bucket.count} tasks per {bucket.per_ms} ms, {bucket.burst} at "
                    f"once; {count} were asked for and {bucket.tokens(now_ms)} are left; retry in {wait_ms} ms"
                )
                return Refusal("rate_limited", text, retry_after_ms=wait_ms)
            bucket.take(count, now_ms)
        if config.max_pending:
            self._admitted_count += count
            last = self._admitted.pop()[1] if self._admitted and self._admitted[-1][0] == now_ms else 0
            self._admitted.append((now_ms, last + count))
        return m.TasksAdmitted(count)

    def _forget_admitted(self, now_ms: int) -> None:
        """What was admitted counts until every shard that ever reported has reported since, or for `ADMITTED_MS`:
        a shard with nothing new is silent."""
        admitted = self._admitted
        if not admitted:
            return
        reported_ms = min((at_ms for _, _, at_ms in self._usage.values()), default=0)
        while admitted and (admitted[0][0] < reported_ms or admitted[0][0] + ADMITTED_MS <= now_ms):
            self._admitted_count -= admitted.popleft()[1]

    def _reported_by(self, message: m.ReportUsage, turn: Turn) -> None:
        stamp = (message.epoch, message.number)
        if message.number and stamp <= self._reported.get(message.shard, (0, 0)):
            return  # late, or a second time
        self._reported[message.shard] = stamp
        self._usage[message.shard] = (message.waiting, message.running, turn.now_ms)
        self._forget_admitted(turn.now_ms)
        if self._recovered_ms and message.full:
            self._unheard.pop(message.shard, None)
            self._silent.update(dict.fromkeys([queue for queue in message.queues if queue not in self._heard]))
            self._recover()
        if self._recovered_ms:
            self._share(turn)

    def _doubt(self, turn: Turn) -> None:
        """Ask shards again that hold tasks by a report so old that a newer one may have been lost."""
        if turn.now_ms - self._doubted_ms < DOUBT_MS:
            return
        self._doubted_ms = turn.now_ms
        for shard, (waiting, _, at_ms) in self._usage.items():
            if waiting and turn.now_ms - at_ms >= DOUBT_MS:
                turn.send(shard_address(shard), m.TenantStarted(self._tenant))

    def _take_time(self, turn: Turn) -> None:
        """Intervals go on where they were when the wall clock is set."""
        by_ms = self._steps.taken(turn)
        if not by_ms:
            return
        self._ask_at_ms += by_ms
        self._doubted_ms += by_ms
        if self._recovered_ms:
            self._recovered_ms += by_ms
        self._usage = {shard: (waiting, running, at_ms + by_ms) for shard, (waiting, running, at_ms) in self._usage.items()}
        self._admitted = deque((at_ms + by_ms, count) for at_ms, count in self._admitted)
        self._permits.shift(by_ms)
        if self._bucket is not None:
            self._bucket.shift(by_ms)

    # -- concurrency -----------------------------------------------------------------------------------------------------

    def _share(self, turn: Turn) -> None:
        if self._config is None:
            return
        weight = max(self._config.weight, 1)
        for queue, grant in self._permits.grants(weight, turn.now_ms, reserved=self._reserved()):
            turn.send(queue, grant)

    def _recover(self) -> None:
        """Every queue that may hold permits of an earlier actor is known once all shards have named theirs, and those have
        told of themselves."""
        if not (self._unheard or self._silent):
            self._end_recovery()

    def _end_recovery(self) -> None:
        self._recovered_ms = 0
        self._silent.clear()
        self._heard.clear()

    def _reserved(self) -> int:
        """Return how many slots may not be handed out: all, while a queue may hold permits that nobody has told of."""
        return self._config.concurrency if self._recovered_ms and self._config is not None else 0
