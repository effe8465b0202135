"""The cells of a grid: drawn, kept or empty, in reading order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error
from sg2cli.images.codecs import read_image
from sg2cli.images.grid import ImageGrid
from sg2cli.provenance import is_of_seed
from sg2cli.sampling.grids import Grid
from sg2cli.sampling.output import ImageOutput

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.images.pixels import Pixels
    from sg2cli.sampling.drawing import Cell, Drawing
    from sg2cli.sampling.rendering import Point


class IncompleteGrid(Sg2Error):
    """The grid is not written because some of its images failed; the other images are."""


def draw_cells(
    output: ImageOutput,
    drawing: Drawing,
    G: Generator,
    *,
    grid: Grid | None,
    singles: bool = True,
    on_image: Callable[[], object] = lambda: None,
) -> None:
    """Draw the cells and, with `grid`, their grid; without `singles` only the grid.

    Images that `output` keeps are not drawn, but read for the grid, unless the grid is kept too. An
    image that cannot be drawn, read or written does not affect the others; IncompleteGrid is raised
    at the end if there was to be a grid.
    """
    made: dict[str, Any] = grid.provenance(G) if grid else {}
    with ExitStack() as stack:
        image_grid: ImageGrid | None = None
        if grid and not output.keeps("grid", made, grid.size):
            file = stack.enter_context(output.open("grid", made, grid.size))
            image_grid = grid.open(file, output.format, G)
        cells = _Cells(output, drawing.shape, drawing.count, image_grid, on_image)
        if not cells.draw(drawing, G, singles) and image_grid:
            raise IncompleteGrid("the grid is not written because some of its images failed")
        if image_grid:
            image_grid.finish()


class _Cells:
    """Passes cells from the network to their files and the grid."""

    def __init__(
        self,
        output: ImageOutput,
        shape: tuple[int, ...],
        count: int,
        grid: ImageGrid | None,
        on_image: Callable[[], object],
    ) -> None:
        self.output, self.shape, self.count, self.grid = output, shape, count, grid
        self.on_image = on_image
        # Name and provenance of each cell in order, and whether it is drawn.
        self.waiting: deque[tuple[str | None, Mapping[str, Any], bool]] = deque()
        self.complete = True  # the grid has all of its images

    def draw(self, drawing: Drawing, G: Generator, singles: bool) -> bool:
        """Draw all cells; returns whether the grid has all of its images."""
        output = self.output
        with output:
            sources = self._to_draw(drawing.cells(G), singles)
            points: deque[Point] = deque()
            for image in drawing.render(G, sources, output.on_note, points.append):
                name, provenance, _ = self.waiting.popleft()
                point = points.popleft()
                if isinstance(image, Sg2Error):
                    self._fail(name, Sg2Error(f"{name}: {image}") if name else image)
                    self.complete = False
                elif name:
                    ws = None if is_of_seed(provenance) else point.ws.float().cpu().numpy()
                    output.put(name, image, provenance, ws)
                self._place(None if isinstance(image, Sg2Error) else image)
                self._place_kept()
        return self.complete

    def _to_draw(self, cells: Iterable[Cell | None], singles: bool) -> Iterator[Any]:
        """The sources of the cells to draw; records the kept ones."""
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
        """Place kept cells up to the next one to be drawn."""
        while self.waiting and not self.waiting[0][2]:
            name, _, _ = self.waiting.popleft()
            self._place(self._read_kept(name) if name and self.grid else None)

    def _read_kept(self, name: str) -> Pixels | None:
        try:
            return read_image(self.output.path(name), self.shape)
        except Sg2Error as error:
            self._fail(name, error)
            self.output.kept -= 1
            self.complete = False
            return None

    def _place(self, image: Pixels | None) -> None:
        if self.grid:
            self.grid.append(image)
        self.on_image()

    def _fail(self, name: str | None, error: Sg2Error) -> None:
        if self.count == 1 or self.output.holds_one:  # the only image
            raise error
        if name:
            self.output.fail(name, error)
