"""Files that an enemy made: refused in a line, with little time and memory, or read rightly."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from networks import GOLDEN
from safetensors.numpy import load_file, save

from tests.conftest import one_line

NETWORK = GOLDEN / "gray-16.weights.safetensors"
MEMORY = 150 << 20  # beside what Python and NumPy take


def taken(*args: object) -> tuple[subprocess.CompletedProcess[bytes], float, int]:
    """Run sg2: its output, its seconds of computing, the most memory that it had."""
    code = (
        "import resource, sys; from pathlib import Path; from sg2cli.cli.main import run;"
        "code = run(sys.argv[1:]); u = resource.getrusage(resource.RUSAGE_SELF);"
        "status = Path('/proc/self/status').read_text();"
        "kilobytes = status.split('VmHWM:')[1].split()[0];"
        "Path('taken').write_text(f'{u.ru_utime + u.ru_stime} {kilobytes}');"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *map(str, args)]
    result = subprocess.run(command, capture_output=True, check=False, timeout=100)
    seconds, kilobytes = Path("taken").read_text().split()
    return result, float(seconds), int(kilobytes) << 10


def with_header(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A checkpoint whose header says something else."""
    content = NETWORK.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    changed = change(header)
    text = (changed if isinstance(changed, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def moved(header: dict[str, Any], start: int, end: int) -> None:
    header["synthesis.b4.const"]["data_offsets"] = [start, end]


def reshaped(header: dict[str, Any], *shape: int) -> None:
    header["synthesis.b4.const"]["shape"] = list(shape)


def with_dtype(header: dict[str, Any], dtype: str) -> None:
    header["synthesis.b4.const"]["dtype"] = dtype


def doubled(header: dict[str, Any]) -> str:
    text = json.dumps(header)
    return text[:-1] + ', "synthesis.b4.const": ' + json.dumps(header["synthesis.b4.const"]) + "}"


def many_tensors(header: dict[str, Any]) -> None:
    for i in range(300_000):
        header[f"t{i}"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


CHECKPOINTS: dict[str, Callable[[], bytes]] = {
    "offsets beyond the end": lambda: with_header(lambda h: moved(h, 0, 1 << 50)),
    "offsets that fall": lambda: with_header(lambda h: moved(h, 1024, 0)),
    "offsets below zero": lambda: with_header(lambda h: moved(h, -1024, 0)),
    "tensors that overlap": lambda: with_header(
        lambda h: h["synthesis.b4.const"].update(
            data_offsets=[o + 4 for o in h["synthesis.b4.const"]["data_offsets"]]
        )
    ),
    "a key twice": lambda: with_header(doubled),
    "billions of numbers": lambda: with_header(lambda h: reshaped(h, 1 << 32, 1 << 32)),
    "a shape of no number": lambda: with_header(lambda h: reshaped(h, -1, 4, 4)),
    "ten thousand dimensions": lambda: with_header(lambda h: reshaped(h, *[1] * 10_000)),
    "whole numbers": lambda: with_header(lambda h: with_dtype(h, "I32")),
    "an unknown dtype": lambda: with_header(lambda h: with_dtype(h, "Q9")),
    "a header of no object": lambda: with_header(lambda h: "[1]"),
    "a deep header": lambda: with_header(lambda h: "[" * 1_000_000),
    "a header of no text": lambda: struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
    "a header as long as the world": lambda: struct.pack("<Q", (1 << 64) - 1) + b"{}",
    "a header of 100 MB": lambda: struct.pack("<Q", 100_000_001) + b"{" + b" " * 100_000_000,
    "nothing but a length": lambda: struct.pack("<Q", 2),
    "metadata of a billion pixels": lambda: with_header(
        lambda h: h["__metadata__"].update(
            sg2='{"format_version": 1, "img_resolution": 1073741824}'
        )
    ),
    "hundreds of thousands of tensors": lambda: with_header(many_tensors),
    "metadata with a key twice": lambda: with_header(
        lambda h: h["__metadata__"].update(sg2='{"lr_multiplier": 1, "lr_multiplier": 0.01}')
    ),
    "metadata that is a list": lambda: with_header(lambda h: h.update(__metadata__=[])),
    "metadata of numbers": lambda: with_header(lambda h: h["__metadata__"].update(sg2=True)),
    "a shape of text": lambda: with_header(
        lambda h: h["synthesis.b4.const"].update(shape=["1", 4, 4])
    ),
    "a shape that overflows": lambda: with_header(lambda h: reshaped(h, 1 << 62, 4, 16)),
    "more than its header says": lambda: NETWORK.read_bytes() + b"x",
    "a header of 2^63 bytes": lambda: struct.pack("<Q", 1 << 63) + NETWORK.read_bytes()[8:],
    "metadata of deep brackets": lambda: with_header(
        lambda h: h["__metadata__"].update(sg2="[" * 1_000_000)
    ),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_checkpoints(in_tmp: Path, what: str) -> None:
    content = CHECKPOINTS[what]()
    Path("a.safetensors").write_bytes(content)
    result, seconds, memory = taken("info", "a.safetensors")
    assert result.returncode == 3, result.stdout
    assert "a.safetensors" in one_line(result.stderr.decode())
    assert seconds < 1
    assert memory < MEMORY + len(content)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_invalid_weights_are_refused(sg2: Any, value: float) -> None:
    tensors = load_file(NETWORK)
    tensors["synthesis.b4.const"].flat[3] = value
    Path("a.safetensors").write_bytes(save(tensors))
    result = sg2("generate", "-n", "a.safetensors", "--seeds", "0")
    assert result.code == 3
    assert "synthesis.b4.const holds NaN or infinity" in one_line(result.err)


class Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def npy(array: Any, **options: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


def npy_header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def archive(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, member in members.items():
            file.writestr(f"{name}.npy", member)
    return content.getvalue()


def lying_archive() -> bytes:
    """Its directory says that a member is small; it is not."""
    content = archive(w=npy(np.zeros((2_000_000, 32), np.float32)))
    real = struct.pack("<I", 2_000_000 * 32 * 4 + 128)
    assert content.count(real) == 2
    return content.replace(real, struct.pack("<I", 4096))


def member_twice(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is there already
        for i, name in enumerate(names):
            file.writestr(name, npy(np.full((1, 32), i, np.float32)))
    return content.getvalue()


def array_twice() -> bytes:
    content = save({"w": np.zeros((1, 32), np.float32)})
    length = struct.unpack("<Q", content[:8])[0]
    text = content[8 : 8 + length].decode().strip()
    text = doubled({**json.loads(text), "synthesis.b4.const": json.loads(text)["w"]})
    text = text.replace("synthesis.b4.const", "w")
    return struct.pack("<Q", len(text)) + text.encode() + content[8 + length :]


def encrypted() -> bytes:
    content = bytearray(member_twice("w.npy"))
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    return bytes(content)


LATENTS: dict[str, Callable[[], bytes]] = {
    "an object": lambda: npy(np.array([Evil()], object), allow_pickle=True),
    "an object in an archive": lambda: archive(
        w=npy(np.array([Evil()], object), allow_pickle=True)
    ),
    "a bomb": lambda: archive(w=npy(np.zeros((2_000_000, 32), np.float32))),
    "many bombs": lambda: archive(
        **{f"a{i}.noise_const": npy(np.zeros((2000, 2000), np.float32)) for i in range(20)}
    ),
    "a lying archive": lambda: lying_archive(),
    "a shape without data": lambda: npy_header(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 32)}\n"
    ),
    "a shape in an archive": lambda: archive(
        w=npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 32)}\n")
    ),
    "a shape below zero": lambda: npy_header(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 32)}\n", bytes(128)
    ),
    "code in a header": lambda: npy_header("__import__('pathlib').Path('executed').touch()\n"),
    "a deep header": lambda: npy_header("(" * 60_000),
    "a header of many signs": lambda: npy_header("-" * 9000 + "1\n"),
    "a member twice": lambda: member_twice("w.npy", "w.npy"),
    "a member under two names": lambda: member_twice("w.npy", "w"),
    "an encrypted member": lambda: encrypted(),
    "an array twice": lambda: array_twice(),
    "a shape of truth": lambda: npy_header(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 32)}\n", bytes(128)
    ),
    "a header of a megabyte": lambda: (
        b"\x93NUMPY\x02\x00"
        + struct.pack("<I", 1_000_000)
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 32)}".ljust(1_000_000)
        + bytes(128)
    ),
    "complex numbers": lambda: npy(np.zeros((1, 32), complex)),
    "text": lambda: npy(np.array([["a" * 32]])),
    "records": lambda: npy(np.zeros(3, [("w", "f4", 32)])),
    "nothing": lambda: npy(np.zeros((0, 32), np.float32)),
    "NaN": lambda: npy(np.full((1, 32), np.nan, np.float32)),
    "infinity": lambda: npy(np.full((1, 32), np.inf)),
}


