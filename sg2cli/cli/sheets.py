"""Pictures that are cells of a sheet: drawn, kept or empty, in the order of reading."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sg2cli.cli.pictures import Pictures
from sg2cli.errors import Sg2Error
from sg2cli.images import Sheet, read_image

if TYPE_CHECKING:
    from sg2cli.images import Image

Source = TypeVar("Source")


@dataclass(frozen=True)
class Cell(Generic[Source]):
    """What to draw, and the name of its picture; without a name it is on the sheet only."""

    source: Source
    made_by: Mapping[str, Any]
    name: str | None


@dataclass(frozen=True)
class Layout:
    """Of the sheet, which is called `grid`."""

    columns: int
    rows: int
    made_by: Mapping[str, Any]
    header: Image | None = None


def labels(values: Sequence[float], sign: str = "") -> list[str]:
    """Numbers as short as tells them apart, with at least four digits; sign "+" shows it always."""
    for digits in range(4, 18):
        texts = [f"{value:{sign}.{digits}g}" for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


def draw_cells(
    pictures: Pictures,
    cells: Iterable[Cell[Source] | None],
    count: int,
    shape: tuple[int, ...],
    layout: Layout | None,
    render: Callable[[Iterator[Source]], Iterator[Image]],
) -> None:
    """Draw `count` cells as they come (None: an empty one), and the sheet of them.

    What --skip-existing keeps is not drawn, but read for the sheet; a sheet that is kept itself
    needs nothing. Where something else has a picture's name, the others are drawn all the same.
    """
    with ExitStack() as stack:
        sheet: Sheet | None = None
        if layout and not pictures.keeps("grid", layout.made_by):
            file = stack.enter_context(pictures.open("grid", layout.made_by))
            at = (layout.columns, layout.rows)
            sheet = Sheet(file, pictures.format, *at, shape, layout.made_by, layout.header)
        bar = stack.enter_context(pictures.console.progress("Drawing", count, "picture"))
        stack.enter_context(pictures)
        # Name and account of each cell in order, and whether it is drawn; its source is not held.
        waiting: deque[tuple[str | None, Mapping[str, Any], bool]] = deque()

        def to_draw() -> Iterator[Source]:
            for cell in cells:
                name, kept = cell.name if cell else None, False
                try:
                    kept = bool(cell and name and pictures.keeps(name, cell.made_by))
                except Sg2Error as error:
                    if count == 1:
                        raise
                    pictures.fail(str(name), error)
                    name = None  # the sheet shows it
                if cell and not kept and (name or sheet):
                    waiting.append((name, cell.made_by, True))
                    yield cell.source
                else:
                    waiting.append((name, {}, False))
                    pass_undrawn()

        def pass_undrawn() -> None:
            while waiting and not waiting[0][2]:
                name, _, _ = waiting.popleft()
                if sheet:
                    sheet.append(read_image(pictures.path(name), shape) if name else None)
                bar.update()

        for image in render(to_draw()):
            name, made_by, _ = waiting.popleft()
            if name:
                pictures.put(name, image, made_by)
            if sheet:
                sheet.append(image)
            bar.update()
            pass_undrawn()
        if sheet:
            sheet.finish()
    pictures.sum_up(count)
