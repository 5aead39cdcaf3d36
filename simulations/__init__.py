"""The whole cluster in one seeded process.

For users: the `sim` fixture and `@pytest.mark.sim` come with pytest by themselves (docs/simulation.md); the types below are
for annotations. Names are loaded when they are first used, so that a test run without simulations starts quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .cluster import Cluster as Cluster
    from .cluster import ClusterOptions as ClusterOptions
    from .cluster import TaskHandle as TaskHandle
    from .controls import ClockControl as ClockControl
    from .controls import Mark as Mark
    from .controls import NodeControl as NodeControl
    from .outside import Call as Call
    from .outside import Effects as Effects
    from .outside import Service as Service
    from .outside import ServiceError as ServiceError
    from .outside import ServiceTimeoutError as ServiceTimeoutError
    from .sim import InvariantError as InvariantError
    from .sim import NotSettledError as NotSettledError
    from .sim import Sim as Sim
    from .sim import SimTimeoutError as SimTimeoutError

_HOMES: Final = {
    "Call": "outside",
    "ClockControl": "controls",
    "Cluster": "cluster",
    "ClusterOptions": "cluster",
    "Effects": "outside",
    "InvariantError": "sim",
    "Mark": "controls",
    "NodeControl": "controls",
    "NotSettledError": "sim",
    "Service": "outside",
    "ServiceError": "outside",
    "ServiceTimeoutError": "outside",
    "Sim": "sim",
    "SimTimeoutError": "sim",
    "TaskHandle": "cluster",
}

__all__ = [
    "Call",
    "ClockControl",
    "Cluster",
    "ClusterOptions",
    "Effects",
    "InvariantError",
    "Mark",
    "NodeControl",
    "NotSettledError",
    "Service",
    "ServiceError",
    "ServiceTimeoutError",
    "Sim",
    "SimTimeoutError",
    "TaskHandle",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)
