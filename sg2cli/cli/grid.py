"""Images that are cells of a grid: drawn, kept or empty, in the order of reading."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sg2cli.cli.output import ImageOutput
from sg2cli.errors import Sg2Error
from sg2cli.images.codecs import read_image
from sg2cli.images.grid import ImageGrid

if TYPE_CHECKING:
    from sg2cli.images.pixels import Image

Source = TypeVar("Source")


@dataclass(frozen=True)
class Cell(Generic[Source]):
    """What to draw, and the name of its picture; without a name it is on the grid only."""

    source: Source
    provenance: Mapping[str, Any]
    name: str | None


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


def labels(values: Sequence[float], sign: str = "") -> list[str]:
    """Numbers as short as tells them apart, with at least four digits; sign "+" shows it always."""
    for digits in range(4, 18):
        texts = [f"{value:{sign}.{digits}g}" for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


def draw_cells(
    pictures: ImageOutput,
    cells: Iterable[Cell[Source] | None],
    count: int,
    shape: tuple[int, ...],
    layout: Layout | None,
    render: Callable[[Iterator[Source]], Iterator[Image | Sg2Error]],
) -> None:
    """Draw `count` cells as they come (None: an empty one), and the grid of them.

    What --skip-existing keeps is not drawn, but read for the grid; a grid that is kept itself
    needs nothing. Where something else has a picture's name, or one cannot be drawn or read, the
    others are drawn all the same.
    """
    with ExitStack() as stack:
        grid: ImageGrid | None = None
        size = layout.size(shape) if layout else (0, 0)
        if layout and not pictures.keeps("grid", layout.provenance, size):
            file = stack.enter_context(pictures.open("grid", layout.provenance, size))
            at = (layout.columns, layout.rows)
            grid = ImageGrid(file, pictures.format, *at, shape, layout.provenance, layout.header)
        if not _draw(pictures, cells, count, shape, grid, render) and grid:
            holes = "the grid is not written because some of its images failed"
            pictures.console.note(holes)
            pictures.sum_up(count)
            raise Sg2Error(holes)
        if grid:
            grid.finish()
    pictures.sum_up(count)


def _draw(
    pictures: ImageOutput,
    cells: Iterable[Cell[Source] | None],
    count: int,
    shape: tuple[int, ...],
    grid: ImageGrid | None,
    render: Callable[[Iterator[Source]], Iterator[Image | Sg2Error]],
) -> bool:
    """See `draw_cells`; whether the grid has all that belongs on it."""
    whole, size = True, (shape[1], shape[0])
    # Name and account of each cell in order, and whether it is drawn; its source is not held.
    waiting: deque[tuple[str | None, Mapping[str, Any], bool]] = deque()

    def fail(name: str | None, error: Sg2Error) -> None:
        if count == 1 or pictures.holds_one:  # nothing else comes out
            raise error
        if name:
            pictures.fail(name, error)

    def to_draw() -> Iterator[Source]:
        for cell in cells:
            name, kept = cell.name if cell else None, False
            try:
                kept = bool(cell and name and pictures.keeps(name, cell.provenance, size))
            except Sg2Error as error:
                fail(name, error)
                name = None  # the grid shows it
            if cell and not kept and (name or grid):
                waiting.append((name, cell.provenance, True))
                yield cell.source
            else:
                waiting.append((name, {}, False))
                pass_undrawn()

    def pass_undrawn() -> None:
        while waiting and not waiting[0][2]:
            name, _, _ = waiting.popleft()
            if grid:
                grid.append(read_kept(name) if name else None)
            bar.update()

    def read_kept(name: str) -> Image | None:
        nonlocal whole
        try:
            return read_image(pictures.path(name), shape)
        except Sg2Error as error:
            fail(name, error)
            pictures.kept -= 1
            whole = False
            return None

    with pictures.console.progress("Drawing", count, "picture") as bar, pictures:
        for image in render(to_draw()):
            name, provenance, _ = waiting.popleft()
            if isinstance(image, Sg2Error):
                fail(name, Sg2Error(f"{name}: {image}") if name else image)
                whole = False
            elif name:
                pictures.put(name, image, provenance)
            if grid:
                grid.append(None if isinstance(image, Sg2Error) else image)
            bar.update()
            pass_undrawn()
    return whole
