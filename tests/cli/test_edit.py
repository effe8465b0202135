"""`sg2 edit` and `sg2 directions`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from conftest import one_line
from safetensors.torch import load_file
from test_generate import pixels

from sg2cli import checkpoints
from sg2cli.latent_files import inspect


def test_pictures_and_sheet(sg2: Any) -> None:
    result = sg2("edit", "0-1", "--direction", "sefa:0", "--amount", "-2..2", "--steps", "3")
    names = [f"seed000{s}-{amount}" for s in (0, 1) for amount in ("-2", "+0", "+2")]
    assert result.lines == [*(f"out/{name}.png" for name in names), "out/grid.png"]
    sheet = pixels("out/grid.png")
    np.testing.assert_array_equal(sheet[-64:, 128:], pixels("out/seed0001-+2.png"))


def test_an_edit_by_zero_changes_no_pixel(sg2: Any) -> None:
    sg2("edit", "3", "--direction", "pca:0", "--steps", "3", "--batch", "2")
    sg2("generate", "--seeds", "3", "--out", "g", "--batch", "2")
    np.testing.assert_array_equal(pixels("out/seed0003-+0.png"), pixels("g/seed0003.png"))
    assert not np.array_equal(pixels("out/seed0003-+3.png"), pixels("g/seed0003.png"))


def test_one_amount_is_one_column(sg2: Any) -> None:
    result = sg2("edit", "3", "--direction", "pca:0", "--amount", "1.5")
    assert result.lines == ["out/seed0003-+1.5.png", "out/grid.png"]


def test_layers(sg2: Any) -> None:
    """Rows that a direction does not reach change nothing: the last only colours the picture."""
    args = ["edit", "3", "--direction", "pca:0", "--amount", "2"]
    sg2(*args, "--out", "all")
    sg2(*args, "--layers", "coarse", "--out", "coarse")
    sg2(*args, "--layers", "9", "--out", "last")
    found = [pixels(f"{out}/seed0003-+2.png").astype(int) for out in ("all", "coarse", "last")]
    assert abs(found[0] - found[1]).mean() > 0.5
    assert abs(found[1] - found[2]).mean() > 0.5


def test_a_film(sg2: Any) -> None:
    args = ["edit", "3", "--direction", "sefa:1", "--out", "e.gif"]
    assert sg2(*args, "--steps", "12").lines == ["e.gif"]
    with PIL.Image.open("e.gif") as film:
        assert film.n_frames == 12  # type: ignore[attr-defined]
    assert "of one latent" in one_line(sg2("edit", "3,4", *args[2:]).err)


def test_directions_of_a_file(sg2: Any) -> None:
    result = sg2("directions", "--samples", "20000", "--layers", "coarse", "--json")
    account = json.loads(result.out)
    assert account["path"] == "directions.safetensors"
    assert account["layers"] == [0, 1, 2]
    assert account["checkpoint"] == checkpoints.find_network().sha256
    tensors = load_file("directions.safetensors")
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == {
        "sefa": (128, 128),
        "sefa_std": (128,),
        "pca": (128, 128),
        "pca_std": (128,),
    }
    assert inspect(Path("directions.safetensors"))[1]["samples"] == 20000
    assert "--overwrite" in one_line(sg2("directions").err)
    direction = "directions.safetensors:pca:0"
    assert sg2("edit", "0", "--direction", direction, "--amount", "1").code == 0
    sg2("edit", "0", "--direction", "pca:0", "--amount", "1", "--out", "o")
    found = pixels("out/seed0000-+1.png").astype(int)
    assert abs(found - pixels("o/seed0000-+1.png")).mean() < 1


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["0"], "Missing option '--direction'"),
        (["x", "--direction", "pca:0"], "'x' is no latent"),
        (["0", "--direction", "pca:0", "--amount", "3..-3"], "write -3..3"),
        (["0", "--direction", "pca:0", "--amount", "far"], "'far' is no amount"),
        (["0", "--direction", "pca:0", "--amount", "nan"], "no amount"),
        (["0", "--direction", "pca:500"], "there are 128 directions"),
        (["0", "--direction", "missing.npy"], "no direction 'missing.npy'"),
        (["0", "--direction", "pca:0", "--layers", "10"], "row 10 is beyond"),
        (["0", "--direction", "pca:0", "--out", "a.avi"], ".mp4, .gif, .webp"),
        (["0", "--direction", "pca:0", "--steps", "1"], "--steps"),
    ],
)
def test_bad_input(sg2: Any, args: list[str], told: str) -> None:
    result = sg2("edit", *args)
    assert result.code == 2
    assert told in one_line(result.err)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--out", "d.npy"], "saved as .safetensors"),
        (["--samples", "1"], "--samples"),
        (["--layers", "huge"], "'huge' is none of"),
        (["--class", "1"], "no classes"),
    ],
)
def test_bad_input_for_directions(sg2: Any, args: list[str], told: str) -> None:
    result = sg2("directions", *args)
    assert result.code == 2
    assert told in one_line(result.err)
    assert list(Path().iterdir()) == []
