"""Zip files: read as they are, and refused if two readers could see two things in them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sg2cli.checkpoints.importer import read_checkpoint
from sg2cli.errors import CheckpointError, Sg2Error
from sg2cli.latents.files import read_latents
from sg2cli.storage.budget import LimitExceeded
from sg2cli.storage.reading import Source
from sg2cli.storage.zip_reader import BadArchive, ZipFile

CONTENTS = {"a": b"first " * 100, "b/c.txt": b"", "ü": bytes(range(256))}


class Pipe:
    """In which one cannot go back, so that sizes are written behind the content."""

    content = b""

    def write(self, more: bytes) -> int:
        self.content += more
        return len(more)

    def flush(self) -> None: ...


def archive(method: int = zipfile.ZIP_STORED, streamed: bool = False, wide: bool = False) -> bytes:
    """As Python writes them: on a disk or into a pipe, with numbers of 32 or 64 bits."""
    file: Any = Pipe() if streamed else io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as members:
        for name, content in CONTENTS.items():
            with members.open(name, "w", force_zip64=wide) as member:
                member.write(content)
    return bytes(file.content if streamed else file.getvalue())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_archives_are_read(method: int, streamed: bool, wide: bool) -> None:
    members = ZipFile(Source(archive(method, streamed, wide)))
    assert {name: bytes(members.read(name)) for name in members.members} == CONTENTS


def test_an_archive_without_members() -> None:
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    assert ZipFile(Source(file.getvalue())).members == {}


def test_more_members_than_16_bits_count() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        for i in range(70_000):
            members.writestr(f"{i}", b"")
    with pytest.raises(LimitExceeded, match="more than 65,535 members"):
        ZipFile(Source(file.getvalue()))


PLAIN = archive()
DIRECTORY = PLAIN.index(b"PK\1\2")


def changed(at: int, new: bytes, content: bytes = PLAIN) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def twice() -> bytes:
    """The second member gets the name of the first, in both places."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("one", b"1")
        members.writestr("two", b"2")
    return file.getvalue().replace(b"two", b"one")


