"""The cluster of a generated case: its size, the speed of its parts, and the bounds of its shards.

The usual size costs about a second to run: 3 nodes, 4 workers, 8 slots, 60 s. Bounds are drawn small now and then, since
what happens at a bound happens in no run that never reaches it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from .case import Options, Timings
from .draws import Dice
from .profiles import Profile

_HOUR_MS: Final = 3_600_000
FARTHEST_MS: Final = 2 * _HOUR_MS  # how far a clock may be off in `hostile_clocks`

CHANGES: Final[tuple[tuple[str, int], ...]] = (
    ("Europe/Berlin", 1_792_890_000_000),  # 2026-10-25 03:00 is 02:00 again
    ("Europe/Berlin", 1_806_195_600_000),  # 2027-03-28 02:00 is 03:00
    ("America/New_York", 1_793_512_800_000),  # 2026-11-01 02:00 is 01:00 again
    ("America/New_York", 1_805_007_600_000),  # 2027-03-14 02:00 is 03:00
    ("Australia/Lord_Howe", 1_791_041_400_000),  # 2026-10-04 02:00 is 02:30
    ("Australia/Lord_Howe", 1_806_764_400_000),  # 2027-04-04 02:00 is 01:30 again
)
"""When clocks change, in zones that do it otherwise: cases of the profile `dst` are about these moments."""

_TIMINGS: Final = (
    Timings(),
    Timings(worker_heartbeat_ms=2_000, worker_dead_ms=6_000, node_heartbeat_ms=800, node_dead_ms=2_500, reconcile_ms=3_000),
    Timings(worker_heartbeat_ms=1_000, worker_dead_ms=4_000, reconcile_ms=10_000),
    Timings(node_heartbeat_ms=500, node_dead_ms=1_500, reconcile_ms=5_000),
)

_UNHURRIED: Final = Timings(
    worker_heartbeat_ms=30_000, worker_dead_ms=90_000, node_heartbeat_ms=10_000, node_dead_ms=28_000, reconcile_ms=30_000
)

_SMALL: Final[tuple[tuple[str, tuple[int, ...]], ...]] = (
    ("lane_window", (4, 8, 32)),
    ("timer_horizon_ms", (1_000, 2_000, 5_000)),
    ("timers_max", (4, 8, 32)),
    ("drain_max", (1, 2, 8)),
)

_EXTREME: Final[tuple[tuple[str, tuple[int, ...]], ...]] = (
    ("lane_window", (4,)),
    ("timer_horizon_ms", (1_000,)),
    ("timers_max", (4, 8)),
    ("drain_max", (1,)),
    ("concurrency", (1,)),
    ("slots", (1, 64)),
    ("nodes", (1, 5)),
)


def options_for(profile: Profile, dice: Dice) -> Options:
    """Return the options of a case of that profile."""
    fields: dict[str, Any] = {
        "latency_us": dice.pick((50, 300, 300, 300, 1_500)),
        "jitter_us": dice.pick((50, 400, 400, 400, 3_000)),
        "commit_us": dice.pick((100, 300, 300, 1_000, 4_000)),
        "skew_ms": dice.pick((0, 0, 20, 200, 500)),
        "drift_ppm": dice.pick((0, 0, 0, 20, 200)),
        "schedule": dice.weighted(("random", "round_robin", "burst"), (6, 2, 2)),
        "step_us": dice.pick((0, 0, 0, 0, 0, 0, 5, 20)),
        "reverse_selects": dice.chance(1, 2),
        "timings": dice.weighted(_TIMINGS, (5, 3, 1, 1)),
        "nodes": dice.weighted((3, 2, 1, 4), (16, 2, 1, 1)),
        "workers": dice.weighted((4, 2, 3, 5), (14, 2, 2, 2)),
        "slots": dice.weighted((8, 3, 16), (8, 1, 1)),
        "concurrency": dice.weighted((8, 2, 4, 16), (7, 1, 1, 1)),
    }
    if dice.chance(1, 2):
        _draw_bounds(fields, _SMALL, dice)
    match profile.name:
        case "embedded":
            fields |= {"embedded": True, "nodes": 1, "workers": 1, "slots": dice.pick((2, 4)), "skew_ms": 0}
        case "hostile_clocks":
            # Times drawn from a clock that is ahead come due when the others get there.
            fields |= {"skew_ms": dice.pick((0, 1_000, 30_000)), "heal_ms": 2 * FARTHEST_MS + 240_000}
        case "rolling":
            fields |= {"nodes": dice.pick((3, 3, 4, 5)), "workers": dice.pick((4, 5, 6))}
        case "extremes":
            _draw_bounds(fields, _EXTREME, dice)
        case "dst":
            duration_ms = dice.weighted((300_000, 1_200_000, 5_400_000), (6, 3, 1))
            _, change_ms = dice.pick(CHANGES)
            start_ms = change_ms - duration_ms * dice.between(20, 70) // 100
            fields |= {"duration_ms": duration_ms, "start_ms": start_ms, "step_us": 0, "nodes": dice.pick((1, 2, 3))}
            fields |= {"workers": 2, **({"timings": _UNHURRIED} if duration_ms > _HOUR_MS else {})}
        case "long":
            fields |= {"duration_ms": 600_000, "drift_ppm": dice.pick((0, 20)), "step_us": 0}
    return Options(**fields)


def broker_options(dice: Dice, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the broker, of a case that has one."""
    drawn = {"broker": True, "broker_sync": dice.pick(("lazy", "lazy", "always")), "broker_waiting": dice.pick((10_000, 8))}
    return {**drawn, **{name: value for name, value in overrides.items() if name in drawn}}


def zone_at(start_ms: int) -> str:
    """Return the zone whose clocks change within three hours of the start of a case of the profile `dst`, empty if none."""
    near = [zone for zone, change_ms in CHANGES if 0 < change_ms - start_ms < 3 * _HOUR_MS]
    return near[0] if near else ""


def _draw_bounds(fields: dict[str, Any], choices: tuple[tuple[str, tuple[int, ...]], ...], dice: Dice) -> None:
    """Draw half of these bounds small."""
    for name, values in choices:
        value = dice.pick(values)
        if dice.chance(1, 2):
            fields[name] = value


def with_overrides(options: Options, overrides: dict[str, Any]) -> Options:
    """Return the options with other values. Raises: TypeError for a name that `Options` does not have."""
    return msgspec.structs.replace(options, **overrides) if overrides else options
