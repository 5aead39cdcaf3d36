"""What can go wrong between a process and the NATS servers, as errors that say what to do next."""

from __future__ import annotations

from typing import ClassVar

from ...runtime.errors import FoliotError, UnavailableError, UsageError


class NatsConfigError(UsageError):
    """A setting of the connection cannot be used."""

    code: ClassVar[str] = "nats_config"

    def __init__(self, setting: str, value: str, expected: str) -> None:
        super().__init__(f"NATS setting {setting} is {value}, expected {expected}")
        self.setting = setting
        self.value = value
        self.expected = expected


class NatsUnreachableError(UnavailableError):
    """No server answered at any of the addresses."""

    code: ClassVar[str] = "nats_unreachable"

    def __init__(self, servers: str, reason: str) -> None:
        super().__init__(f"no NATS server answers at {servers}: {reason}; expected nats-server 2.11 or newer there")
        self.servers = servers
        self.reason = reason


class NatsCredentialsError(UsageError):
    """The server does not let this user in."""

    code: ClassVar[str] = "nats_credentials"

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(
            f"the NATS server at {server} refused the login: {reason}; "
            "expected a user and password, an nkey, a credentials file or a certificate that it knows"
        )
        self.server = server
        self.reason = reason


class NatsTlsError(UsageError):
    """Both ends do not agree on TLS."""

    code: ClassVar[str] = "nats_tls"

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"no TLS session with the NATS server at {server}: {reason}; compare the certificates of both")
        self.server = server
        self.reason = reason


class NatsTooOldError(UsageError):
    """The server lacks what a cluster needs."""

    code: ClassVar[str] = "nats_too_old"

    def __init__(self, server: str, version: str, floor: str) -> None:
        super().__init__(f"the NATS server at {server} is version {version}, expected {floor} or newer")
        self.server = server
        self.version = version
        self.floor = floor


class NatsPayloadError(UsageError):
    """The server takes messages that are too small for what a cluster says."""

    code: ClassVar[str] = "nats_payload"

    def __init__(self, server: str, limit: int, floor: int) -> None:
        super().__init__(
            f"the NATS server at {server} takes messages of {limit} bytes, expected max_payload: {floor} or more"
        )
        self.server = server
        self.limit = limit
        self.floor = floor


class LinkDownError(UnavailableError):
    """There is no connection at this moment; the message was not sent."""

    code: ClassVar[str] = "disconnected"

    def __init__(self, reason: str) -> None:
        super().__init__(f"not connected to a NATS server: {reason}; the message was not sent", retry_after_ms=500)
        self.reason = reason


class OutboundFullError(UnavailableError):
    """What waits to be written to the server has reached its bound; the message was not taken."""

    code: ClassVar[str] = "overloaded"

    def __init__(self, messages: int, size: int) -> None:
        super().__init__(
            f"{messages} messages of {size} bytes wait to be written to the NATS server, the bound; retry in 200 ms",
            retry_after_ms=200,
        )
        self.messages = messages
        self.size = size


class TooLargeError(UsageError):
    """The message with its headers is larger than the server takes; sending it would end the connection."""

    code: ClassVar[str] = "too_large"

    def __init__(self, subject: str, size: int, limit: int) -> None:
        super().__init__(f"a message to {subject!r} has {size} bytes with its headers, expected at most {limit}")
        self.subject = subject
        self.size = size
        self.limit = limit


class InvalidSubjectError(UsageError):
    """A subject or header that cannot be on the wire."""

    code: ClassVar[str] = "invalid_subject"

    def __init__(self, subject: str, expected: str) -> None:
        super().__init__(f"subject or header {subject[:80]!r} cannot be sent, expected {expected}")
        self.subject = subject


class NoRespondersError(UnavailableError):
    """Nobody listens at the subject of a request; nothing was done."""

    code: ClassVar[str] = "no_responders"

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody listens at {subject!r} at this moment; nothing was done", retry_after_ms=250)
        self.subject = subject


class NotPermittedError(UsageError):
    """The server does not let this user publish there."""

    code: ClassVar[str] = "not_permitted"

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"the NATS server refused a message to {subject!r}: {reason}; expected a user who may")
        self.subject = subject
        self.reason = reason


class ApiError(FoliotError):
    """JetStream refused a call. `status`: as HTTP's; `err_code`: JetStream's own number, 0 where it gave none."""

    code: ClassVar[str] = "jetstream"

    def __init__(self, op: str, status: int, err_code: int, description: str) -> None:
        super().__init__(f"JetStream refused {op}: {description} ({err_code or status})")
        self.op = op
        self.status = status
        self.err_code = err_code
        self.description = description
