"""Networks whose images are not square, in every command that takes a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

CASES = Path(__file__).parent / "cases"


def size(path: str) -> tuple[int, int]:
    with PIL.Image.open(path) as image:
        return image.size


@pytest.fixture
def tall(sg2: Any) -> str:
    """A network of 8x16 pixels, and a photo twice as high as wide."""
    assert sg2("convert", CASES / "human.pkl", "tall.safetensors").code == 0
    numbers = np.random.RandomState(0)
    PIL.Image.fromarray(numbers.randint(0, 256, (160, 100, 3), np.uint8)).save("photo.png")
    PIL.Image.new("L", (100, 160), 255).save("mask.png")
    return "tall.safetensors"


def test_a_projection_is_drawn_again_pixel_for_pixel(tall: str, sg2: Any) -> None:
    options = ("-n", tall, "--steps", 3, "--mask", "mask.png", "--out", "found")
    assert sg2("project", "photo.png", *options).code == 0
    assert size("found/photo/projected.png") == size("found/photo/target.png") == (8, 16)
    latent = "found/photo/projected.safetensors"
    assert sg2("generate", latent, "-n", tall, "--out", "again.png").code == 0
    again, projected = (
        np.asarray(PIL.Image.open(path)) for path in ("again.png", "found/photo/projected.png")
    )
    assert (again == projected).all()
    for line in (
        f"mix {latent} 3 --styles coarse --out mixed",
        f"edit {latent} --direction sefa:0 --amount 1 --out edited",
        f"interpolate {latent} 5 --frames 3 --out frames",
        f"truncate {latent} --psi 0,1 --out truncated",
        f"project photo.png --init {latent} --steps 2 --tune --tune-steps 2 --out tuned",
    ):
        result = sg2(*line.split(), "-n", tall)
        assert result.code == 0, result.err


def test_grids_and_videos_have_the_shape_of_the_images(tall: str, sg2: Any) -> None:
    assert sg2("generate", "0-3", "-n", tall, "--grid", "4x1", "--out", "faces").code == 0
    assert size("faces/grid.png") == (32, 16)
    assert sg2("interpolate", "0,1", "-n", tall, "--frames", 3, "--out", "a.gif").code == 0
    assert size("a.gif") == (8, 16)
    assert sg2("directions", "-n", tall, "--out", "d.safetensors").code == 0
    assert "8x16" in sg2("info", tall).out
