"""The census really runs, in a process of its own, on a part of the library."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from ..sources import ROOT

CENSUS = ROOT / "examples" / "census" / "run.py"


@pytest.fixture(scope="module")
def runs() -> list[subprocess.CompletedProcess[str]]:
    """Two runs, side by side since most of their time is waiting."""
    command = [sys.executable, str(CENSUS), "--sample", "40"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(command, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


@pytest.fixture(scope="module")
def census(runs: list[subprocess.CompletedProcess[str]]) -> subprocess.CompletedProcess[str]:
    return runs[0]


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


def test_the_census_prints_the_same_every_time(runs: list[subprocess.CompletedProcess[str]]) -> None:
    """But for how long things took."""
    one, other = runs

    assert _without_times(one.stdout) == _without_times(other.stdout)


def _without_times(output: str) -> list[str]:
    text = re.sub(r"foliot-census-\w+", "foliot-census", output)
    return [line for line in text.splitlines() if not re.search(r"submitted in|late by|^\d{4}-\d\d-\d\d", line)]


def test_a_cluster_of_processes_counts_the_same() -> None:
    command = [sys.executable, str(CENSUS), "--cluster", "--sample", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all as expected"
    assert re.search(r"ledger: 44 accepted, .* 1 cancelled, .* 0 waiting, 0 running", done.stdout)
