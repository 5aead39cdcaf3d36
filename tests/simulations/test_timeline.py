"""The timeline has what happened, stands alone, and stays within its bounds."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

from foliot.simulations.case import Options
from foliot.simulations.events import TraceFile, encode_trace, read_trace, trace_of
from foliot.simulations.timeline import lane_names, page, page_data, thin
from foliot.simulations.trace import Trace, write_trace
from msgspec.structs import replace

from ..sources import ROOT
from .toy_runs import plan, result, traced, violation

MS = 1_000_000
TASK = "0abc000000001"


def story() -> TraceFile:
    case = replace(plan(3), options=Options(duration_ms=30_000, skew_ms=300))
    return read_trace(encode_trace(replace(result(case, violation(1_300, subject=TASK)), lines=traced())))


def embedded_data(html: str) -> dict[str, Any]:
    found = re.search(r"^const D = (.*);$", html, re.MULTILINE)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def noisy(count: int) -> list[bytes]:
    """Return a trace of messages between two nodes, of which the last led to a violation, and a commit now and then."""
    trace = Trace(keep=True)
    trace.note(0, "n1", 1, "start")
    trace.note(0, "n2", 1, "start")
    for number in range(count):
        trace.cause = -1
        trace.note(number, "n1", 1, "send", to="a", msg="M", src="b", rx=["n2"], at=[number + 5])
        if number % 10 == 0:
            trace.note(number, "n2", 1, "commit", shard=1, epoch=1, rows=1, tasks=[], states=[])
    trace.note(count, "n2", 1, "violation", oracle="a", kind="b", subject="1", text="c")
    return trace.finish()


def test_the_page_stands_alone_and_says_what_is_violated() -> None:
    html = page(story())

    assert not re.search(r"(src|href)\s*=|@import|url\(|https?:", html)
    data = embedded_data(html)
    assert data["title"] == "seed 3: tasks:lost"
    assert data["about"][:2] == ["profile swarm", "3 nodes, 4 workers, 8 slots, 30 s of work (skew_ms=300)"]
    assert [each[1:] for each in data["violations"]] == [["tasks:lost", f"task {TASK} is lost"]]
    assert [each[2] for each in data["faults"]] == [
        "w1 is killed, back after 1 s",
        "the network is cut between n1 | n2 for 200 ms",
    ]


def test_lanes_come_world_clients_nodes_database_workers_by_number() -> None:
    trace = Trace(keep=True)
    for name in ("w10", "n2", "odd", "w2", "db", "client", "n1", "world"):
        trace.note(0, name, 1, "note", text="here")

    events = read_trace(write_trace({}, trace.finish())).events

    assert lane_names(events) == ["world", "client", "n1", "n2", "db", "w2", "w10", "odd"]


def test_a_lane_shows_when_its_process_lived_and_stood_still() -> None:
    trace = Trace(keep=True)
    for at_ms, kind in [
        (0, "start"),
        (10, "pause"),
        (20, "resume"),
        (30, "pause"),
        (40, "kill"),
        (60, "start"),
        (80, "pause"),
    ]:
        trace.note(at_ms * MS, "n1", 1, kind)
    trace.note(50 * MS, "db", 1, "power", taken=2)
    trace.note(100 * MS, "world", 0, "heal")

    data = page_data(read_trace(write_trace({}, trace.finish())))

    lane = data["lanes"].index("n1")
    spans = [(kind, a // MS, b // MS) for where, a, b, kind in data["spans"] if where == lane]
    assert spans == [("up", 0, 40), ("up", 60, 100), ("paused", 10, 20), ("paused", 30, 40), ("paused", 80, 100)]
    assert [data["lanes"].index("db"), 0, 100 * MS, "up"] in data["spans"], "a machine that never starts is there all along"


def test_handlers_are_bars_that_end_with_their_process() -> None:
    trace = Trace(keep=True)
    trace.note(0, "w1", 1, "start")
    trace.note(1 * MS, "w1", 1, "body", task="0abc000000001", attempt=1, handler="toy")
    trace.note(2 * MS, "w1", 1, "body", task="0abc000000002", attempt=1, handler="toy")
    trace.note(3 * MS, "w1", 1, "body_end", task="0abc000000002", attempt=1, how="raised")
    trace.note(4 * MS, "w1", 1, "kill")
    trace.note(5 * MS, "w1", 2, "start")
    trace.note(6 * MS, "w1", 2, "body", task="0abc000000001", attempt=2, handler="toy")
    trace.note(9 * MS, "world", 0, "heal")

    data = page_data(read_trace(write_trace({}, trace.finish())))

    assert [(task[-1], attempt, how, a // MS, b // MS) for _, a, b, task, attempt, how, _ in data["bodies"]] == [
        ("1", "1", "lost", 1, 4),
        ("2", "1", "raised", 2, 3),
        ("1", "2", "running", 6, 9),
    ]


def test_a_partition_is_a_band_on_its_machines() -> None:
    data = page_data(story())

    [band] = data["bands"]
    assert [data["lanes"][lane] for lane in band["lanes"]] == ["n1", "n2"]
    assert (band["from"] // MS, band["to"] // MS) == (160, 360)


def test_messages_arrive_are_lost_or_stay_within_their_process() -> None:
    trace = Trace(keep=True)
    trace.note(7, "n1", 1, "send", to="a", msg="M", src="b", rx=["n1", "n2", "n3"], at=[0, 20, -1])
    trace.note(9, "n1", 1, "send", to="a", msg="M", src="b", rx=["n2"], at=[30], lost="blocked")

    data = page_data(read_trace(write_trace({}, trace.finish())))

    assert [(data["lanes"][lane], at_ns) for _, lane, at_ns in data["messages"]] == [
        ("n1", 7), ("n2", 20), ("n3", -1), ("n2", -1),
    ]  # fmt: skip


def test_messages_are_left_out_first_and_the_page_says_so() -> None:
    events = read_trace(write_trace({}, noisy(2_000))).events

    kept, left_out = thin(events, limit=500)

    assert len(kept) == 500
    assert left_out == {"send": len(events) - 500}
    assert sum(event.kind == "commit" for event in kept) == 200
    times = [event.at_ns for event in kept if event.kind == "send"]
    assert len(times) > 200
    assert max(b - a for a, b in pairwise(times)) < 20, "evenly spread"


def test_what_led_to_a_violation_stays_however_few_are_shown() -> None:
    trace = Trace(keep=True)
    sent = trace.note(0, "n1", 1, "send", to="a", msg="M", src="b", rx=["n2"], at=[5])
    for number in range(1_000):
        trace.cause = -1
        trace.note(number, "n1", 1, "send", to="a", msg="M", src="b", rx=["n2"], at=[number + 5])
    trace.cause = sent
    trace.note(1_000, "n2", 1, "violation", oracle="a", kind="b", subject="1", text="c")
    whole = read_trace(write_trace({}, trace.finish()))

    data = page_data(whole, limit=40)

    assert len(data["events"]) == 40
    place = data["violations"][0][0]
    cause = data["events"][place][3]
    assert data["events"][cause][0] == 0
    assert data["about"] == ["not shown, there are too many: 962 send"]


def test_a_cause_that_is_left_out_is_bridged() -> None:
    trace = Trace(keep=True)
    trace.note(0, "n1", 1, "submit", ref="a")
    for number in range(100):
        trace.note(1 + number, "n1", 1, "deliver", to="a", msg="M")
    trace.note(200, "n1", 1, "commit", shard=1, epoch=1, rows=1, tasks=[], states=[])

    data = page_data(read_trace(write_trace({}, trace.finish())), limit=2)

    assert [event[2] for event in data["events"]] == ["submit", "commit"]
    assert data["events"][1][3] == 0


def test_text_cannot_end_the_script() -> None:
    trace = Trace(keep=True)
    trace.note(0, "n1", 1, "note", text="</script><!-- x")

    html = page(read_trace(write_trace({}, trace.finish())))

    assert html.count("</script>") == 1
    assert "<!--" not in html
    assert embedded_data(html.replace("<\\!--", "<!--"))["events"][0][4] == "</script><!-- x"


def test_an_empty_run_has_a_page() -> None:
    assert embedded_data(page(trace_of(result(plan(1)))))["title"] == "seed 1: no violations"


def test_a_long_wait_at_the_end_is_not_what_is_shown_first() -> None:
    trace = Trace(keep=True)
    trace.note(60_000 * MS, "world", 0, "heal")
    trace.note(300_000 * MS, "world", 0, "violation", oracle="a", kind="b", subject="1", text="c")

    data = page_data(read_trace(write_trace({}, trace.finish())))

    assert (data["busy"], data["end"]) == (72_000 * MS, 300_000 * MS)


def test_the_template_is_installed() -> None:
    assert '"foliot.simulations" = ["*.html"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
