"""Clocks and randomness are read in the port implementations only, and no module keeps state of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from .sources import ROOT, modules, write

CHECKED: Final = ("runtime", "actors", "stores", "transports", "sdk", "simulations")

PORT_IMPLEMENTATIONS: Final[frozenset[str]] = frozenset(
    {"runtime/clock.py", "runtime/rng.py", "simulations/redirect.py"}  # the last puts others in their place
)

FORBIDDEN_MODULES: Final = frozenset({"random", "secrets"})
FORBIDDEN_NAMES: Final = frozenset(
    {
        *(f"time.{name}{unit}" for name in ("time", "monotonic", "perf_counter") for unit in ("", "_ns")),
        *(f"time.{name}{unit}" for name in ("process_time", "thread_time", "clock_gettime") for unit in ("", "_ns")),
        "datetime.now",
        "datetime.utcnow",
        "datetime.today",
        "date.today",
        "os.urandom",
        "os.getrandom",
        *(f"uuid.uuid{version}" for version in (1, 4, 6, 7, 8)),
        "uuid.getnode",
    }
)
LOOPS: Final = frozenset({"loop", "_loop", "get_running_loop", "get_event_loop"})

MUTABLE_LITERALS: Final = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MUTABLE_MAKERS: Final = frozenset(
    {
        *("list", "dict", "set", "bytearray", "deque", "defaultdict", "Counter", "OrderedDict", "ChainMap"),
        *("SortedDict", "SortedList", "SortedSet", "SortedKeyList", "WeakKeyDictionary", "WeakValueDictionary", "WeakSet"),
    }
)


def last_name(node: ast.expr) -> str:
    """Return `c` of `a.b.c`, of `c` and of `a.c(…)`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=func) | ast.Subscript(value=func):
            return last_name(func)
        case _:
            return ""


def readings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, name) wherever a clock or a source of randomness is read or imported."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from ((node.lineno, each.name) for each in node.names if each.name in FORBIDDEN_MODULES)
            case ast.ImportFrom(module=str(module), level=0):
                names = [(module, f"{module}.{each.name}") for each in node.names]
                yield from ((node.lineno, full) for start, full in names if start in FORBIDDEN_MODULES)
                yield from ((node.lineno, full) for _, full in names if full in FORBIDDEN_NAMES)
            case ast.Attribute(value=owner, attr=attribute):
                full = f"{last_name(owner)}.{attribute}"
                if full in FORBIDDEN_NAMES or (attribute == "time" and last_name(owner) in LOOPS):
                    yield node.lineno, full


def kept_state(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, what) for each module-level container that is not Final, and each `global` statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield node.lineno, f"global {', '.join(node.names)}"
    body: list[ast.stmt] = list(tree.body)
    for node in body:
        match node:
            case ast.If() | ast.Try() | ast.With():
                body.extend(child for child in ast.walk(node) if isinstance(child, ast.Assign | ast.AnnAssign))
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                pass
            case ast.Assign(value=value) if is_container(value):
                yield node.lineno, ast.unparse(node.targets[0])
            case ast.AnnAssign(annotation=annotation, value=ast.expr() as value) if is_container(value):
                if last_name(annotation) != "Final":
                    yield node.lineno, ast.unparse(node.target)


def is_container(value: ast.expr) -> bool:
    return isinstance(value, MUTABLE_LITERALS) or (isinstance(value, ast.Call) and last_name(value) in MUTABLE_MAKERS)


def violations(root: Path) -> list[str]:
    """Return what breaks the rules, as `file:line: what`."""
    found = []
    for path, tree in modules(root, CHECKED):
        if path not in PORT_IMPLEMENTATIONS:
            found += [f"{path}:{line}: {name} outside the ports" for line, name in readings(tree)]
        found += [f"{path}:{line}: state of a module: {name}" for line, name in kept_state(tree)]
    return found


def test_clocks_and_randomness_stay_in_the_ports_and_modules_keep_no_state() -> None:
    assert violations(ROOT) == []


def test_each_port_implementation_is_still_one() -> None:
    implementations = {path for path, tree in modules(ROOT, CHECKED) if list(readings(tree))}

    assert implementations == PORT_IMPLEMENTATIONS


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.time()",
        "import time\nx = time.time_ns",
        "import time\ntime.monotonic_ns()",
        "import time\ndef f():\n    return time.perf_counter()",
        "from time import monotonic",
        "from time import perf_counter_ns as now",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import datetime, UTC\ndatetime.now(UTC)",
        "from datetime import datetime\ndatetime.utcnow()",
        "from datetime import date\ndate.today()",
        "import random",
        "from random import randrange",
        "import secrets",
        "from secrets import token_hex",
        "import uuid\nuuid.uuid4()",
        "from uuid import uuid4",
        "import os\nos.urandom(8)",
        "from os import urandom",
        "import asyncio\nasyncio.get_running_loop().time()",
        "def f(loop):\n    return loop.time()",
        "class A:\n    def f(self):\n        return self._loop.time()",
    ],
)
def test_a_reading_outside_the_ports_is_seen(tmp_path: Path, code: str) -> None:
    write(tmp_path, {"actors/a.py": code, "runtime/clock.py": code})

    assert len(violations(tmp_path)) == 1
    assert "actors/a.py" in violations(tmp_path)[0]


@pytest.mark.parametrize(
    "code",
    [
        "cache = {}",
        "seen: set[str] = set()",
        "from collections import deque\nlast = deque(maxlen=3)",
        "from collections import defaultdict\nby_name = defaultdict(list)",
        "import collections\nby_name = collections.OrderedDict()",
        "names = [n for n in 'abc']",
        "rows = list[int]()",
        "if True:\n    rows = []",
        "count = 0\ndef f():\n    global count\n    count += 1",
    ],
)
def test_state_of_a_module_is_seen(tmp_path: Path, code: str) -> None:
    write(tmp_path, {"sdk/a.py": code})

    assert len(violations(tmp_path)) == 1


def test_constants_and_state_of_objects_are_not_complained_about(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "actors/a.py": "from typing import Final\n"
            "NAMES: Final = {'a': 1}\n"
            "TABLE: Final[dict[str, int]] = dict(a=1)\n"
            "from uuid import UUID\n"
            "LIMIT = 3\n"
            "PAIR = (1, 2)\n"
            "__all__ = ['NAMES']\n"
            "class Queue:\n"
            "    def __init__(self, clock):\n"
            "        self.rows = []\n"
            "        self.now_ms = clock.now_ms()\n"
            "        self.time = clock.time\n"
        },
    )

    assert violations(tmp_path) == []
