"""The programs of docs/simulation.md, as a reader would put them together, pass; its command line options exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from foliot.simulations.points import NAMES
from foliot.simulations.storm import FAMILIES

from ..sources import ROOT
from .pages import blocks

PAGE = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-o", "asyncio_mode=auto", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_the_tests_of_the_page_pass_and_can_fail(tmp_path: Path) -> None:
    shop, *tests = [block.text for block in blocks("docs/simulation.md") if block.kind == "python"]
    (tmp_path / "shop.py").write_text(shop, encoding="utf-8")
    (tmp_path / "test_shop.py").write_text("\n\n".join(tests), encoding="utf-8")

    done = pytest_in(tmp_path, "--sim-check-determinism")
    assert f"{len(tests)} passed" in done.stdout, done.stdout

    (tmp_path / "shop.py").write_text(shop.replace("=ctx.task_id", "=ctx.attempt_token"), encoding="utf-8")
    broken = pytest_in(tmp_path)
    assert "2 failed, 2 passed" in broken.stdout, broken.stdout
    assert re.search(r"replay: pytest test_shop.py::test_a_receipt_is_sent_once --sim-seed \d+", broken.stdout)


def test_the_page_names_every_point_and_every_kind_of_trouble() -> None:
    assert [name for name in (*NAMES, *FAMILIES) if f"`{name}`" not in PAGE] == []


def test_the_options_of_the_page_are_those_of_the_plugin(tmp_path: Path) -> None:
    listed = pytest_in(tmp_path, "--help").stdout

    options = sorted(set(re.findall(r"--sim-[a-z-]+", PAGE)))
    assert [option for option in options if option not in listed] == []
    assert sorted(set(re.findall(r"--sim-[a-z-]+", listed))) == options
