"""Frames of one path and of several, by number and by distance of the latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import random_generator

import sg2cli
from sg2cli.errors import Sg2Error, UsageError

G = random_generator()


@pytest.mark.parametrize(("loop", "count"), [(False, 13), (True, 18)])
def test_frames_per_latent_are_the_distance_of_key_latents(loop: bool, count: int) -> None:
    frames = list(sg2cli.interpolate(G, "1-3", frames_per_latent=6, loop=loop))
    assert len(frames) == count
    keys = sg2cli.generate(G, "1-3")
    for number, key in enumerate(keys):
        np.testing.assert_array_equal(frames[6 * number].ws, key.ws)


@pytest.mark.parametrize("space", ["z", "w"])
@pytest.mark.parametrize("scale", [1, 3])
def test_a_grid_shows_the_frames_of_its_paths(space: Any, scale: int) -> None:
    options: dict[str, Any] = {"space": space, "frames": 4}
    grid = list(sg2cli.interpolate(G, "0-11", grid=(3, 2), scale=scale, **options))
    assert len(grid) == 4 and grid[0].pixels.shape == (32 * scale, 48 * scale, 3)
    paths = [list(sg2cli.interpolate(G, f"{k}-{k + 1}", **options)) for k in range(0, 12, 2)]
    for number, frame in enumerate(grid):
        shown = frame.pixels[::scale, ::scale]
        assert (shown.repeat(scale, axis=0).repeat(scale, axis=1) == frame.pixels).all()
        for place, path in enumerate(paths):
            row, column = divmod(place, 3)
            tile = shown[16 * row : 16 * (row + 1), 16 * column : 16 * (column + 1)]
            assert (tile == path[number].pixels).all()


def test_a_scaled_frame_is_a_latent_and_a_frame_of_a_grid_is_not(in_tmp: Path) -> None:
    scaled = sg2cli.interpolate(G, "0-1", 3, scale=2)[1]
    scaled.save("a.png")
    np.testing.assert_array_equal(sg2cli.generate(G, "a.png")[0].ws, scaled.ws)
    sg2cli.interpolate(G, "0-7", 3, grid=(2, 2))[1].save("b.png")
    with pytest.raises(Sg2Error, match="holds no latent: a grid"):
        sg2cli.generate(G, "b.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": (2, 2)}, "7 latents cannot be shared evenly by the 4 paths of a grid of 2x2"),
        ({"grid": (7, 1)}, "at least two latents"),
        ({"grid": (0, 1)}, "use 1 or more"),
        ({"scale": 0}, "use 1 or more"),
        ({"frames": 9, "frames_per_latent": 9}, "mutually exclusive"),
    ],
)
def test_arguments_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sg2cli.interpolate(G, "0-6", **options)
