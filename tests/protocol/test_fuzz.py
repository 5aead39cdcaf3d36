"""Hostile messages on every subject; `python -m foliot.tests.protocol.fuzz` sends many more."""

from __future__ import annotations

from pathlib import Path

from foliot.sdk.servers import LocalNats

from .fuzz import fuzz
from .gate import PublicGate


async def test_hostile_messages_get_an_error_or_a_count_and_harm_nobody(nats_server: LocalNats, tmp_path: Path) -> None:
    async with PublicGate(nats_server.url, tmp_path) as gate:
        report = await fuzz(gate, 3_000, seed=1)

    assert report.broken == []
    assert report.sent > 2_500
    codes = {"malformed", "version", "unknown_op", "tenant_forbidden", "session_unknown", "content_type", "invalid_id", "ok"}
    assert codes <= set(report.by_code)
