"""What is measured when sessions beat and parts of a cluster go away, on a small scale; no figure of time is judged."""

from __future__ import annotations

from pathlib import Path

from .test_bench import measure, open_path

__all__ = ["open_path"]  # a fixture


def test_sessions_that_only_beat_are_all_heard_and_none_is_given_up(open_path: Path) -> None:
    figures = measure(
        open_path / "empty", "sessions", "--cluster", "--sessions", "60", "--beats", "600", "--seconds", "1", "--slots", "4",
        "--repeat", "1",
    )  # fmt: skip

    assert figures["sessions"] == 60
    assert figures["given_up"] == figures["dropped"] == 0
    assert figures["not_heard"] == figures["not_answered"] == 0
    assert figures["node_percent"] > 0


def test_a_node_and_a_worker_that_go_away_cost_no_task(open_path: Path) -> None:
    figures = measure(
        open_path / "empty", "moves", "--cluster", "--slots", "8", "--rate", "100", "--held", "20", "--kind", "drain",
        "--kind", "worker_kill",
    )  # fmt: skip

    assert figures["lost"] == figures["accepted_twice"] == 0
    assert figures["balanced"]
    assert 0 < figures["drain"]["shards"] < 8
    assert figures["drain"]["lost"] == 0
    assert figures["drain"]["tasks"] > 0
    assert figures["worker_kill"]["second_attempts"] == figures["worker_kill"]["running"] == 20
