"""Style mixing, by names and by rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import random_generator

from sg2cli.errors import UsageError
from sg2cli.latents.mixing import default_styles, mix, parse_styles, style_rows


def config(resolution: int) -> Any:
    blocks = resolution.bit_length() - 2
    return random_generator(img_resolution=resolution, channels=(2,) * blocks).config


@pytest.mark.parametrize(
    ("resolution", "styles", "rows"),
    [
        (64, "coarse", [0, 1, 2]),
        (64, "middle", [3, 4, 5, 6]),
        (64, "fine", [7, 8, 9]),
        (64, "coarse,middle", list(range(7))),
        (64, "coarse,middle,fine", list(range(10))),
        (64, "0-6", list(range(7))),
        (64, "9,0-1,1", [0, 1, 9]),
        (32, "middle", [3, 4, 5, 6, 7]),
        (16, "middle", [3, 4, 5]),
        (8, "coarse", [0, 1, 2, 3]),
        (4, "coarse", [0, 1]),
    ],
)
def test_rows(resolution: int, styles: str, rows: list[int]) -> None:
    assert style_rows(parse_styles(styles), config(resolution)) == rows


def test_the_default_is_nvidias() -> None:
    assert style_rows(default_styles(config(64)), config(64)) == list(range(7))
    assert style_rows(default_styles(config(16)), config(16)) == list(range(5))
    assert style_rows(default_styles(config(4)), config(4)) == [0]


@pytest.mark.parametrize("text", ["", "big", "3-1", "1,,2", "-1", "0-6-9", "1.5"])
def test_invalid_styles_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a style: use coarse|did you mean 1-3"):
        parse_styles(text)


def test_styles_that_the_network_lacks() -> None:
    with pytest.raises(
        UsageError, match="no fine styles: they begin at 64x64, its highest resolution is 32"
    ):
        style_rows(parse_styles("fine"), config(32))
    with pytest.raises(UsageError, match="no middle styles"):
        style_rows(parse_styles("coarse,middle"), config(8))
    with pytest.raises(
        UsageError, match="row 10 is out of range: this network has rows of ws 0 to 9"
    ):
        style_rows(parse_styles("8-10"), config(64))


def test_mixing() -> None:
    a, b = torch.randn(2, 10, 16)
    mixed = mix(a, b, [0, 3])
    assert torch.equal(mixed[[0, 3]], b[[0, 3]])
    assert torch.equal(mixed[[1, 2, 4]], a[[1, 2, 4]])
    assert torch.equal(mix(a, a, [0, 3]), a)
    assert torch.equal(mix(a, b, range(10)), b)