def test_latents_that_are_unusual_but_right(sg2: Any) -> None:
    """Of another order in memory or of bytes; of zip64; by Python 2; beside members of others."""
    rows = np.random.RandomState(0).randn(2, 32).astype(np.float32)
    np.save("plain.npy", rows)
    with zipfile.ZipFile("others.npz", "w") as file:
        for i in range(20_000):
            file.writestr(f"a{i}.npy", b"")
        file.writestr("/etc/w.npy", b"")
        with file.open("w.npy", "w", force_zip64=True) as member:
            member.write(npy(rows))
    contents = {
        "plain": npy(rows),
        "fortran": npy(np.asfortranarray(rows)),
        "big": npy(rows.astype(">f4")),
        "double": npy(rows.astype(np.float64)),
        "old": npy_header(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 32L)}\n", rows.tobytes()
        ),
        "more": npy(rows) + b"more",
    }
    for name, content in contents.items():
        Path(f"{name}.npy").write_bytes(content)
    for name in (*(f"{name}.npy" for name in contents), "others.npz"):
        result = sg2("generate", "-n", NETWORK, "--latents", f"{name}[1]", "--out", f"{name}.png")
        assert (result.code, result.err) == (0, "")
        found, expected = (PIL.Image.open(f"{file}.png") for file in (name, "plain.npy"))
        assert (np.asarray(found) == np.asarray(expected)).all()


@pytest.mark.parametrize("what", LATENTS)
def test_latents(in_tmp: Path, what: str) -> None:
    starts = {b"\x93": "npy", b"P": "npz"}
    content = LATENTS[what]()
    suffix = starts.get(content[:1], "safetensors")
    name = f"hostile.{suffix}"
    Path(name).write_bytes(content)
    if what not in ("nothing", "NaN", "infinity"):  # which are found when they are used
        result, seconds, memory = taken("info", name)
        assert result.returncode in (1, 2, 3), result.stdout  # 3 if it is taken for a network
        assert name in one_line(result.stderr.decode())
        assert seconds < 1
        assert memory < MEMORY
    result, seconds, memory = taken("generate", "-n", NETWORK, "--latents", name)
    assert result.returncode in (1, 2)
    assert "hostile" in one_line(result.stderr.decode())
    assert not Path("executed").exists()
    assert not list(Path().glob("out/*"))


def test_the_scale(in_tmp: Path) -> None:
    """What the limits above stand beside: a run that has nothing to refuse."""
    result, seconds, memory = taken("info", NETWORK)
    assert result.returncode == 0
    assert seconds < 1
    assert memory < MEMORY
