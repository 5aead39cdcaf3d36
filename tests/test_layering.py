"""Arrows point down only: who may import whom among the folders, and by which form."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from .sources import FOLDERS, ROOT, modules, write

ROOT_PACKAGE: Final = "foliot"  # its re-exports, which stand above the SDK

MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    "runtime": frozenset(),
    "actors": frozenset({"runtime"}),
    "stores": frozenset({"actors", "runtime"}),
    "transports": frozenset({"stores", "actors", "runtime"}),
    "sdk": frozenset({"transports", "stores", "actors", "runtime"}),
    "benchmarks": frozenset({"sdk", "transports", "stores", "actors", "runtime", ROOT_PACKAGE}),
    "simulations": frozenset({"sdk", "transports", "stores", "actors", "runtime", ROOT_PACKAGE}),
}

EXCEPTIONS: Final[frozenset[tuple[str, str]]] = frozenset(
    {
        ("sdk/cli.py", "benchmarks"),  # `foliot bench`, imported when it is called
        ("sdk/cli.py", "simulations"),  # `foliot sim`, likewise
    }
)


def imports(path: str, tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, what of the project is imported, whether by an absolute name); what: a folder or the root."""
    package = [ROOT_PACKAGE, *path.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, True) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            names = [(f"{start}.{alias.name}", not node.level) for alias in node.names]
        else:
            continue
        for name, absolute in names:
            first, _, rest = name.partition(".")
            if first == ROOT_PACKAGE:
                second = rest.split(".")[0]
                yield node.lineno, second if second in (*FOLDERS, "tests", "examples") else ROOT_PACKAGE, absolute
            elif first in (*FOLDERS, "tests", "examples"):
                yield node.lineno, first, True


def violations(root: Path) -> list[str]:
    """Return what breaks the rules, as `file:line: what`."""
    found = []
    for path, tree in modules(root):
        folder = path.split("/")[0]
        for line, target, absolute in imports(path, tree):
            if absolute:
                found.append(f"{path}:{line}: imports {target} by an absolute name, expected a relative one")
            if target != folder and target not in MAY_IMPORT[folder] and (path, target) not in EXCEPTIONS:
                found.append(f"{path}:{line}: {folder} must not import {target}")
    return found


def test_every_folder_imports_only_what_lies_below_it() -> None:
    assert violations(ROOT) == []


def test_nothing_imports_simulations_tests_or_examples() -> None:
    allowed = {target for targets in MAY_IMPORT.values() for target in targets}

    assert not allowed & {"simulations", "tests", "examples", "benchmarks"}


def test_the_table_has_every_folder() -> None:
    assert tuple(MAY_IMPORT) == FOLDERS
    with_code = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.glob("*/*.py")}
    assert with_code - {"tests", "examples", ".venv", "build"} == set(FOLDERS)


@pytest.mark.parametrize(
    ("path", "statement", "complaint"),
    [
        ("runtime/a.py", "from ..actors.rows import x", "runtime must not import actors"),
        ("runtime/a.py", "from .. import stores", "runtime must not import stores"),
        ("runtime/a.py", "from .. import Client", "runtime must not import foliot"),
        ("actors/a.py", "def f():\n    from ..stores import port", "actors must not import stores"),
        ("actors/a.py", "from ..simulations.world import x", "actors must not import simulations"),
        ("stores/b/a.py", "from ...transports.memory import x", "stores must not import transports"),
        ("transports/a.py", "from ..sdk import client", "transports must not import sdk"),
        ("sdk/a.py", "from ..benchmarks import bench", "sdk must not import benchmarks"),
        ("sdk/a.py", "from ..tests.sources import x", "sdk must not import tests"),
        ("sdk/a.py", "import foliot.runtime.clock", "imports runtime by an absolute name, expected a relative one"),
        ("sdk/a.py", "from foliot import Client", "imports foliot by an absolute name, expected a relative one"),
        ("sdk/a.py", "import runtime.clock", "imports runtime by an absolute name, expected a relative one"),
        ("benchmarks/a.py", "from ..simulations import world", "benchmarks must not import simulations"),
    ],
)
def test_a_wrong_import_is_seen(tmp_path: Path, path: str, statement: str, complaint: str) -> None:
    write(tmp_path, {path: statement})

    assert any(complaint in violation for violation in violations(tmp_path))


def test_a_right_import_is_not_complained_about(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "runtime/a.py": "import time\nfrom .clock import Clock\nfrom . import ring",
            "actors/a.py": "from ..runtime.clock import Clock\nfrom ..runtime import ring",
            "stores/migrations/a.py": "from ..port import Store\nfrom ...actors import rows",
            "benchmarks/a.py": "from .. import Client",
            "simulations/a.py": "from ..sdk.client import Client",
            "sdk/cli.py": "def bench():\n    from ..benchmarks import throughput",
        },
    )

    assert violations(tmp_path) == []
