"""`sg2 edit` and `sg2 directions`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from networks import random_generator
from safetensors.torch import load_file

import sg2cli
from sg2cli import checkpoints
from sg2cli.storage.safetensors import SafetensorsFile, sg2_metadata
from tests.conftest import SG2, one_line

from .test_generate import pixels


def test_images_and_grid(sg2: Any) -> None:
    result = sg2("edit", "0-1", "--direction", "sefa:0", "--amount", "-2..2", "--steps", "3")
    names = [f"seed000{s}-{amount}" for s in (0, 1) for amount in ("0_-2", "1_+0", "2_+2")]
    assert result.lines == [*(f"out/{name}.png" for name in names), "out/grid.png"]
    assert sorted(result.lines[:-1]) == result.lines[:-1]
    grid = pixels("out/grid.png")
    np.testing.assert_array_equal(grid[-128:, 256:], pixels("out/seed0001-2_+2.png"))


def test_an_edit_by_zero_changes_no_pixel(sg2: Any) -> None:
    sg2("edit", "3", "--direction", "pca:0", "--steps", "3", "--batch", "2")
    sg2("generate", "--seeds", "3", "--out", "g", "--batch", "2")
    np.testing.assert_array_equal(pixels("out/seed0003-1_+0.png"), pixels("g/seed0003.png"))
    assert not np.array_equal(pixels("out/seed0003-2_+3.png"), pixels("g/seed0003.png"))


def test_names_sort_by_column(sg2: Any) -> None:
    args = ["edit", "3", "--direction", "sefa:0", "--amount=-3..3", "--steps", "12"]
    lines = sg2(*args).lines[:-1]
    assert lines[0] == "out/seed0003-00_-3.png" and lines[-1] == "out/seed0003-11_+3.png"
    assert lines == sorted(lines)


def test_one_amount_is_one_column(sg2: Any) -> None:
    result = sg2("edit", "3", "--direction", "pca:0", "--amount", "1.5")
    assert result.lines == ["out/seed0003-+1.5.png", "out/grid.png"]


def test_layers(sg2: Any) -> None:
    """Rows that a direction does not reach change nothing: the last only colours the image."""
    args = ["edit", "3", "--direction", "pca:0", "--amount", "2"]
    sg2(*args, "--out", "all")
    sg2(*args, "--layers", "coarse", "--out", "coarse")
    sg2(*args, "--layers", "9", "--out", "last")
    found = [pixels(f"{out}/seed0003-+2.png").astype(int) for out in ("all", "coarse", "last")]
    assert abs(found[0] - found[1]).mean() > 0.5
    assert abs(found[1] - found[2]).mean() > 0.5


def test_a_video(sg2: Any) -> None:
    args = ["edit", "3", "--direction", "sefa:1", "--out", "e.gif"]
    assert sg2(*args, "--steps", "12").lines == ["e.gif"]
    with PIL.Image.open("e.gif") as video:
        assert video.n_frames == 12  # type: ignore[attr-defined]
    assert "shows one latent" in one_line(sg2("edit", "3,4", *args[2:]).err)


def test_directions_of_a_file(sg2: Any) -> None:
    result = sg2("directions", "--samples", "20000", "--layers", "coarse", "--json")
    account = json.loads(result.out)
    assert account["path"] == "directions.safetensors"
    assert account["layers"] == [0, 1, 2]
    assert account["checkpoint"] == checkpoints.find_network().sha256
    tensors = load_file("directions.safetensors")
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == {
        "sefa": (256, 256),
        "sefa_std": (256,),
        "pca": (256, 256),
        "pca_std": (256,),
    }
    with SafetensorsFile(Path("directions.safetensors")) as file:
        assert sg2_metadata(file.metadata)["samples"] == 20000
    assert "--overwrite" in one_line(sg2("directions").err)
    direction = "directions.safetensors:pca:0"
    assert sg2("edit", "0", "--direction", direction, "--amount", "1").code == 0
    sg2("edit", "0", "--direction", "pca:0", "--amount", "1", "--out", "o")
    found = pixels("out/seed0000-+1.png").astype(int)
    assert abs(found - pixels("o/seed0000-+1.png")).mean() < 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["0"], "Missing option '--direction'"),
        (["x", "--direction", "pca:0"], "'x' is not a latent"),
        (["0", "--direction", "pca:0", "--amount", "3..-3"], "did you mean -3..3?"),
        (["0", "--direction", "pca:0", "--amount", "far"], "'far' is not an amount"),
        (["0", "--direction", "pca:0", "--amount", "nan"], "is out of range"),
        (["0", "--direction", "pca:500"], "there are 256 directions"),
        (["0", "--direction", "missing.npy"], "no direction 'missing.npy'"),
        (["0", "--direction", "pca:0", "--layers", "12"], "row 12 is out of range"),
        (["0", "--direction", "pca:0", "--out", "a.avi"], "give a folder, or a video"),
        (["0", "--direction", "pca:0", "--steps", "1"], "--steps"),
        (["0", "--direction", "pca:0", "--steps", "5", "--amount", "2"], "a range of amounts"),
        (["0", "--direction", "sefa"], "sefa has several directions"),
        (["0", "--direction", "sefa:" + "9" * 5000], "no direction 'sefa:999"),
    ],
)
def test_bad_input(sg2: Any, args: list[str], message: str) -> None:
    result = sg2("edit", *args)
    assert result.code == 2
    assert message in one_line(result.err)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--out", "d.npy"], "saved as .safetensors"),
        (["--samples", "1"], "--samples"),
        (["--layers", "huge"], "'huge' is not a style"),
        (["--class", "1"], "no classes"),
    ],
)
def test_bad_input_for_directions(sg2: Any, args: list[str], message: str) -> None:
    result = sg2("directions", *args)
    assert result.code == 2
    assert message in one_line(result.err)
    assert list(Path().iterdir()) == []


def test_amounts_that_are_close_have_names_of_their_own(sg2: Any) -> None:
    args = ["--direction", "sefa:0", "--amount", "1..1.001", "--steps", "11", "--out", "o"]
    result = sg2("edit", "0", *args)
    assert result.code == 0
    assert len(set(result.lines)) == 12


def test_skip_existing_knows_the_file_of_a_direction(sg2: Any) -> None:
    args = ["edit", "0", "--direction", "v.npy", "--amount", "2", "--skip-existing"]
    np.save("v.npy", np.eye(256)[0])
    assert len(sg2(*args).lines) == 2
    assert sg2(*args).lines == []
    np.save("v.npy", np.eye(256)[1])
    assert "other settings" in one_line(sg2(*args).err)


def test_a_file_says_its_deviations_and_its_network(sg2: Any) -> None:
    sg2("directions", "--samples", "5000")
    direction = ["--direction", "directions.safetensors:pca:0", "--amount", "1"]
    assert sg2("edit", "0", *direction).err == ""
    other = random_generator(
        img_resolution=8, channels=(4, 4), w_dim=256, mapping_features=(256,), c_dim=0
    )
    checkpoints.save_generator(other, Path("other.safetensors"), {})
    result = sg2("edit", "0", "-n", "other.safetensors", *direction, "--out", "o")
    assert result.code == 0
    assert "was found with another network" in one_line(result.err)


def test_classes_are_asked_for(sg2: Any) -> None:
    G = random_generator(c_dim=3, embed_features=4)
    checkpoints.save_generator(G, Path("c.safetensors"), {})
    args = ["-n", "c.safetensors", "--direction", "pca:0"]
    assert "3 classes" in one_line(sg2("edit", "avg", *args).err)
    assert sg2("edit", "avg", *args, "--class", "1", "--amount", "1").code == 0


def test_many_latents_start_at_once(shell: Any) -> None:
    """Ten million rows of a grid: drawn as they come until somebody has seen enough."""
    command = [*SG2, "edit", "0-9999999", "--direction", "sefa:0", "--amount", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"out/seed0000-+1.png\n"
        process.terminate()
        assert process.wait(30) == 143


def test_a_folder_may_have_a_dot(sg2: Any) -> None:
    common = ["--direction", "sefa:0", "--amount", "1"]
    assert sg2("edit", "0", *common, "--out", "run.1").lines[0] == "run.1/seed0000-+1.png"
    for name in ("a.png", "a.avi", "-"):
        assert "give a folder, or a video" in one_line(sg2("edit", "0", *common, "--out", name).err)


def test_directions_add_up(sg2: Any) -> None:
    """In steps: one edit, then the other of its result, give the pixels of both at once."""
    args = ("--direction", "beard=1", "--direction", "sefa:1=-2", "--out", "both")
    both = sg2("edit", "3", *args)
    assert both.lines == ["both/seed0003-+1_-2.png", "both/grid.png"]
    G = sg2cli.load(device="cpu")
    (first,) = sg2cli.edit(G, 3, "beard", 1)
    (second,) = sg2cli.edit(G, first, "sefa:1", -2)
    (together,) = sg2cli.edit(G, 3, {"beard": 1, "sefa:1": -2})
    np.testing.assert_array_equal(pixels(both.lines[0]), second.pixels)
    np.testing.assert_array_equal(together.pixels, second.pixels)
    assert together.name == "seed0003-+1_-2"
    found = together.provenance["directions"]
    assert [(d["direction"], d["amount"]) for d in found] == [("beard", 1), ("sefa:1", -2)]


def test_a_direction_given_twice_is_moved_along_twice(sg2: Any) -> None:
    sg2("edit", "3", "--direction", "beard=0.5", "--direction", "beard=0.5", "--out", "twice")
    sg2("edit", "3", "--direction", "beard=1", "--out", "once")
    np.testing.assert_array_equal(pixels("twice/seed0003-+0.5.png"), pixels("once/seed0003-+1.png"))


def test_ranges_run_side_by_side_and_amounts_stay(sg2: Any) -> None:
    args = ("--direction", "beard=1", "--direction", "smile=-1..1", "--direction", "sefa:0=0..4")
    result = sg2("edit", "3", *args, "--steps", "3")
    assert [Path(line).stem for line in result.lines[:3]] == [
        "seed0003-0_+1_-1_+0",
        "seed0003-1_+1_+0_+2",
        "seed0003-2_+1_+1_+4",
    ]
    G = sg2cli.load(device="cpu")
    images = sg2cli.edit(G, 3, {"beard": 1, "smile": [-1, 0, 1], "sefa:0": [0, 2, 4]})
    for line, image in zip(result.lines, images, strict=False):
        np.testing.assert_array_equal(pixels(line), image.pixels)


def test_directions_without_an_amount_share_that_of_the_option(sg2: Any) -> None:
    args = ("--direction", "beard", "--direction", "smile", "--direction", "hat=1")
    result = sg2("edit", "3", *args, "--amount", "0..2", "--steps", "2")
    assert [Path(line).stem for line in result.lines[:2]] == [
        "seed0003-0_+0_+1",
        "seed0003-1_+2_+1",
    ]
    by_default = sg2("edit", "3", "--direction", "beard", "--direction", "sefa:0", "-o", "d")
    assert Path(by_default.lines[0]).stem == "seed0003-0_-1_-3"


def test_a_single_direction_with_its_amount_keeps_files_without(sg2: Any) -> None:
    assert sg2("edit", "3", "--direction", "beard", "--amount", "1").code == 0
    assert sg2("edit", "3", "--direction", "beard=1", "--skip-existing").lines == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--direction", "beard=1", "--amount", "2"], "--amount is for a --direction without an"),
        (["--direction", "beard=far"], "'far' is not an amount"),
        (["--direction", "beard=1", "--steps", "3"], "--steps requires a range"),
        (["--direction", "beard=1", "--direction", "smile=1", "--layers", "9"], "rows 3-6 of ws"),
        (["--direction", "beard", "--amount", "1", "--amount", "2"], "--amount has one value, but"),
        (["--direction", "beard", "-n", "a", "--network", "b"], "--network has one value, but is"),
    ],
)
def test_amounts_that_do_not_fit(sg2: Any, args: list[str], message: str) -> None:
    result = sg2("edit", "3", *args)
    assert result.code == 2 and message in one_line(result.err)
    assert list(Path().iterdir()) == []


def test_a_file_whose_name_has_an_equals_sign(sg2: Any) -> None:
    np.save("a.npy", np.eye(256)[0])
    Path("a.npy").rename("a=1")
    assert sg2("edit", "3", "--direction", "a=1", "--amount", "2").lines[0].endswith("-+2.png")


@pytest.mark.parametrize(
    ("direction", "amounts", "message"),
    [
        ({"beard": 1}, 2, "amounts of its own"),
        ({"beard": [1, 2], "smile": [1, 2, 3]}, None, "2 amounts of beard, but 3 of another"),
        ({}, None, "no directions"),
        ([], None, "no directions"),
        ({"beard": "1"}, None, "is not a finite number"),
        (["beard", None], None, "a NoneType is not a direction"),
    ],
)
def test_directions_that_do_not_fit(direction: Any, amounts: Any, message: str) -> None:
    with pytest.raises(sg2cli.UsageError, match=message):
        sg2cli.edit(sg2cli.load(device="cpu"), 3, direction, amounts)
