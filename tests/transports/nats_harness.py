"""What the tests of NATS share: a proxy that plays a bad network, a server that only says hello, keys, and short waits."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]
from foliot.runtime.clock import SystemClock
from foliot.runtime.rng import Rng
from foliot.transports.nats.config import NatsConfig, shown
from foliot.transports.nats.link import NatsLink

from .. import proxy

CERTIFICATES = Path(__file__).parent / "certificates"
QUICK: dict[str, Any] = {"ping_interval_ms": 100, "ping_timeout_ms": 100, "reconnect_min_ms": 10, "reconnect_max_ms": 100}


async def open_link(url: str | list[str], **settings: Any) -> NatsLink:
    config = NatsConfig(url=url, **{**QUICK, "ping_timeout_ms": 5_000, **settings})
    return await NatsLink.open(config, clock=SystemClock(), rng=Rng.of_the_system())


async def until(holds: Callable[[], bool], *, within_s: float = 20) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 there is no event for what a test waits for
            await asyncio.sleep(0.005)


class Proxy(proxy.Proxy):
    """Stands between a link and a server. `accepted`: connections so far."""

    def __init__(self, url: str) -> None:
        host, _, port = shown(url).rpartition(":")
        super().__init__(host, int(port))
        self.accepted = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def inject(self, data: bytes) -> None:
        """Say something to the clients in the server's name."""
        for client, _ in self._pairs:
            client.write(data)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        await super()._accept(reader, writer)


class Hello:
    """A server that says who it is and nothing else."""

    def __init__(self, greeting: bytes) -> None:
        self._greeting = greeting
        self.heard = b""
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        writer.write(self._greeting)
        with suppress(OSError):
            while data := await reader.read(4096):
                self.heard += data


class Keys:
    """An nkey: `public` and `seed`."""

    def __init__(self, kind: int) -> None:
        raw = Rng.of_the_system().bits(256).to_bytes(32, "big")
        self.seed: bytes = nkeys.encode_seed(raw, kind)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def sign(self, subject: Keys, claims: dict[str, Any], **more: Any) -> str:
        """Return a JWT about `subject`."""
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = {"jti": "A" * 52, "iat": 1_700_000_000, "iss": self.public, "sub": subject.public, "name": "test", **more}
        text = ".".join(_b64(json.dumps(part).encode()) for part in (head, {**body, "nats": {"version": 2, **claims}}))
        return f"{text}.{_b64(self._pair.sign(text.encode()))}"


class Operator:
    """An operator with one account that has JetStream: `config` for the server, `credentials` for a user."""

    def __init__(self) -> None:
        operator, self._account = Keys(nkeys.PREFIX_BYTE_OPERATOR), Keys(nkeys.PREFIX_BYTE_ACCOUNT)
        unlimited = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
        limits = dict.fromkeys(unlimited, -1) | {"wildcards": True}
        account = operator.sign(self._account, {"type": "account", "limits": limits})
        self.config = "\n".join(
            (
                f"operator: {operator.sign(operator, {'type': 'operator'})}",
                "resolver: MEMORY",
                f"resolver_preload: {{ {self._account.public}: {account} }}",
            )
        )

    def credentials(self, path: Path, *, expires_s: int = 0) -> str:
        """Write the credentials file of a new user; `expires_s`: the second of 1970 when the user ends."""
        user = Keys(nkeys.PREFIX_BYTE_USER)
        limits = {"subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        more = {"exp": expires_s} if expires_s else {}
        jwt = self._account.sign(user, {"type": "user", **limits}, **more)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return str(path)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
