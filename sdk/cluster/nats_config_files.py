"""Files of a broker's configuration on the disk, and the broker's own word on them.

Nothing is written over unless it was asked for, and each file is replaced whole. Secrets, and the configuration, which holds
some, can be read by their owner only from the first byte on.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ...runtime.errors import FoliotError, UsageError

_CHECK_TIMEOUT_S: Final = 60
_VERSION: Final = re.compile(r"v(\d+)\.(\d+)\.")


class ConfigExistsError(UsageError):
    """Other files are there already."""

    code = "config_exists"

    def __init__(self, paths: Sequence[Path]) -> None:
        names = ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        super().__init__(f"{names} would change, so the configuration stays as it is; expected --replace or another --out")
        self.paths = tuple(paths)


class ConfigRefusedError(FoliotError):
    """The broker does not take the configuration."""

    code = "config_refused"

    def __init__(self, path: Path, said: str) -> None:
        super().__init__(f"nats-server does not take {path}: {' '.join(said.split())[:500]}")
        self.path = path
        self.said = said


class FileError(UsageError):
    """A file or folder that cannot be written or read."""

    code = "file"

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path} cannot be used: {error.strerror or error}; expected a folder of your own")
        self.path = path


def write_file(path: Path, text: str, *, secret: bool = False) -> None:
    """Write a file whole, or not at all. Raises: FileError."""
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        # Exclusive, so that nobody else's file, nor where a link leads, is written to.
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise FileError(path, error) from error


def read_secret(path: Path) -> str | None:
    """Return what a file of one secret says; None if it is not there. Raises: FileError."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileError(path, error) from error


def check_free(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Return those of the files that are there and say something else. Raises: FileError."""
    found = []
    for name, text in texts.items():
        try:
            if (folder / name).read_text(encoding="utf-8") != text:
                found.append(folder / name)
        except FileNotFoundError:
            continue
        except UnicodeDecodeError:
            found.append(folder / name)
        except OSError as error:
            raise FileError(folder / name, error) from error
    return found


def write_all(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files that hold secrets."""
    for name, text in texts.items():
        write_file(folder / name, text, secret=True)


def version_of(server: Path) -> tuple[int, int] | None:
    """Return the version of the program; None if it does not say."""
    try:
        command = [str(server), "--version"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=_CHECK_TIMEOUT_S, check=False)
    except OSError as error:
        raise FileError(server, error) from error
    found = _VERSION.search(run.stdout + run.stderr)
    return (int(found[1]), int(found[2])) if found else None


def check_config(server: Path, path: Path) -> None:
    """Have nats-server read a configuration. Raises: ConfigRefusedError."""
    command = [str(server), "-t", "-c", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=_CHECK_TIMEOUT_S, check=False)
    if run.returncode:
        raise ConfigRefusedError(path, run.stderr or run.stdout)
