"""How a process reaches the NATS servers: where they are, who it is, and the bounds it keeps."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from .errors import NatsConfigError

DEFAULT_PORT: Final = 4222
PAYLOAD_FLOOR: Final = 4_096  # bytes of one message; below, the parts of larger ones would be all head
_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True)
class NatsConfig:
    """Raises: NatsConfigError. At most one of `credentials`, `nkey_seed` and `user` is given.

    `url`: nats://host:port or tls://…, several in a list or separated by commas; they may carry user:password.
    `credentials`: a .creds file; `nkey_seed`: a file with the seed of a user nkey; `tls_*`: PEM files.
    `max_payload`: the tenant's limit where it is below the server's, which does not tell it; 0: the server's.
    """

    url: str | Sequence[str] = "nats://127.0.0.1:4222"
    name: str = "foliot"
    credentials: str = ""
    nkey_seed: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_hostname: str = ""
    inbox_prefix: str = ""  # of the subjects it is answered on; empty: `_INBOX` and who it is
    max_payload: int = 0
    max_queued_messages: int = 65_536  # that wait to be written
    max_queued_bytes: int = 16 * 1024 * 1024
    max_requests: int = 8_192  # that wait for an answer
    connect_timeout_ms: int = 2_000  # for each server
    ping_interval_ms: int = 10_000
    ping_timeout_ms: int = 5_000
    reconnect_min_ms: int = 50
    reconnect_max_ms: int = 2_000

    def __post_init__(self) -> None:
        for server in self.servers:
            _check_url(server)
        if sum(map(bool, (self.credentials, self.nkey_seed, self.user))) > 1:
            raise NatsConfigError("credentials", "given twice", "one of a credentials file, an nkey seed file and a user")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise NatsConfigError("tls_cert", repr(self.tls_cert), "to be given together with tls_key")
        if self.max_payload and self.max_payload < PAYLOAD_FLOOR:
            raise NatsConfigError("max_payload", str(self.max_payload), f"at least {PAYLOAD_FLOOR}, or 0 for the server's")
        for setting in ("credentials", "nkey_seed", "tls_ca", "tls_cert", "tls_key"):
            path = getattr(self, setting)
            if path and not Path(path).is_file():
                raise NatsConfigError(setting, repr(path), "a file that can be read")
        for setting in (
            "max_queued_messages", "max_queued_bytes", "max_requests", "connect_timeout_ms", "ping_interval_ms",
            "ping_timeout_ms", "reconnect_min_ms", "reconnect_max_ms",
        ):  # fmt: skip
            if getattr(self, setting) < 1:
                raise NatsConfigError(setting, str(getattr(self, setting)), "at least 1")

    @property
    def servers(self) -> list[str]:
        """The addresses, one each."""
        urls = self.url.split(",") if isinstance(self.url, str) else self.url
        return [url.strip() if "://" in url else f"nats://{url.strip()}" for url in urls]

    @property
    def inbox(self) -> str:
        """The prefix of the subjects it is answered on: its own where it signs in as somebody, so that a server can keep
        users from hearing each other's answers (`foliot nats-config` does)."""
        return self.inbox_prefix or ".".join(("_INBOX", *self._identity()))

    def _identity(self) -> list[str]:
        """Return who it signs in as, one word or none: the user's name, or the public half of its nkey."""
        name = self.user or (urlsplit(self.servers[0]).username or "")
        if self.nkey_seed:
            try:
                import nkeys  # type: ignore[import-untyped, unused-ignore]

                name = nkeys.from_seed(Path(self.nkey_seed).read_bytes().strip()).public_key.decode()
            except Exception:  # of whatever kind: signing in will say what is wrong with it
                return []
        return [name] if _WORD.fullmatch(name) else []

    @property
    def shown(self) -> str:
        """The addresses as they may be logged: without passwords."""
        return ", ".join(shown(server) for server in self.servers)

    def wants_tls(self, server: str) -> bool:
        return bool(self.tls_ca or self.tls_cert) or server.startswith("tls://")

    def ssl_context(self) -> ssl.SSLContext:
        """Return the context for servers that use TLS. Raises: NatsConfigError."""
        try:
            context = ssl.create_default_context(cafile=self.tls_ca or None)
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(filter(None, (self.tls_ca, self.tls_cert, self.tls_key)))
            expected = f"PEM files that belong together ({error})"
            raise NatsConfigError("tls_ca, tls_cert, tls_key", repr(files), expected) from error
        return context


def shown(server: str) -> str:
    """Return an address without user and password."""
    parts = urlsplit(server)
    return f"{parts.hostname}:{parts.port or DEFAULT_PORT}"


def _check_url(url: str) -> None:
    expected = "nats://host:port or tls://host:port"
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port
    except ValueError:  # what it says may hold a part of the password
        raise NatsConfigError("url", repr(_without_user(url)[:80]), expected) from None
    if parts.scheme not in ("nats", "tls") or not parts.hostname or port == 0:
        raise NatsConfigError("url", repr(_without_user(url)[:80]), expected)


def _without_user(url: str) -> str:
    """Return an address that cannot be parsed without user and password, whatever letters are in them."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