def nested(depth: int) -> bytes:
    """Members each of which holds the headers and contents of all that follow."""
    tail, entries, at = b"", [], 0
    for i in range(depth, 0, -1):
        content = tail
        name = b"%04d" % i
        numbers = (zlib.crc32(content), len(content), len(content))
        tail = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, *numbers, 4, 0) + name + content
        entries.append((name, numbers, len(tail)))
    directory = b""
    for name, numbers, length in reversed(entries):
        at = len(tail) - length
        fixed = (b"PK\1\2", 20, 20, 0, 0, 0, 0, *numbers, 4, 0, 0, 0, 0, 0, at)
        directory += struct.pack("<4s6H3I5H2I", *fixed) + name
    end = (b"PK\5\6", 0, 0, depth, depth, len(directory), len(tail), 0)
    return tail + directory + struct.pack("<4s4H2IH", *end)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a member twice": (twice, "the member 'one' twice"),
    "members in one another": (lambda: nested(100), "overlaps another"),
    "another name in front": (lambda: changed(30, b"x"), "local and central headers that disagree"),
    "another checksum in front": (
        lambda: changed(14, b"xxxx"),
        "local and central headers that disagree",
    ),
    "another size in front": (
        lambda: changed(22, b"xxxx"),
        "local and central headers that disagree",
    ),
    "another method in front": (
        lambda: changed(8, b"\x08"),
        "local and central headers that disagree",
    ),
    "other flags in front": (
        lambda: changed(6, b"\x08"),
        "local and central headers that disagree",
    ),
    "encrypted": (lambda: changed(DIRECTORY + 8, b"\x01"), "encrypted"),
    "an unknown method": (lambda: changed(DIRECTORY + 10, b"\x63"), "in an unknown way"),
    "another content": (lambda: changed(40, b"x"), "checksum mismatch"),
    "a size that is too large": (
        lambda: changed(DIRECTORY + 20, b"\xff\xff\xff\x7f" * 2),
        "overlaps",
    ),
    "a header beyond the end": (lambda: changed(DIRECTORY + 42, b"\xff\xff\xff\x7f"), "overlaps"),
    "cut off": (lambda: PLAIN[:-30], "cut off"),
    "cut off in front": (lambda: PLAIN[10:], "not at the recorded offset"),
    "something behind": (lambda: PLAIN + b"x", "trailing data"),
    "something in front": (lambda: b"x" * 10 + PLAIN, "not at the recorded offset"),
    "fewer members than it says": (
        lambda: changed(len(PLAIN) - 14, b"\xff\x00\xff\x00"),
        "too short",
    ),
    "more members than it says": (
        lambda: changed(len(PLAIN) - 14, b"\x01\x00\x01\x00"),
        "wrong length",
    ),
    "64 bits that are not there": (
        lambda: changed(len(PLAIN) - 6, b"\xff\xff\xff\xff"),
        "64-bit record",
    ),
    "no text for a name": (
        lambda: archive().replace("ü".encode(), b"\xff\xff"),
        "not text",
    ),
    "a name that ends early": (lambda: twice().replace(b"one", b"o\0e"), "not text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_archives_that_mean_two_things_are_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(BadArchive, match=message):
        members = ZipFile(Source(make()))
        for member in members.members:
            members.read(member)


def test_a_member_that_unpacks_to_more_than_it_says() -> None:
    content = archive(zipfile.ZIP_DEFLATED)
    size = struct.pack("<I", len(CONTENTS["a"]))
    members = ZipFile(Source(content.replace(size, struct.pack("<I", 10))))
    with pytest.raises(BadArchive, match="wrong size"):
        members.read("a")


@pytest.mark.parametrize("step", [1, 7])
def test_a_changed_byte_is_found_or_means_nothing(step: int) -> None:
    """Of an archive with every kind of field: never another error, and never another content."""
    for whole in (archive(), archive(zipfile.ZIP_DEFLATED, streamed=True, wide=True)):
        for at in range(0, len(whole), step):
            content = changed(at, bytes([whole[at] ^ 0x41]), whole)
            try:
                members = ZipFile(Source(content))
                found = {bytes(members.read(name)) for name in members.members}
            except (BadArchive, LimitExceeded, OSError):
                continue
            assert found == set(CONTENTS.values())


def damaged(content: bytes, data: bytes) -> bytes:
    at = content.index(data)
    return changed(at, bytes([data[0] ^ 1]), content)


def test_a_pt_whose_numbers_were_changed_is_refused(in_tmp: Path) -> None:
    """Read before as if they were right."""
    weights = torch.arange(1000.0)
    torch.save({"g_ema": {"input.input": weights.view(1, 10, 10, 10)}}, "net.pt")
    content = Path("net.pt").read_bytes()
    Path("net.pt").write_bytes(damaged(content, weights.numpy().tobytes()))
    with pytest.raises(CheckpointError, match="damaged, as its member .* checksum mismatch"):
        read_checkpoint(Path("net.pt"))


def test_a_pt_with_a_member_twice_is_refused(in_tmp: Path) -> None:
    """The last of them was read, and other readers read the first."""
    torch.save({"g_ema": {"a": torch.zeros(2), "b": torch.ones(2)}}, "net.pt")
    content = Path("net.pt").read_bytes()
    Path("net.pt").write_bytes(content.replace(b"/data/1", b"/data/0"))
    with pytest.raises(CheckpointError, match="the member .*/data/0' twice"):
        read_checkpoint(Path("net.pt"))


@pytest.mark.parametrize("writes", [np.savez, np.savez_compressed])
def test_an_npz_whose_numbers_were_changed_is_refused(in_tmp: Path, writes: Any) -> None:
    writes("a.npz", w=np.random.RandomState(0).randn(3, 32))
    content = Path("a.npz").read_bytes()
    Path("a.npz").write_bytes(changed(len(content) // 2, b"\x55\xaa", content))
    with pytest.raises(Sg2Error, match=r"a\.npz is damaged or holds no latents: its member 'w"):
        read_latents(Path("a.npz"), "a.npz")


def test_an_npz_of_members_in_one_another_is_refused(in_tmp: Path) -> None:
    Path("a.npz").write_bytes(nested(2000))
    with pytest.raises(Sg2Error, match="overlaps another"):
        read_latents(Path("a.npz"), "a.npz")
