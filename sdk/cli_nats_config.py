"""`foliot nats-config`: the configuration of a broker, made and checked, with an account for each tenant."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, get_args

import click

from .cli_common import echo_json, guarded
from .cluster.nats_config import (
    CLIENT_PORT,
    MONITOR_PORT,
    BrokerPlan,
    BrokerPlanError,
    Form,
    Server,
    Tls,
    Version,
    servers_of,
)
from .cluster.nats_config_accounts import TenantLimits
from .cluster.nats_config_keys import Auth
from .cluster.nats_config_make import Made, describe, make_config

_LOCAL: Final = "127.0.0.1"
_SERVERS: Final = ("n1", "n2", "n3")
_LIMITS: Final = TenantLimits()
_FOLDER: Final = click.Path(path_type=Path, file_okay=False)
_PORT: Final = click.IntRange(1, 65_535)


@click.command("nats-config")
@click.argument("form", type=click.Choice(get_args(Form)))
@click.option("--tenants", default="", metavar="A,B", help="The tenants, all of them each time: an account for each.")
@click.option("--out", type=_FOLDER, default=Path("nats"), show_default=True, help="The folder to write to.")
@click.option("--host", default=_LOCAL, show_default=True, help="embedded, single: the address of the server.")
@click.option("--port", type=_PORT, default=CLIENT_PORT, show_default=True, help="embedded, single: its port.")
@click.option("--servers", metavar="N1=HOST[:PORT[:ROUTE]],…", help="cluster: 3 or 5 servers.  [default: 3 on this machine]")
@click.option("--listen", default="", metavar="ADDRESS", help="Listen there instead of on the host, such as 0.0.0.0.")
@click.option("--monitor", type=click.IntRange(0, 65_000), default=MONITOR_PORT, show_default=True, help="HTTP, 0: none.")
@click.option("--data", type=_FOLDER, help="The folder of JetStream.  [default: OUT/data]")
@click.option("--auth", type=click.Choice(get_args(Auth)), default="nkey", show_default=True, help="How users sign in.")
@click.option("--tls", type=click.Choice(["make", "none"]), help="[default: make, but none on loopback]")
@click.option("--tls-ca", metavar="FILE", help="Certificates of your own: their authority,")
@click.option("--tls-cert", metavar="FILE", help="the servers' certificates, with {server} for their names,")
@click.option("--tls-key", metavar="FILE", help="and the keys, likewise.")
@click.option("--mtls", is_flag=True, help="Clients must show a certificate, too.")
@click.option("--max-connections", type=int, default=_LIMITS.max_connections, show_default=True, help="Of one tenant.")
@click.option("--max-subscriptions", type=int, default=_LIMITS.max_subscriptions, show_default=True, help="Of one tenant.")
@click.option("--max-payload", type=int, default=_LIMITS.max_payload, show_default=True, help="Bytes of a tenant's message.")
@click.option("--replace", is_flag=True, help="Write over a configuration that says something else. Secrets are kept.")
@click.option("--no-check", is_flag=True, help="Do without nats-server, which else reads the files.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def nats_config(**options: Any) -> None:
    """Write and check the configuration of a NATS broker for Foliot.

    FORM is embedded (this machine only), single (one server) or cluster (three or five). Secrets are made once and kept;
    run it again with more tenants and --replace, then reload the servers.
    """
    made = guarded(lambda: _make(options), as_json=options["as_json"])
    if options["as_json"]:
        echo_json(_as_json(made))
        return
    for line in _as_text(made):
        click.echo(line)
    if options["replace"]:
        click.echo("\nreload each running server, and once more for new tenants: nats-server --signal reload=PID")


def _make(options: dict[str, Any]) -> Made:
    form: Form = options["form"]
    auth: Auth = options["auth"]
    own = {"--tls-ca": options["tls_ca"], "--tls-cert": options["tls_cert"], "--tls-key": options["tls_key"]}
    missing = [name for name, value in own.items() if not value]
    if 0 < len(missing) < len(own):
        raise BrokerPlanError(missing[0], "is not given", "--tls-ca, --tls-cert and --tls-key together")
    if not missing and options["tls"]:
        raise BrokerPlanError("--tls", f"{options['tls']} with certificates of your own", "one of the two")
    servers = _servers(form, options)
    is_local = all(server.is_local for server in servers) and not options["listen"]
    make = bool(missing) and (options["tls"] == "make" or (options["tls"] is None and not is_local))
    if options["mtls"] and missing and not make:
        raise BrokerPlanError("--mtls", "without TLS", "--tls make, or certificates of your own")
    limits = TenantLimits(options["max_connections"], options["max_subscriptions"], options["max_payload"])
    tenants = tuple(name.strip() for name in options["tenants"].split(",") if name.strip())
    out: Path = options["out"]
    data: Path = options["data"] or out / "data"

    def plan_for(version: Version) -> BrokerPlan:
        return BrokerPlan(
            form,
            servers,
            data.absolute(),
            tenants,
            tls=None if missing else _own_tls(servers, own, verify=options["mtls"]),
            allow_plain=make or options["tls"] == "none",
            listen=options["listen"],
            limits=limits,
            version=version,
        )

    return make_config(
        out,
        plan_for,
        auth=auth,
        make_certificates=make,
        verify=options["mtls"],
        overwrite=options["replace"],
        check=not options["no_check"],
    )


def _servers(form: Form, options: dict[str, Any]) -> tuple[Server, ...]:
    if form != "cluster":
        if options["servers"]:
            raise BrokerPlanError("--servers", f"given for the form {form}", "--host and --port, or the form 'cluster'")
        monitor_port = 0 if form == "embedded" else options["monitor"]
        return (Server("foliot", options["host"], options["port"], monitor_port=monitor_port),)
    texts = options["servers"] or ",".join(f"{name}={options['host']}" for name in _SERVERS)
    return servers_of([text.strip() for text in texts.split(",") if text.strip()], monitor_port=options["monitor"])


def _own_tls(servers: tuple[Server, ...], files: dict[str, Any], *, verify: bool) -> Tls:
    ca = Path(files["--tls-ca"]).absolute()
    if not ca.is_file():
        raise BrokerPlanError("--tls-ca", f"{ca} is not there", "a PEM file")
    pairs: dict[str, tuple[Path, Path]] = {}
    for server in servers:
        found = []
        for name in ("--tls-cert", "--tls-key"):
            path = Path(files[name].replace("{server}", server.name)).absolute()
            if not path.is_file():
                raise BrokerPlanError(name, f"{path} is not there", "a PEM file")
            found.append(path)
        pairs[server.name] = (found[0], found[1])
    return Tls(ca, pairs, verify)


def _as_json(made: Made) -> dict[str, Any]:
    return {
        "folder": str(made.folder),
        "configs": [str(path) for path in made.configs],
        "urls": made.urls,
        "users": {name: str(path) for name, path in made.secrets.items()},
        "checked": made.is_checked,
    }


def _as_text(made: Made) -> list[str]:
    lines = [f"{path}{' (checked by nats-server)' if made.is_checked else ''}" for path in made.configs]
    lines += ["", "start:", *(f"  {describe(server, made)}" for server in made.plan.servers)]
    lines += ["", f"address: {made.urls}", "", "secrets, each with the prefix of its inbox:"]
    lines += [f"  {path}  _INBOX.{name}" for name, path in made.secrets.items()]
    return lines
