"""Deadlines behind one timer: each on time, whatever else is put in meanwhile."""

from __future__ import annotations

from foliot.sdk.deadlines import NEAR_MS, Deadlines

from ..runtime.harness import ManualClock


def test_what_is_put_in_while_others_are_called_holds_up_nobody() -> None:
    clock = ManualClock()
    called: list[str] = []

    def on_due(item: str) -> None:
        called.append(item)
        deadlines.add(f"grace of {item}", deadlines.now_ms(), 10_000)

    deadlines: Deadlines[str] = Deadlines(clock, on_due)
    deadlines.add("first", deadlines.now_ms(), 1_000)
    deadlines.add("second", deadlines.now_ms(), 1_000 + NEAR_MS)

    clock.advance_ms(1_000)
    assert called == ["first"]
    clock.advance_ms(NEAR_MS)
    assert called == ["first", "second"]
