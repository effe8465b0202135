"""Latents as arguments of the drawing commands, beside the options for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import one_line
from networks import random_generator
from PIL import Image

from sg2cli.checkpoints import save_generator

WS = np.random.RandomState(1).randn(2, 6, 16).astype("f4")


@pytest.fixture
def net(in_tmp: Path) -> str:
    save_generator(random_generator(), Path("net.safetensors"), {})
    np.save("two.npy", WS)
    return "net.safetensors"


def stems(result: Any) -> list[str]:
    assert result.code == 0, result.err
    return [Path(line).stem for line in result.lines if not line.endswith("grid.png")]


def pixels(path: str | Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


def test_arguments_are_the_same_as_options(sg2: Callable[..., Any], net: str) -> None:
    given = sg2("generate", "-n", net, "3-7:2", "two.npy", "avg", "--out", "a")
    assert stems(given) == ["seed0003", "seed0005", "seed0007", "two-0000", "two-0001", "avg"]
    options = ["--seeds", "3,5 7", "--latents", "two.npy,avg", "--out", "b"]
    again = sg2("generate", "-n", net, *options)
    assert stems(again) == stems(given)
    for name in stems(given):
        assert (pixels(f"a/{name}.png") == pixels(f"b/{name}.png")).all()


def test_arguments_come_before_options(sg2: Callable[..., Any], net: str) -> None:
    result = sg2("generate", "-n", net, "9", "--latents", "avg", "--seeds", "1", "8")
    assert stems(result) == ["seed0009", "seed0008", "seed0001", "avg"]


@pytest.mark.parametrize(
    ("args", "count"),
    [
        (["truncate", "0-1", "two.npy", "--psi", "0,1"], 8),
        (["edit", "0", "two.npy[1]", "--direction", "sefa:0", "--amount", "1"], 2),
        (["interpolate", "0", "two.npy", "--frames", "5", "--out", "out"], 5),
        (["mix", "0-1", "two.npy"], 8),
        (["mix", "0", "1", "2", "--cols", "two.npy"], 11),
        (["mix", "0", "1", "--rows", "two.npy"], 8),
    ],
)
def test_every_command_takes_them(
    sg2: Callable[..., Any], net: str, args: list[str], count: int
) -> None:
    assert len(stems(sg2(*args, "-n", net))) == count


def test_rows_and_columns_are_two_arguments(sg2: Callable[..., Any], net: str) -> None:
    given = sg2("mix", "-n", net, "0", "two.npy", "--out", "a")
    options = sg2("mix", "-n", net, "--rows", "0", "--cols", "two.npy", "--out", "b")
    assert stems(given) == stems(options)
    for args, message in [
        (["0"], "give two arguments, latents of rows and of columns"),
        (["0", "1", "2"], "give two arguments, latents of rows and of columns"),
        (["0", "--rows", "1", "--cols", "2"], "beside --rows and --cols: remove some"),
        (["--rows", "1"], "no latents: give --cols, or two arguments"),
        ([], "no latents: give --rows, or two arguments"),
    ]:
        result = sg2("mix", "-n", net, *args)
        assert result.code == 2 and message in one_line(result.err)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate"], "no latents: give --seeds or --latents, or arguments such as 0-9"),
        (["truncate"], "no latents: give --seeds or --latents, or arguments such as 0-3"),
        (["interpolate", "--out", "x"], "no latents: give two or more, such as 85,265,297"),
        (["edit", "--direction", "sefa:0"], "Missing argument 'LATENTS...'"),
        (["generate", "85x"], "'85x' is not a latent: use a seed (85), a range (0-99"),
        (["generate", "0-9:0"], "0-9:0 has the step 0: use 1 or more"),
        (["generate", "9-0:3"], "did you mean 0-9:3?"),
    ],
)
def test_invalid_latents(sg2: Callable[..., Any], net: str, args: list[str], message: str) -> None:
    result = sg2(*args, "-n", net)
    assert result.code == 2 and message in one_line(result.err)


def test_an_image_is_drawn_edited_and_mixed(sg2: Callable[..., Any], net: str) -> None:
    drawn = sg2("generate", "-n", net, "85", "--trunc", "0.5", "--out", "a")
    (path,) = drawn.lines
    sg2("edit", "-n", net, path, "--direction", "sefa:0", "--amount", "2", "--out", "b")
    (edited,) = Path("b").glob("seed0085*.png")
    for source in (path, edited):
        again = sg2("generate", "-n", net, source, "--trunc", "0.5", "--out", "c")
        assert "--trunc does not apply to" in again.err
        assert (pixels(again.lines[0]) == pixels(source)).all()
    assert sg2("mix", "-n", net, edited, "b", "--out", "d").code == 0


def test_a_photo_is_answered_with_the_line_for_its_network(
    sg2: Callable[..., Any], net: str
) -> None:
    Image.new("RGB", (16, 16)).save("me.png")
    with_network = sg2("mix", "-n", net, "--rows", "me.png", "--cols", "0")
    assert "`sg2 project me.png -n net.safetensors`" in one_line(with_network.err)
    assert "`sg2 project me.png`" in one_line(sg2("generate", "me.png").err)


def test_a_note_says_how_an_array_is_read(sg2: Callable[..., Any], net: str) -> None:
    np.save("plus.npy", WS[0])
    result = sg2("generate", "-n", net, "plus.npy")
    assert result.lines == ["out/plus.png"]
    assert "plus.npy is read as one latent in W+" in one_line(result.err)
    six = sg2("generate", "-n", net, "plus.npy:w", "--out", "six")
    assert len(six.lines) == 6 and not six.err


def test_random_noise_does_not_flicker(sg2: Callable[..., Any], net: str) -> None:
    args = ["interpolate", "-n", net, "5", "5", "--noise-mode", "random", "--frames", "3"]
    result = sg2(*args, "--out", "frames")
    assert "would flicker, so all share" in result.err and "use const" in result.err
    first, *others = [pixels(line) for line in result.lines]
    assert all((other == first).all() for other in others)
    assert "flicker" not in sg2("interpolate", "-n", net, "5,6", "--out", "x.gif").err


def test_labels_are_for_grids(sg2: Callable[..., Any], net: str) -> None:
    plain = sg2("generate", "-n", net, "0-3", "--grid", "--out", "a.png")
    labelled = sg2("generate", "-n", net, "0-3", "--grid", "--labels", "--out", "b.png")
    assert plain.code == labelled.code == 0
    assert pixels("b.png").shape[0] > pixels("a.png").shape[0]
    args = ["edit", "-n", net, "0", "--direction", "sefa:0", "--labels", "--out", "e.gif"]
    for refused in (sg2("generate", "-n", net, "0", "--labels"), sg2(*args)):
        assert refused.code == 2 and "--labels is for a grid" in one_line(refused.err)


@pytest.mark.parametrize("given", ["out/seed0001.png", "out"])
def test_an_image_that_is_read_is_not_replaced(
    sg2: Callable[..., Any], net: str, given: str
) -> None:
    (path,) = sg2("generate", "-n", net, "1").lines
    before = Path(path).read_bytes()
    result = sg2("generate", "-n", net, given, "--trunc", "0.5", "--overwrite")
    assert result.code == 2 and "would replace out/seed0001.png" in one_line(result.err)
    assert Path(path).read_bytes() == before


def test_a_torch_file_of_latents_is_described(sg2: Callable[..., Any], net: str) -> None:
    import torch

    torch.save({"latent": torch.zeros(2, 6, 16)}, "l.pt")
    result = sg2("info", "l.pt")
    assert result.code == 0 and "2x6x16" in result.out
