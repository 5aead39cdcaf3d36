"""What the report of a failed simulated test says to do next."""

from __future__ import annotations

import shlex

import pytest
from foliot.runtime.rng import Rng
from foliot.simulations.outside import Service, ServiceOverError
from foliot.simulations.report import replay_command


@pytest.mark.parametrize("nodeid", ["test_a.py::test_b", "test_a.py::test_b[it's 1]", "my tests/test_a.py::test_b[x]"])
@pytest.mark.parametrize("profile", ["", "everything"])
def test_the_line_that_replays_a_seed_is_one_a_shell_takes(nodeid: str, profile: str) -> None:
    words = shlex.split(replay_command(nodeid, 7, profile=profile))

    assert words == ["pytest", nodeid, "--sim-seed", "7", *(["--sim-profile", profile] if profile else [])]


def test_a_service_that_an_earlier_test_left_behind_says_so() -> None:
    service = Service("bank", None, Rng(1))  # type: ignore[arg-type]
    service.end()

    with pytest.raises(ServiceOverError, match="service 'bank' belongs to a simulation that has ended"):
        service.charge(order=1)
