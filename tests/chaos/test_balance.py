"""The balance of the chaos runs: it is even when all went well, and says what did not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from foliot.runtime.rng import Rng

from .balance import Seen, Told, Verdict, judge
from .faults import KINDS, Deck
from .listener import Ends
from .traffic import SCHEDULES, Book
from .witness import Witness, witness_of

MAYBE = frozenset({"completed", "dead"})


def _book() -> Book:
    book = Book()
    book.accept("plain", "a")
    book.accept("once", "b")
    book.accept("maybe", "c", MAYBE)
    book.accept("cancelled", "d", frozenset({"cancelled"}))
    book.keys["key"] = {"b"}
    book.never.add("d")
    book.handed.append(7)
    return book


def _ticks(*moments: int) -> dict[str, list[int]]:
    return {name: list(moments) for name in SCHEDULES}


LINES = [
    "S a a-1 10 1000 -", "S a a-2 11 3000 -", "E a a-2 11 4000 -",  # the first worker was killed at 2000
    "S b b-1 11 1000 -", "E b b-1 11 1500 -",
    "S c c-1 10 1000 -",
    "H e e-1 10 1000 7", "H e e-2 11 1000 7", "H f f-1 11 1000 8",  # the broker's word for the second was lost
    *[f"T t{name}{at} t{name}{at}-1 11 {at} {name}@{at}" for name in SCHEDULES for at in (1_000, 2_000, 3_000)],
]  # fmt: skip
STATES = {"a": "completed", "b": "completed", "c": "dead", "d": "cancelled", "e": "completed", "f": "completed"}
ENDED_NS = dict.fromkeys(STATES, 10**12)
SEEN = Seen(STATES, {"b": "b-1"}, {"b": {(1, 2, 3)}}, _ticks(3_000, 2_000, 1_000), 4, True, [], ENDED_NS)
ENDS: Ends = {task: {(state, 1): None} for task, state in STATES.items()}
TOLD = Told(ENDS, ENDS, [])


def _judged(*lines: str, without: str = "", book: Book | None = None, told: Told = TOLD, **seen: Any) -> Verdict:
    witness = witness_of([line for line in [*LINES, *lines] if line != without])
    return judge(book or _book(), witness, replace(SEEN, **seen), told)


def _but(task: str) -> Ends:
    return {each: ends for each, ends in ENDS.items() if each != task}


def test_the_balance_is_even_where_all_went_well() -> None:
    assert _judged() == Verdict()


@pytest.mark.parametrize(
    ("change", "lost", "duplicates", "said"),
    [
        ({"states": {**STATES, "c": "completed", "a": "dead"}}, 3, 0, "ended otherwise than they had to: a is dead"),
        ({"states": {**STATES, "z": "running"}}, 1, 0, "1 tasks have not ended: z"),
        ({"results": {"b": "b-2"}}, 1, 0, "that had no effect: b: b-2"),
        ({"outcomes": {"b": {(1, 2, 3), (2, 3, 4)}}}, 0, 1, "whose outcome changed: b"),
        ({"ledger": 5}, 0, 1, "completions beyond the completed tasks"),
        ({"ledger": 3}, 1, 0, "the ledger does not count"),
        ({"ticks": _ticks(3_000, 1_000)}, 2, 0, f"never fired: {SCHEDULES[0]}@2000"),
        ({"ticks": _ticks(3_000, 2_000, 2_000, 1_000)}, 0, 2, "stand twice in the history"),
        ({"ticks": {SCHEDULES[0]: [2_000]}}, 1, 0, f"schedules without ticks: {SCHEDULES[1]}"),
        ({"states": {**STATES, "e": "dead"}, "ledger": 3}, 2, 0, "did not end as a completed task: 7"),
        ({"told": Told(_but("a"), ENDS, [])}, 1, 0, "did not hear: a"),
        ({"told": Told(_but("a"), _but("a"), [10**12 + 16 * 10**9])}, 1, 0, "no event told: a"),
        ({"told": Told({**ENDS, "a": {("completed", 1): None, ("completed", 2): None}}, ENDS, [])}, 0, 1, "once, as ev"),
        ({"balanced": False, "differences": ["queue q: 1"]}, 0, 0, "the ledger does not balance: queue q: 1"),
    ],
)
def test_what_the_product_says_is_held_against_what_it_acknowledged(
    change: dict[str, Any], lost: int, duplicates: int, said: str
) -> None:
    verdict = _judged(**change)
    assert (verdict.lost, verdict.duplicates) == (lost, duplicates)
    assert said in " | ".join(verdict.wrong)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("S c c-2 11 5000 -", "at-most-once tasks that started more than once: c"),
        ("S d d-1 11 5000 -", "cancelled in time that started: d"),
        ("S a a-2 12 5000 -", "attempts that started twice: a: a-2"),
        (f"T u u-1 11 9 {SCHEDULES[0]}@1000", "ticks that made more than one task"),
        ("H g g-1 11 9 8", "one-way submissions that became more than one task: 8"),
    ],
)
def test_what_the_handlers_saw_twice_is_a_duplicate(line: str, said: str) -> None:
    verdict = _judged(line)
    assert (verdict.lost, verdict.duplicates) == (0, 1)
    assert said in verdict.wrong[0]


def test_an_accepted_outcome_without_an_effect_and_a_tick_without_a_run_are_lost() -> None:
    assert _judged(without="E b b-1 11 1500 -").lost == 1
    tick = next(line for line in LINES if line.startswith("T"))
    assert "ticks whose task never ran" in _judged(without=tick).wrong[0]


def test_what_a_node_did_just_before_it_died_may_stay_untold() -> None:
    verdict = _judged(told=Told(_but("a"), _but("a"), [10**12 + 14 * 10**9]))
    assert verdict == Verdict(untold=1)


def test_two_tasks_of_one_key_are_a_duplicate() -> None:
    book = _book()
    book.keys["key"].add("e")
    assert _judged(book=book).duplicates == 1


def test_what_a_killed_worker_ran_is_timed_until_it_starts_again() -> None:
    witness = witness_of(LINES)
    assert witness.requeue_s(10, 2_000) == [(3_000 - 2_000) / 1e9]  # c is tried once only
    assert witness.requeue_s(11, 6_000) == []  # all it had begun was done


def test_a_line_that_was_cut_off_does_not_count() -> None:
    assert witness_of(["S a a-1 10 10", "E a"]) == Witness()


def test_every_kind_of_fault_comes_once_before_any_comes_again() -> None:
    deck = Deck(KINDS, Rng(7))
    first, second = ([deck.draw() for _ in KINDS] for _ in range(2))
    assert sorted(first) == sorted(second) == sorted(KINDS)
    assert first != second


def test_what_comes_beside_a_fault_hits_something_else_and_does_not_come_again() -> None:
    deck = Deck(("node_kill", "node_stop", "nats_all"), Rng(7))
    first = next(kind for kind in iter(deck.draw, None) if kind != "nats_all")
    assert deck.draw_beside(first) in ("nats_all", None)
    deck = Deck(("node_kill", "node_stop"), Rng(7))
    assert deck.draw_beside(deck.draw()) is None
