"""Pulling from one consumer: two requests under way, entries handed over as they come, and an end that is always told.

What holds: entries are handed over in the consumer's own order without a gap; where one was lost on its way, where the
connection, the consumer or its leader went away, or where the server falls silent, the whole ends, since only a new consumer
begins again in order. What the taker has not released bounds what is asked for next.
"""

from __future__ import annotations

import json
from typing import Final

import structlog

from ...runtime.clock import Clock, Timer
from ...runtime.errors import FoliotError
from .link import Delivery, LinkState, NatsLink, Subscription
from .port import ConsumerConfig, Ended, Entry, Take

log = structlog.get_logger("foliot.transports.nats")

REQUESTS: Final = 2  # under way at once
_EXPIRES_MS: Final = 30_000
_HEARTBEAT_MS: Final = 5_000  # the server says so often that it still has the request
_SILENT_MS: Final = 12_000
_OVER: Final = ("batch completed", "message size exceeds maxbytes")  # of status 409: ask again


class NatsConsumption:
    """A consumer at work; implements `port.Consumption`."""

    def __init__(
        self, link: NatsLink, clock: Clock, stream: str, config: ConsumerConfig, take: Take, ended: Ended
    ) -> None:  # fmt: skip
        self._link = link
        self._clock = clock
        self._stream = stream
        self._config = config
        self._take = take
        self._ended = ended
        self._ask_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{config.name}"
        self._inbox = f"{link.inbox}.pull.{config.name}"
        self._requests = [_Request() for _ in range(REQUESTS)]
        self._asked = 0
        self._next = 1  # the number the next entry must have
        self._kept = 0  # entries handed over and not released
        self._kept_bytes = 0
        self._is_over = False
        self._heard_ms = clock.now_ms()
        self._timer: Timer | None = None
        self._subscriptions: list[Subscription] = []

    def begin(self) -> None:
        """Ask for the first entries."""
        for index in range(REQUESTS):
            subject = f"{self._inbox}.{index}.*"
            self._subscriptions.append(self._link.subscribe(subject, _Arrivals(self, index)))
        self._link.watch(self._link_changed)
        if not self._is_over:
            self._ask()
            self._look_later()

    def release(self, entry: Entry) -> None:
        self._kept -= 1
        self._kept_bytes -= len(entry.data)
        self._ask()

    def close(self) -> None:
        self._end("closed", is_told=False)

    # -- asking ------------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Send the requests there is room for."""
        config = self._config
        for index, request in enumerate(self._requests):
            room = config.batch * REQUESTS - self._kept - sum(each.left for each in self._requests)
            if self._is_over or room < (config.batch + 1) // 2 or self._kept_bytes >= config.batch_bytes:
                return
            if request.left:
                continue
            self._asked += 1
            request.left = min(config.batch, room)
            request.subject = f"{self._inbox}.{index}.{self._asked}"
            body = {
                "batch": request.left,
                "max_bytes": config.batch_bytes,
                "expires": _EXPIRES_MS * 1_000_000,
                "idle_heartbeat": _HEARTBEAT_MS * 1_000_000,
            }
            try:
                self._link.publish(self._ask_subject, json.dumps(body).encode(), reply=request.subject)
            except FoliotError as error:
                self._end(str(error))

    def _look_later(self) -> None:
        self._timer = self._clock.call_at_ms(self._clock.now_ms() + _HEARTBEAT_MS, self._look)

    def _look(self) -> None:
        """End if the server has said nothing for too long: it then does not know of the requests any more."""
        now_ms = self._clock.now_ms()
        if now_ms < self._heard_ms or not any(request.left for request in self._requests):
            self._heard_ms = now_ms
        if now_ms - self._heard_ms >= _SILENT_MS:
            self._end(f"the server said nothing for {_SILENT_MS} ms")
        elif not self._is_over:
            self._look_later()

    # -- what comes ----------------------------------------------------------------------------------------------------

    def arrived(self, index: int, delivery: Delivery) -> None:
        if self._is_over:
            return
        self._heard_ms = self._clock.now_ms()
        request = self._requests[index]
        if delivery.status:
            if delivery.subject == request.subject:
                self._said(request, delivery)
            return
        entry = entry_of(delivery)
        if entry is None or entry.number != self._next:
            self._end(f"entry {self._next} of consumer {self._config.name} was lost on its way")
            return
        self._next = entry.number + 1
        request.left -= 1
        self._kept += 1
        self._kept_bytes += len(entry.data)
        self._take(entry)
        if not request.left:
            self._ask()

    def _said(self, request: _Request, delivery: Delivery) -> None:
        """The server speaks itself."""
        status, description = delivery.status, (delivery.headers or {}).get("Description", "")
        if status == 100:
            return
        if status in (404, 408) or (status == 409 and description.lower() in _OVER):
            request.left = 0
            self._ask()
            return
        reason = "nobody has that consumer" if status == 503 else description.lower()
        self._end(f"{status} {reason}")

    def _link_changed(self, state: LinkState) -> None:
        if not state.is_up:
            self._end(f"disconnected: {state.reason}")

    def _end(self, reason: str, *, is_told: bool = True) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._link.unwatch(self._link_changed)
        for subscription in self._subscriptions:
            subscription.close()
        if self._timer is not None:
            self._timer.cancel()
        if is_told:
            self._ended(reason)


class _Request:
    """One request for entries. `left`: how many it may still bring, 0 if it is over."""

    __slots__ = ("left", "subject")

    def __init__(self) -> None:
        self.left = 0
        self.subject = ""


class _Arrivals:
    """What comes for one of the requests."""

    __slots__ = ("_consumption", "_index")

    def __init__(self, consumption: NatsConsumption, index: int) -> None:
        self._consumption = consumption
        self._index = index

    def __call__(self, delivery: Delivery) -> None:
        self._consumption.arrived(self._index, delivery)


def entry_of(delivery: Delivery) -> Entry | None:
    """Return the entry of a message that a consumer sent, None if its reply subject is not a consumer's.

    `$JS.ACK.<stream>.<consumer>.<times>.<position>.<number>.<stamp>.<pending>`, to which newer servers may add tokens: two
    before the stream's name, one behind."""
    tokens = delivery.reply.split(".")
    if tokens[:2] != ["$JS", "ACK"]:
        return None
    try:
        position, number, stamp = (int(token) for token in (tokens[5:8] if len(tokens) == 9 else tokens[7:10]))
    except ValueError:
        return None
    return Entry(delivery.subject, delivery.data, position, stamp, number, delivery.reply)
