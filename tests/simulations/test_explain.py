"""The explanation names what began it, and what happened to each task, in words; traces of other versions are read too."""

from __future__ import annotations

import pytest
from foliot.runtime.ids import to_text
from foliot.simulations.case import (
    Block,
    Case,
    ClockDrift,
    ClockStep,
    Crash,
    CrashAt,
    Fault,
    Lossy,
    Options,
    Partition,
    Pause,
    Purge,
    Retry,
    Scale,
    SetQueue,
    StoreTrouble,
    Submit,
)
from foliot.simulations.event_words import event_words
from foliot.simulations.events import InvalidTraceError, encode_trace, read_trace, trace_of
from foliot.simulations.explain import NoSuchTaskError, differ, explain
from foliot.simulations.trace import Trace, write_trace
from foliot.simulations.words import case_words, fault_words, span
from msgspec.structs import replace

from .toy_runs import plan, result, traced, violation

TASK = "0abc000000001"


def test_the_way_back_ends_at_the_fault_that_began_it() -> None:
    lines = explain(trace_of(replace(result(plan(3)), lines=traced())))

    assert lines[0] == f"tasks:lost at 1.300000 s: task {TASK} is lost"
    assert lines[1:5] == [
        "how it came to this:",
        "     0.150000 s  w1        fault: w1 is killed, back after 1 s",
        "     1.200000 s  n1        mystery odd=3",
        f"     1.300000 s            VIOLATION tasks:lost: task {TASK} is lost",
    ]


def test_the_life_of_a_task_is_told_step_by_step() -> None:
    trace = trace_of(replace(result(plan(3)), lines=traced()))

    assert explain(trace, task=TASK) == [
        f"task {TASK}:",
        "     0.102000 s  n1        is queued in shard 3, epoch 1",
        f"     0.103000 s  client    submission a ended: ok ({TASK})",
        f"     0.111000 s  w1        task {TASK} attempt 1 starts: toy",
    ]
    assert explain(trace)[-3:] == explain(trace, task=TASK)[-3:]


def test_a_violation_known_from_the_header_has_the_last_event_of_its_task_as_cause() -> None:
    lines = [line for line in traced() if b'"violation"' not in line and b"mystery" not in line]
    shown = violation(2_000, subject=TASK)

    trace = trace_of(replace(result(plan(3), shown), lines=lines))

    [event] = trace.violations()
    assert (event.at_ns, event.tasks()) == (2_000_000_000, [TASK])
    assert trace.events[-1] == event
    told = explain(trace)
    assert told[2].endswith("client    asks to submit a count=1")
    assert f"task {TASK} attempt 1 starts: toy" in told[5]


def test_an_unknown_task_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(NoSuchTaskError, match=f"no event is about task 'nope', expected one of {TASK}"):
        explain(trace_of(replace(result(plan(3)), lines=traced())), task="nope")


def test_without_a_violation_it_says_so() -> None:
    assert explain(trace_of(result(plan(1))))[0].startswith("no violations")


def test_long_chains_are_shortened_in_the_middle() -> None:
    trace = Trace(keep=True)
    for number in range(500):
        trace.note(number, "n1", 1, "point", name=f"p{number}")
    trace.note(500, "", 0, "violation", oracle="a", kind="b", subject="3", text="c")

    lines = explain(read_trace(write_trace({}, trace.finish())))

    assert len(lines) < 50
    assert "passes p0" in lines[2]
    assert "... 461 more ..." in lines[12]
    assert "passes p499" in lines[-2]


# -- traces ------------------------------------------------------------------------------------------------------------


def test_a_trace_file_gives_back_what_was_recorded() -> None:
    recorded = replace(result(plan(3), violation(1_300, subject=TASK)), lines=traced())

    trace = read_trace(encode_trace(recorded))

    assert trace == trace_of(recorded)
    assert [event.kind for event in trace.events].count("violation") == 1
    assert (trace.header["seed"], trace.header["digest"]) == (3, recorded.digest)


def test_events_of_unknown_kinds_or_with_missing_fields_are_told_as_they_are() -> None:
    lines = (
        b'{"foliot_trace":1}\n{"k":"mystery","odd":3,"empty":""}\n{"k":"send"}\n{"k":"commit","tasks":[7],"states":[]}\n{}\n'
    )

    told = [event_words(event) for event in read_trace(lines).events]

    assert told == ["mystery odd=3", "sends a message to ", "commits shard  epoch : 0 rows (7)", ""]


def test_every_kind_without_its_fields_has_words() -> None:
    kinds = "start stop stop_asked kill power pause resume fault heal send deliver commit claim refused submit submitted"
    kinds += " command configured body body_end effect clock log point trouble note violation"
    lines = b"\n".join(b'{"k":"%s"}' % kind.encode() for kind in kinds.split())

    for event in read_trace(lines).events:
        assert isinstance(event_words(event), str)


