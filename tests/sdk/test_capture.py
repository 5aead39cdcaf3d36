"""Captured output: routed by attempt, bounded, and out of the way when no worker runs."""

from __future__ import annotations

import contextvars
import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def routed() -> Iterator[io.StringIO]:
    """Route the output of this process; what passes through arrives here."""
    before = sys.stdout, sys.stderr
    out = io.StringIO()
    sys.stdout = sys.stderr = out
    capture.install()
    try:
        yield out
        capture.uninstall()
        assert (sys.stdout, sys.stderr) == (out, out)
    finally:
        sys.stdout, sys.stderr = before


def test_output_goes_to_the_attempt_it_was_made_in() -> None:
    first, second = Kept(), Kept()

    with routed() as out:
        inside(first, print, "one")
        inside(second, lambda: print("two", file=sys.stderr))
        inside(first, lambda: sys.stdout.writelines(["a", "b"]))
        print("nobody's")

    assert (first.text(), second.text()) == ("one\nab", "two\n")
    assert out.getvalue() == "nobody's\n"


def test_records_of_the_standard_library_are_kept_too() -> None:
    kept = Kept()

    def work() -> None:
        logging.getLogger("shop").warning("only %d left", 3)
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("shop").exception("failed")

    with routed():
        inside(kept, work)
        logging.getLogger("shop").warning("outside")

    text = kept.text()
    assert " warning  shop: only 3 left\n" in text
    assert "error    shop: failed\nTraceback" in text
    assert "ValueError: broken\n" in text
    assert "outside" not in text


def test_a_thread_in_another_context_is_not_the_attempts() -> None:
    kept = Kept()

    def work() -> None:
        thread = threading.Thread(target=print, args=("elsewhere",))
        thread.start()
        thread.join()

    with routed() as out:
        inside(kept, work)

    assert kept.text() == ""
    assert out.getvalue() == "elsewhere\n"


def test_two_workers_share_the_routing_and_the_last_one_undoes_it() -> None:
    kept = Kept()
    root = logging.getLogger()
    handlers = list(root.handlers)

    with routed():
        capture.install()
        capture.uninstall()
        inside(kept, print, "still kept")
        assert len(root.handlers) == len(handlers) + 1

    assert kept.text() == "still kept\n"
    assert root.handlers == handlers


def test_what_somebody_else_put_in_place_stays() -> None:
    before, theirs = sys.stdout, io.StringIO()
    capture.install()
    sys.stdout = theirs
    capture.uninstall()
    found, sys.stdout = sys.stdout, before

    assert found is theirs


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
