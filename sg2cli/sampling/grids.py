"""The grid of a drawing: its size, labels and provenance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

from sg2cli.images.grid import ImageGrid, grid_size
from sg2cli.images.labels import label_strip

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.images.pixels import Pixels
    from sg2cli.sampling.drawing import Drawing


@dataclass(frozen=True)
class Grid:
    """The grid of a drawing; `has_labels`: with the names of latents above its images."""

    drawing: Drawing
    has_labels: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        drawing = self.drawing
        at = (drawing.columns, drawing.rows)
        return grid_size(*at, drawing.shape, drawing.header(), self.has_labels)

    def provenance(self, G: Generator) -> dict[str, Any]:
        made = self.drawing.grid_provenance(G)
        return {**made, "labels": True} if self.has_labels else made

    def open(self, file: IO[bytes], format: str, G: Generator) -> ImageGrid:
        """A grid to be filled with the images of all cells."""
        drawing = self.drawing
        at = (drawing.columns, drawing.rows)
        strips = self._strips() if self.has_labels else None
        made = self.provenance(G)
        return ImageGrid(file, format, *at, drawing.shape, made, drawing.header(), strips)

    def _strips(self) -> Iterator[Pixels]:
        drawing = self.drawing
        labels = drawing.cell_labels()
        for _ in range(drawing.rows):
            row = list(islice(labels, drawing.columns))
            row += [""] * (drawing.columns - len(row))
            yield label_strip(row, drawing.shape)
