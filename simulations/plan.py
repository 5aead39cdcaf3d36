"""From a seed to a case: everything a simulated run will do, written out before it begins.

A run executes the case and asks the seed for nothing but what the network and the disk draw. What holds: the same seed,
profile and options give the same case in every process; each part draws from a stream of its own, so a change in one leaves
the others as they were; a case is whole: what it names is there.
"""

from __future__ import annotations

from typing import Any, Final

from .case import Case
from .draws import Dice
from .plan_faults import FaultMaker
from .plan_options import broker_options, options_for, with_overrides, zone_at
from .plan_work import WorkMaker
from .profiles import (
    ON_ONE_MACHINE,
    PROFILES,
    SERVER_FAMILIES,
    WITHOUT_CLUSTER,
    Profile,
    families_of,
    features_of,
    profile_of,
)

__all__ = ["PROFILES", "plan"]

_TOTALS: Final = 12  # octaves are too coarse for the number of faults; this many steps between least and most


def plan(seed: int, profile: str = "", **overrides: Any) -> Case:
    """Return the case of a seed. `profile`: one of `PROFILES`; empty: the seed draws it. `overrides`: fields of `Options`,
    set before anything else is drawn. Raises: UnknownProfileError."""
    kind = profile_of(seed, profile)
    options = with_overrides(options_for(kind, Dice(seed, "options")), overrides)
    families = families_of(kind, Dice(seed, "families"))
    features = features_of(kind, Dice(seed, "features"))
    if options.embedded:
        families = [name for name in families if name in ON_ONE_MACHINE]
        features = [name for name in features if name not in WITHOUT_CLUSTER]
    if "one_way" in features:
        options = with_overrides(options, broker_options(Dice(seed, "options/broker"), overrides))
    if any(name in SERVER_FAMILIES for name in families):
        options = with_overrides(options, {"database": "postgres", **overrides})
    sizes = Dice(seed, "sizes")
    total, tasks = _number_of_faults(kind, sizes), sizes.between(*kind.tasks)
    faults = FaultMaker(seed, options, longest_ms=kind.longest_ms, hostile=kind.name == "hostile_clocks")
    return Case(
        seed=seed,
        profile=kind.name,
        options=options,
        faults=faults.make(families, total),
        work=WorkMaker(seed, options, features, zone=zone_at(options.start_ms)).make(tasks),
    )


def _number_of_faults(kind: Profile, dice: Dice) -> int:
    """Return how many faults there are: few as often as many."""
    low, high = kind.faults
    draw = dice.below(_TOTALS) * dice.below(_TOTALS)
    return low + (high - low) * draw // ((_TOTALS - 1) ** 2)
