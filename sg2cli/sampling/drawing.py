"""Drawings: the cells of a grid in order, their names and provenance.

A `Drawing` is checked against the configuration of the network before torch or weights are loaded;
only `cells` needs the generator. `sampling.generate`, `mix`, `truncate`, `edit` and `interpolate`
define one subclass each.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, ClassVar

from sg2cli.images.labels import column_header
from sg2cli.provenance import image_provenance
from sg2cli.sampling.rendering import Point, batch_size, check_settings, try_render
from sg2cli.sampling.saving import result_streams
from sg2cli.settings import DrawSettings, GeneratorConfig

if TYPE_CHECKING:
    from sg2cli.errors import Sg2Error
    from sg2cli.generator import Generator
    from sg2cli.images.pixels import Pixels
    from sg2cli.latents.files import Stream
    from sg2cli.latents.sources import LatentList


@dataclass(frozen=True)
class Cell:
    """An image to be drawn; without a name it appears only in the grid."""

    source: Any  # a latent to be mapped, ws and noise (a Point), or all of those of a frame
    provenance: Mapping[str, Any]
    name: str | None
    is_header: bool = False  # the unmixed image that begins a row or column

    @property
    def is_result(self) -> bool:
        """Whether `Images` and videos have it: named, and not a header."""
        return bool(self.name) and not self.is_header


class Drawing(ABC):
    """Images of one network, arranged in a grid of `columns` by `rows`."""

    columns: int
    rows: int
    labels: Sequence[str] = ()  # of the columns
    has_grid: ClassVar[bool] = True

    def __init__(self, config: GeneratorConfig, settings: DrawSettings) -> None:
        self.config, self.settings = config, settings

    @property
    def shape(self) -> tuple[int, int, int]:
        """[H,W,C] of an image."""
        return (*self.config.size, self.config.img_channels)

    @property
    def count(self) -> int:
        """Number of cells."""
        return self.columns * self.rows

    @property
    def result_count(self) -> int:
        """Number of images, without the unmixed ones that begin rows and columns."""
        return sum(1 for _ in self.names())

    @abstractmethod
    def names(self) -> Iterator[str]:
        """The names of all images, without the grid."""

    @abstractmethod
    def cells(self, G: Generator) -> Iterator[Cell | None]:
        """The cells in reading order; None is an empty one."""

    def cell_labels(self) -> Iterator[str]:
        """What each cell of a labelled grid shows, in reading order; by default, its row."""
        for name in self.row_names():
            yield name
            yield from [""] * (self.columns - 1)

    def row_names(self) -> Iterator[str]:
        """The names of the latents of all rows, for people."""
        return iter(())

    @abstractmethod
    def details(self) -> Mapping[str, Any]:
        """The fields for all latents in the provenance of the grid or video."""

    @property
    @abstractmethod
    def is_mapped(self) -> bool:
        """Whether any of the latents goes through the mapping network."""

    def provenance(self, G: Generator, details: Mapping[str, Any], mapped: bool) -> dict[str, Any]:
        """The provenance of an image, grid or video; `details`: the fields of its latents."""
        made = image_provenance(G.checkpoint, G.precision, self.settings, details, mapped)
        return {**made, "tuned": G.tuned} if G.tuned else made

    def grid_provenance(self, G: Generator) -> dict[str, Any]:
        """The provenance of the grid or video of all images."""
        return self.provenance(G, self.details(), self.is_mapped)

    @property
    @abstractmethod
    def noise_names(self) -> Sequence[str]:
        """The names of the noise maps that belong to its latents."""

    def latents_provenance(self, G: Generator) -> dict[str, Any]:
        """The provenance of the saved latents of all images."""
        return self.grid_provenance(G)

    def ws_streams(
        self, G: Generator, on_row: Callable[[], object] = lambda: None
    ) -> dict[str, Stream]:
        """The ws and noise maps of all images, for `save_latents`."""
        return result_streams(self, G, on_row)

    def header(self) -> Pixels | None:
        """The labels of the columns [h,columns*W,C]."""
        return column_header(self.labels, self.shape) if self.labels else None

    def points(self, G: Generator, sources: Iterable[Any], size: int) -> Iterator[Point]:
        """The points to draw for the sources of cells; a subclass may map latents."""
        return iter(sources)

    def batch_size(self, G: Generator, count: int | None = None) -> int:
        """Number of images per batch."""
        return batch_size(G, self.settings, self.count if count is None else count)

    def render(
        self,
        G: Generator,
        sources: Iterable[Any],
        on_note: Callable[[str], object] = lambda text: None,
        on_point: Callable[[Point], object] = lambda point: None,
    ) -> Iterator[Pixels | Sg2Error]:
        """Draw the sources of cells, in batches: pixels [H,W,C], or the error.

        `on_point` receives each point, in order, before it is drawn.
        """
        sources = iter(sources)
        size = self.batch_size(G)
        first = list(islice(sources, size))
        if self.settings.batch is None:
            size = max(1, len(first))  # no padding if there is a single batch
        points = _each(self.points(G, chain(first, sources), size), on_point)
        return try_render(G, points, self.settings.noise_mode, size, on_note)


def _each(points: Iterable[Point], on_point: Callable[[Point], object]) -> Iterator[Point]:
    for point in points:
        on_point(point)
        yield point


def check_latents(latents: LatentList, config: GeneratorConfig, settings: DrawSettings) -> None:
    """UsageError if the settings do not fit the latents and the network."""
    check_settings(config, settings, latents.need_mapping)


def grid_shape(count: int) -> tuple[int, int]:
    """Columns and rows: nearly square, without empty cells if 2:1 allows it."""
    side = math.isqrt(max(count, 1) - 1) + 1
    full = [columns for columns in range(side, 2 * side) if count % columns == 0]
    columns = full[0] if full and full[0] ** 2 <= 2 * count else side
    return columns, -(-count // columns)


def number_labels(values: Sequence[float], sign: str = "") -> list[str]:
    """Numbers with at least four digits, more if needed; sign "+" always shows the sign."""
    for digits in range(4, 18):
        texts = [f"{value:{sign}.{digits}g}" for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts
