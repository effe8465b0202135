"""The files of a result: what compare.png shows."""

from __future__ import annotations

import numpy as np
import pytest

from sg2cli.inversion.results import amplified

PHOTO = np.full((16, 16, 3), 100, np.uint8)


@pytest.mark.parametrize(
    ("difference", "factor"), [(0, 16), (3, 16), (15, 16), (16, 8), (63, 4), (64, 2), (140, 1)]
)
def test_a_difference_is_amplified_as_far_as_it_is_not_clipped(
    difference: int, factor: int
) -> None:
    image = (PHOTO.astype(int) + difference).astype(np.uint8)
    for a, b in ((PHOTO, image), (image, PHOTO)):
        shown, times = amplified(a, b)
        assert times == factor and (shown == factor * difference).all()


def test_a_few_large_differences_do_not_hide_the_others() -> None:
    image = PHOTO + np.uint8(10)
    image[0, 0] = 255
    shown, times = amplified(PHOTO, image)
    assert times == 16 and (shown[1:] == 160).all() and (shown[0, 0] == 255).all()
