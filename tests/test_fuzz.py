"""Whatever is typed, and whatever is in a file: a value, or an error of ours.

FUZZ sets how many cases of each are tried, beside those for pickles in test_convert.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import random_generator
from safetensors.torch import save

from sg2cli import checkpoints
from sg2cli.checkpoints import weight_deltas
from sg2cli.checkpoints.weight_deltas import open_weight_deltas, save_weight_deltas
from sg2cli.cli import options, project_options
from sg2cli.cli.commands.info import describe
from sg2cli.errors import Sg2Error
from sg2cli.images import codecs
from sg2cli.images.photos import Photo, read_photo
from sg2cli.inversion import results, snapshots
from sg2cli.inversion.losses import LPIPS
from sg2cli.inversion.names import RESULTS
from sg2cli.inversion.project import Projector
from sg2cli.inversion.search import Search
from sg2cli.inversion.start import spread_of_w
from sg2cli.inversion.state import Found, Record
from sg2cli.latents.directions import find_direction
from sg2cli.latents.mapping import to_ws
from sg2cli.latents.notation import parse_latents
from sg2cli.latents.opening import open_latents
from sg2cli.settings import ProjectSettings
from sg2cli.storage.ownership import OwnedFolder

CASES = settings(
    max_examples=int(os.environ.get("FUZZ", 1000)) // 50,
    derandomize=True,
    database=None,
    deadline=5000,
    suppress_health_check=list(HealthCheck),
)
TYPES = {
    f"{module.__name__.rpartition('.')[2]}.{name}": value
    for module in (options, project_options)
    for name, value in vars(module).items()
    if isinstance(value, options.ParsedType)
}
# What notations are made of, so that some of it is nearly right.
PARTS = st.sampled_from(
    [
        *(
            "0",
            "1",
            "7",
            "99",
            "4294967295",
            "99999999999",
            "-",
            "--",
            ",",
            "..",
            ".",
            "x",
            ":",
            "/",
        ),
        *(
            "[",
            "]",
            "[0]",
            "[2-5]",
            ":z",
            "avg",
            "a.npy",
            "a.npz",
            "a.safetensors",
            "~",
            "~x/",
            "\0",
        ),
        *("e", "inf", "nan", "1e999", "0x1", "h", "m", "s", "min", "coarse", "fine", "center", "#"),
        *(
            "rgb(",
            ")",
            "%",
            "cuda",
            "sefa",
            "pca",
            "٣",
            "１",
            "\n",
            " ",
            "\ud800",
            "\u202e",
            "+",
            "_",
        ),
    ]
)
TYPED = st.one_of(st.text(max_size=40), st.lists(PARTS, max_size=8).map("".join))


@pytest.mark.parametrize("name", TYPES)
def test_options(in_tmp: Path, name: str) -> None:
    @CASES
    @given(TYPED)
    def whatever(text: str) -> None:
        try:
            TYPES[name].convert(text, None, None)
        except click.BadParameter as error:
            assert error.message

    whatever()


def test_there_is_a_type_to_try() -> None:
    assert {"options.SEEDS", "options.SHARD", "project_options.DURATION"} <= TYPES.keys()


G = random_generator()


def image(format: str, mode: str = "RGB", **how: Any) -> bytes:
    pixels = np.random.RandomState(0).randint(0, 256, (24, 20, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).convert(mode).save(file, format, **how)
    return file.getvalue()


def array(writes: Callable[..., None], *args: Any, **arrays: Any) -> bytes:
    file = io.BytesIO()
    writes(file, *args, **arrays)
    return file.getvalue()


def saved(write: Callable[[Path], object], name: str) -> Callable[[Path], bytes]:
    def content(folder: Path) -> bytes:
        write(folder / name)
        return (folder / name).read_bytes()

    return content


def draw(path: Path) -> None:
    """All that a command does with latents."""
    to_ws(G, list(open_latents(parse_latents(str(path)), G.config)))


def new_run() -> Search:
    photo = Photo(np.zeros((16, 16, 3), np.uint8))
    return Search(G, [photo], ProjectSettings(steps=2), SPREAD, LPIPS_VGG)


def result(folder: Path) -> bytes:
    found = Found(0, torch.zeros(6, 16), {}, 1, "done", [Record(0, 0, 0, 0, 0)])
    photo = Photo(np.zeros((16, 16, 3), np.uint8))
    projection = PROJECTOR.projection(found, photo, "photo", {"a": 1})
    list(results.write_result(OwnedFolder(folder, RESULTS), projection))
    return (folder / "projected.safetensors").read_bytes()


PROJECTOR = Projector(G, ProjectSettings(steps=2))
SPREAD, LPIPS_VGG = spread_of_w(G), LPIPS("vgg")
WS = np.random.RandomState(0).randn(2, 6, 16).astype(np.float32)


def network(folder: Path) -> checkpoints.Network:
    path = folder / "network.safetensors"
    if not path.exists():
        checkpoints.save_generator(G, path, {})
    return checkpoints.find_network(path)


# Name of the file: what is in it, and what reads it.
Content = bytes | Callable[[Path], bytes]
READERS: dict[str, tuple[Content, Callable[[Path], object]]] = {
    "net.safetensors": (
        saved(lambda path: checkpoints.save_generator(G, path, {}), "net.safetensors"),
        lambda path: checkpoints.find_network(path).load(),
    ),
    "a.npy": (array(np.save, WS), draw),
    "a.npz": (array(np.savez, w=WS), draw),
    "b.npz": (array(np.savez_compressed, z=WS[:, 0, :12]), draw),
    "ws.safetensors": (save({"ws": torch.from_numpy(WS)}, {"sg2": '{"a": 1}'}), draw),
    "d.npy": (
        array(np.save, WS[:, 0]),
        lambda path: find_direction(f"{path}:1", G, [0], None),
    ),
    "factor.pt": (
        array(lambda file: torch.save({"eigvec": torch.eye(16)}, file)),
        lambda path: find_direction(f"{path}:1", G, [0], None),
    ),
    "d.safetensors": (
        save({"sefa": torch.eye(16), "sefa_std": torch.ones(16)}),
        lambda path: find_direction(f"{path}:1", G, [0], None),
    ),
    "t.safetensors": (
        saved(
            lambda path: save_weight_deltas(
                path,
                {"synthesis.b4.conv1.bias": torch.ones(10).half()},
                {"checkpoint": network(path.parent).sha256},
                True,
            ),
            "t.safetensors",
        ),
        lambda path: (
            weight_deltas.inspect_weight_deltas(path),
            open_weight_deltas(path, network(path.parent)),
        ),
    ),
    "snapshot.safetensors": (
        saved(lambda path: snapshots.save_state(path, new_run(), {}), "snapshot.safetensors"),
        lambda path: snapshots.load_state(path, new_run(), {}),
    ),
    "projected.safetensors": (
        result,
        lambda path: results.read_result(path.parent, [{"a": 1}], G),
    ),
    **{
        f"a.{suffix}": (image(format, mode, **how), read)
        for suffix, format, mode, how, read in [
            ("png", "PNG", "RGB", {}, lambda path: read_photo(path, (16, 16), 3)),
            ("p.png", "PNG", "P", {}, lambda path: read_photo(path, (16, 16), 3)),
            ("jpg", "JPEG", "RGB", {}, lambda path: read_photo(path, (16, 16), 3)),
            ("webp", "WEBP", "RGB", {}, lambda path: read_photo(path, (16, 16), 3)),
            ("gif", "GIF", "P", {}, lambda path: read_photo(path, (16, 16), 3)),
            (
                "tiff",
                "TIFF",
                "RGB",
                {"compression": "tiff_lzw"},
                lambda p: read_photo(p, (16, 16), 3),
            ),
            ("bmp", "BMP", "RGB", {}, lambda path: read_photo(path, (16, 16), 3)),
            ("ours.png", "PNG", "RGB", {}, codecs.inspect_image),
            ("info.jpg", "JPEG", "RGB", {}, lambda path: describe(path, "a")),
        ]
    },
}
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "repeat", "cut"]),
        st.floats(0, 1),
        st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from([b"\xff" * 8, b"\0" * 8])),
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    changed = bytearray(content)
    for what, where, new in edits:
        at = int(where**2 * len(changed))  # headers are in front
        if what == "set":
            changed[at : at + len(new)] = new
        elif what == "insert":
            changed[at:at] = new
        elif what == "delete":
            del changed[at : at + len(new)]
        elif what == "repeat":
            changed[at:at] = changed[at : at + 40 * len(new)]
        else:
            del changed[at:]
    return bytes(changed)


@pytest.mark.parametrize("name", READERS)
def test_files(in_tmp: Path, name: str) -> None:
    content, read = READERS[name]
    path = in_tmp / name
    whole = content if isinstance(content, bytes) else content(in_tmp)
    path.write_bytes(whole)
    read(path)
    refused = []

    @CASES
    @given(EDITS)
    def whatever(edits: list[tuple[str, float, bytes]]) -> None:
        path.write_bytes(edited(whole, edits))
        try:
            read(path)
        except Sg2Error as error:
            refused.append(str(error))

    whatever()
    assert refused  # some of it is found to be wrong
