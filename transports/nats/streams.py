"""The streams of the servers, made from configuration and kept so. Implements `port.JetStream` over a link.

Configuration goes out as JSON of this project, and what the servers say they have is compared with it field by field, since
a client library would leave out what it does not know. A stream that is missing is made again: that is a warning, and costs
what was in it and not yet applied.
"""

from __future__ import annotations

from typing import Any, Final

import structlog

from ...runtime.clock import Clock
from ...runtime.errors import FoliotError
from .errors import ApiError, NoRespondersError, NotPermittedError
from .link import NatsLink
from .port import (
    ConsumerConfig,
    Consumption,
    Ended,
    Entry,
    JetStreamMissingError,
    StreamConfig,
    StreamMismatchError,
    Take,
)
from .publish import Publisher
from .pull import NatsConsumption

log = structlog.get_logger("foliot.transports.nats")

API_LEVEL: Final = 1  # of nats-server 2.11
_NO_STREAM: Final = 10059
_NO_CONSUMER: Final = 10014
_NAME_TAKEN: Final = 10058
_DISABLED: Final = (10039, 10076)  # for the account; for the server


class NatsStreams:
    """`link`: the connection; lives on its event loop."""

    def __init__(self, link: NatsLink, *, clock: Clock, timeout_ms: int = 5_000, window: int = 16) -> None:
        self._link = link
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._publisher = Publisher(link, clock, window=window, timeout_ms=timeout_ms)
        self._seen: dict[str, str] = {}  # the life of each stream that was ensured

    @property
    def replicas(self) -> int:
        """How many servers should keep a stream: three where these are a cluster, which then outlives any one of them."""
        return 3 if self._link.server.cluster else 1

    async def check(self) -> None:
        """Raises: JetStreamMissingError if there is no JetStream for this user, or an older one."""
        try:
            info = await self._api("INFO")
        except NotPermittedError as error:
            raise JetStreamMissingError(f"this user may not use it ({error.reason})") from error
        level = int((info.get("api") or {}).get("level", 0))
        if level < API_LEVEL:
            raise JetStreamMissingError(f"its API has level {level}, expected {API_LEVEL}, that of nats-server 2.11")

    # -- streams -----------------------------------------------------------------------------------------------------

    async def ensure(self, config: StreamConfig) -> str:
        name = config.name
        try:
            found = await self._api(f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.err_code != _NO_STREAM:
                raise
            found = await self._create(config)
        wanted = config.body()
        if differences(wanted, found["config"]):
            found = await self._update(config, wanted, found["config"])
        life = str(found["created"])
        if self._seen.get(name, life) != life:
            log.warning("stream_made_again", stream=name, was=self._seen[name], now=life)
        self._seen[name] = life
        return life

    async def find(self, stream: str) -> tuple[str, int]:
        """Return which life of a stream this is, and the last position in it; an empty life if there is no such stream."""
        try:
            found = await self._api(f"STREAM.INFO.{stream}")
        except ApiError as error:
            if error.err_code != _NO_STREAM:
                raise
            return "", 0
        return str(found["created"]), int(found["state"]["last_seq"])

    async def _create(self, config: StreamConfig) -> dict[str, Any]:
        if config.name in self._seen:
            log.warning("stream_missing", stream=config.name, was=self._seen[config.name])
        try:
            return await self._api(f"STREAM.CREATE.{config.name}", config.body())
        except ApiError as error:
            if error.err_code == _NAME_TAKEN:  # somebody else made it at the same time, with other settings
                return await self._api(f"STREAM.INFO.{config.name}")
            if error.status == 503:
                raise
            raise StreamMismatchError(config.name, error.description) from error

    async def _update(self, config: StreamConfig, wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        log.info("stream_updated", stream=config.name, differences=differences(wanted, found))
        try:
            updated = await self._api(f"STREAM.UPDATE.{config.name}", found | wanted)
        except ApiError as error:
            if error.status == 503:
                raise
            what = "; ".join(differences(wanted, found))
            raise StreamMismatchError(config.name, f"{what} ({error.description})") from error
        left = differences(wanted, updated["config"])
        if left:
            raise StreamMismatchError(config.name, "; ".join(left))
        return updated

    async def publish(self, subject: str, data: bytes, *, message_id: str = "") -> int:
        return await self._publisher.publish(subject, data, message_id=message_id)

    # -- consumers ---------------------------------------------------------------------------------------------------

    async def consumers(self, stream: str) -> list[str]:
        names: list[str] = []
        while True:
            page = await self._api(f"CONSUMER.NAMES.{stream}", {"offset": len(names)})
            names += page.get("consumers") or []
            if len(names) >= int(page.get("total", 0)) or not page.get("consumers"):
                return names

    async def consume(self, stream: str, config: ConsumerConfig, take: Take, ended: Ended) -> Consumption:
        body = {"stream_name": stream, "action": "create", "config": config.body()}
        made = await self._api(f"CONSUMER.CREATE.{stream}.{config.name}", body)
        left = differences(config.body(), made["config"])
        if left:
            await self.forget(stream, config.name)
            raise StreamMismatchError(stream, f"its consumer {config.name}: {'; '.join(left)}")
        consumption = NatsConsumption(self._link, self._clock, stream, config, take, ended)
        consumption.begin()
        return consumption

    async def is_at_end(self, stream: str, consumer: str, number: int) -> bool:
        """Tell whether nothing comes behind the entry of that number. Raises: ApiError if the consumer is gone."""
        found = await self._api(f"CONSUMER.INFO.{stream}.{consumer}")
        return not found["num_pending"] and int(found["delivered"]["consumer_seq"]) <= number

    async def forget(self, stream: str, consumer: str) -> None:
        try:
            await self._api(f"CONSUMER.DELETE.{stream}.{consumer}")
        except ApiError as error:
            if error.err_code not in (_NO_CONSUMER, _NO_STREAM):
                raise

    def ack(self, entry: Entry) -> None:
        try:
            self._link.publish(entry.ack_to, b"+ACK")
        except FoliotError as error:
            log.debug("ack_not_sent", subject=entry.ack_to, error=str(error))

    async def _api(self, op: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            return await self._link.api(op, body, timeout_ms=self._timeout_ms)
        except NoRespondersError as error:
            if self._link.server.jetstream:
                raise  # there is JetStream, and nobody leads it at this moment
            raise JetStreamMissingError("it is not enabled") from error
        except ApiError as error:
            if error.err_code in _DISABLED:
                raise JetStreamMissingError(error.description) from error
            raise


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Say where settings that are there are not those that are wanted. A setting that is absent is false, 0 or empty."""
    return [
        f"{name} is {found.get(name)!r}, expected {value!r}"
        for name, value in wanted.items()
        if (found.get(name) or None) != (value or None)
    ]
