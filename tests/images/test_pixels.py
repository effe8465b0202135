"""What a network draws, as 8-bit images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sg2cli.errors import Sg2Error
from sg2cli.images import pixels


def test_rounding_is_that_of_the_field() -> None:
    """(img * 127.5 + 128), cut off at 0 and 255, truncated."""
    values = torch.tensor([-9.0, -1.0, -0.999, 0.0, 0.0039, 0.0040, 0.996, 1.0, 9.0])
    found = pixels.to_pixels(values.reshape(1, 1, 3, 3)).ravel().tolist()
    assert found == [0, 0, 0, 128, 128, 128, 254, 255, 255]
    assert pixels.to_pixels(torch.zeros(2, 3, 4, 5)).shape == (2, 4, 5, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(Sg2Error, match="precision"):
        pixels.to_pixels(torch.full((1, 3, 2, 2), value))


def test_pixels_survive_the_way_to_a_tensor_and_back() -> None:
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    tensor = pixels.to_tensor(images, torch.zeros((), dtype=torch.float64))
    assert tensor.shape == (1, 3, 16, 16) and tensor.dtype == torch.float64
    assert tensor.min() == -1 and tensor.max() == 1
    np.testing.assert_array_equal(pixels.to_pixels(tensor), images)
