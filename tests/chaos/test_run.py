"""A short storm over a real cluster: every process a real one, every fault a real signal."""

from __future__ import annotations

import json

import pytest

from .run import main


def test_a_short_storm_loses_nothing_and_does_nothing_twice(capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["--minutes", "0.05", "--seed", "7", "--kinds", "node_kill,worker_kill", "--rate", "60"])

    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert found["wrong"] == []
    assert (code, found["lost"], found["duplicates"]) == (0, 0, 0)
    assert sum(found["faults"].values()) >= 1
    assert min(found["kinds"][kind] for kind in ("plain", "once", "flaky", "cancelled")) > 0
    assert min(found[what] for what in ("one_way", "ticks", "events")) > 0
