"""What all tests share: how property tests search, and how logs look.

`make test` gives the same result every time; `HYPOTHESIS_PROFILE=explore` looks for new examples. Logs are one plain
line an event, since the default's coloured tracebacks take milliseconds each, and many tests break things on purpose.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from .servers import nats_server, postgres_dsn, postgres_server  # noqa: F401 fixtures of all tests

_ON_SLOW_MACHINES = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=_ON_SLOW_MACHINES)
settings.register_profile("explore", settings.get_profile("repeatable"), derandomize=False, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
    ]
)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A test may run a command in this process, which says how logs look for all of it, or simulate a worker that is killed
    and so never undoes how it routes what is logged."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers = list(root.handlers)
    yield
    structlog.configure(**before)
    for handler in list(root.handlers):
        if handler not in handlers and type(handler).__module__ == "foliot.sdk.capture":
            root.removeHandler(handler)
