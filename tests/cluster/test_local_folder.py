"""The folder of a local cluster: whatever is found there, the next start works or says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from foliot.sdk.cluster.local import FolderError, LocalCluster, LocalOptions


@pytest.mark.parametrize("found", [b"", b"{", b'{"nats_port": 1}', b"\xff"])
def test_a_file_that_was_damaged_is_named(tmp_path: Path, found: bytes) -> None:
    (tmp_path / "cluster.json").write_bytes(found)
    with pytest.raises(FolderError, match=r"cluster\.json' cannot be used: .*; expected a folder of an earlier cluster"):
        LocalCluster(LocalOptions(data=tmp_path))


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="cannot be used"):
        LocalCluster(LocalOptions(data=tmp_path / "file"))


def test_what_is_half_written_by_a_process_that_was_killed_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "cluster.new").write_bytes(b"{")
    first = LocalCluster(LocalOptions(data=tmp_path))
    assert LocalCluster(LocalOptions(data=tmp_path)).address == first.address
