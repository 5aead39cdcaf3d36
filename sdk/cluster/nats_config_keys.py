"""Secrets of a broker: keys or passwords for its users, certificates for its servers. What exists is kept and used again.

An nkey is a signature key, of which the broker only knows the public half; a password stands in the broker's own files as
it is, and is 192 random bits. Certificates are made with the program `openssl`: one authority for clients, and one of its
own for the routes between servers, so that no client's certificate opens a route.
"""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from ...runtime.errors import FoliotError, UsageError
from ...runtime.rng import secret_bytes
from .nats_config import BrokerPlanError, Server, Tls
from .nats_config_files import read_secret, write_file

Auth = Literal["nkey", "password"]
Random = Callable[[int], bytes]

SUFFIXES: Final[Mapping[Auth, str]] = {"nkey": "nk", "password": "password"}
PASSWORD_BYTES: Final = 24
DAYS: Final = 3_650
_TOOL_TIMEOUT_S: Final = 60
_CURVE: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class ToolMissingError(UsageError):
    """Something the command needs is not installed."""

    code = "tool_missing"

    def __init__(self, tool: str, why: str, instead: str) -> None:
        super().__init__(f"{tool} is not there, {why}; {instead}")
        self.tool = tool


class OpensslError(FoliotError):
    """The program openssl failed."""

    code = "openssl"

    def __init__(self, step: str, said: str) -> None:
        super().__init__(f"openssl could not make {step}: {' '.join(said.split())[-300:]}")
        self.step = step


def credential(user: str, path: Path, auth: Auth, *, random: Random = secret_bytes) -> dict[str, str]:
    """Return what stands for a user in the configuration; its secret is in the file, made if it is not there."""
    if auth == "password":
        return {"user": user, "password": secret(path, random=random)}
    try:
        import nkeys  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        instead = "pip install nkeys, or give --auth password"
        raise ToolMissingError("the package nkeys", "needed to make and to use keys", instead) from error
    seed = read_secret(path)
    if seed is None:
        made: bytes = nkeys.encode_seed(random(32), nkeys.PREFIX_BYTE_USER)
        seed = made.decode()
        write_file(path, seed + "\n", secret=True)
    try:
        return {"nkey": nkeys.from_seed(seed.encode()).public_key.decode()}
    except Exception as error:  # of whatever kind: the package has several, without a common base
        raise BrokerPlanError(str(path), "is not the seed of an nkey", "the file as it was made, or none") from error


def secret(path: Path, *, random: Random = secret_bytes) -> str:
    """Return the password in a file, made if it is not there."""
    found = read_secret(path)
    if found is None:
        found = random(PASSWORD_BYTES).hex()
        write_file(path, found + "\n", secret=True)
    return found


def make_tls(servers: Sequence[Server], folder: Path, *, verify: bool, routes: bool) -> Tls:
    """Return certificates for the servers, made in `folder` where they are missing.

    Raises: ToolMissingError, OpensslError.
    """
    ca = authority(folder, "ca", "Foliot broker")
    certificates = {
        server.name: certificate(folder, "ca", folder / server.name, server.name, hosts_of(server)) for server in servers
    }
    if not routes:
        return Tls(ca, certificates, verify)
    routes_ca = authority(folder, "routes-ca", "Foliot broker routes")
    between = {
        server.name: certificate(folder, "routes-ca", folder / f"{server.name}-routes", server.name, hosts_of(server))
        for server in servers
    }
    return Tls(ca, certificates, verify, routes_ca, between)


def hosts_of(server: Server) -> list[str]:
    """Return by which names a server's certificate is good, each once."""
    return list(dict.fromkeys((server.host, server.name, "localhost", "127.0.0.1", "::1")))


def authority(folder: Path, name: str, subject: str) -> Path:
    """Return the certificate of an authority, made if it is not there."""
    path = folder / f"{name}.pem"
    if not path.exists():
        extensions = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        arguments = ("req", "-x509", *_CURVE, "-days", str(DAYS), "-subj", f"/CN={subject}", *extensions)
        with tempfile.TemporaryDirectory() as scratch:
            key, made = Path(scratch, "key"), Path(scratch, "made")
            _openssl(f"the authority {name}", *arguments, "-keyout", str(key), "-out", str(made))
            write_file(folder / f"{name}.key", key.read_text(), secret=True)
            write_file(path, made.read_text())
    return path


def certificate(
    folder: Path, ca: str, target: Path, subject: str, hosts: Sequence[str], *, random: Random = secret_bytes
) -> tuple[Path, Path]:  # fmt: skip
    """Return (certificate, key) beside `target`, made if they are not there. Without hosts it is a client's."""
    path, key = target.with_name(f"{target.name}.pem"), target.with_name(f"{target.name}.key")
    if path.exists() and key.exists():
        return path, key
    usage = "serverAuth,clientAuth" if hosts else "clientAuth"
    extensions = [f"extendedKeyUsage={usage}", "basicConstraints=critical,CA:FALSE"]
    if hosts:
        extensions.append("subjectAltName=" + ",".join(f"{_kind(host)}:{host}" for host in hosts))
    what = f"a certificate for {subject}"
    with tempfile.TemporaryDirectory() as scratch:
        made_key, request, made, rules = (Path(scratch, name) for name in ("key", "request", "made", "rules"))
        rules.write_text("\n".join(extensions) + "\n")
        _openssl(what, "req", *_CURVE, "-subj", f"/CN={subject[:64]}", "-keyout", str(made_key), "-out", str(request))
        signer = ("-CA", str(folder / f"{ca}.pem"), "-CAkey", str(folder / f"{ca}.key"))
        serial = ("-set_serial", str(int.from_bytes(random(16), "big") >> 1), "-days", str(DAYS))
        _openssl(what, "x509", "-req", "-in", str(request), *signer, *serial, "-extfile", str(rules), "-out", str(made))
        write_file(key, made_key.read_text(), secret=True)
        write_file(path, made.read_text())
    return path, key


def _kind(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "DNS"
    return "IP"


def _openssl(step: str, *arguments: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        instead = "install it, give --tls-ca, --tls-cert and --tls-key, or --tls none"
        raise ToolMissingError("the program openssl", "needed to make certificates", instead)
    run = subprocess.run(
        [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False
    )
    if run.returncode:
        raise OpensslError(step, run.stderr or run.stdout)