def test_ids_written_as_integers_are_shown_as_people_see_them() -> None:
    number = (200_000_000_000 << 22) + 5
    trace = Trace(keep=True)
    trace.note(0, "w1", 1, "effect", task=number, attempt=1, number=0, accepted=False)
    trace.note(0, "client", 1, "submitted", ref="a", ids=[number, 0], outcome="ok")

    effect, submitted = read_trace(write_trace({}, trace.finish())).events

    assert effect.tasks() == submitted.tasks() == [to_text(number)]
    assert event_words(effect) == f"task {to_text(number)} effect 0 of attempt 1: refused"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "line 1 is not JSON"),
        (b"{}\n[1]\n", "line 2 is no object"),
        (b'{}\n{"i":0}\nnot json', "line 3 is not JSON"),
        (b'{}\n{"i":"x"}', "line 2 has no integers where"),
    ],
)
def test_what_is_no_trace_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidTraceError, match=reason) as raised:
        read_trace(data, where="a.trace")

    assert str(raised.value).startswith("a.trace holds no trace: ")


def test_two_runs_part_at_their_first_different_event() -> None:
    lines = traced()
    other = [*lines[:9], lines[9].replace(b'"run"', b'"ran"'), *lines[10:]]
    first, second = (read_trace(write_trace({}, each)) for each in (lines, other))

    told = differ(first, second)

    assert told[0] == "the same up to event 9"
    assert told[-3:] == [
        "A    0.110000 s  n1        sends run to worker.w1, to arrive at w1",
        "B    0.110000 s  n1        sends ran to worker.w1, to arrive at w1",
        "  msg: run in A, ran in B",
    ]
    assert differ(first, first) == []
    assert differ(first, read_trace(write_trace({}, lines[:-1])))[-1] == "B ends here"


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Crash(1, "n1"), "n1 is killed, back after 1 s"),
        (Crash(1, "n1", "power", -1), "the machine of n1 loses power, back when the run heals"),
        (CrashAt(1, "w1", "store.commit.after", 2), "w1 is killed at its 2nd passing of store.commit.after, back after 1 s"),
        (Pause(1, "n1", 2_500), "n1 stands still for 2.5 s"),
        (Partition(1, [["n1", "w1"], ["n2"]], 500), "the network is cut between n1 w1 | n2 for 500 ms"),
        (Block(1, "n1", "db", 500, hold=True), "messages from n1 to db are held back for 500 ms"),
        (Lossy(1, 500, loss=25, source="n1"), "links from n1 are bad for 500 ms: 2.5 % lost"),
        (ClockStep(1, "n1", -90_000), "the wall clock of n1 is set back by 90 s"),
        (ClockDrift(1, "n1", 200), "the clocks of n1 run 200 ppm fast"),
        (StoreTrouble(1, 500, refused=10, slow_ms=5), "the store is in trouble for 500 ms: 1 % refused, 5 ms slower"),
    ],
)
def test_a_fault_is_told_in_words(fault: Fault, words: str) -> None:
    assert fault_words(fault) == words


def test_a_case_is_told_in_order_of_time_with_what_is_not_as_usual() -> None:
    case = Case(
        seed=7,
        options=Options(skew_ms=300),
        faults=[Pause(4_000, "w1", 500), Crash(1_000, "n1")],
        work=[
            Submit(at_ms=1_500, ref="a", count=3, acts=["fail", "ok"], key="k"),
            Retry(9_000, "a"),
            Scale(2_000, "w1", up=False),
            SetQueue(3_000, paused=True),
            Purge(9_500),
        ],
        expect="tasks:lost",
    )

    assert case_words(case) == [
        "seed 7, profile swarm: 3 nodes, 4 workers, 8 slots, 60 s of work (skew_ms=300)",
        "expected: tasks:lost",
        "2 faults:",
        "      1.000 s  n1 is killed, back after 1 s",
        "      4.000 s  w1 stands still for 500 ms",
        "5 entries of work:",
        "      1.500 s  client submits 3 tasks 'a' to acme/default: fail, then ok; take 20 ms; 1 effects each (key=k)",
        "      2.000 s  worker w1 leaves",
        "      3.000 s  client sets queue default (paused=True)",
        "      9.000 s  client retries 'a'",
        "      9.500 s  what ended 10 s ago or earlier is deleted",
    ]


def test_spans_are_short() -> None:
    assert [span(ms) for ms in (0, 999, 1_500, 90_000, 150_500, 600_000, -20)] == [
        "0 ms", "999 ms", "1.5 s", "90 s", "150.5 s", "10 min", "-20 ms",
    ]  # fmt: skip
