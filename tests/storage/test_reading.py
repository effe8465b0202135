"""Files and pipes read into memory: up to a limit, as they were opened, and never mapped."""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from networks import GOLDEN, random_generator
from safetensors.torch import save, save_file

import sg2cli
from sg2cli.checkpoints import save_generator
from sg2cli.storage.budget import MAX_SMALL_FILE, Budget, LimitExceeded
from sg2cli.storage.reading import CountedFile, Source, open_file, read_bytes, read_stream
from sg2cli.storage.safetensors import SafetensorsFile
from tests.conftest import one_line

NETWORK = GOLDEN / "gray-16.weights.safetensors"


def test_nothing_is_mapped() -> None:
    """A file that is cut short while it is mapped ends the process with SIGBUS.

    Memory that belongs to no file, mmap(-1, ...), is another matter.
    """
    maps = r"\bmmap\((?!-1,)|from mmap|safe_open|load_file|from_file|np\.load\(|mmap_mode"
    for path in Path(sg2cli.__file__).parent.rglob("*.py"):
        assert not re.search(maps, path.read_text()), path


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    assert read_bytes(path, 100) == b"x" * 100
    with pytest.raises(OSError, match="more than the limit of 99 bytes"):
        read_bytes(path, 99)
    with pytest.raises(OSError, match="it is a folder"):
        open_file(tmp_path)
    with pytest.raises(OSError, match="it is a device"):
        open_file(Path("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="it is a socket"):
            read_bytes(tmp_path / "socket", 100)


def test_of_an_endless_stream_no_more_than_the_limit_is_read() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, count: int = -1) -> bytes:
            assert count > 0
            self.given += count
            return bytes(count)

    stream: Any = Endless()
    with pytest.raises(OSError, match="more than the limit of 5,000,000 bytes"):
        read_stream(stream, 5_000_000)
    assert stream.given == 5_000_001


def test_a_pipe_is_read_up_to_a_limit(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def written(content: bytes) -> None:
        with pipe.open("wb") as file:
            file.write(content)

    for limit in (10, 9):
        thread = threading.Thread(target=written, args=(b"0123456789",))
        thread.start()
        if limit == 10:
            assert read_bytes(pipe, 0, limit) == b"0123456789"
        else:
            with pytest.raises(OSError, match="more than the limit of 9 bytes"):
                read_bytes(pipe, 1000, limit)
        thread.join()


def test_a_source_is_what_was_opened(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    content = bytes(range(256)) * (MAX_SMALL_FILE // 256 + 1)
    path.write_bytes(content)
    other.write_bytes(b"other")
    with Source(path) as source:
        other.replace(path)
        assert source.read(5, 1000) == content[1000:1005]
        buffer = bytearray(300)
        source.fill(buffer, 77)
        assert buffer == content[77:377]
        with pytest.raises(OSError, match="cut off"):
            source.read(2, len(content) - 1)


@pytest.mark.parametrize("size", [1000, MAX_SMALL_FILE + 1000])
def test_a_source_that_is_written_to(tmp_path: Path, size: int) -> None:
    """A small one was read at once; of a large one nobody gets this and that mixed."""
    path = tmp_path / "a"
    path.write_bytes(bytes(size))
    with Source(path) as source:
        path.write_bytes(b"\1" * size)
        os.utime(path, ns=(1, 1))
        if size < MAX_SMALL_FILE:
            assert source.read(3) == bytes(3)
        else:
            with pytest.raises(OSError, match="was changed while it was read"):
                source.read(3)


def test_a_counted_file_gives_no_more_than_its_budget() -> None:
    file = CountedFile(Source(bytes(range(100))), Budget(reads=3, bytes_read=150))
    assert file.read(2) == b"\0\1" and file.tell() == 2
    file.seek(-1, 2)
    assert file.read() == b"\x63" and file.read() == b""
    with pytest.raises(LimitExceeded, match="more than 3 reads"):
        file.read(1)


DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")


@pytest.mark.parametrize("dtype", [*DTYPES, "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (0, 5)])
def test_tensors_of_any_kind_are_read(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 3).to(getattr(torch, dtype))
    save_file({"b": tensor, "a": torch.ones(1)}, tmp_path / "a", {"x": "y"})
    with SafetensorsFile(tmp_path / "a") as file:
        assert file.metadata == {"x": "y"}
        found = file.tensor("b")
        assert found.dtype == tensor.dtype and found.shape == shape and found.equal(tensor)
        if dtype != "bfloat16":
            assert (file.array("b") == tensor.numpy()).all()
            if len(shape) > 1:
                assert (file.array("b", slice(1, 2)) == tensor.numpy()[1:2]).all()


def header(text: str, numbers: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + numbers


ENTRY = '"{}": {{"dtype": "F32", "shape": [{}], "data_offsets": [{}, {}]}}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short"),
        (struct.pack("<Q", 100) + b"{}", "cut off"),
        (struct.pack("<Q", 1 << 21) + bytes(1 << 21), "more than 1,048,576 bytes"),
        (header("[]"), "not a JSON object"),
        (header("{"), "not valid JSON"),
        (header("[" * 100_000), "nested too deep"),
        (header('{"a": 1, "a": 1}'), "'a' twice"),
        (header('{"a": 1}'), "malformed header entry"),
        (header('{"__metadata__": {"a": 1}}'), "metadata are not text"),
        (header("{" + ENTRY.format("a", 1, 4, 8) + "}", bytes(8)), "follows a gap"),
        (header("{" + ENTRY.format("a", 1, 0, 4) + "}", bytes(8)), "8 bytes of data, not 4"),
        (header("{" + ENTRY.format("a", 2, 0, 8) + "}", bytes(4)), "4 bytes of data, not 8"),
        (header("{" + ENTRY.format("a", 2, 0, 4) + "}", bytes(4)), "do not match its shape"),
        (header("{" + ENTRY.format("a", "-1, -1", 0, 4) + "}", bytes(4)), "has an invalid shape"),
        (header("{" + ENTRY.format("a", "true", 0, 4) + "}", bytes(4)), "has an invalid shape"),
        (
            header("{" + ENTRY.format("a", "1" + ", 1" * 8, 0, 4) + "}", bytes(4)),
            "has an invalid shape",
        ),
        (header("{" + ENTRY.format("a", 1, 0, 4).replace("F32", "Q9") + "}"), "unknown dtype"),
        (
            header(
                "{" + ENTRY.format("a", 1, 0, 4) + ", " + ENTRY.format("b", 1, 0, 4) + "}", b"1234"
            ),
            "overlap",
        ),
        (
            header("{" + ", ".join(f'"{i}": 0' for i in range(25_000)) + "}"),
            "more than 20,000 tensors",
        ),
    ],
)
def test_headers_that_are_not_right(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SafetensorsFile(Source(content))


CUT_SHORT = """
import sys
from pathlib import Path
from sg2cli.checkpoints import find_network
network = find_network("net.safetensors")
G = network.load()
with Path("net.safetensors").open("rb+") as file:
    file.truncate(5000)
print(sum(float(tensor.sum()) for tensor in G.state_dict().values()))
"""


def test_a_file_that_is_cut_short_does_not_end_the_process(in_tmp: Path) -> None:
    save_generator(
        random_generator(img_resolution=256, channels=(128,) * 7), Path("net.safetensors"), {}
    )
    done = subprocess.run([sys.executable, "-c", CUT_SHORT], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def latents() -> bytes:
    return save({"w": torch.ones(2, 32)})


def photo() -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (32, 32), "red").save(file, "png")
    return file.getvalue()


ENDLESS: dict[str, list[str]] = {
    "a network": ["generate", "-n", "{}", "--seeds", "0"],
    "a file": ["info", "{}"],
    "another code's network": ["convert", "{}", "out.safetensors"],
    "latents": ["generate", "-n", str(NETWORK), "--latents", "{}"],
    "a photo": ["project", "-n", str(NETWORK), "{}", "--steps", "1"],
    "a mask": ["project", "-n", str(NETWORK), "photo.png", "--mask", "{}", "--steps", "1"],
    "a direction": ["edit", "-n", str(NETWORK), "--seeds", "0", "--direction", "{}"],
    "differences": ["generate", "-n", str(NETWORK), "--seeds", "0", "--tuned", "{}"],
}


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom"])
@pytest.mark.parametrize("what", ENDLESS)
def test_devices_are_refused_as_any_input(sg2: Callable[..., Any], what: str, device: str) -> None:
    Path("photo.png").write_bytes(photo())
    Path("link.npy").symlink_to(device)
    name = "link.npy" if what in ("latents", "a direction") else device
    result = sg2(*[argument.format(name) for argument in ENDLESS[what]])
    assert result.code in (1, 2, 3)
    assert one_line(result.err)
    assert not list(Path().glob("out/*.png"))


def test_an_endless_stdin_is_refused_after_its_first_bytes(in_tmp: Path) -> None:
    command = [sys.executable, "-m", "sg2cli", "info", "-"]
    with Path("/dev/zero").open("rb") as zeros:
        done = subprocess.run(command, stdin=zeros, capture_output=True, check=False, timeout=100)
    assert done.returncode == 3
    assert b"not a file format that sg2 can read" in done.stderr


def test_small_files_of_latents_leave_no_open_file(in_tmp: Path, sg2: Callable[..., Any]) -> None:
    """There may be more of them than a process may have open."""
    np.save("a.npy", np.ones((1, 32), np.float32))
    for i in range(20):
        Path(f"{i}.npy").write_bytes(Path("a.npy").read_bytes())
    before = len(list(Path("/proc/self/fd").iterdir()))
    files = ",".join(f"{i}.npy" for i in range(20))
    assert sg2("generate", "-n", NETWORK, "--latents", files).code == 0
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
