"""An image for each latent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from sg2cli.errors import UsageError
from sg2cli.latents.given import Latents, as_latents
from sg2cli.latents.sources import LatentList
from sg2cli.sampling.drawing import Cell, Drawing, check_latents, grid_shape
from sg2cli.sampling.images import Images
from sg2cli.sampling.rendering import Point, locate, ws_streams
from sg2cli.settings import DrawSettings, GeneratorConfig, NoiseMode

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.latents.files import Stream

MAX_EMPTY = 10_000  # cells of a grid


class Generate(Drawing):
    """One image per latent; `shard` (i, n) selects every n-th one, starting with the i-th."""

    def __init__(
        self,
        config: GeneratorConfig,
        latents: LatentList,
        settings: DrawSettings,
        grid: tuple[int, int] | None = None,
        shard: tuple[int, int] = (1, 1),
    ) -> None:
        """`grid`: columns and rows; None: by `grid_shape`."""
        super().__init__(config, settings)
        check_latents(latents, config, settings)
        self.latents, self.shard = latents, shard
        self.columns, self.rows = grid or grid_shape(len(latents))
        empty = self.columns * self.rows - len(latents)
        if empty < 0:
            raise UsageError(
                f"a grid of {self.columns}x{self.rows} is too small for {len(latents)} images"
            )
        if empty > MAX_EMPTY:
            raise UsageError(
                f"a grid of {self.columns}x{self.rows} has {empty:,} empty cells: "
                f"the limit is {MAX_EMPTY:,}"
            )

    @property
    def count(self) -> int:
        first, step = self.shard
        return len(range(first - 1, len(self.latents), step))

    @property
    def is_mapped(self) -> bool:
        return self.latents.need_mapping

    def names(self) -> Iterator[str]:
        return (latent.name for latent in self._chosen())

    def _chosen(self) -> Iterator[Any]:
        first, step = self.shard
        return islice(self.latents.unchecked(), first - 1, None, step)

    def cell_labels(self) -> Iterator[str]:
        return (latent.label for latent in self._chosen())

    def details(self) -> Mapping[str, Any]:
        return {"latents": self.latents.describe(), "grid": f"{self.columns}x{self.rows}"}

    def cells(self, G: Generator) -> Iterator[Cell]:
        for latent in self._chosen():
            provenance = self.provenance(G, latent.provenance, latent.is_mapped)
            yield Cell(latent, provenance, latent.name)

    @property
    def noise_names(self) -> Sequence[str]:
        return self.latents.noise_names

    def latents_provenance(self, G: Generator) -> dict[str, Any]:
        return self.provenance(G, {"latents": self.latents.describe()}, self.is_mapped)

    def ws_streams(
        self, G: Generator, on_row: Callable[[], object] = lambda: None
    ) -> dict[str, Stream]:
        return ws_streams(G, self.latents, self.settings, on_row)

    def points(self, G: Generator, sources: Iterable[Any], size: int) -> Iterator[Point]:
        return locate(G, sources, self.settings, size)


def generate(
    G: Generator,
    latents: Latents,
    *,
    psi: float | None = None,
    cutoff: int | None = None,
    class_index: int | None = None,
    noise_mode: NoiseMode = "const",
    batch: int | None = None,
) -> Images:
    """Draw an image for each latent: `for image in sg2cli.generate(G, "0-9,85", psi=0.7)`.

    Args:
        G: a network, from `sg2cli.load`.
        latents: seeds, files, images made by sg2 and folders as text ("85", "0-90:10", "out/me",
            "faces.npz[2]", "avg"), a seed, an array ws [num_ws,w_dim] or [N,num_ws,w_dim], an
            `Image`, `Latent` or `Projection`, or a list of these.
        psi: truncation, from 0 (the mean) to 1 (none); None: 1 for seeds, w and ws unchanged.
        cutoff: number of rows of ws to truncate, from the first; None: all.
        class_index: the class of a conditional network, from 0.
        noise_mode: "const" (the noise maps of the checkpoint), "random" (by the seed of each image)
            or "none".
        batch: images per batch; None: by resolution and device.

    Returns: images that are drawn lazily, in batches, so that any number fits in memory. Seeds give
    the same images as NVIDIA's scripts.

    Raises UsageError for latents or settings that do not fit the network, and Sg2Error while
    drawing for an image that is not finite.
    """
    settings = DrawSettings(psi, cutoff, class_index, noise_mode, batch)
    return Images(G, Generate(G.config, as_latents(latents, G.config), settings))
