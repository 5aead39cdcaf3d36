"""The work of a generated case: what its clients submit, cancel and change, and how its operators scale it.

Each feature of a submission draws from its own stream. What holds: no work begins after three quarters of the run; every
`ref` that is named has been submitted before; paused queues go on, lowered limits are lifted, workers come back; and
each task can run: no limit in force at the end, no cost and no label keeps it waiting for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from .case import Cancel, Options, Purge, Retry, RollingRestart, Scale, SetQueue, SetTenant, Submit, Work
from .draws import Dice
from .plan_schedules import ScheduleMaker

BUSY: Final = 75  # per cent of the run's span in which work begins
QUEUES: Final = ("default", "mail", "reports")
TENANTS: Final = ("acme", "bravo", "cargo")
SIZES: Final = ("large", "small")  # labels of workers: those with odd numbers are large

_TAKES_MS: Final = (1, 5, 20, 20, 20, 50, 50, 100, 200, 500, 1_500, 4_000)
_PRIORITIES: Final = (0, 2, 5, 5, 5, 8, 9)
_FAILURES: Final = (
    ("fail", "ok"), ("fail", "ok"), ("fail", "fail", "ok"), ("fail",), ("fail",), ("fatal",), ("fail", "fatal"),
    ("later", "ok"), ("later", "fail", "ok"), ("later",),
)  # fmt: skip
_HANGS: Final = (("hang", "ok"), ("hang",), ("stubborn", "ok"), ("fail", "hang", "ok"), ("later", "stubborn", "ok"))
_POISONS: Final = (("poison", "ok"), ("poison",))
_BULK: Final = (0, 0, 1_000, 20_000, 65_536)  # the shard keeps payloads up to 16 KiB in memory
_MOST_POISON: Final = 3  # tasks of a case: each brings down several workers
_MOST_SPACE_MS: Final = 20_000

_MAIN: Final[tuple[tuple[str, int], ...]] = (
    ("plain", 4), ("dedupe", 4), ("keys", 3), ("failures", 3), ("timeouts", 2), ("deadlines", 2), ("poison", 1),
    ("at_most_once", 2), ("exactly_once", 3), ("bulk", 2),
)  # fmt: skip
"""What a submission is mainly about, and how often it comes where it takes part."""

_BESIDES: Final = ("delays", "priorities", "queues", "tenants", "labels", "costs", "failures", "exactly_once")
"""What any submission may have as well."""


class WorkMaker:
    """Draws work for one case."""

    def __init__(self, seed: int, options: Options, features: Sequence[str], *, zone: str = "") -> None:
        """`zone`: in which most schedules tick, empty: in any."""
        self._seed = seed
        self._zone = zone
        self._options = options
        self._features = features
        self._busy_ms = options.duration_ms * BUSY // 100
        self._dice: dict[str, Dice] = {}
        self._queues = QUEUES if "queues" in features else QUEUES[:1]
        self._tenants = TENANTS if "tenants" in features else TENANTS[:1]
        choices = [(name, weight) for name, weight in _MAIN if name == "plain" or name in features]
        self._mains, self._weights = [name for name, _ in choices], [weight for _, weight in choices]
        self._besides = [name for name in _BESIDES if name in features]
        self._poison = 0
        # Where attempts may take for ever, no timeout hides that one was lost.
        self._patience_ms = self._of("patience").pick((10_000, 86_400_000))
        dice = self._of("keys")
        self._key_limits = {f"k{number}": dice.pick((1, 1, 2, 3)) for number in range(1, 4)}  # one limit for each key
        dice = self._of("dedupe")
        self._hot = [f"hot-{number}" for number in range(1, dice.between(2, 4) + 1)]
        self._cold = 0
        self._window_ms = dice.pick((86_400_000, 86_400_000, 500, 2_000, 5_000))
        dice = self._of("moments")
        self._rushes = [dice.below(self._busy_ms) for _ in range(dice.pick((0, 1, 2)))]

    def make(self, total: int) -> list[Work]:
        """Return work with so many tasks, in order of time."""
        submits: list[Submit] = []
        left = total
        while left > 0:
            submit = self._submit(f"s{len(submits) + 1}", left)
            left -= submit.count
            submits.append(submit)
        work: list[Work] = [*submits, *self._commands(submits)]
        if "one_way" in self._features:
            dice = self._of("one_way")
            work = [self._one_way(entry) if isinstance(entry, Submit) and dice.chance(1, 2) else entry for entry in work]
        for feature, make in (
            ("pauses", self._pauses), ("queue_limits", self._queue_limits), ("tenant_limits", self._tenant_limits),
            ("retention", self._purges), ("scaling", self._scalings), ("rolling", self._restarts),
        ):  # fmt: skip
            if feature in self._features:
                work += make(self._of(feature))
        if "schedules" in self._features:
            maker = ScheduleMaker(
                self._seed, self._options, self._features, busy_ms=self._busy_ms, tenants=self._tenants, zone=self._zone
            )
            work += maker.make()
        return sorted(work, key=lambda entry: entry.at_ms)

    def _one_way(self, entry: Submit) -> Submit:
        """Return it as it goes through the broker: without a key to be known by, since its own payload is what it has."""
        return msgspec.structs.replace(entry, one_way=True, dedupe_key="")

    def _of(self, feature: str) -> Dice:
        dice = self._dice.get(feature)
        if dice is None:
            dice = self._dice[feature] = Dice(self._seed, f"work/{feature}")
        return dice

    def _moment(self, dice: Dice) -> int:
        """Return when work begins; a third of it comes in rushes."""
        if self._rushes and dice.chance(1, 3):
            return min(dice.pick(self._rushes) + dice.below(1_000), self._busy_ms - 1)
        return dice.below(self._busy_ms)

    # -- submissions -------------------------------------------------------------------------------------------------------

    def _submit(self, ref: str, left: int) -> Submit:
        dice = self._of("submits")
        main = dice.weighted(self._mains, self._weights)
        if main == "poison" and self._poison >= _MOST_POISON:
            main = "plain"
        besides = [name for name in self._besides if name != main and dice.chance(1, 3)]
        burst = dice.pick((1, 1, 2, 5, 10, 20, 30)) if "bursts" in self._features else dice.pick((1, 1, 1, 2, 3))
        fields: dict[str, Any] = {
            "count": min(burst, left),
            "takes_ms": dice.pick(_TAKES_MS),
            "effects": dice.pick((0, 1, 1, 1, 2)),
            "jitter": dice.chance(1, 2),
            "retry_base_ms": dice.pick((50, 500, 500, 2_000)),
            "timeout_ms": self._patience_ms,
        }
        at_ms = self._moment(dice)
        for name in (main, *besides):
            fields |= self._feature(name, fields)
        return Submit(at_ms, ref, **fields)

    def _feature(self, name: str, so_far: dict[str, Any]) -> dict[str, Any]:
        """Return what a feature adds to a submission."""
        dice = self._of(name)
        match name:
            case "delays":
                return {"delay_ms": dice.log_between(20, _MOST_SPACE_MS)}
            case "priorities":
                return {"priority": dice.pick(_PRIORITIES)}
            case "queues":
                return {"queue": dice.pick(self._queues)}
            case "tenants":
                return {} if so_far.get("dedupe_key") else {"tenant": dice.pick(self._tenants)}
            case "keys":
                key = dice.pick(list(self._key_limits))
                return {"key": key, "key_limit": self._key_limits[key], "takes_ms": dice.pick((20, 100, 300))}
            case "dedupe":
                return self._dedupe(dice, so_far)
            case "failures":
                if "acts" in so_far:
                    return {}
                acts = list(dice.pick(_FAILURES))
                return {"acts": acts, "max_attempts": dice.between(1, 4), "dead_letter": dice.chance(3, 4)}
            case "timeouts":
                return {
                    "acts": list(dice.pick(_HANGS)),
                    "timeout_ms": dice.log_between(200, 3_000),
                    "count": min(so_far["count"], 5),
                    "max_attempts": dice.between(1, 3),
                }
            case "deadlines":
                word = dice.pick(("wait_timeout_ms", "total_timeout_ms"))
                return {word: dice.log_between(100, 20_000)}
            case "poison":
                count = min(so_far["count"], dice.between(1, _MOST_POISON - self._poison))
                self._poison += count
                return {"acts": list(dice.pick(_POISONS)), "max_interruptions": dice.between(1, 3), "count": count}
            case "at_most_once":
                return {"delivery": "at_most_once", "acts": list(dice.pick((("ok",), ("ok",), ("fail",), ("fail", "ok"))))}
            case "exactly_once":
                if "delivery" in so_far:
                    return {}
                return {"delivery": "exactly_once", "effects": dice.between(1, 3)}
            case "labels":
                known = SIZES[: min(self._options.workers, 2)]
                return {"require": [f"size={dice.pick(known)}"]}
            case "costs":
                return {"cost": dice.between(1, min(4, self._options.concurrency))}
            case "bulk":
                size = dice.pick(_BULK)
                return {"payload_bytes": size, "count": min(so_far["count"], 5 if size > 10_000 else 30)}
            case _:
                return {}

    def _dedupe(self, dice: Dice, so_far: dict[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "on_conflict": dice.pick(("return_existing", "return_existing", "reject", "replace")),
            "dedupe_window_ms": self._window_ms,
            "count": min(so_far["count"], 3),
        }
        if dice.chance(3, 4):
            return {**fields, "dedupe_key": dice.pick(self._hot)}
        self._cold += 1
        return {**fields, "dedupe_key": f"cold-{self._cold}"}

    # -- commands on tasks -------------------------------------------------------------------------------------------------

    def _commands(self, submits: Sequence[Submit]) -> list[Work]:
        """Return cancellations at all stages of tasks' lives, and people's retries of what ended badly."""
        work: list[Work] = []
        if "cancels" in self._features:
            dice = self._of("cancels")
            for submit in submits:
                if dice.chance(1, 5):
                    work += [Cancel(self._after(dice, submit, 5), submit.ref)]
                    if dice.chance(1, 5):
                        work += [Cancel(self._after(dice, submit, 5), submit.ref)]
        if "person_retries" in self._features:
            dice = self._of("person_retries")
            cancelled = {entry.ref for entry in work if isinstance(entry, Cancel)}
            for submit in submits:
                if dice.chance(1, 3 if submit.acts != ["ok"] or submit.ref in cancelled else 15):
                    work += [Retry(self._after(dice, submit, 500), submit.ref)]
        return work

    def _after(self, dice: Dice, submit: Submit, least_ms: int) -> int:
        """Return a moment after a submission: soon in most cases."""
        latest_ms = self._busy_ms - submit.at_ms
        return min(submit.at_ms + dice.log_between(least_ms, max(latest_ms, least_ms)), self._busy_ms)

    # -- settings ----------------------------------------------------------------------------------------------------------

    def _pauses(self, dice: Dice) -> list[Work]:
        work: list[Work] = []
        for _ in range(dice.between(1, 4)):
            queue = dice.pick(self._queues)
            for_ms = dice.log_between(50, _MOST_SPACE_MS)
            at_ms = dice.below(max(self._busy_ms - for_ms, 1))
            work.append(SetQueue(at_ms, queue, paused=True))
            work.append(SetQueue(min(at_ms + for_ms, self._busy_ms), queue, paused=False))
        return work

    def _moment_of_setting(self, dice: Dice, number: int) -> int:
        """Half of the first settings come before most of the work, so that they hold for all of it."""
        return dice.below(500) if not number and dice.chance(1, 2) else dice.below(self._busy_ms)

    def _queue_limits(self, dice: Dice) -> list[Work]:
        """Return limits that are lowered and raised; in the end none is below what a task may cost."""
        work: list[Work] = []
        for queue in self._queues[: dice.between(1, len(self._queues))]:
            for number in range(dice.between(1, 4)):
                at_ms = self._moment_of_setting(dice, number)
                work.append(SetQueue(at_ms, queue, concurrency=dice.log_between(1, 32)))
            if dice.chance(1, 4):
                work.append(SetQueue(dice.below(self._busy_ms), queue, max_waiting=dice.log_between(5, 100)))
                work.append(SetQueue(self._busy_ms, queue, max_waiting=0))
            work.append(SetQueue(self._busy_ms, queue, concurrency=dice.pick((0, 8, 32))))
        return work

    def _tenant_limits(self, dice: Dice) -> list[Work]:
        work: list[Work] = []
        for tenant in self._tenants[: dice.between(1, len(self._tenants))]:
            for number in range(dice.between(1, 4)):
                at_ms = self._moment_of_setting(dice, number)
                match dice.below(5):
                    case 0:
                        work.append(SetTenant(at_ms, tenant, weight=dice.log_between(1, 8)))
                    case 1:
                        work.append(SetTenant(at_ms, tenant, rate=dice.log_between(5, 100), rate_per_ms=1_000))
                    case 2:
                        work.append(SetTenant(at_ms, tenant, max_pending=dice.log_between(10, 200)))
                    case _:
                        work.append(SetTenant(at_ms, tenant, concurrency=dice.log_between(1, 32)))
            work.append(SetTenant(self._busy_ms, tenant, concurrency=dice.pick((0, 8, 32)), max_pending=0))
        return work

    # -- operating ---------------------------------------------------------------------------------------------------------

    def _purges(self, dice: Dice) -> list[Work]:
        moments = [dice.below(self._busy_ms) for _ in range(dice.between(1, 5))]
        return [Purge(at_ms, dice.log_between(500, 15_000)) for at_ms in moments]

    def _scalings(self, dice: Dice) -> list[Work]:
        """Return leaves and returns of workers; one of them never leaves."""
        workers = dice.shuffled([f"w{number}" for number in range(1, self._options.workers + 1)])[1:]
        work: list[Work] = []
        for worker in workers:
            at_ms = 0
            for _ in range(dice.pick((0, 1, 1, 2))):
                at_ms += dice.below(max(self._busy_ms // 2, 1))
                back_ms = at_ms + dice.log_between(100, _MOST_SPACE_MS)
                if back_ms > self._busy_ms:
                    break
                work += [Scale(at_ms, worker, up=False), Scale(back_ms, worker, up=True)]
                at_ms = back_ms
        return work

    def _restarts(self, dice: Dice) -> list[Work]:
        gap_ms = dice.pick((500, 1_000, 3_000, 3_000, 5_000))
        rounds = dice.pick((1, 1, 2)) if len(self._features) > len(_BESIDES) else 1
        span_ms = gap_ms * self._options.nodes
        last_ms = max(self._busy_ms - span_ms, 1)
        return [RollingRestart(dice.below(last_ms), gap_ms) for _ in range(rounds)]
