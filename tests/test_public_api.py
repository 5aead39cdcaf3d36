"""What users import. A name that appears or goes is a decision, so it is written down here as well."""

from __future__ import annotations

import ast
import subprocess
import sys

import foliot
import pytest
from foliot import simulations

from .sources import ROOT

PUBLIC = [
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


def test_the_public_names_are_these() -> None:
    assert foliot.__all__ == PUBLIC
    assert sorted(PUBLIC) == PUBLIC
    assert dir(foliot) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(foliot, name).__doc__


def test_what_is_not_public_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'foliot' has no attribute 'ShardActor'"):
        _ = foliot.ShardActor


def test_importing_the_package_or_the_plugin_loads_no_simulation() -> None:
    loaded = "[name for name in sys.modules if name.startswith('foliot.simulations.')]"
    program = f"import sys, foliot, foliot.simulations.plugin; print({loaded})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['foliot.simulations.plugin']"


def test_the_types_of_simulations_are_there_and_documented() -> None:
    assert sorted(simulations._HOMES) == simulations.__all__
    assert all(getattr(simulations, name).__doc__ for name in simulations.__all__)


def test_a_type_checker_sees_what_is_loaded() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))

    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }

    assert seen == foliot._HOMES
    assert sorted(seen) == PUBLIC
