"""The broker's accounts: who is there, and what each may say and hear.

- SYS watches the servers. CORE has Foliot's own processes, all JetStream, and what tenants may reach of it. Each tenant has
  an account of its own, and of CORE's subjects sees only those that carry its name, under the very names they have in CORE:
  a client needs to know nothing of accounts.
- Requests (`foliot.v1.<tenant>.<op>`) come in through a service, whose answers find their own way back; bodies for workers
  and events go out as streams, which only CORE can publish. Subjects of actors, and JetStream's own, cross no border.
- Within an account every user has its own prefix for answers, `_INBOX.<user>.` (or its public key in place of the name), and
  can listen to no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ...runtime.errors import UsageError

CORE: Final = "CORE"
SYS: Final = "SYS"
PREFIX: Final = "foliot"
EDGE: Final = f"{PREFIX}.v1"  # and the tenant, and the operation
HELLO: Final = f"{PREFIX}.hello"  # where a newcomer asks how many slots there are
LEFT: Final = "$SYS.ACCOUNT.*.DISCONNECT"
DISCONNECTS: Final = f"{PREFIX}.broker.disconnect"
"""Below it, by account, nodes hear of each connection that ended: the server's own JSON, with the client's name and the
reason. A hint only: it may be lost, and a client may come back."""
OPERATORS: Final = "$operator"  # in the tenant's place, in requests that concern all of them: the user operator's
TENANT_TOKEN: Final = 3  # the position of the tenant in a subject, counted from 1

SERVICES: Final = ("*", "worker.>", "in.>")
"""What tenants may ask, after `foliot.v1.<tenant>.`: operations, the side of a worker, one-way submissions."""
STREAMS: Final = ("bodies.>", "events", "events.>")
"""What tenants may hear: the bodies of their tasks, for their workers, and what became of their tasks."""
RESPONSE_THRESHOLD: Final = "5m"
"""How long an answer may take across accounts: the longest poll, and more."""
CORE_USERS: Final = ("node", "worker", "operator")
SYS_USER: Final = "sys"
TENANT_ROLES: Final = ("client", "worker")


@dataclass(frozen=True)
class TenantLimits:
    """What one tenant's account may take of the broker."""

    max_connections: int = 1_000
    max_subscriptions: int = 20_000  # of all connections together
    max_payload: int = 1 << 20  # bytes of a message

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value <= 1 << 30:
                raise LimitError(name, value)


class LimitError(UsageError):
    """A limit that is none."""

    code = "nats_config"

    def __init__(self, name: str, value: int) -> None:
        super().__init__(f"--{name.replace('_', '-')}: {value} is no limit, expected 1 to {1 << 30}")
        self.name = name
        self.value = value


@dataclass(frozen=True)
class User:
    """One user: its account, and the subjects it may publish and subscribe to."""

    name: str
    account: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    never_publish: tuple[str, ...] = ()

    @property
    def inbox(self) -> str:
        """The prefix of the subjects it is answered on."""
        return f"_INBOX.{self.name}"

    def permissions(self, identity: Mapping[str, str]) -> dict[str, Any]:
        """Return what it may, signing in as `identity`. A client that knows its key only is answered below that."""
        inboxes = [f"{self.inbox}.>", *(f"_INBOX.{key}.>" for key in (identity.get("nkey"),) if key)]
        publish: dict[str, Any] = {"allow": list(self.publish)}
        if self.never_publish:
            publish["deny"] = list(self.never_publish)
        return {"publish": publish, "subscribe": {"allow": [*inboxes, *self.subscribe]}}


def tenant_user(tenant: str, role: str) -> str:
    """Return the name of a tenant's user. No two tenants share one, since none of the roles contains a `-`."""
    return f"{tenant}-{role}"


def users_of(tenants: Sequence[str]) -> list[User]:
    """Return all users: Foliot's own first, then two for each tenant."""
    users = [
        User(
            "node",
            CORE,
            # `_R_` is where the server takes answers across accounts, `_INBOX` where CORE's own users await theirs.
            (f"{PREFIX}.>", "$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "_R_.>", "_INBOX.>"),
            (f"{PREFIX}.>", "$JS.EVENT.ADVISORY.>"),
        ),
        User(
            "worker",
            CORE,
            (HELLO, f"{PREFIX}.slot.*", f"{PREFIX}.to.>", f"{PREFIX}.all.>", f"{EDGE}.*.*"),
            (f"{PREFIX}.to.>", f"{PREFIX}.all.>"),
            (f"{EDGE}.{OPERATORS}.>",),
        ),
        User(
            "operator",
            CORE,
            (HELLO, f"{EDGE}.>", f"{PREFIX}.slot.*", f"{PREFIX}.to.>", f"{PREFIX}.all.>"),
            (f"{PREFIX}.to.>", f"{EDGE}.*.events", f"{EDGE}.*.events.>"),
        ),
        User(SYS_USER, SYS, ("$SYS.REQ.>",), ("$SYS.>",)),
    ]
    for tenant in tenants:
        own = f"{EDGE}.{tenant}"
        told = tuple(f"{own}.{stream}" for stream in STREAMS)
        asked = (f"{own}.*", f"{own}.in.>")
        users += [
            User(tenant_user(tenant, "client"), tenant, asked, told[1:], told),
            User(tenant_user(tenant, "worker"), tenant, (*asked, f"{own}.worker.>"), told, told),
        ]
    return users


def accounts_of(
    tenants: Sequence[str], credentials: Mapping[str, Mapping[str, str]], limits: TenantLimits
) -> dict[str, Any]:  # fmt: skip
    """Return the accounts' part of a configuration. `credentials`: by user, its key or password."""
    listed: dict[str, list[dict[str, Any]]] = {}
    for user in users_of(tenants):
        identity = credentials[user.name]
        entry = {"#": f"user {user.name}", **identity, "permissions": user.permissions(identity)}
        listed.setdefault(user.account, []).append(entry)
    accounts: dict[str, Any] = {
        SYS: {"users": listed[SYS], "exports": [{"stream": LEFT, "accounts": [CORE]}]},
        CORE: {
            "jetstream": "enabled",
            "users": listed[CORE],
            "exports": _exports(),
            "#left": "Nodes hear at once whose connection ended.",
            "imports": [{"stream": {"account": SYS, "subject": LEFT}, "to": f"{DISCONNECTS}.$1"}],
        },
    }
    for tenant in tenants:
        accounts[tenant] = {"limits": dict(vars(limits)), "users": listed[tenant], "imports": _imports(tenant)}
    return {"system_account": SYS, "accounts": accounts}


def _exports() -> list[dict[str, Any]]:
    """Return what CORE offers. The server compares the token at the position with the name of the account that imports."""
    services: list[dict[str, Any]] = [
        {
            "service": f"{EDGE}.*.{each}",
            "account_token_position": TENANT_TOKEN,
            "response_type": "singleton",
            "response_threshold": RESPONSE_THRESHOLD,
        }
        for each in SERVICES
    ]
    return [*services, *({"stream": f"{EDGE}.*.{each}", "account_token_position": TENANT_TOKEN} for each in STREAMS)]


def _imports(tenant: str) -> list[dict[str, Any]]:
    services = [{"service": {"account": CORE, "subject": f"{EDGE}.{tenant}.{each}"}} for each in SERVICES]
    return [*services, *({"stream": {"account": CORE, "subject": f"{EDGE}.{tenant}.{each}"}} for each in STREAMS)]
