"""`sg2 info`: checkpoints, images, latents, and what is none of them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from networks import GOLDEN, random_generator

import sg2cli
from sg2cli import checkpoints
from tests.conftest import SG2, one_line


def facts(sg2: Any, *args: object) -> dict[str, Any]:
    result = sg2("info", *args, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert isinstance(found, dict)
    return found


def test_the_bundled_network(sg2: Any) -> None:
    found = facts(sg2)
    assert found["resolution"] == "128x128"
    assert found["parameters"] == 1_836_925
    assert found["sha256"] == checkpoints.find_network().sha256
    assert found["source: format"] == "taught to draw avatars from their attributes"
    assert facts(sg2, "avatars-128") == found


def test_a_checkpoint_of_ones_own(sg2: Any) -> None:
    found = facts(sg2, GOLDEN / "clamp-resnet-32.weights.safetensors")
    assert found["architecture"] == "resnet"
    assert found["conv_clamp"] == 0.5
    assert found["resample_filter"] == [1, 2, 4, 1]
    assert found["classes"] == "none"
    assert facts(sg2, GOLDEN / "cond-32.weights.safetensors")["classes"] == 10


def test_an_image(sg2: Any) -> None:
    for format in ("png", "jpg", "webp"):
        sg2("generate", "--seeds", "3", "--trunc", "0.5", "--format", format)
        found = facts(sg2, f"out/seed0003.{format}")
        assert (found["kind"], found["size"]) == ("image", "128x128")
        assert (found["seed"], found["psi"]) == (3, 0.5)
    PIL.Image.new("L", (5, 7)).save("other.png")
    found = facts(sg2, "other.png")
    assert (found["size"], found["mode"]) == ("5x7", "L")
    assert "unknown" in found["made by"]


def test_latents(sg2: Any) -> None:
    for suffix, name in (("safetensors", "ws"), ("npz", "w"), ("npy", "unnamed")):
        sg2("generate", "--seeds", "0-2", "--save-latents", f"l.{suffix}", "--out", suffix)
        found = facts(sg2, f"l.{suffix}")
        assert (found["kind"], found["arrays"]) == ("latents", {name: "3x12x256"})
    assert facts(sg2, "l.safetensors")["latents"] == ["0-2"]


def test_it_reads_stdin(sg2: Any) -> None:
    sg2("generate", "--seeds", "3")
    with Path("out/seed0003.png").open("rb") as file:
        result = subprocess.run([*SG2, "info", "-"], stdin=file, capture_output=True, check=True)
    lines = dict(line.split(maxsplit=1) for line in result.stdout.decode().splitlines())
    assert (lines["file"], lines["seed"]) == ("stdin", "3")


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"", 3, "empty"),
        (b"some text in a file", 3, "damaged, or not a safetensors"),
        (b"\x80\x04\x95" + bytes(50), 3, "damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), 1, "not an image"),
        (b"\x93NUMPY\x01\x00\xff\xff", 1, "no latents|safetensors"),
        (b"PK\x03\x04" + bytes(50), 3, "damaged"),
    ],
)
def test_what_is_unknown_or_damaged(sg2: Any, content: bytes, code: int, message: str) -> None:
    Path("file").write_bytes(content)
    result = sg2("info", "file")
    assert result.code in (code, 3)
    assert any(part in one_line(result.err) for part in message.split("|"))


def test_a_checkpoint_that_lacks_a_tensor(sg2: Any) -> None:
    from safetensors.torch import save_file

    tensors = random_generator().state_dict()
    del tensors["synthesis.b8.conv1.bias"]
    save_file(tensors, "net.safetensors")
    result = sg2("info", "net.safetensors")
    assert result.code == 3
    assert "missing: synthesis.b8.conv1.bias" in one_line(result.err)


def test_a_file_that_is_not_there(sg2: Any) -> None:
    result = sg2("info", "nothing")
    assert result.code == 2
    assert "avatars-128" in one_line(result.err)


def test_other_arrays_are_named(sg2: Any) -> None:
    np.savez("other.npz", other=np.zeros(3))
    assert facts(sg2, "other.npz")["arrays"] == {"other": "3"}


def test_text_in_an_image_does_not_control_the_terminal(sg2: Any) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("sg2", json.dumps({"a": "\x1b[31mred\nkind  fake", "b": "\ud800"}))
    PIL.Image.new("RGB", (8, 8)).save("a.png", pnginfo=info)
    result = sg2("info", "a.png")
    assert result.code == 0
    assert "\x1b" not in result.out
    assert sum(line.startswith("kind") for line in result.lines) == 1


def test_it_reads_pipes(in_tmp: Path) -> None:
    PIL.Image.new("RGB", (5, 7)).save("a.png")
    command = f"{' '.join(SG2)} info <(cat a.png)"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "5x7" in result.stdout


@pytest.mark.parametrize(("suffix", "name"), [("gif", "GIF"), ("webp", "WebP")])
def test_a_video(sg2: Any, suffix: str, name: str) -> None:
    frames = [PIL.Image.new("RGB", (40, 24), colour) for colour in ("red", "blue")]
    frames[0].save(f"v.{suffix}", save_all=True, append_images=frames[1:])
    found = sg2cli.info(f"v.{suffix}")
    assert found["kind"] == f"video, {name}" and found["size"] == "40x24"
    assert "videos have no metadata" in sg2("info", f"v.{suffix}").out


def test_an_mp4(sg2: Any) -> None:
    Path("v.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    assert "video, MP4" in sg2("info", "v.mp4").out


def test_a_fifo_from_python(in_tmp: Path) -> None:
    os.mkfifo("pipe")
    with pytest.raises(sg2cli.Sg2Error, match="is a FIFO, not a regular file"):
        sg2cli.info("pipe")
