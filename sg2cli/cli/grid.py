"""Images that are cells of a grid: drawn, kept or empty, in the order of reading."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sg2cli.cli.output import ImageOutput
from sg2cli.errors import Sg2Error
from sg2cli.images.codecs import read_image
from sg2cli.images.grid import ImageGrid

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.images.pixels import Image
    from sg2cli.sampling.drawing import Cell, Drawing


@dataclass(frozen=True)
class Layout:
    """Of the grid, whose image is called `grid`."""

    columns: int
    rows: int
    provenance: Mapping[str, Any]
    header: Image | None = None

    def size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """[w,h] of the grid, of cells [H,W,C]."""
        height = 0 if self.header is None else len(self.header)
        return self.columns * shape[1], self.rows * shape[0] + height


def draw_cells(
    output: ImageOutput, drawing: Drawing, G: Generator, layout: Layout | None, singles: bool = True
) -> None:
    """Draw the cells as they come, and the grid of them; without `singles` only that.

    What --skip-existing keeps is not drawn, but read for the grid; a grid that is kept itself
    needs nothing. Where something else has an image's name, or one cannot be drawn or read, the
    others are drawn all the same.
    """
    shape, count = drawing.shape, drawing.count
    with ExitStack() as stack:
        grid: ImageGrid | None = None
        size = layout.size(shape) if layout else (0, 0)
        if layout and not output.keeps("grid", layout.provenance, size):
            file = stack.enter_context(output.open("grid", layout.provenance, size))
            at = (layout.columns, layout.rows)
            grid = ImageGrid(file, output.format, *at, shape, layout.provenance, layout.header)
        cells = _Cells(output, shape, count, grid)
        if not cells.draw(drawing, G, singles) and grid:
            message = "the grid is not written because some of its images failed"
            output.console.note(message)
            output.sum_up(count)
            raise Sg2Error(message)
        if grid:
            grid.finish()
    output.sum_up(count)


class _Cells:
    """The cells on their way from the network to their files and the grid."""

    def __init__(
        self, output: ImageOutput, shape: tuple[int, ...], count: int, grid: ImageGrid | None
    ) -> None:
        self.output, self.shape, self.count, self.grid = output, shape, count, grid
        # Name and provenance of each cell in order, and whether it is drawn; not its source.
        self.waiting: deque[tuple[str | None, Mapping[str, Any], bool]] = deque()
        self.complete = True  # the grid has all that belongs in it

    def draw(self, drawing: Drawing, G: Generator, singles: bool) -> bool:
        """Whether the grid has all that belongs in it."""
        output, console = self.output, self.output.console
        with console.progress("Generating", self.count, "image") as self.bar, output:
            sources = self._to_draw(drawing.cells(G), singles)
            for image in drawing.render(G, sources, console.note):
                name, provenance, _ = self.waiting.popleft()
                if isinstance(image, Sg2Error):
                    self._fail(name, Sg2Error(f"{name}: {image}") if name else image)
                    self.complete = False
                elif name:
                    output.put(name, image, provenance)
                self._place(None if isinstance(image, Sg2Error) else image)
                self._place_kept()
        return self.complete

    def _to_draw(self, cells: Iterable[Cell | None], singles: bool) -> Iterator[Any]:
        """The sources of the cells that are not kept."""
        size = (self.shape[1], self.shape[0])
        for cell in cells:
            name, kept = cell.name if cell and singles else None, False
            try:
                kept = bool(cell and name and self.output.keeps(name, cell.provenance, size))
            except Sg2Error as error:
                self._fail(name, error)
                name = None  # the grid shows it
            if cell and not kept and (name or self.grid):
                self.waiting.append((name, cell.provenance, True))
                yield cell.source
            else:
                self.waiting.append((name, {}, False))
                self._place_kept()

    def _place_kept(self) -> None:
        """Pass on the cells before the next that is drawn."""
        while self.waiting and not self.waiting[0][2]:
            name, _, _ = self.waiting.popleft()
            self._place(self._read_kept(name) if name and self.grid else None)

    def _read_kept(self, name: str) -> Image | None:
        try:
            return read_image(self.output.path(name), self.shape)
        except Sg2Error as error:
            self._fail(name, error)
            self.output.kept -= 1
            self.complete = False
            return None

    def _place(self, image: Image | None) -> None:
        if self.grid:
            self.grid.append(image)
        self.bar.update()

    def _fail(self, name: str | None, error: Sg2Error) -> None:
        if self.count == 1 or self.output.holds_one:  # nothing else comes out
            raise error
        if name:
            self.output.fail(name, error)
