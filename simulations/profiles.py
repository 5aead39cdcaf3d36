"""The profiles of generated cases: what kind of trouble and of work a case is made of.

A profile says which fault families and work features may take part, how they are chosen, and how large the case is. All
choices are the seed's. Sources: Groce et al., Swarm Testing, ISSTA 2012, for leaving features out at random; everything at
once is kept beside it, since some bugs need many features together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..runtime.errors import UsageError
from .draws import Dice

FAMILIES: Final = (
    "kill", "power", "stop", "crash_at", "pause", "slow", "partition", "block", "lossy", "clock_step", "clock_freeze",
    "clock_drift", "store", "db_power",
)  # fmt: skip

FEATURES: Final = (
    "bursts", "delays", "priorities", "queues", "tenants", "keys", "dedupe", "cancels", "person_retries", "pauses",
    "queue_limits", "tenant_limits", "failures", "poison", "timeouts", "deadlines", "at_most_once", "exactly_once",
    "labels", "costs", "retention", "scaling", "rolling", "bulk",
)  # fmt: skip
"""`bursts`: up to 30 tasks at once. `deadlines`: wait and total timeouts. `bulk`: payloads of 0 bytes or many."""

MAIL: Final = ("one_way",)
"""A feature of the profiles that have a broker: half of what is submitted goes through it."""

SERVER_FAMILIES: Final = ("fail_over", "row_lock")
"""Families of the profile whose database is a server."""

BROKER_FAMILIES: Final = ("broker", "broker_crash", "broker_wipe", "broker_cut")

SCHEDULING: Final = ("schedules", "schedule_commands", "calendars", "backfills")
"""Features of the profiles that have schedules."""

ON_ONE_MACHINE: Final = ("kill", "power", "stop", "crash_at", "pause", "slow", "clock_step", "store")
"""Families that there are without a network."""

WITHOUT_CLUSTER: Final = ("labels", "scaling", "rolling")
"""Features that the embedded form does not have."""


@dataclass(frozen=True)
class Profile:
    """One profile. `share`: of seeds that draw their profile, per mille. `choice`: which of `families` take part: `half`
    (each with one half), `all`, or `one`; `feature_choice`: the same of `features`. `always`, `needs`: these do in any
    case. `faults`, `tasks`: how many there are, from and to. `longest_ms`: of a fault."""

    name: str
    share: int
    families: tuple[str, ...] = FAMILIES
    choice: str = "half"
    always: tuple[str, ...] = ()
    features: tuple[str, ...] = FEATURES
    feature_choice: str = "half"
    needs: tuple[str, ...] = ()
    faults: tuple[int, int] = (5, 25)
    tasks: tuple[int, int] = (60, 250)
    longest_ms: int = 20_000


_OF_MAIL: Final = tuple(
    name for name in FEATURES if name not in ("dedupe", "queue_limits", "tenant_limits", "retention")
)
"""An inbox leaves out what a limit forbids, and says so to nobody: then no observer can tell what had to be accepted."""

_ALL: Final = (
    Profile("swarm", 350),
    # These have their part of what was the swarm's: a seed that draws any other profile draws it still.
    Profile(
        "failover", 30, families=(*FAMILIES, *SERVER_FAMILIES), always=SERVER_FAMILIES, faults=(4, 20), tasks=(60, 200),
    ),
    Profile(
        "mail", 40, families=(*FAMILIES, *BROKER_FAMILIES), always=("broker",), faults=(4, 20), tasks=(60, 200),
        features=(*_OF_MAIL, *MAIL), needs=MAIL,
    ),
    Profile("schedules", 40, features=(*FEATURES, *SCHEDULING), needs=("schedules",), tasks=(20, 100), faults=(3, 20)),
    Profile("dst", 20, features=SCHEDULING, needs=("schedules", "calendars"), tasks=(5, 20), faults=(0, 15)),
    Profile("everything", 190, choice="all", feature_choice="all", faults=(10, 25), tasks=(100, 250)),
    Profile("single", 95, choice="one", faults=(3, 12)),
    Profile("calm", 95, families=(), tasks=(100, 250), faults=(0, 0)),
    Profile(
        "embedded", 50, families=ON_ONE_MACHINE, always=("kill",), faults=(3, 15),
        features=tuple(name for name in FEATURES if name not in WITHOUT_CLUSTER),
    ),
    Profile(
        "hostile_clocks", 50, always=("clock_step", "clock_freeze", "clock_drift"), faults=(5, 20),
        families=("clock_step", "clock_freeze", "clock_drift", "kill", "pause", "partition", "lossy"),
    ),
    Profile("crash_points", 8, families=("crash_at",), choice="all", faults=(1, 10)),
    Profile("rolling", 6, needs=("rolling", "scaling", "bursts"), faults=(0, 8), tasks=(150, 250)),
    Profile(
        "limits", 6, families=("kill", "power", "stop", "crash_at", "pause", "partition"), always=("kill",),
        needs=("queue_limits", "tenant_limits", "keys", "costs", "queues", "tenants"), tasks=(120, 250),
    ),
    Profile("partitions", 6, families=("partition", "block", "lossy"), choice="all", faults=(5, 15)),
    Profile(
        "dedupe", 6,
        families=("kill", "power", "crash_at", "partition", "block", "lossy", "store"), always=("lossy", "kill"),
        features=("dedupe", "bursts", "delays", "cancels", "failures", "retention"), needs=("dedupe",),
    ),
    Profile("extremes", 5, needs=("bulk",), faults=(3, 15), tasks=(60, 150)),
    Profile("long", 3, faults=(10, 25), tasks=(150, 250), longest_ms=2_000),
)  # fmt: skip

PROFILES: Final[tuple[str, ...]] = tuple(profile.name for profile in _ALL)


class UnknownProfileError(UsageError):
    """No profile of that name."""

    code = "unknown_profile"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no profile {name!r}; expected one of {', '.join(PROFILES)}")
        self.name = name


def profile_of(seed: int, name: str) -> Profile:
    """Return the profile of that name, the one the seed draws if it is empty. Raises: UnknownProfileError."""
    if not name:
        return Dice(seed, "profile").weighted(_ALL, [profile.share for profile in _ALL])
    for profile in _ALL:
        if profile.name == name:
            return profile
    raise UnknownProfileError(name)


def families_of(profile: Profile, dice: Dice) -> list[str]:
    """Return the fault families that take part in a case, in the order of the profile."""
    return _chosen(profile.families, profile.choice, profile.always, dice)


def features_of(profile: Profile, dice: Dice) -> list[str]:
    """Return the work features that take part in a case, in the order of the profile."""
    return _chosen(profile.features, profile.feature_choice, profile.needs, dice)


def _chosen(names: Sequence[str], choice: str, always: Sequence[str], dice: Dice) -> list[str]:
    if choice == "one":
        return [dice.pick(names)]
    return [name for name in names if dice.chance(1, 2) or choice == "all" or name in always]
