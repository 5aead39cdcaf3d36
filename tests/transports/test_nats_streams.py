"""Streams and consumers as configured, pulls that end where they cannot go on in order, and publishes in a window."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import pytest
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import DeadlineError
from foliot.runtime.hashing import slot_of
from foliot.runtime.rng import Rng
from foliot.sdk.servers import LocalNats
from foliot.transports.nats.config import NatsConfig
from foliot.transports.nats.errors import ApiError, NoRespondersError, TooLargeError
from foliot.transports.nats.link import Delivery, NatsLink
from foliot.transports.nats.mail import words
from foliot.transports.nats.port import (
    ConsumerConfig,
    Entry,
    JetStreamMissingError,
    NotStoredError,
    StreamConfig,
    StreamFullError,
    StreamMismatchError,
)
from foliot.transports.nats.publish import Publisher, position_of
from foliot.transports.nats.pull import NatsConsumption, entry_of
from foliot.transports.nats.streams import NatsStreams, differences


async def open_link(nats: LocalNats) -> NatsLink:
    config = NatsConfig(nats.url, reconnect_max_ms=100)
    return await NatsLink.open(config, clock=SystemClock(), rng=Rng.of_the_system())


@pytest.fixture
async def link(nats_server: LocalNats) -> AsyncIterator[NatsLink]:
    link = await open_link(nats_server)
    yield link
    await link.close()


@pytest.fixture
async def streams(link: NatsLink) -> NatsStreams:
    return NatsStreams(link, clock=SystemClock(), timeout_ms=5_000)


@pytest.fixture
async def stream(streams: NatsStreams, link: NatsLink) -> AsyncIterator[StreamConfig]:
    """A stream of this test's own."""
    name = f"T{link.ident}"
    config = StreamConfig(name, (f"t.{link.ident}.*",), max_consumers=10, max_entries=1_000)
    yield config
    await streams._api(f"STREAM.DELETE.{name}")


def subject_of(stream: StreamConfig, word: str = "a") -> str:
    return stream.subjects[0].replace("*", word)


