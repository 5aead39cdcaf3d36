"""What is installed is what is here: every folder with code, each module once, and the types."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import foliot

from .sources import ROOT, write

NOT_INSTALLED: Final = frozenset({"tests", "examples", "docs", "deploy", "build", "dist"})


def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def folders_with_code(root: Path) -> list[str]:
    """Return the packages that the folders make up, sorted: those that hold modules."""
    return sorted({"foliot"} | {".".join(("foliot", *path.parts[:-1])) for path in installed(root, "*.py")})


def installed(root: Path, pattern: str) -> list[Path]:
    """Return files to install, relative to `root`, but for those of the root itself."""
    found = [path.relative_to(root) for path in sorted(root.glob(f"*/**/{pattern}"))]
    return [path for path in found if path.parts[0] not in NOT_INSTALLED and not path.parts[0].startswith(".")]


def missing_data(root: Path) -> list[str]:
    """Return the SQL files that no pattern of the package data takes along."""
    patterns = project(root)["tool"]["setuptools"]["package-data"]["*"]
    packages = [Path(*name.split(".")[1:]) for name in project(root)["tool"]["setuptools"]["packages"]]
    taken = {path for package in packages for pattern in patterns for path in (root / package).glob(pattern)}
    return [path.as_posix() for path in installed(root, "*.sql") if root / path not in taken]


def loaded_twice(loaded: Mapping[str, ModuleType], root: Path) -> dict[str, list[str]]:
    """Return the files under `root` that more than one module came from, and those modules' names."""
    names = defaultdict(list)
    for name, module in sorted(loaded.items()):
        path = Path(getattr(module, "__file__", None) or "/").resolve()
        if not path.is_relative_to(root) or name == "__main__":
            continue
        file = path.relative_to(root).as_posix()
        # What others install into .venv is their affair; and tests are loaded by pytest under a name of its own, besides the
        # one by which a process that they start, or a test, may load an app among them.
        if not file.startswith((".", "tests/")):
            names[file].append(name)
    return {path: each for path, each in names.items() if len(each) > 1}


def test_every_folder_with_code_is_installed() -> None:
    assert sorted(project(ROOT)["tool"]["setuptools"]["packages"]) == folders_with_code(ROOT)


def test_every_package_says_what_it_is_for() -> None:
    for package in folders_with_code(ROOT)[1:]:
        opening = ROOT.joinpath(*package.split(".")[1:], "__init__.py").read_text(encoding="utf-8")
        assert opening.startswith('"""'), package


def test_a_folder_that_is_not_listed_is_seen(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "", "stores/port.py": "", "stores/pg/b.py": "", "tests/a.py": "", ".venv/lib/b.py": ""})

    assert folders_with_code(tmp_path) == ["foliot", "foliot.stores", "foliot.stores.pg"]


def test_every_migration_is_installed() -> None:
    assert missing_data(ROOT) == []
    assert installed(ROOT, "*.sql"), "there is at least the first one"


def test_a_migration_that_is_not_installed_is_seen(tmp_path: Path) -> None:
    settings = '[tool.setuptools]\npackages = ["foliot", "foliot.stores"]\npackage-data = {"*" = ["*/*.sql"]}'
    write(tmp_path, {"pyproject.toml": settings, "stores/pg/001.sql": "", "stores/pg/old/001.sql": ""})

    assert missing_data(tmp_path) == ["stores/pg/old/001.sql"]


def test_no_module_is_loaded_twice() -> None:
    for module in pkgutil.walk_packages(foliot.__path__, "foliot."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    assert loaded_twice(dict(sys.modules), ROOT) == {}
    assert {f"foliot.{folder.split('.')[1]}" for folder in folders_with_code(ROOT)[1:]} <= sys.modules.keys()


def test_a_module_that_is_loaded_twice_is_seen() -> None:
    one, two = ModuleType("foliot.runtime.ids"), ModuleType("runtime.ids")
    one.__file__ = str(ROOT / "runtime" / "ids.py")
    two.__file__ = str(ROOT / ".links" / "foliot" / "runtime" / "ids.py")

    assert loaded_twice({one.__name__: one, two.__name__: two}, ROOT) == {
        "runtime/ids.py": ["foliot.runtime.ids", "runtime.ids"]
    }


def test_the_tests_run_against_this_checkout() -> None:
    assert foliot.__file__ is not None, "a namespace: installed before __init__.py was there, so install again"
    assert Path(foliot.__file__).resolve() == ROOT / "__init__.py"


def test_the_types_are_part_of_the_package() -> None:
    assert (ROOT / "py.typed").is_file()
    assert project(ROOT)["tool"]["setuptools"]["package-data"]["foliot"] == ["py.typed"]


def test_the_command_is_there() -> None:
    module, _, name = project(ROOT)["project"]["scripts"]["foliot"].partition(":")

    assert callable(getattr(importlib.import_module(module), name))


def test_the_licence_is_the_one_that_is_named() -> None:
    assert project(ROOT)["project"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
