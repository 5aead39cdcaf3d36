"""The census really runs, in a process of its own, on a part of the library."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from ..sources import ROOT

CENSUS = ROOT / "examples" / "census" / "run.py"


def run_census(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CENSUS), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def census() -> subprocess.CompletedProcess[str]:
    return run_census("--sample", "40")


def test_the_census_of_forty_files_comes_out_as_expected(census: subprocess.CompletedProcess[str]) -> None:
    assert census.returncode == 0, census.stdout + census.stderr
    assert census.stdout.splitlines()[-1] == "all as expected"
    assert "FAILED" not in census.stdout


def test_the_census_shows_what_went_wrong_on_purpose(census: subprocess.CompletedProcess[str]) -> None:
    assert re.search(r"broken.py +tried once +SyntaxError: ", census.stdout), "no Python, so not tried again"
    assert re.search(r"corect.py +tried 3 times +FileNotFoundError: ", census.stdout), "not there, three times"
    assert re.search(r"census.hang +tried once +TaskTimeoutError: ", census.stdout)
    assert "retried corect.py as correct.py: retried, 1 function in 2 lines" in census.stdout


def test_the_census_balances(census: subprocess.CompletedProcess[str]) -> None:
    [ledger] = [line for line in census.stdout.splitlines() if line.startswith("ledger: ")]
    count = {word: int(number) for number, word in (part.split() for part in ledger[8:].split(", "))}

    ended = sum(count[word] for word in ("completed", "failed", "dead", "cancelled", "expired"))
    assert count["accepted"] == ended
    assert count["accepted"] == 40 + 2 + 20 + 2, "files, two that cannot be counted, appointments, hang and watch"
    assert count["cancelled"] == 1
    assert count["waiting"] == count["running"] == 0


def test_the_census_prints_the_same_every_time(census: subprocess.CompletedProcess[str]) -> None:
    """But for how long things took."""
    again = run_census("--sample", "40")

    assert _without_times(again.stdout) == _without_times(census.stdout)


def _without_times(output: str) -> list[str]:
    text = re.sub(r"foliot-census-\w+", "foliot-census", output)
    return [line for line in text.splitlines() if not re.search(r"submitted in|late by|^\d{4}-\d\d-\d\d", line)]
