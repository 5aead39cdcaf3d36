"""What a broker is to be: which servers, which tenants, how they are protected; and the files that come of it.

A plan is checked when it is made, and is the same text again for the same plan and the same secrets. A tenant is a NATS
account of its own; all of Foliot's processes are in the account CORE. The subject of a tenant's request names the
tenant, and the server lets an account use its own name only.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, get_args

from ...actors.addresses import check_name
from ...runtime.errors import UsageError
from .nats_config_accounts import CORE, SYS, TenantLimits, accounts_of, users_of
from .nats_config_text import render

Form = Literal["embedded", "single", "cluster"]
Version = tuple[int, int]

OLDEST: Final[Version] = (2, 11)  # per-message times to live and the fencing header began there
NEWEST_KNOWN: Final[Version] = (2, 15)
CLIENT_PORT: Final = 4222
ROUTE_PORT: Final = 6222
MONITOR_PORT: Final = 8222
ACCOUNTS_FILE: Final = "accounts.conf"
MAX_PAYLOAD: Final = 1 << 20  # bytes
MAX_CONNECTIONS: Final = 65_536
MAX_CONSUMERS: Final = 10_000  # of a stream without a bound of its own: 2.15 would stop at 1000
MAX_TENANTS: Final = 10_000

_RESERVED: Final = frozenset({CORE, SYS})
_SERVER_TEXT: Final = re.compile(
    r"(?P<name>[^=]+)=(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[0-9]{1,5})(?::(?P<route>[0-9]{1,5}))?)?"
)
_SERVER: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class BrokerPlanError(UsageError):
    """A plan no broker can follow. `what`: the option that is wrong."""

    code = "nats_config"

    def __init__(self, what: str, problem: str, expected: str) -> None:
        super().__init__(f"{what}: {problem}, expected {expected}")
        self.what = what


@dataclass(frozen=True)
class Server:
    """One nats-server. `host` is the address that clients and the other servers use."""

    name: str
    host: str
    port: int = CLIENT_PORT
    route_port: int = ROUTE_PORT
    monitor_port: int = MONITOR_PORT  # 0: none

    def __post_init__(self) -> None:
        if not _SERVER.fullmatch(self.name):
            raise BrokerPlanError("--servers", f"{self.name!r} names no server", "lower case letters, digits, '-' and '_'")
        if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", self.host):
            raise BrokerPlanError("--servers", f"{self.host!r} is no host", "a host name or an address")
        for port in (self.port, self.route_port, self.monitor_port or 1):
            if not 0 < port < 65_536:
                raise BrokerPlanError("--servers", f"{port} is no port", "1 to 65535")

    @property
    def is_local(self) -> bool:
        """Nobody outside this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True)
class Tls:
    """Certificates as files, by name of the server. `verify`: clients must show a certificate of that CA, too."""

    ca: Path
    certificates: Mapping[str, tuple[Path, Path]]  # (certificate, key)
    verify: bool = False
    routes_ca: Path | None = None  # of the routes between servers; None: as for clients
    routes: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)


