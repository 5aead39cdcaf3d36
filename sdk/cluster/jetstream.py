"""Whether a NATS server is one a cluster can use: JetStream must be there for this user."""

from __future__ import annotations

from typing import Final

from ...transports.nats.errors import ApiError, NoRespondersError, NotPermittedError
from ...transports.nats.link import NatsLink
from .errors import NoJetStreamError

_ASK_MS: Final = 5_000


async def check_jetstream(link: NatsLink, where: str) -> None:
    """Raises: NoJetStreamError; DeadlineError if JetStream is there and does not answer."""
    try:
        await link.api("INFO", {}, timeout_ms=_ASK_MS)
    except (ApiError, NoRespondersError, NotPermittedError) as error:
        reason = error.description if isinstance(error, ApiError) else "nobody answers for it"
        if isinstance(error, NotPermittedError):
            reason = error.reason
        raise NoJetStreamError(where, reason) from error
