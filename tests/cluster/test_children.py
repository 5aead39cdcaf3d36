"""Children that are looked after: how their end is told, and that they are started again."""

from __future__ import annotations

import asyncio

import pytest
from foliot.sdk.cluster import children
from foliot.sdk.cluster.children import Child
from structlog.testing import capture_logs


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
