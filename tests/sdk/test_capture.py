"""Captured output: routed by attempt, bounded, and out of the way when no worker runs."""

from __future__ import annotations

import contextvars
import io
import logging
import sys
import threading
from typing import Any

import pytest
from foliot.sdk import capture
from foliot.sdk.capture import CHUNK, LIMIT, Capture, current, task_logger


class Kept:
    """An attempt as the routing sees it."""

    def __init__(self) -> None:
        self.told: list[bool] = []
        self.made = Capture(self.told.append)

    def capture(self) -> Capture:
        return self.made

    def text(self) -> str:
        return b"".join(text for _, text in self.made.take()).decode()


def inside(kept: Kept, function: Any, *args: Any) -> None:
    context = contextvars.copy_context()
    context.run(current.set, kept)
    context.run(function, *args)


@pytest.fixture
def routed(monkeypatch: pytest.MonkeyPatch) -> Any:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    capture.install()
    yield out
    capture.uninstall()
    assert (sys.stdout, sys.stderr) == (out, err)


def test_output_goes_to_the_attempt_it_was_made_in(routed: io.StringIO) -> None:
    first, second = Kept(), Kept()

    inside(first, print, "one")
    inside(second, lambda: print("two", file=sys.stderr))
    inside(first, lambda: sys.stdout.writelines(["a", "b"]))
    print("nobody's")

    assert (first.text(), second.text()) == ("one\nab", "two\n")
    assert routed.getvalue() == "nobody's\n"


def test_records_of_the_standard_library_are_kept_too(routed: io.StringIO) -> None:
    kept = Kept()

    def work() -> None:
        logging.getLogger("shop").warning("only %d left", 3)
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("shop").exception("failed")

    inside(kept, work)
    logging.getLogger("shop").warning("outside")

    text = kept.text()
    assert " warning  shop: only 3 left\n" in text
    assert "error    shop: failed\nTraceback" in text
    assert "ValueError: broken\n" in text
    assert "outside" not in text


def test_a_thread_in_another_context_is_not_the_attempts(routed: io.StringIO) -> None:
    kept = Kept()

    def work() -> None:
        thread = threading.Thread(target=print, args=("elsewhere",))
        thread.start()
        thread.join()

    inside(kept, work)

    assert kept.text() == ""
    assert routed.getvalue() == "elsewhere\n"


def test_two_workers_share_the_routing_and_the_last_one_undoes_it(routed: io.StringIO) -> None:
    capture.install()
    capture.uninstall()
    kept = Kept()

    inside(kept, print, "still kept")

    assert kept.text() == "still kept\n"
    handlers = [handler for handler in logging.getLogger().handlers if type(handler).__module__ == capture.__name__]
    assert len(handlers) == 1


def test_what_somebody_else_put_in_place_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    capture.install()
    theirs = io.StringIO()
    sys.stdout = theirs
    capture.uninstall()
    assert sys.stdout is theirs


def test_an_attempt_keeps_a_bounded_amount_and_says_so() -> None:
    kept = Kept()

    for _ in range(6):
        kept.made.write(b"x" * 60_000)

    text = kept.text()
    assert len(text) == LIMIT + len("\n[output left out: an attempt keeps at most 256 KiB]\n")
    assert text.endswith("x\n[output left out: an attempt keeps at most 256 KiB]\n")
    assert kept.text() == ""


def test_text_is_announced_once_and_full_chunks_once_more() -> None:
    kept = Kept()

    kept.made.write(b"a")
    kept.made.write(b"b")
    assert kept.told == [False]
    kept.made.write(b"c" * CHUNK)
    kept.made.write(b"d")
    assert kept.told == [False, True]
    assert [(part, len(text)) for part, text in kept.made.take()] == [(0, CHUNK), (1, 3)]
    kept.made.write(b"e")
    assert kept.told == [False, True, False]
    assert kept.made.take() == [(2, b"e")]


def test_a_task_logger_keeps_level_event_and_fields() -> None:
    events: list[tuple[str, str, str, dict[str, Any]]] = []
    log = task_logger(lambda *event: events.append(event), lambda: 1_896_076_800_000)

    log.bind(order=4).info("sending mail", to="a b", count=2)
    try:
        raise KeyError("k")
    except KeyError:
        log.exception("failed")

    assert events[0] == (
        "info", "2030-01-31T08:00:00.000Z info     sending mail order=4 to='a b' count=2\n", "sending mail",
        {"order": 4, "to": "a b", "count": 2},
    )  # fmt: skip
    assert events[1][0] == "error"
    assert events[1][1].endswith("KeyError: 'k'\n")
