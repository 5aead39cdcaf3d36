"""Foliot: a distributed task scheduler and job queue.

    from foliot import Client, Context, Foliot

    app = Foliot("shop")

    @app.task(queue="mail", max_attempts=5, timeout="30s")
    async def send_receipt(ctx: Context, order_id: int) -> str: ...

Everything public is here; what is not here may change. Names are loaded when they are first used, so that a command line
starts quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .runtime.errors import FoliotError as FoliotError
    from .runtime.errors import LeaseError as LeaseError
    from .runtime.errors import NotFoundError as NotFoundError
    from .runtime.errors import UnavailableError as UnavailableError
    from .runtime.errors import UsageError as UsageError
    from .sdk.app import Foliot as Foliot
    from .sdk.client import Client as Client
    from .sdk.client import Task as Task
    from .sdk.client_spec import Options as Options
    from .sdk.client_views import TaskInfo as TaskInfo
    from .sdk.context import Context as Context
    from .sdk.context import Fatal as Fatal
    from .sdk.context import RetryLater as RetryLater
    from .sdk.errors import DuplicateTaskError as DuplicateTaskError
    from .sdk.errors import OverloadedError as OverloadedError
    from .sdk.errors import QuotaExceededError as QuotaExceededError
    from .sdk.errors import RateLimitedError as RateLimitedError
    from .sdk.errors import TaskCancelledError as TaskCancelledError
    from .sdk.errors import TaskFailedError as TaskFailedError
    from .sdk.errors import TaskNotFoundError as TaskNotFoundError
    from .sdk.options import Retry as Retry
    from .sdk.schedule_errors import ScheduleExistsError as ScheduleExistsError
    from .sdk.schedule_errors import ScheduleNotFoundError as ScheduleNotFoundError
    from .sdk.schedule_views import ScheduleInfo as ScheduleInfo
    from .sdk.scheduler import Scheduler as Scheduler
    from .sdk.sync import SyncClient as SyncClient

_HOMES: Final = {
    "Client": "sdk.client",
    "Context": "sdk.context",
    "DuplicateTaskError": "sdk.errors",
    "Fatal": "sdk.context",
    "Foliot": "sdk.app",
    "FoliotError": "runtime.errors",
    "LeaseError": "runtime.errors",
    "NotFoundError": "runtime.errors",
    "Options": "sdk.client_spec",
    "OverloadedError": "sdk.errors",
    "QuotaExceededError": "sdk.errors",
    "RateLimitedError": "sdk.errors",
    "Retry": "sdk.options",
    "RetryLater": "sdk.context",
    "ScheduleExistsError": "sdk.schedule_errors",
    "ScheduleInfo": "sdk.schedule_views",
    "ScheduleNotFoundError": "sdk.schedule_errors",
    "Scheduler": "sdk.scheduler",
    "SyncClient": "sdk.sync",
    "Task": "sdk.client",
    "TaskCancelledError": "sdk.errors",
    "TaskFailedError": "sdk.errors",
    "TaskInfo": "sdk.client_views",
    "TaskNotFoundError": "sdk.errors",
    "UnavailableError": "runtime.errors",
    "UsageError": "runtime.errors",
}

__all__ = [
    "Client",
    "Context",
    "DuplicateTaskError",
    "Fatal",
    "Foliot",
    "FoliotError",
    "LeaseError",
    "NotFoundError",
    "Options",
    "OverloadedError",
    "QuotaExceededError",
    "RateLimitedError",
    "Retry",
    "RetryLater",
    "ScheduleExistsError",
    "ScheduleInfo",
    "ScheduleNotFoundError",
    "Scheduler",
    "SyncClient",
    "Task",
    "TaskCancelledError",
    "TaskFailedError",
    "TaskInfo",
    "TaskNotFoundError",
    "UnavailableError",
    "UsageError",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return __all__
