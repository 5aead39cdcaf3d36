"""A queue's side of tenants' concurrency: what each tenant may run here, and when to ask for more or give back.

A queue runs nothing of a tenant before the tenant's first answer. A tenant without a limit is reminded of the
queue every few seconds of activity. For a limited one the queue reports (running, waiting) when the tenant could
decide otherwise: it needs more than it is allowed, it no longer needs all, or it gives back what it ran too much. Reports
are absolute and repeated every few seconds while there is demand, so a lost one only delays. Permits are given back for
good, and not used again, once nothing has waited or run until the next such moment. A queue that does not hear of its
tenant for long does not use its permits either: a later actor of the tenant may not know of them. So a tenant's first
limit holds in all queues within half a minute, and a changed one within seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..runtime.actor import Turn
from .addresses import tenant_address
from .messages import LOWEST_PRIORITY, PermitsGranted, WantPermits

if TYPE_CHECKING:
    from .ready import Band, Share

UNLIMITED: Final = 1 << 60
RETRY_MS: Final = 1_000  # a first question is repeated
REFRESH_MS: Final = 5_000  # a limited tenant is reported at least this often while there is demand
UNLIMITED_REFRESH_MS: Final = 5_000  # the same where there is no limit, as long as anything changes
UNLIMITED_LIFE_MS: Final = 30_000  # after the last word of a tenant without a limit it is asked again before more may run
PERMIT_LIFE_MS: Final = 6_000  # after the last word of the tenant; looked at with each report, so 11 s at most
_SWEEP_FLOOR: Final = 1_024


class Claim:
    """One tenant in one queue; all amounts in slots."""

    __slots__ = (
        "allowed", "blocked", "epoch", "given_back", "heard_ms", "is_known", "must_tell", "next_ms", "number", "parked",
        "running",
        "shares", "step", "tenant", "told_ms", "told_running", "told_want", "waiting", "weight"
    )  # fmt: skip

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.weight = 1
        self.is_known = False  # the tenant has answered
        self.allowed = 0  # -1: no limit
        self.number = 0
        self.epoch = 0  # of the tenant actor that granted it
        self.given_back = 0  # the newest number whose permits were given back
        self.step = 1
        self.running = 0
        self.waiting = 0
        self.blocked = 0  # of those waiting, parked at their keys
        self.parked: dict[Band, None] = {}  # bands that wait for permits
        self.shares: list[Share | None] = [None] * (LOWEST_PRIORITY + 1)
        self.must_tell = True
        self.told_ms = 0
        self.told_running = 0
        self.told_want = 0
        self.next_ms = 0
        self.heard_ms = 0  # when its tenant last confirmed what it holds

    def room(self) -> int:
        """Return how many more slots may run."""
        return UNLIMITED if self.allowed < 0 else self.allowed - self.running


class Permits:
    """The claims of all tenants in one queue. `paused`: the queue wants nothing new for anybody; `owner`: (epoch, born_ms)
    of its queue actor."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self.owner = (0, 0)
        self._claims: dict[str, Claim] = {}
        self._changed: dict[Claim, None] = {}
        self._watched: dict[Claim, None] = {}  # unanswered or limited: reported again in time
        self._due_ms = 0  # no watched claim is due before
        self._sweep_at = _SWEEP_FLOOR
        self.paused = False
        self.is_partial = True  # not all that runs is known yet

    def __len__(self) -> int:
        return len(self._claims)

    def claim(self, tenant: str) -> Claim:
        """Return the claim of a tenant; a new one is asked for at the end of the turn."""
        claim = self._claims.get(tenant)
        if claim is None:
            if len(self._claims) >= self._sweep_at:
                self._sweep()
            claim = self._claims[tenant] = Claim(tenant)
        return claim

    def changed(self, claim: Claim, now_ms: int) -> None:
        """Note that a claim's amounts changed; whether that is worth a message is decided in `flush`."""
        if claim.allowed < 0 and now_ms - claim.heard_ms >= UNLIMITED_LIFE_MS:
            claim.is_known, claim.must_tell = False, True  # it may have got a limit, from an actor that knows nothing of us
            claim.allowed = claim.number = 0
        if claim.allowed >= 0 or claim.must_tell or now_ms - claim.told_ms >= UNLIMITED_REFRESH_MS:
            self._changed[claim] = None

    def all_changed(self) -> None:
        """Note that all claims may want something else, since the queue was paused or resumed."""
        self._changed.update(self._watched)

    def granted(self, message: PermitsGranted, turn: Turn) -> Claim | None:
        """Take a tenant's answer. Returns the claim if it may run something now."""
        claim = self.claim(message.tenant)
        if message.epoch > claim.epoch:  # a later actor of the tenant, whose numbers may be anything
            claim.epoch, claim.number, claim.given_back = message.epoch, 0, 0
        elif message.epoch < claim.epoch or message.number < claim.number:
            return None
        claim.weight = max(message.weight, 1)
        claim.heard_ms = turn.now_ms
        if message.confirms and message.number == claim.number:
            return None
        if message.allowed < 0:
            self._set_unlimited(claim, message)
            return claim
        if not (claim.running or claim.waiting):
            self._give_back(claim, message.number, turn)
            return None
        if message.number <= claim.given_back:
            claim.must_tell = True  # it cannot be used any more, so a new one is needed
            self._changed[claim] = None
            return None
        lowered = claim.is_known and (claim.allowed < 0 or message.allowed < claim.allowed)
        claim.must_tell = lowered or message.number == claim.number
        claim.is_known = True
        claim.allowed = message.allowed
        claim.number = message.number
        self._watch(claim, turn.now_ms + REFRESH_MS)
        self._changed[claim] = None
        return claim

    @property
    def any_limited(self) -> bool:
        """Tell whether any tenant may run only so much here."""
        return any(claim.is_known and claim.allowed >= 0 for claim in self._claims.values())

    def shift(self, by_ms: int) -> None:
        """The wall clock was set."""
        for claim in self._claims.values():
            claim.told_ms += by_ms
            claim.next_ms += by_ms
            claim.heard_ms += by_ms
        self._due_ms += by_ms

    def flush(self, turn: Turn, *, is_partial: bool) -> None:
        """Send the reports that this turn's changes call for. `is_partial`: not all that runs is known yet; once it is,
        tenants with a limit are told again."""
        if self.is_partial and not is_partial:
            for claim in self._claims.values():
                if claim.allowed >= 0 or not claim.is_known:
                    claim.must_tell = True
                    self._changed[claim] = None
        self.is_partial = is_partial
        if self._changed:
            for claim in self._changed:
                if claim.must_tell or self._is_worth_telling(claim, turn.now_ms):
                    self._tell(claim, turn, refresh=claim.allowed < 0)
            self._changed.clear()

    def due_ms(self) -> int | None:
        """Return when a report may have to be repeated, or None."""
        return self._due_ms if self._watched else None

    def on_time(self, turn: Turn) -> None:
        """Repeat reports that are due; give permits back where nothing needs them any more."""
        if not self._watched or turn.now_ms < self._due_ms:
            return
        for claim in list(self._watched):
            if claim.next_ms > turn.now_ms:
                continue
            if claim.running or claim.waiting:
                if claim.is_known and turn.now_ms - claim.heard_ms > PERMIT_LIFE_MS:
                    claim.allowed = min(claim.allowed, claim.running)
                self._tell(claim, turn, refresh=True)
            else:
                self._give_back(claim, claim.number, turn)
        self._due_ms = min((claim.next_ms for claim in self._watched), default=0)

    def _is_worth_telling(self, claim: Claim, now_ms: int) -> bool:
        if claim.allowed < 0:
            return now_ms - claim.told_ms >= UNLIMITED_REFRESH_MS
        if not claim.is_known:
            return False  # asked already
        allowed, told = claim.allowed, claim.told_want
        if claim.told_running > allowed and claim.running < claim.told_running:
            return True
        want = self._want(claim)
        if want > allowed:
            return want > told and told <= allowed
        return want < told and (told > allowed or want * 2 <= told)

    def _want(self, claim: Claim) -> int:
        return claim.running + (0 if self.paused else max(claim.waiting - claim.blocked, 0))

    def _tell(self, claim: Claim, turn: Turn, *, refresh: bool = False) -> None:
        want = self._want(claim)
        claim.must_tell = False
        claim.told_ms = turn.now_ms
        claim.told_running = claim.running
        claim.told_want = want
        message = WantPermits(
            self._queue, claim.running, want - claim.running, claim.allowed, claim.number, claim.step, claim.epoch,
            *self.owner, refresh, self.is_partial,
        )  # fmt: skip
        turn.send(tenant_address(claim.tenant), message)
        if claim.allowed >= 0:
            self._watch(claim, turn.now_ms + (REFRESH_MS if claim.is_known else RETRY_MS))

    def _watch(self, claim: Claim, next_ms: int) -> None:
        claim.next_ms = next_ms
        if not self._watched or next_ms < self._due_ms:
            self._due_ms = next_ms
        self._watched[claim] = None

    def _set_unlimited(self, claim: Claim, message: PermitsGranted) -> None:
        claim.is_known = True
        claim.must_tell = False
        claim.allowed = -1
        claim.number = max(message.number, claim.number)
        self._watched.pop(claim, None)

    def _give_back(self, claim: Claim, number: int, turn: Turn) -> None:
        """Hold no permits any more, nor take those of `number` again; the next task asks anew."""
        claim.is_known = False
        claim.must_tell = True
        claim.allowed = 0
        claim.number = claim.given_back = number
        self._watched.pop(claim, None)
        message = WantPermits(self._queue, 0, 0, 0, number, 1, claim.epoch, *self.owner)
        turn.send(tenant_address(claim.tenant), message)

    def _sweep(self) -> None:
        for claim in list(self._claims.values()):
            if not (claim.running or claim.waiting or claim in self._watched):
                del self._claims[claim.tenant]
        self._sweep_at = max(2 * len(self._claims), _SWEEP_FLOOR)
