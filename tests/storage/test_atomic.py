"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sg2cli.errors import Sg2Error
from sg2cli.storage.atomic import new_file


def test_a_durable_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[list[str]] = []
    wait = os.fsync

    def fsync(handle: int) -> None:
        wait(handle)
        synced.append(sorted(path.name for path in tmp_path.glob("[a-z]*")))

    monkeypatch.setattr(os, "fsync", fsync)
    with new_file(tmp_path / "a", durable=True) as file:
        file.write(b"whole")
    assert synced == [[], ["a"]]  # its content, and then the folder
    with new_file(tmp_path / "b") as file:
        file.write(b"whole")
    assert len(synced) == 2


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(ZeroDivisionError), new_file(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with new_file(path) as file:
        file.write(b"one")
        assert not path.exists()
    with pytest.raises(Sg2Error, match="exists"), new_file(path) as file:
        file.write(b"two")
    assert path.read_bytes() == b"one"
    with new_file(path, overwrite=True) as file:
        file.write(b"three")
    assert path.read_bytes() == b"three"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_disks_without_links_do_not_lose_files_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    with new_file(tmp_path / "a") as file:
        file.write(b"one")
    with pytest.raises(Sg2Error, match="exists"), new_file(tmp_path / "a") as file:
        file.write(b"two")
    assert (tmp_path / "a").read_bytes() == b"one"


def test_new_files_have_the_users_permissions(tmp_path: Path) -> None:
    with new_file(tmp_path / "a") as file:
        file.write(b"one")
    (tmp_path / "b").write_bytes(b"two")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
