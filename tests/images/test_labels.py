"""Labels above the images of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import random_generator

import sg2cli
from sg2cli.images.codecs import inspect_image, read_image
from sg2cli.images.labels import label_height, label_strip

G = random_generator()


@pytest.mark.parametrize("width", [16, 64, 128, 1024])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_strip_has_the_size_of_its_images(width: int, channels: int) -> None:
    for labels in (["seed 1"] * 3, ["", "x" * 5000, "é"], [""] * 3):
        strip = label_strip(labels, (width, width, channels))
        assert strip.shape == (label_height(width), 3 * width, channels)
        if channels in (2, 4):
            assert (strip[:, :, -1] == 255).all()


def test_long_labels_do_not_touch_their_neighbours() -> None:
    strip = label_strip(["a_long_name_of_a_photo_of_2024.png"] * 3, (64, 128, 1))
    ink = (strip[:, :, 0] < 128).any(axis=0)
    for edge in (0, 128, 256):
        assert not ink[max(edge - 4, 0) : edge + 4].any()
    assert ink.any()


def test_an_empty_label_is_white() -> None:
    strip = label_strip(["", "seed 1"], (64, 64, 3))
    assert (strip[:, :64] == 255).all() and (strip[:, 64:] < 255).any()


def drawings() -> dict[str, Any]:
    return {
        "generate": sg2cli.generate(G, "0-4"),
        "mix": sg2cli.mix(G, "0-1", "2-4"),
        "edit": sg2cli.edit(G, "0-1", "sefa:0", [-1.0, 1.0]),
        "truncate": sg2cli.truncate(G, "0-1", [0, 1]),
    }


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
@pytest.mark.parametrize("command", drawings())
def test_a_labelled_grid_is_the_grid_with_strips(in_tmp: Path, command: str, format: str) -> None:
    images = drawings()[command]
    images.save(f"plain.{format}")
    images.save(f"labelled.{format}", labels=True)
    (width, height), _, plain = inspect_image(Path(f"plain.{format}"))
    size, _, made = inspect_image(Path(f"labelled.{format}"))
    assert plain is not None and made is not None
    assert made.pop("labels") is True and "labels" not in plain
    rows = images._drawing.rows
    strip = label_height(16)
    assert size == (width, height + rows * strip)
    if format == "png":
        before = read_image(Path("plain.png"), (height, width, 3))
        after = read_image(Path("labelled.png"), (size[1], width, 3))
        for row in range(rows):
            top = height - (rows - row) * 16
            end = size[1] - (rows - row - 1) * (16 + strip)
            np.testing.assert_array_equal(after[end - 16 : end], before[top : top + 16])


def test_what_each_cell_is_called(in_tmp: Path) -> None:
    np.save("me.npy", np.zeros((1, 16), "f4"))
    assert list(sg2cli.generate(G, "7,7,me.npy,avg")._drawing.cell_labels()) == [
        *("seed 7", "seed 7", "me", "avg")
    ]
    mixed = list(sg2cli.mix(G, "1", "2,me.npy")._drawing.cell_labels())
    assert mixed == ["", "seed 2", "me", "seed 1", "", ""]
    edited = sg2cli.edit(G, "1,me.npy", "sefa:0", [0.0, 1.0])._drawing.cell_labels()
    assert list(edited) == ["seed 1", "", "me", ""]
