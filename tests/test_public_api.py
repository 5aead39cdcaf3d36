"""What users import. A name that appears or goes is a decision, so it is written down here as well."""

from __future__ import annotations

import ast

import foliot

from .sources import ROOT

PUBLIC = [
    "Client",
    "Context",
    "Foliot",
    "FoliotError",
    "LeaseError",
    "NotFoundError",
    "UnavailableError",
    "UsageError",
]


def test_the_public_names_are_these() -> None:
    assert foliot.__all__ == PUBLIC
    assert sorted(PUBLIC) == PUBLIC


def test_every_public_name_is_there_and_documented() -> None:
    undocumented = [name for name in foliot.__all__ if not getattr(foliot, name).__doc__]

    assert undocumented == []


def test_the_package_itself_only_re_exports() -> None:
    statements = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")).body

    kinds = [type(each).__name__ for each in statements]
    assert isinstance(statements[0], ast.Expr), "it opens with what the package is for"
    assert set(kinds[1:]) <= {"ImportFrom", "Assign"}
    assert kinds.count("Assign") == 1
