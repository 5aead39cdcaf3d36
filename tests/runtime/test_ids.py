"""Ids of one shard only grow, carry their time and shard, and have one text form."""

from __future__ import annotations

from itertools import pairwise

import pytest
from foliot.runtime.ids import (
    EPOCH_MS,
    MAX_ID,
    MAX_SHARDS,
    IdSource,
    InvalidIdError,
    from_text,
    shard_of,
    time_of_ms,
    to_text,
)
from hypothesis import example, given
from hypothesis import strategies as st

NOW_MS = 1_700_000_000_000
PER_MS = 4_096

ids = st.integers(0, MAX_ID)
shards = st.integers(0, MAX_SHARDS - 1)


@given(
    shard=shards,
    steps=st.lists(st.tuples(st.integers(-10_000, 10_000), st.integers(0, 3 * PER_MS)), min_size=1, max_size=8),
)
def test_ids_grow_whatever_the_clock_does(shard: int, steps: list[tuple[int, int]]) -> None:
    source, now_ms, made = IdSource(shard), NOW_MS, [0]
    for step_ms, count in steps:
        now_ms += step_ms
        block = source.block(now_ms, count)
        assert len(block) == count
        made.extend(block)

    assert all(before < after for before, after in pairwise(made))
    assert all(shard_of(id_) == shard for id_ in made[1:])


def test_an_id_carries_its_time_and_shard() -> None:
    made = IdSource(513).next_id(NOW_MS)

    assert time_of_ms(made) == NOW_MS
    assert shard_of(made) == 513


def test_a_clock_set_back_continues_the_old_millisecond() -> None:
    source = IdSource(3)
    first = source.next_id(NOW_MS)

    second = source.next_id(NOW_MS - 60_000)

    assert second == first + 1


def test_a_used_up_millisecond_begins_the_next_one_early() -> None:
    source = IdSource(3)

    block = source.block(NOW_MS, PER_MS + 1)
    following = source.next_id(NOW_MS)

    assert [time_of_ms(id_) for id_ in (block[0], block[PER_MS - 1], block[PER_MS])] == [NOW_MS, NOW_MS, NOW_MS + 1]
    assert following == block[-1] + 1
    assert len(set(block)) == PER_MS + 1


def test_a_source_continues_after_the_last_id_it_is_given() -> None:
    last = IdSource(3).block(NOW_MS, 10)[-1]

    assert IdSource(3, last_id=last).next_id(NOW_MS) == last + 1
    assert time_of_ms(IdSource(3, last_id=last).next_id(NOW_MS + 1)) == NOW_MS + 1


def test_a_clock_before_the_epoch_still_gives_growing_ids() -> None:
    source = IdSource(0)

    block = source.block(0, 2)

    assert time_of_ms(block[0]) == EPOCH_MS
    assert source.next_id(-1) > block[1] > block[0]


def test_an_empty_block_uses_nothing_up() -> None:
    source = IdSource(1)
    before = source.next_id(NOW_MS)

    assert source.block(NOW_MS, 0) == []
    assert source.next_id(NOW_MS) == before + 1


@given(ids)
@example(0)
@example(MAX_ID)
def test_the_text_form_is_read_back(id_: int) -> None:
    text = to_text(id_)

    assert len(text) == 13
    assert from_text(text) == id_
    assert from_text(text.upper()) == id_


@given(ids, ids)
def test_texts_sort_as_ids_do(one: int, other: int) -> None:
    assert (to_text(one) < to_text(other)) == (one < other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0" * 12,
        "0" * 14,
        "000000000000i",
        "000000000000l",
        "000000000000o",
        "000000000000u",
        "000000000000-",
        " 000000000000",
        "000000000000é",
        "8000000000000",  # 2**63
        "zzzzzzzzzzzzz",
    ],
)
def test_a_text_that_is_no_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidIdError) as caught:
        from_text(text)

    assert str(caught.value) == f"{text!r} is not an id, expected 13 characters of 0-9 and a-z without i, l, o, u"
    assert caught.value.text == text
    assert caught.value.code == "invalid_id"


def test_a_long_text_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidIdError) as caught:
        from_text("x" * 10_000)

    assert len(str(caught.value)) < 200


@given(st.text("0123456789abcXYZ-ilouö", max_size=15))
def test_any_text_is_an_id_or_refused(text: str) -> None:
    try:
        id_ = from_text(text)
    except InvalidIdError:
        return
    assert to_text(id_) == text.lower()


@given(shard=shards, steps=st.lists(st.tuples(st.integers(-2, 2), st.integers(0, PER_MS)), min_size=1, max_size=8))
def test_one_id_is_a_block_of_one(shard: int, steps: list[tuple[int, int]]) -> None:
    singly, together, now_ms = IdSource(shard), IdSource(shard), NOW_MS
    for step_ms, count in steps:
        now_ms += step_ms
        assert singly.block(now_ms, count) == together.block(now_ms, count)
        assert [singly.next_id(now_ms)] == together.block(now_ms, 1)
