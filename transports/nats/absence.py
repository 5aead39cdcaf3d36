"""Where nobody listens: a server says so of each message that reaches nobody and names a subject for answers.

What holds: an address is called absent only when the server said so of a message sent to it in this very look. Those that
were not asked, or of which it said nothing in time, count as present. A server answers in order, so a look is over once it
has read all: it costs what its messages cost, whether it is for one address or for thousands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from ...runtime.errors import FoliotError
from .asking import NO_RESPONDERS
from .errors import LinkDownError
from .link import Delivery, NatsLink, Subscription

_AT_ONCE: Final = 256  # messages, before others have their turn


class Absences:
    """Of one link. `subject`: below it the server answers; nobody else uses what is there."""

    def __init__(self, link: NatsLink, subject: str) -> None:
        self._link = link
        self._subject = subject
        self._is_absent: dict[int, bool] = {}  # by number, of the looks under way
        self._number = 0
        self._subscription: Subscription | None = None  # with the first look, since most processes never look

    def close(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    async def among(self, asked: Iterable[tuple[str, str, bytes]], *, wait_ms: int) -> list[str]:
        """Return the addresses at which nobody listens, in the order given. `asked`: (address, subject, a message that
        means nothing to who listens). `wait_ms`: how long the server may take after the last one, at most."""
        if self._subscription is None:
            self._subscription = self._link.subscribe(f"{self._subject}.*", self._take)
        numbers: dict[int, str] = {}
        try:
            for address, subject, data in asked:
                self._number += 1
                try:
                    self._link.publish(subject, data, reply=f"{self._subject}.{self._number}")
                except FoliotError:
                    continue  # not sent, so nothing is known of it
                numbers[self._number] = address
                self._is_absent[self._number] = False
                if not len(numbers) % _AT_ONCE:
                    await asyncio.sleep(0)
            with suppress(TimeoutError, LinkDownError):
                async with asyncio.timeout(wait_ms / 1000):
                    await self._link.flush()
            return [address for number, address in numbers.items() if self._is_absent[number]]
        finally:
            for number in numbers:
                del self._is_absent[number]

    def _take(self, delivery: Delivery) -> None:
        number = delivery.subject.rpartition(".")[2]
        if delivery.status == NO_RESPONDERS and number.isdecimal() and int(number) in self._is_absent:
            self._is_absent[int(number)] = True
