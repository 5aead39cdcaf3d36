"""The pytest plugin: which tests it takes, which seeds it gives them, and what it says where one fails."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from foliot.runtime.hashing import fnv1a

SUITE = '''
import asyncio
import pytest
from foliot import Foliot

app = Foliot("shop")
seeds = []


@app.task
async def work(number: int) -> int:
    return number


async def test_plain_asyncio():
    await asyncio.sleep(0)
    assert "SimLoop" not in type(asyncio.get_running_loop()).__name__


@pytest.mark.anyio
async def test_plain_anyio():
    await asyncio.sleep(0)


async def test_with_the_fixture(sim, tmp_path):
    assert type(asyncio.get_running_loop()).__name__ == "SimLoop"
    cluster = await sim.cluster(app)
    assert await (await cluster.submit(work, 1)).result() == 1
    assert tmp_path.exists()


@pytest.mark.sim
async def test_with_the_mark():
    await asyncio.sleep(100_000)


@pytest.mark.parametrize("number", [1, 2])
async def test_with_parameters(sim, number):
    assert number


@pytest.mark.sim(seeds=3)
class TestClass:
    async def test_method(self, sim):
        seeds.append(sim.seed)

    def test_seeds_follow_each_other(self):
        assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2]


@pytest.mark.sim(seeds=20)
async def test_fails_sometimes(sim):
    seeds.append(sim.seed)
    await sim.cluster(app)
    sim.node("w2").crash()
    await sim.advance("1s")
    assert sim.seed % 3


@pytest.mark.sim(seeds=2, sometimes=["rain"])
async def test_never_seen(sim):
    sim.sometimes("sun")


@pytest.mark.sim(colour="red")
async def test_wrong_mark(sim):
    pass


@pytest.mark.sim(sometimes="abc")
async def test_bad_sometimes(sim):
    pass


@pytest.mark.sim(seeds=True)
async def test_bad_seeds(sim):
    pass


@pytest.mark.sim(tz="Mars/Base")
async def test_bad_zone(sim):
    pass


@pytest.mark.sim(heal_within="-5m")
async def test_bad_bound(sim):
    pass


@pytest.mark.sim(start="noon")
async def test_bad_start(sim):
    pass


@pytest.mark.sim(profile="rain")
async def test_bad_profile(sim):
    pass


async def test_deadlock(sim):
    await asyncio.get_running_loop().create_future()


async def test_skipped(sim):
    pytest.skip("not today")


@pytest.fixture
def too_early(sim):
    return sim.service("bank")


async def test_fixture_out_of_the_body(too_early):
    pass


def test_not_async(sim):
    pass


counter = [0]


async def test_differs(sim):
    counter[0] += 1
    await asyncio.sleep(counter[0])
    sim.note("differs", number=counter[0])
'''


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-o", "asyncio_mode=auto", "-q", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "test_suite.py").write_text(SUITE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> str:
    return pytest_in(folder, "-rA", "-p", "no:randomly").stdout


@pytest.mark.parametrize(
    ("test", "outcome"),
    [
        ("test_plain_asyncio", "PASSED"),
        ("test_with_the_fixture", "PASSED"),
        ("test_with_the_mark", "PASSED"),
        ("test_with_parameters[1]", "PASSED"),
        ("test_with_parameters[2]", "PASSED"),
        ("TestClass::test_method", "PASSED"),
        ("TestClass::test_seeds_follow_each_other", "PASSED"),
        ("test_fails_sometimes", "FAILED"),
        ("test_never_seen", "FAILED"),
        ("test_wrong_mark", "FAILED"),
        ("test_deadlock", "FAILED"),
        ("test_fixture_out_of_the_body", "ERROR"),
        ("test_not_async", "ERROR"),
        ("test_differs", "PASSED"),
    ],
)
def test_each_test_is_taken_by_who_should_run_it(report: str, test: str, outcome: str) -> None:
    assert re.search(rf"^{outcome} test_suite.py::{re.escape(test)}", report, re.MULTILINE), report[-3_000:]


def test_the_first_seed_that_fails_is_reported_with_the_command_that_replays_it(report: str, folder: Path) -> None:
    first = fnv1a(b"test_suite.py::test_fails_sometimes") >> 32
    number = next(number for number in range(3) if (first + number) % 3 == 0)
    command = f"pytest test_suite.py::test_fails_sometimes --sim-seed {first + number}"
    assert f"simulated under seed {first + number} ({number + 1} of 20), replay: {command}" in report
    assert re.search(r"faults:\n +0\.\d+ s  w2 is killed\n", report)

    again = pytest_in(folder, *command.split()[1:])
    other = pytest_in(folder, "test_suite.py::test_fails_sometimes", "--sim-seed", "100")

    assert "1 failed" in again.stdout
    assert f"seed {first + number}, replay" in again.stdout
    assert "1 passed" in other.stdout


def test_what_is_wrong_is_said(report: str) -> None:
    assert "NeverSeenError: never seen under 2 seeds: rain; expected each at least once" in report
    assert "@pytest.mark.sim got colour=, expected some of seeds=, profile=" in report
    assert re.search(r"DeadlockError: nothing can run and no timer is set.*waiting: test/test", report)
    assert "test 'test_not_async' asks for a simulation and is none, expected `async def test_not_async(...)`" in report
    assert "sim.service was used outside of an `async def` test" in report
    assert re.search(r"SKIPPED .*not today", report)


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("sometimes", "got sometimes='abc', expected a list of names"),
        ("seeds", "got seeds=True, expected a number from 1 to 1000000"),
        ("zone", "got a value it cannot take: tz 'Mars/Base' is not possible, expected the name of a zone, such as 'UTC'"),
        ("bound", "got a value it cannot take: heal_within '-5m' is negative, expected a span such as"),
        ("start", "got a value it cannot take: start 'noon' is not possible, expected a datetime, or ISO text such as"),
        ("profile", "got profile='rain', expected one of swarm, everything, calm"),
    ],
)
def test_a_value_that_a_mark_cannot_take_is_named(report: str, test: str, words: str) -> None:
    assert re.search(rf"^FAILED test_suite.py::test_bad_{test} ", report, re.MULTILINE)
    assert f"InvalidMarkError: @pytest.mark.sim {words}" in report


def test_a_number_of_seeds_that_cannot_be_is_refused(folder: Path) -> None:
    done = pytest_in(folder, "test_suite.py::test_with_the_fixture", "--sim-seeds", "0")

    assert "InvalidMarkError: @pytest.mark.sim got --sim-seeds 0, expected a number from 1 to 1000000" in done.stdout


def test_a_run_that_differs_is_found(folder: Path) -> None:
    chosen = ("test_suite.py", "-k", "differs or with_the_fixture")
    done = pytest_in(folder, *chosen, "--sim-check-determinism", "--sim-seeds", "2")

    assert "1 failed, 1 passed" in done.stdout
    assert re.search(r"NotDeterministicError: seed \d+ gave digest \w+, then \w+; expected one", done.stdout)
