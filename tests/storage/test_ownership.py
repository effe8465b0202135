"""Folders shared with the user: only what sg2 wrote, and as it wrote it, is replaced or removed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from sg2cli.errors import Sg2Error
from sg2cli.storage.ownership import OwnedFolder

NAMES = ("x", "ours", "theirs")


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".sg2" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_our_files_are_replaced_by_this_and_later_runs(tmp_path: Path) -> None:
    first = OwnedFolder(tmp_path / "a", NAMES)
    first.write("x", b"1")
    first.write("x", b"2")
    OwnedFolder(tmp_path / "a", NAMES).write("x", b"3")
    assert contents(tmp_path / "a") == {"x": b"3"}


def test_foreign_or_changed_files_stay(tmp_path: Path) -> None:
    folder = OwnedFolder(tmp_path, NAMES)
    folder.write("ours", b"1")
    (tmp_path / "ours").write_bytes(b"edited")
    (tmp_path / "theirs").write_bytes(b"theirs")
    for name in ("ours", "theirs"):
        with pytest.raises(Sg2Error, match=f"{name} exists and is not as sg2 wrote it"):
            OwnedFolder(tmp_path, NAMES).write(name, b"2")
    folder.clear()
    assert contents(tmp_path) == {"ours": b"edited", "theirs": b"theirs"}
    OwnedFolder(tmp_path, NAMES, replace=True).write("theirs", b"2")  # --overwrite
    assert contents(tmp_path) == {"ours": b"edited", "theirs": b"2"}


def test_a_kill_between_record_and_rename_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file is still ours, and the next run replaces it."""
    OwnedFolder(tmp_path, NAMES).write("x", b"1")

    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.name == "x":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            OwnedFolder(tmp_path, NAMES).write("x", b"2")
    assert contents(tmp_path) == {"x": b"1"}
    OwnedFolder(tmp_path, NAMES).write("x", b"3")
    assert contents(tmp_path) == {"x": b"3"}


@pytest.mark.parametrize("kind", ["file", "link", "unmarked", "damaged", "linked manifest"])
def test_a_folder_of_that_name_that_is_not_ours_is_left_alone(tmp_path: Path, kind: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "manifest.json").write_text(json.dumps({"files": {}}))
    out = tmp_path / "out"
    out.mkdir()
    if kind == "file":
        (out / ".sg2").write_text("mine")
    elif kind == "link":
        (out / ".sg2").symlink_to(elsewhere)
    else:
        (out / ".sg2").mkdir()
        (out / ".sg2/mine.png").write_text("mine")
        if kind == "damaged":
            (out / ".sg2/manifest.json").write_text('{"files": {"a": ["x"]}}')
        elif kind == "linked manifest":
            (out / ".sg2/manifest.json").symlink_to(elsewhere / "manifest.json")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(Sg2Error, match="was not made by sg2"):
        OwnedFolder(out, NAMES)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_working_files_are_removed_and_links_not_followed(tmp_path: Path) -> None:
    folder, outside = OwnedFolder(tmp_path / "a", NAMES), tmp_path / "outside"
    outside.mkdir()
    (outside / "1.png").write_text("mine")
    work = folder.work_folder("frames")
    (work / "1.png").symlink_to(outside / "1.png")
    (work / "2.png").write_text("ours")
    (work / "notes.txt").write_text("mine")
    folder.remove_work("frames", lambda name: name.endswith(".png"))
    assert [path.name for path in work.iterdir()] == ["notes.txt"]
    (work / "notes.txt").unlink()
    work.rmdir()
    work.symlink_to(outside)
    folder.remove_work("frames", lambda name: True)
    with pytest.raises(Sg2Error, match="not a folder that sg2 made"):
        folder.work_folder("frames")
    assert (outside / "1.png").read_text() == "mine"


def test_empty_folders_are_removed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "new/deep", tmp_path / "there"):
        folder = OwnedFolder(path, NAMES)
        folder.work_folder("frames")
        folder.remove_work("frames", lambda name: True)
        folder.leave()
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    folder = OwnedFolder(tmp_path / "full", NAMES)
    folder.write("x", b"1")
    folder.leave()
    assert (tmp_path / "full/x").exists()


@pytest.mark.parametrize("name", ["../mine", "/tmp/mine", "sub/mine", "..", "mine"])
def test_a_record_of_other_names_is_not_believed(tmp_path: Path, name: str) -> None:
    """Else whoever sends a folder of results could have any file removed."""
    OwnedFolder(tmp_path / "a", NAMES).write("x", b"1")
    (tmp_path / "mine").write_bytes(b"mine")
    manifest = tmp_path / "a/.sg2/manifest.json"
    record = json.loads(manifest.read_text())
    record["files"][name] = [hashlib.sha256(b"mine").hexdigest()]
    manifest.write_text(json.dumps(record))
    with pytest.raises(Sg2Error, match="not a result"):
        OwnedFolder(tmp_path / "a", NAMES)


def test_a_folder_that_is_a_link_loses_nothing(tmp_path: Path) -> None:
    OwnedFolder(tmp_path / "a", NAMES).write("x", b"1")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    OwnedFolder(tmp_path / "link", NAMES).clear()
    assert (tmp_path / "a/x").read_bytes() == b"1"