@dataclass(frozen=True)
class BrokerPlan:
    """All that decides the configuration of a broker, but for the secrets."""

    form: Form
    servers: tuple[Server, ...]
    data: Path
    tenants: tuple[str, ...] = ()
    tls: Tls | None = None
    allow_plain: bool = False  # without TLS beyond this machine
    listen: str = ""  # an address to listen on instead of the server's host
    limits: TenantLimits = field(default_factory=TenantLimits)
    version: Version = NEWEST_KNOWN

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise BrokerPlanError("the form", f"{self.form!r} is not known", " or ".join(get_args(Form)))
        if self.version < OLDEST:
            theirs, oldest = (".".join(map(str, version)) for version in (self.version, OLDEST))
            raise BrokerPlanError("nats-server", f"version {theirs} is too old", f"{oldest} or newer")
        self._check_servers()
        if len(self.tenants) > MAX_TENANTS:
            raise BrokerPlanError("--tenants", f"{len(self.tenants)} are too many", f"at most {MAX_TENANTS} in a file")
        for at, tenant in enumerate(self.tenants):
            check_name("tenant", tenant)
            if tenant in _RESERVED:
                raise BrokerPlanError("--tenants", f"{tenant!r} is an account of the broker itself", "another name")
            if tenant in self.tenants[:at]:
                raise BrokerPlanError("--tenants", f"{tenant!r} comes twice", "each tenant once")

    def _check_servers(self) -> None:
        count, names = len(self.servers), [server.name for server in self.servers]
        if self.form == "cluster":
            if count < 3 or count % 2 == 0:
                raise BrokerPlanError("--servers", f"{count} servers keep no majority", "3 or another odd number above")
        elif count != 1:
            raise BrokerPlanError("--servers", f"{count} servers", f"one, as the form is {self.form}")
        if len(set(names)) != count:
            raise BrokerPlanError("--servers", f"{','.join(names)}", "a name of its own for each")
        taken = sorted((server.host, port) for server in self.servers for port in self._ports(server))
        for one, other in pairwise(taken):
            if one == other:
                raise BrokerPlanError("--servers", f"{one[0]}:{one[1]} comes twice", "ports of its own for each server")
        local = all(server.is_local for server in self.servers) and not self.listen
        if self.form == "embedded" and not local:
            raise BrokerPlanError("--host", "the embedded form is for this machine", "127.0.0.1, or the form 'single'")
        if not local and self.tls is None and not self.allow_plain:
            raise BrokerPlanError("--tls", "passwords and payloads would be readable on the network", "TLS, or --tls none")

    def _ports(self, server: Server) -> list[int]:
        monitor = [server.monitor_port] if server.monitor_port else []
        return [server.port, *monitor, *([server.route_port] if self.form == "cluster" else [])]

    @property
    def users(self) -> tuple[str, ...]:
        """The names of all users, CORE's first."""
        return tuple(user.name for user in users_of(self.tenants))

    def files(self, credentials: Mapping[str, Mapping[str, str]], *, routes_password: str = "") -> dict[str, str]:
        """Return the texts of the configuration, by name of the file.

        `credentials`: by user, what stands for it in the configuration: {"nkey": …} or {"user": …, "password": …}.
        """
        accounts = {
            "#": "Accounts, users and what they may. Made by foliot nats-config: make it again rather than edit it.",
            **accounts_of(self.tenants, credentials, self.limits),
        }
        found = {ACCOUNTS_FILE: render(accounts)}
        for server in self.servers:
            found[self.config_of(server)] = render(self._server(server, routes_password))
        return found

    def config_of(self, server: Server) -> str:
        """Return the name of a server's file."""
        return f"{server.name}.conf"

    def url(self, server: Server) -> str:
        return f"{'nats' if self.tls is None else 'tls'}://{_host(server.host)}:{server.port}"

    def _server(self, server: Server, routes_password: str) -> dict[str, Any]:
        listen = self.listen or server.host
        values: dict[str, Any] = {
            "#": f"The nats-server {server.name} of Foliot. Made by foliot nats-config: make it again rather than edit it.",
            "server_name": server.name,
            "listen": f"{_host(listen)}:{server.port}",
        }
        if self.listen:
            values["client_advertise"] = f"{_host(server.host)}:{server.port}"
        if server.monitor_port:
            values["#monitor"] = "For whoever is on this machine."
            values["http"] = f"127.0.0.1:{server.monitor_port}"
        values["max_payload"] = MAX_PAYLOAD
        values["max_connections"] = MAX_CONNECTIONS
        values["#ping"] = "A dead client is noticed in 30 s."
        values["ping_interval"] = "15s"
        values["ping_max"] = 2
        if self.version >= (2, 14):
            values["#flags"] = "Longer acknowledgement subjects break clients that count tokens from the left."
            values["feature_flags"] = {"js_ack_fc_v2": False}
        values["jetstream"] = self._jetstream(server)
        if self.tls is not None:
            values["tls"] = _tls(self.tls.ca, *self.tls.certificates[server.name], verify=self.tls.verify)
        if self.form == "cluster":
            values["cluster"] = self._cluster(server, listen, routes_password)
        values["include"] = ACCOUNTS_FILE
        return values

    def _jetstream(self, server: Server) -> dict[str, Any]:
        values: dict[str, Any] = {
            "store_dir": str(self.data / server.name),
            "#sync": "What is acknowledged is on the disk: by default the server writes it out within two minutes.",
            "sync_interval": "always",
        }
        if self.version >= (2, 15):
            values["limits"] = {"default_max_consumers": MAX_CONSUMERS}
        return values

    def _cluster(self, server: Server, listen: str, routes_password: str) -> dict[str, Any]:
        values: dict[str, Any] = {
            "name": "foliot",
            "listen": f"{_host(listen)}:{server.route_port}",
            "authorization": {"user": "route", "password": routes_password, "timeout": 5},
            "routes": [
                f"nats://route:{routes_password}@{_host(other.host)}:{other.route_port}"
                for other in self.servers
                if other != server
            ],
        }
        if self.listen:
            values["cluster_advertise"] = f"{_host(server.host)}:{server.route_port}"
        if self.tls is not None:
            pair = self.tls.routes.get(server.name, self.tls.certificates[server.name])
            values["tls"] = _tls(self.tls.routes_ca or self.tls.ca, *pair, verify=True)
        return values


def servers_of(texts: Sequence[str], *, monitor_port: int = MONITOR_PORT) -> tuple[Server, ...]:
    """Return servers of `name=host[:port[:route port]]` texts; an IPv6 address stands in brackets.

    Servers of one host without ports get ports of their own. `monitor_port`: of the first on a host; 0: none.
    Raises: BrokerPlanError.
    """
    servers: list[Server] = []
    on_host: dict[str, int] = {}
    for text in texts:
        found = _SERVER_TEXT.fullmatch(text)
        if found is None:
            raise BrokerPlanError("--servers", f"{text!r} cannot be read", "n1=host, n1=host:port or n1=host:port:port")
        host = found["ipv6"] or found["host"]
        at = on_host.get(host, 0)
        on_host[host] = at + 1
        port, route_port = int(found["port"] or CLIENT_PORT + at), int(found["route"] or ROUTE_PORT + at)
        servers.append(Server(found["name"], host, port, route_port, monitor_port and monitor_port + at))
    return tuple(servers)


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tls(ca: Path, certificate: Path, key: Path, *, verify: bool) -> dict[str, Any]:
    return {
        "ca_file": str(ca),
        "cert_file": str(certificate),
        "key_file": str(key),
        "min_version": "1.3",
        "verify": verify,
        "timeout": 5,
    }
