"""The example of a payment does what its page says: the simulation finds the double charge, and the fix survives."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from ..sources import ROOT

EXAMPLE = ROOT / "examples" / "payment"


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_the_naive_charge_is_caught_replayed_and_the_fixed_one_survives(tmp_path: Path) -> None:
    for path in EXAMPLE.glob("*.py"):
        shutil.copy(path, tmp_path)
    done = pytest_in(tmp_path, "test_payments.py")

    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    assert re.search(r"InvariantError: task \w+ is completed with effects: [2-9] on bank; expected one", done.stdout)
    assert "outside services:\n  bank: " in done.stdout
    replay = re.search(r"replay: pytest (\S+::test_naive_charge) --sim-seed (\d+)", done.stdout)
    assert replay is not None
    page = re.search(r"timeline: (\S+\.html)", done.stdout)
    assert page is not None
    assert Path(page[1]).read_text(encoding="utf-8").startswith("<!")

    again = pytest_in(tmp_path, replay[1], "--sim-seed", replay[2])

    problem = re.compile(r"InvariantError: task .*")
    assert problem.findall(again.stdout)[0] == problem.findall(done.stdout)[0]
