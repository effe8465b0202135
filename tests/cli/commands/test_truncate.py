"""`sg2 truncate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import GOLDEN, golden

from sg2cli.images.pixels import to_pixels
from tests.conftest import one_line

from .test_generate import pixels


def test_images_and_grid(sg2: Any) -> None:
    result = sg2("truncate", "--seeds", "0-1", "--psi", "-1,0,0.5,1")
    names = [f"seed000{s}-psi{psi}" for s in (0, 1) for psi in ("-1", "0", "0.5", "1")]
    assert result.lines == [*(f"out/{name}.png" for name in names), "out/grid.png"]
    grid = pixels("out/grid.png")
    header = grid.shape[0] - 2 * 128
    assert grid.shape[1] == 4 * 128 and 10 < header < 128
    for i in range(4):  # something is written above each column
        assert grid[:header, 128 * i : 128 * i + 128].min() < 100
    cell = grid[header + 128 :, 256:384]
    np.testing.assert_array_equal(cell, pixels("out/seed0001-psi0.5.png"))


def test_psi_0_is_the_mean_and_psi_1_the_latent(sg2: Any) -> None:
    """psi 1 is the sample, 0 the mean image in every row."""
    sg2("truncate", "--seeds", "0-1", "--batch", "4")
    sg2("generate", "--seeds", "0-1", "--out", "g", "--batch", "4")
    for seed in ("seed0000", "seed0001"):
        np.testing.assert_array_equal(pixels(f"out/{seed}-psi1.png"), pixels(f"g/{seed}.png"))
    np.testing.assert_array_equal(pixels("out/seed0000-psi0.png"), pixels("out/seed0001-psi0.png"))
    sg2("generate", "--latents", "avg", "--out", "g", "--batch", "4")
    np.testing.assert_array_equal(pixels("out/seed0000-psi0.png"), pixels("g/avg.png"))


def test_golden_truncation(sg2: Any) -> None:
    _, expected, _ = golden("uncond-64")
    network = GOLDEN / "uncond-64.weights.safetensors"
    args = ["--seeds", "85", "--psi", "0.5,0.7", "--cutoff", "4"]
    assert sg2("truncate", "-n", network, *args).code == 0
    for psi in (0.5, 0.7):
        image = to_pixels(expected[f"image_psi{psi}_cutoff4_const"][[1]])[0]
        assert abs(pixels(f"out/seed0085-psi{psi}.png").astype(int) - image).max() <= 1


def test_latents_of_files_are_truncated_too(sg2: Any) -> None:
    np.save("w.npy", np.random.RandomState(0).randn(1, 256))
    result = sg2("truncate", "--latents", "w.npy", "--psi", "0,2")
    assert result.lines == ["out/w-psi0.png", "out/w-psi2.png", "out/grid.png"]
    assert not np.array_equal(pixels("out/w-psi0.png"), pixels("out/w-psi2.png"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give --seeds or --latents"),
        (["--seeds", "0", "--psi", "1,x"], "'x' is not a number"),
        (["--seeds", "0", "--psi", ""], "'' is not a number"),
        (["--seeds", "0", "--cutoff", "13"], "beyond this network's 12 rows"),
        (["--seeds", "0", "--out", "a.png"], "several images"),
    ],
)
def test_bad_input(sg2: Any, args: list[str], message: str) -> None:
    result = sg2("truncate", *args)
    assert result.code == 2
    assert message in one_line(result.err)
    assert list(Path().iterdir()) == []
