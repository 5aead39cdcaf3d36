"""Parts of large messages: what is complete is whole, whatever else arrives between."""

from __future__ import annotations

import random

import pytest
from foliot.transports.nats.frames import FrameError
from foliot.transports.nats.parts import MAX_BYTES, Parts, is_part

MOST = 1_024


def test_what_is_cut_is_put_together_and_no_part_is_too_large() -> None:
    for size in (1, MOST, 5_000, 100_000):
        data = random.Random(size).randbytes(size)
        parts = Parts("a").cut(data, MOST)
        other = Parts("b")

        assert all(len(part) <= MOST and is_part(part) for part in parts)
        assert [other.take(part) for part in parts] == [None] * (len(parts) - 1) + [data]


def test_messages_of_several_senders_do_not_mix() -> None:
    first, second = Parts("a").cut(b"1" * 3_000, MOST), Parts("b").cut(b"2" * 3_000, MOST)
    end = Parts("c")

    taken = [end.take(part) for pair in zip(first, second, strict=True) for part in pair]

    assert [each for each in taken if each is not None] == [b"1" * 3_000, b"2" * 3_000]


@pytest.mark.parametrize("missing", [0, 2, 5])
def test_a_message_that_misses_a_part_is_lost_and_the_next_is_not(missing: int) -> None:
    sender, end = Parts("a"), Parts("b")
    parts = sender.cut(b"1" * 3_000, MOST)
    assert len(parts) == 6

    for at, part in enumerate(parts):
        if at < missing:
            assert end.take(part) is None
        elif at > missing:
            with pytest.raises(FrameError):
                end.take(part)
    assert [end.take(part) for part in sender.cut(b"2" * 600, MOST)] == [None, b"2" * 600]


def test_rubbish_takes_no_room() -> None:
    end = Parts("b")
    for at in range(1_000):
        end.take(Parts(str(at)).cut(b"1" * 3_000, MOST)[0])
    parts = Parts("a").cut(b"1" * (MAX_BYTES + 600), MAX_BYTES + 1_024)

    for rubbish in (b"\xc1", b"\xc1" * 17, *parts):
        with pytest.raises(FrameError):
            end.take(rubbish)
    assert len(end._open) <= 8
