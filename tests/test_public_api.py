"""What users import. A name that appears or goes is a decision, so it is written down here as well."""

from __future__ import annotations

import ast

import foliot
import pytest

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
