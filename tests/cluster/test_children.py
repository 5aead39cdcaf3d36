"""Children that are looked after: how their end is told, and that they are started again."""

from __future__ import annotations

import asyncio
import os

import pytest
from foliot.sdk.cluster import children
from foliot.sdk.cluster.children import Child
from structlog.testing import capture_logs

from .waiting import until


@pytest.mark.parametrize(("code", "told"), [(0, ("child_ended", "info")), (3, ("child_died", "error"))])
async def test_an_end_in_order_is_no_error_and_either_is_followed_by_a_start(
    code: int, told: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_PAUSE_MS", 1)
    child = Child("one", [], program=f"print('ready one'); raise SystemExit({code})")
    with capture_logs() as lines:
        await child.start()
        for _ in range(500):
            if child.starts > 1:
                break
            await asyncio.sleep(0.02)
        await child.stop(5)

    assert child.starts > 1
    assert (lines[0]["event"], lines[0]["log_level"]) == told
    assert lines[0]["starts_again"]


async def test_one_that_was_drained_stays_away_until_it_is_called_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_PAUSE_MS", 1)
    child = Child("one", [], program="print('ready one')", restart_drained=False)

    async def drained() -> bool:
        return child.is_drained

    with capture_logs() as lines:
        await child.start()
        await until(drained)
        assert child.starts == 1
        child.begin_again()

        async def again() -> bool:
            return child.starts == 2 and child.is_drained

        await until(again)
        await child.stop(5)

    assert [line["event"] for line in lines] == ["child_drained", "child_started_again", "child_drained"]
    assert lines[0]["start_again"] == f"kill -USR1 {os.getpid()}"