class Taken:
    """Takes entries, and notes them and the end."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.ended: list[str] = []

    def take(self, entry: Entry) -> None:
        self.entries.append(entry)

    async def until(self, count: int = 0, *, ends: int = 0) -> None:
        with anyio.fail_after(20):
            while len(self.entries) < count or len(self.ended) < ends:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


# -- streams -------------------------------------------------------------------------------------------------------------


async def test_a_stream_is_made_once_and_found_again(streams: NatsStreams, stream: StreamConfig, link: NatsLink) -> None:
    life = await streams.ensure(stream)

    again = await NatsStreams(link, clock=SystemClock()).ensure(stream)

    found = (await streams._api(f"STREAM.INFO.{stream.name}"))["config"]
    assert life == again != ""
    assert (found["num_replicas"], found["max_consumers"], found["max_msgs"], found["max_bytes"]) == (1, 10, 1_000, -1)


async def test_settings_that_may_change_are_changed_and_others_are_refused_by_name(
    streams: NatsStreams, stream: StreamConfig
) -> None:  # fmt: skip
    life = await streams.ensure(stream)

    assert await streams.ensure(replace(stream, max_entries=7, max_age_ms=60_000)) == life

    found = (await streams._api(f"STREAM.INFO.{stream.name}"))["config"]
    assert (found["max_msgs"], found["max_age"]) == (7, 60_000_000_000)
    with pytest.raises(StreamMismatchError, match=rf"stream {stream.name} .*retention is 'limits', expected 'workqueue'"):
        await streams.ensure(replace(stream, retention="workqueue"))


async def test_a_stream_that_vanished_is_made_again_under_another_life(streams: NatsStreams, stream: StreamConfig) -> None:
    life = await streams.ensure(stream)
    await streams._api(f"STREAM.DELETE.{stream.name}")

    again = await streams.ensure(stream)

    assert again > life


async def test_a_stream_that_cannot_be_is_refused_by_name(streams: NatsStreams) -> None:
    with pytest.raises(StreamMismatchError, match=r"stream TOO-MANY is not as it should be: .*replicas"):
        await streams.ensure(StreamConfig("TOO-MANY", ("too.many",), max_consumers=1, replicas=7))


async def test_servers_without_jetstream_are_refused_by_name() -> None:
    async with LocalNats(jetstream=False) as nats:
        link = await open_link(nats)
        streams = NatsStreams(link, clock=SystemClock())

        for call in (streams.check(), streams.ensure(StreamConfig("S", ("s",), max_consumers=1))):
            with pytest.raises(JetStreamMissingError, match="offer no JetStream: it is not enabled; start nats-server"):
                await call
        await link.close()


async def test_servers_with_jetstream_pass_the_check(streams: NatsStreams) -> None:
    await streams.check()


def test_settings_are_compared_where_absent_means_none() -> None:
    assert differences({"a": 0, "b": [], "c": 1}, {"c": 1, "d": 5}) == []
    assert differences({"a": 1}, {"a": 2}) == ["a is 2, expected 1"]


async def test_the_words_of_shards_are_what_the_servers_take_them_for(streams: NatsStreams, link: NatsLink) -> None:
    source = f"w.{link.ident}.*"
    to = f"x.{link.ident}.{{{{partition(64,1)}}}}"
    config = StreamConfig(f"W{link.ident}", (source,), max_consumers=1, transform=(source, to))
    await streams.ensure(config)
    for slot, word in enumerate(words(64)):
        assert slot_of(word, 64) == slot
        await streams.publish(source.replace("*", word), b"")

    state = (await streams._api(f"STREAM.INFO.{config.name}", {"subjects_filter": ">"}))["state"]

    assert state["subjects"] == {f"x.{link.ident}.{slot}": 1 for slot in range(64)}
    await streams._api(f"STREAM.DELETE.{config.name}")


# -- publishing ----------------------------------------------------------------------------------------------------------


async def test_an_id_within_the_window_is_stored_once(streams: NatsStreams, stream: StreamConfig) -> None:
    await streams.ensure(replace(stream, dedupe_ms=60_000))

    positions = [await streams.publish(subject_of(stream), b"x", message_id=name) for name in ("a", "a", "b")]

    assert positions == [1, 1, 2]


async def test_a_full_stream_says_when_to_try_again(streams: NatsStreams, stream: StreamConfig) -> None:
    await streams.ensure(replace(stream, discard="new", max_entries=2, max_per_subject=1))
    await streams.publish(subject_of(stream, "a"), b"x")

    with pytest.raises(StreamFullError, match="maximum messages per subject exceeded"):
        await streams.publish(subject_of(stream, "a"), b"x")
    await streams.publish(subject_of(stream, "b"), b"x")
    with pytest.raises(StreamFullError, match="maximum messages exceeded"):
        await streams.publish(subject_of(stream, "c"), b"x")


async def test_an_entry_that_is_too_large_is_refused_here_or_there(
    streams: NatsStreams, stream: StreamConfig, link: NatsLink
) -> None:  # fmt: skip
    await streams.ensure(replace(stream, max_entry_bytes=100))

    with pytest.raises(NotStoredError, match="message size exceeds maximum allowed"):
        await streams.publish(subject_of(stream), b"x" * 101)
    with pytest.raises(TooLargeError):  # by its header alone
        await streams.publish(subject_of(stream), b"x" * (link.max_message - 10), message_id="m" * 50)
    assert await streams.publish(subject_of(stream), b"x") == 1


async def test_nobody_to_store_an_entry_is_told_after_a_few_tries(streams: NatsStreams) -> None:
    with pytest.raises(NoRespondersError):
        await streams.publish("nowhere.at.all", b"x")


async def test_the_window_and_those_who_wait_for_it_are_bounded(link: NatsLink) -> None:
    heard: list[Delivery] = []
    subject = f"slow.{link.ident}"
    link.subscribe(subject, heard.append)
    publisher = Publisher(link, SystemClock(), window=2, waiting_max=3, timeout_ms=300)

    asked = [asyncio.ensure_future(publisher.publish(subject, b"x")) for _ in range(6)]
    results = await asyncio.gather(*asked, return_exceptions=True)

    kinds = [type(result) for result in results]
    assert (kinds.count(DeadlineError), kinds.count(StreamFullError)) == (5, 1)
    assert len(heard) == 5

    def confirm(delivery: Delivery) -> None:
        link.publish(delivery.reply, b'{"stream":"S","seq":9}')

    link.subscribe(subject, confirm)
    assert await publisher.publish(subject, b"x") == 9  # nothing of the window stayed taken


@pytest.mark.parametrize("answer", [b"", b"+OK", b"[]", b'{"stream":"S"}', b'{"seq":"x"}'])
def test_an_answer_that_confirms_nothing_is_no_confirmation(answer: bytes) -> None:
    with pytest.raises(NotStoredError):
        position_of("s", answer)


# -- consumers -----------------------------------------------------------------------------------------------------------


async def test_entries_come_in_order_with_position_and_stamp_and_go_when_acknowledged(
    streams: NatsStreams, stream: StreamConfig
) -> None:  # fmt: skip
    await streams.ensure(replace(stream, retention="workqueue"))
    for number in range(300):
        await streams.publish(subject_of(stream, "ab"[number % 2]), b"%d" % number)
    taken = Taken()
    consumption = await streams.consume(
        stream.name, ConsumerConfig("c", subject_of(stream), batch=20), taken.take, taken.ended.append
    )

    for count in range(40, 150, 10):  # no more than twice a batch is kept by the taker
        await taken.until(count)
        for entry in taken.entries[count - 40 : count - 30]:
            streams.ack(entry)
            consumption.release(entry)
    await taken.until(150)

    assert [int(entry.data) for entry in taken.entries] == list(range(0, 300, 2))
    assert [entry.position for entry in taken.entries] == list(range(1, 301, 2))
    assert [entry.number for entry in taken.entries] == list(range(1, 151))
    stamps = [entry.stamp for entry in taken.entries]
    assert stamps == sorted(stamps)
    with anyio.fail_after(10):
        while (await streams._api(f"STREAM.INFO.{stream.name}"))["state"]["messages"] > 190:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    consumption.close()
    assert taken.ended == []


async def test_what_the_taker_keeps_bounds_what_is_asked_for(streams: NatsStreams, stream: StreamConfig) -> None:
    await streams.ensure(stream)
    for _ in range(30):
        await streams.publish(subject_of(stream), b"x" * 100)
    taken = Taken()
    config = ConsumerConfig("c", subject_of(stream), batch=5)
    consumption = await streams.consume(stream.name, config, taken.take, taken.ended.append)
    await taken.until(10)
    await asyncio.sleep(0.1)
    kept = len(taken.entries)
    for entry in list(taken.entries):
        consumption.release(entry)

    await taken.until(20)

    assert kept == 10
    consumption.close()


async def test_a_consumer_that_is_deleted_ends_its_pulls_at_once(streams: NatsStreams, stream: StreamConfig) -> None:
    await streams.ensure(stream)
    taken = Taken()
    await streams.consume(stream.name, ConsumerConfig("c", subject_of(stream)), taken.take, taken.ended.append)
    await streams.publish(subject_of(stream), b"x")
    await taken.until(1)  # so the server has the requests

    await streams.forget(stream.name, "c")
    await streams.forget(stream.name, "c")
    await taken.until(ends=1)

    assert taken.ended == ["409 consumer deleted"]
    assert await streams.consumers(stream.name) == []


async def test_a_stream_that_is_deleted_ends_its_pulls_and_cannot_be_consumed(
    streams: NatsStreams, stream: StreamConfig
) -> None:  # fmt: skip
    await streams.ensure(stream)
    taken = Taken()
    await streams.consume(stream.name, ConsumerConfig("c", subject_of(stream)), taken.take, taken.ended.append)
    await streams.publish(subject_of(stream), b"x")
    await taken.until(1)
    await streams._api(f"STREAM.DELETE.{stream.name}")
    await taken.until(ends=1)

    with pytest.raises(ApiError, match="stream not found"):
        await streams.consume(stream.name, ConsumerConfig("d", subject_of(stream)), taken.take, taken.ended.append)

    assert len(taken.ended) == 1
    await streams.ensure(stream)


async def test_two_cannot_consume_the_same_work(streams: NatsStreams, stream: StreamConfig) -> None:
    await streams.ensure(replace(stream, retention="workqueue"))
    taken = Taken()
    await streams.consume(stream.name, ConsumerConfig("c", subject_of(stream)), taken.take, taken.ended.append)

    with pytest.raises(ApiError, match="filtered consumer not unique") as refused:
        await streams.consume(stream.name, ConsumerConfig("d", subject_of(stream)), taken.take, taken.ended.append)

    assert refused.value.err_code == 10100


async def test_an_entry_lost_on_its_way_ends_the_pulls_so_that_none_overtakes_it(
    streams: NatsStreams, stream: StreamConfig, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    await streams.ensure(stream)
    taken = Taken()
    config = ConsumerConfig("c", subject_of(stream))
    consumption = await streams.consume(stream.name, config, taken.take, taken.ended.append)
    assert isinstance(consumption, NatsConsumption)
    await streams.publish(subject_of(stream), b"0")
    await taken.until(1)
    lost: list[Delivery] = []
    with monkeypatch.context() as patch:
        patch.setattr(consumption, "arrived", lambda index, delivery: lost.append(delivery))
        await streams.publish(subject_of(stream), b"1")
        with anyio.fail_after(10):
            while not lost:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    await streams.publish(subject_of(stream), b"2")
    await taken.until(ends=1)

    assert [entry.data for entry in taken.entries] == [b"0"]
    assert taken.ended == ["entry 2 of consumer c was lost on its way"]


async def test_a_lost_connection_ends_the_pulls() -> None:
    async with LocalNats() as nats:
        link = await open_link(nats)
        streams = NatsStreams(link, clock=SystemClock())
        stream = StreamConfig("S", ("s.*",), max_consumers=4)
        await streams.ensure(stream)
        taken = Taken()
        await streams.consume("S", ConsumerConfig("c", "s.a"), taken.take, taken.ended.append)

        nats.kill()
        await taken.until(ends=1)

        assert taken.ended[0].startswith("disconnected: ")
        await nats.restart()
        with anyio.fail_after(20):
            while not link.is_up:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await streams.ensure(stream)
        await streams.consume("S", ConsumerConfig("d", "s.a"), taken.take, taken.ended.append)
        await streams.publish("s.a", b"x")
        await taken.until(1)
        await link.close()


async def test_a_reader_without_acknowledgements_begins_where_it_is_told(streams: NatsStreams, stream: StreamConfig) -> None:
    await streams.ensure(stream)
    for number in range(5):
        await streams.publish(subject_of(stream), b"%d" % number)
    by_position, by_time = Taken(), Taken()
    config = ConsumerConfig("p", subject_of(stream), acknowledges=False, after=3)
    await streams.consume(stream.name, config, by_position.take, by_position.ended.append)
    future = ConsumerConfig("t", subject_of(stream), acknowledges=False, since_ms=SystemClock().now_ms() + 100)
    await asyncio.sleep(0.15)
    await streams.consume(stream.name, future, by_time.take, by_time.ended.append)
    await streams.publish(subject_of(stream), b"5")

    await by_position.until(3)
    await by_time.until(1)

    assert [entry.data for entry in by_position.entries] == [b"3", b"4", b"5"]
    assert [entry.data for entry in by_time.entries] == [b"5"]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("$JS.ACK.S.c.1.7.3.1795288173462762404.2", (7, 3, 1_795_288_173_462_762_404)),
        ("$JS.ACK._.HASH.S.c.1.7.3.1795288173462762404.2", (7, 3, 1_795_288_173_462_762_404)),
        ("$JS.ACK._.HASH.S.c.1.7.3.1795288173462762404.2.token", (7, 3, 1_795_288_173_462_762_404)),
        ("_INBOX.x", None),
        ("$JS.ACK.S.c.1.x.3.5.2", None),
        ("", None),
    ],
)
def test_the_subject_that_acknowledges_tells_the_position(reply: str, found: Any) -> None:
    entry = entry_of(Delivery("s", b"", reply))

    assert (entry and (entry.position, entry.number, entry.stamp)) == found


def test_settings_go_out_as_the_api_takes_them() -> None:
    config = ConsumerConfig("c", "s", acknowledges=False, since_ms=1_795_288_173_400)

    assert config.body()["opt_start_time"] == "2026-11-21T19:09:33.4Z"
    body = json.loads(json.dumps(StreamConfig("S", ("s",), max_consumers=3, discard="new", max_per_subject=5).body()))
    assert (body["max_msgs_per_subject"], body["discard_new_per_subject"], body["max_msgs"]) == (5, True, -1)
