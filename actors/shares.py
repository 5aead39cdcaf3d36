"""How a tenant's concurrency is shared among the queues that ask for it.

Max-min fair by what each queue could use, the rest left where it is or spread evenly, so no slot lies idle that anybody
wants. What always holds: the slots handed out and not known to be given back, plus those that run beyond them, never
exceed the limit. So a queue gets more only when another has acknowledged less: every grant has a number, and a queue is
counted with the most it may still go by. Remainders, and limits too small for all, move from queue to queue in turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .messages import PermitsGranted, WantPermits

ROTATE_MS: Final = 2_000  # remainders move on
QUEUES_MAX: Final = 10_000
PROBE_MS: Final = 15_000  # a queue silent for so long is asked whether it still holds what it was granted
_BOUNDLESS: Final = 1 << 60  # what a queue without a limit may hold


@dataclass(slots=True)
class Holder:
    """One queue that has asked. `allowed`: as last granted; `ceiling`: the most it may still go by; both -1: no limit."""

    queue: str
    running: int = 0
    want: int = 0
    step: int = 1
    allowed: int = 0
    number: int = 0
    ceiling: int = 0
    heard_ms: int = 0
    owner: tuple[int, int] = (0, 0)  # (epoch, born_ms) of the newest queue actor there
    is_behind: bool = True  # it has not got the newest grant
    wants_word: bool = False  # it has, but waits for a sign of life

    def held(self) -> int:
        """Return how many slots must be counted for it."""
        if self.ceiling < 0 or self.allowed < 0:
            return _BOUNDLESS
        return max(self.ceiling, self.allowed, self.running)


class PermitShares:
    """The queues of one tenant. `concurrency` 0: no limit; `epoch`: of the slot its actor lives in."""

    def __init__(self, tenant: str, epoch: int = 0) -> None:
        self._tenant = tenant
        self._epoch = epoch
        self._holders: dict[str, Holder] = {}
        self._number = 0
        self._turn = 0
        self._rotate_ms = 0
        self._weight = 1
        self.concurrency = 0

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def running(self) -> int:
        """Slots that run, as far as queues have said."""
        return sum(holder.running for holder in self._holders.values())

    def report(self, message: WantPermits, now_ms: int) -> None:
        """Take what a queue says of itself, unless that goes by a later actor of this tenant, or a later queue actor has
        spoken."""
        if message.granted_by > self._epoch:
            return
        owner = (message.epoch, message.born_ms)
        self._number = max(self._number, message.number)
        holder = self._holders.get(message.queue)
        if holder is None:
            if not (message.running or message.waiting or message.allowed):
                return  # gave back, a second time, what it does not hold any more
            if len(self._holders) >= QUEUES_MAX and not self._make_room():
                return  # asked again by the queue, as every question without an answer
            holder = self._holders[message.queue] = Holder(message.queue)
            # It may go by what an earlier life of this tenant's actor granted.
            holder.ceiling = message.allowed if message.number else 0
        elif owner < holder.owner:
            return
        elif message.partial:  # what was known of it stays, until it has heard what runs
            holder.running = max(holder.running, message.running)
            holder.want = max(holder.want, message.running + message.waiting)
            holder.heard_ms = now_ms
            holder.is_behind = message.number != holder.number or message.granted_by != self._epoch
            holder.wants_word = message.refresh
            return
        elif message.number == holder.number and message.granted_by == self._epoch:
            holder.allowed = holder.ceiling = message.allowed  # 0 if it gave back what it was granted under that number
        holder.running = message.running
        holder.want = message.running + message.waiting
        holder.step = max(message.step, 1)
        holder.owner = owner
        holder.heard_ms = now_ms
        holder.is_behind = (
            message.number != holder.number or not holder.number or message.granted_by != self._epoch
        )  # fmt: skip
        holder.wants_word = message.refresh
        if not (holder.want or holder.allowed or holder.is_behind):
            del self._holders[message.queue]

    def grants(self, weight: int, now_ms: int, *, reserved: int = 0) -> list[tuple[str, PermitsGranted]]:
        """Return what to tell which queue now. `reserved`: slots that run where nobody has told of them yet."""
        weight_changed, self._weight = weight != self._weight, weight
        if not self._is_contended():
            self._rotate_ms = 0
        elif not self._rotate_ms:
            self._rotate_ms = now_ms + ROTATE_MS
        holders = [self._holders[queue] for queue in sorted(self._holders)]
        if not self.concurrency:
            told = [self._grant(holder, -1, now_ms, again=weight_changed) for holder in holders]
        else:
            targets = self._targets(holders)
            free = self.concurrency - reserved - sum(holder.held() for holder in holders)
            decided: dict[str, int] = {}
            for holder in self._in_turn(holders):
                target, held = targets[holder.queue], holder.held()
                if holder.allowed < 0 or target <= holder.allowed:
                    decided[holder.queue] = target
                else:
                    allowed = max(min(target, held + max(free, 0)), holder.allowed)
                    free -= max(allowed - held, 0)
                    decided[holder.queue] = allowed
            told = [self._grant(holder, decided[holder.queue], now_ms, again=weight_changed) for holder in holders]
        return [grant for grant in told if grant is not None]

    def due_ms(self) -> int | None:
        """Return when `on_time` has something to do, or None."""
        if not self.concurrency or not self._holders:
            return None
        probe_ms = min(holder.heard_ms for holder in self._holders.values()) + PROBE_MS
        return min(probe_ms, self._rotate_ms) if self._rotate_ms else probe_ms

    def on_time(self, now_ms: int) -> None:
        """Move remainders on, and look after silent queues; `grants` then says what follows."""
        if self._rotate_ms and now_ms >= self._rotate_ms:
            self._turn += 1
            self._rotate_ms = now_ms + ROTATE_MS
        for holder in self._holders.values():
            if holder.heard_ms + PROBE_MS <= now_ms:
                holder.heard_ms = now_ms
                holder.is_behind = True

    def shift(self, by_ms: int) -> None:
        """The wall clock was set."""
        if self._rotate_ms:
            self._rotate_ms += by_ms
        for holder in self._holders.values():
            holder.heard_ms += by_ms

    def _make_room(self) -> bool:
        """Forget a queue that may run without limit, which only a new limit would have to be told."""
        for queue, holder in self._holders.items():
            if holder.allowed < 0:
                del self._holders[queue]
                return True
        return False

    def _grant(self, holder: Holder, allowed: int, now_ms: int, *, again: bool) -> tuple[str, PermitsGranted] | None:
        if allowed != holder.allowed or not holder.number:
            # Time-based, so that numbers also grow from one life of this actor to the next.
            self._number = holder.number = max(self._number + 1, now_ms)
            if allowed < 0 or (0 <= holder.ceiling < allowed):
                holder.ceiling = allowed
            holder.allowed = allowed
        elif not (holder.is_behind or again):
            if not holder.wants_word:
                return None
            holder.wants_word = False
            return holder.queue, PermitsGranted(self._tenant, allowed, self._weight, holder.number, self._epoch, True)
        holder.is_behind = holder.wants_word = False
        return holder.queue, PermitsGranted(self._tenant, allowed, self._weight, holder.number, self._epoch)

    def _targets(self, holders: list[Holder]) -> dict[str, int]:
        """Return how many slots each queue should have."""
        order = self._in_turn(holders)
        fair = dict.fromkeys((holder.queue for holder in order), 0)
        left = self.concurrency
        by_want = sorted(order, key=lambda holder: holder.want)  # stable, so turns decide among equals
        for position, holder in enumerate(by_want):
            part = min(left // (len(by_want) - position), holder.want)
            fair[holder.queue] = part if part == holder.want else part - part % holder.step
            left -= fair[holder.queue]
        wanting = order
        while wanting:  # remainders: one task's slots to each in turn, until nobody can use what is left
            wanting = [h for h in wanting if 0 < min(h.step, h.want - fair[h.queue]) <= left]
            rounds = left // max(sum([h.step for h in wanting]), 1)
            for holder in wanting:
                rounds = min(rounds, (holder.want - fair[holder.queue]) // holder.step)
            for holder in wanting if rounds else ():  # many rounds at once, in which each gets the same
                fair[holder.queue] += rounds * holder.step
                left -= rounds * holder.step
            for holder in wanting:
                more = min(holder.step, holder.want - fair[holder.queue])
                if more <= left:
                    fair[holder.queue] += more
                    left -= more
        for holder in order:  # what nobody wants now stays where it is ...
            kept = min(max(holder.allowed - fair[holder.queue], 0), left)
            fair[holder.queue] += kept
            left -= kept
        active = [holder for holder in order if holder.want]
        for position, holder in enumerate(active):  # ... or waits where it may be wanted
            part = left // (len(active) - position)
            fair[holder.queue] += part
            left -= part
        return fair

    def _in_turn(self, holders: list[Holder]) -> list[Holder]:
        first = self._turn % len(holders) if holders else 0
        return holders[first:] + holders[:first]

    def _is_contended(self) -> bool:
        return len(self._holders) > 1 and sum(holder.want for holder in self._holders.values()) > self.concurrency
