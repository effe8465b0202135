"""Files out of pipes, as of <(...): read once, and known by content, as they have no suffix."""

from __future__ import annotations

import argparse
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_generator
from safetensors.torch import save

from sg2cli.checkpoints import find_network, save_generator
from sg2cli.checkpoints.weight_deltas import encode_weight_deltas
from sg2cli.errors import UsageError
from sg2cli.latents.directions import find_direction
from tests.conftest import one_line

W_DIM = 16


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def factor(**others: Any) -> bytes:
    """What rosinality's closed_form_factorization.py saves."""
    file = io.BytesIO()
    torch.save({"eigvec": torch.eye(W_DIM), **others}, file)
    return file.getvalue()


class Pipes:
    """Named pipes, each of which gives its content once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.threads = folder, []

    def __call__(self, content: bytes) -> str:
        path = self.folder / f"pipe{len(self.threads)}"
        os.mkfifo(path)
        thread = threading.Thread(target=path.write_bytes, args=(content,), daemon=True)
        thread.start()
        self.threads.append(thread)
        return str(path)


@pytest.fixture
def pipe(in_tmp: Path) -> Iterator[Pipes]:
    pipes = Pipes(in_tmp)
    yield pipes
    for thread in pipes.threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


@pytest.fixture
def network(in_tmp: Path) -> Path:
    path = in_tmp / "net.safetensors"
    save_generator(random_generator(z_dim=W_DIM), path, {})
    return path


W = np.random.RandomState(0).randn(3, W_DIM).astype(np.float32)


@pytest.mark.parametrize(
    ("content", "suffix", "names"),
    [
        (npy(W), "", 3),
        (npy(W), "[1]", 1),
        (npy(W), "[0-1]:z", 2),
        (npz(w=W), "", 3),
        (npz(z=W), "[2]", 1),
        (save({"w": torch.from_numpy(W)}), "[0-1]", 2),
    ],
)
def test_latents(
    sg2: Any, network: Path, pipe: Pipes, content: bytes, suffix: str, names: int
) -> None:
    result = sg2(
        "generate", "-n", network, "--latents", f"{pipe(content)}{suffix},avg", "-o", "out"
    )
    assert result.code == 0, result.err
    assert len(list(Path("out").glob("*.png"))) == names + 1


def test_what_is_not_latents(sg2: Any, network: Path, pipe: Pipes) -> None:
    result = sg2("generate", "-n", network, "--latents", pipe(b"just some words\n"), "-o", "out")
    assert result.code == 1
    assert "pipe0 is damaged or holds no latents" in one_line(result.err)


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (npy(np.eye(W_DIM, dtype=np.float32)[3]), ""),
        (npy(np.eye(W_DIM, dtype=np.float32)), ":3"),
        (save({"sefa": torch.eye(W_DIM), "sefa_std": torch.ones(W_DIM)}), ":sefa:3"),
        (factor(), ":3"),
        (factor(ckpt="net.pt"), ":3"),
        (factor(args=argparse.Namespace(ckpt="net.pt", size=64)), ":3"),
    ],
)
def test_directions(pipe: Pipes, content: bytes, suffix: str) -> None:
    found = find_direction(f"{pipe(content)}{suffix}", random_generator(), rows=[0])
    assert found.step.abs().argmax() == 3


def test_a_named_direction(sg2: Any, network: Path, pipe: Pipes) -> None:
    content = save({"smile": torch.eye(W_DIM)[3]})
    found = find_direction(f"{pipe(content)}:smile", random_generator(), rows=[0])
    assert found.is_named and found.step.argmax() == 3
    args = ("--direction", f"{pipe(content)}:smile", "-o", "out")
    result = sg2("edit", "-n", network, "0", *args)
    assert result.code == 0, result.err
    assert any(line.endswith("+1.png") for line in result.lines)
    with pytest.raises(UsageError, match="no direction 'frown' in .*: it has smile"):
        find_direction(f"{pipe(content)}:frown", random_generator(), rows=[0])


def test_a_network_that_was_tuned(sg2: Any, network: Path, pipe: Pipes) -> None:
    G = random_generator(z_dim=W_DIM)
    name = "synthesis.b4.const"
    changes = {name: torch.full_like(dict(G.named_parameters())[name], 0.5).half()}
    content = encode_weight_deltas(changes, {"checkpoint": find_network(network).sha256})
    Path("tuned.safetensors").write_bytes(content)
    for out, tuned in (("a", "tuned.safetensors"), ("b", pipe(content))):
        result = sg2("generate", "-n", network, "--seeds", "1", "--tuned", tuned, "-o", out)
        assert result.code == 0, result.err
    assert Path("a/seed0001.png").read_bytes() == Path("b/seed0001.png").read_bytes()
    result = sg2("generate", "-n", network, "--seeds", "1", "--tuned", pipe(b"words"), "-o", "c")
    assert result.code == 3 and "holds no weight deltas" in one_line(result.err)


@pytest.mark.parametrize("command", [["info"], ["convert"]])
def test_a_device_is_not_a_network(sg2: Any, command: list[str]) -> None:
    out = ["out.safetensors"] if command == ["convert"] else []
    result = sg2(*command, "/dev/zero", *out)
    assert result.code == 3
    assert one_line(result.err) == "sg2: cannot read /dev/zero: it is a device, not a file"


@pytest.mark.parametrize(
    "args",
    [
        ["generate", "--latents", "-"],
        ["project", "-"],
        ["info", "-"],
        ["convert", "-", "a.safetensors"],
    ],
)
def test_stdin_that_is_closed(sg2: Any, monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    monkeypatch.setattr("sys.stdin", None)
    more = ["-o", "out"] if args[0] in ("generate", "project") else []
    result = sg2(*args, *more)
    assert result.code == 1
    assert "stdin is closed" in result.err and "Traceback" not in result.err
