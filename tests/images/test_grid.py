"""Grids of images, and that a large PNG takes little memory."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sg2cli.errors import UsageError
from sg2cli.images import codecs, grid
from sg2cli.images.labels import column_header
from sg2cli.provenance import is_unchanged

from .test_codecs import PROVENANCE, noise, without_hash


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_grid_has_its_images_in_reading_order(tmp_path: Path, format: str, channels: int) -> None:
    if format == "jpg" and channels in (2, 4):
        pytest.skip("jpg has no alpha")
    path = tmp_path / "grid"
    cells = [np.full((16, 16, channels), 40 * i + 30, np.uint8) for i in range(5)]
    if format == "png":
        cells = [noise(channels, 16) for _ in range(5)]
    header = np.full((3, 48, channels), 200, np.uint8)
    with path.open("w+b") as file:
        image_grid = grid.ImageGrid(file, format, 3, 2, (16, 16, channels), PROVENANCE, header)
        for cell in [*cells[:4], None, cells[4]]:
            image_grid.append(cell)
        image_grid.finish()
    size, _, provenance = codecs.inspect_image(path)
    assert size == (48, 35)
    assert provenance and without_hash(provenance) == PROVENANCE
    assert is_unchanged(path, provenance)
    found = codecs.read_image(path, (35, 48, channels)).astype(int)
    bar = 0 if format == "png" else 3
    assert abs(found[:3] - 200).max() <= bar
    assert abs(found[3:19, 32:48] - cells[2]).max() <= bar
    assert abs(found[19:, :16] - cells[3]).max() <= bar
    assert abs(found[19:, 16:32] - 255).max() <= bar
    assert abs(found[19:, 32:] - cells[4]).max() <= bar


def test_an_unfinished_grid_is_white(tmp_path: Path) -> None:
    path = tmp_path / "grid"
    with path.open("w+b") as file:
        grid.ImageGrid(file, "png", 2, 2, (4, 4, 3), {}).finish()
    assert (codecs.read_image(path, (8, 8, 3)) == 255).all()


def test_a_grid_too_large_for_its_format_is_refused() -> None:
    with pytest.raises(UsageError, match="beyond what jpg holds"):
        grid.ImageGrid(io.BytesIO(), "jpg", 2000, 1, (64, 64, 3), {})
    with pytest.raises(UsageError, match="too many"):
        grid.ImageGrid(io.BytesIO(), "jpg", 1000, 1000, (64, 64, 3), {})


def test_a_large_png_grid_takes_a_row_of_memory() -> None:
    """300 MB of pixels, of which no more than a few rows are held."""
    import tracemalloc

    class Nowhere(io.RawIOBase):
        def write(self, content: Any) -> int:
            return len(content)

        def tell(self) -> int:
            return 0

        def seek(self, offset: int, whence: int = 0) -> int:
            return 0

    cell = noise(3, 64)
    tracemalloc.start()
    image_grid = grid.ImageGrid(Nowhere(), "png", 100, 250, (64, 64, 3), {})  # type: ignore[arg-type]
    for _ in range(100 * 250):
        image_grid.append(cell)
    image_grid.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20


@pytest.mark.parametrize("width", [128, 256, 512])
def test_labels_do_not_touch(width: int) -> None:
    """Between two labels is at least as much white as their letters are high."""
    labels = ["difference: PSNR 13.6 dB"] * 3
    strip = column_header(labels, (width, width, 1))[:, :, 0]
    dark = np.flatnonzero((strip < 128).any(axis=0))
    within = [dark[(dark >= k * width) & (dark < (k + 1) * width)] for k in range(3)]
    gaps = [b.min() - a.max() for a, b in itertools.pairwise(within)]
    letters = np.flatnonzero((strip < 128).any(axis=1))
    assert min(gaps) >= 0.6 * (letters.max() - letters.min())
