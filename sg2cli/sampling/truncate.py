"""The truncation trick as a grid: each latent at several values of psi."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sg2cli.latents.given import Latents, as_latents
from sg2cli.latents.mapping import truncate as truncate_ws
from sg2cli.latents.sources import LatentList
from sg2cli.sampling.drawing import Cell, Drawing, check_latents, number_labels
from sg2cli.sampling.images import Images
from sg2cli.sampling.rendering import locate
from sg2cli.settings import DrawSettings, GeneratorConfig, NoiseMode

if TYPE_CHECKING:
    from sg2cli.generator import Generator

PSIS = (-1, -0.5, 0, 0.5, 0.7, 1)


class Truncate(Drawing):
    """A grid with a row for each latent and a column for each psi."""

    def __init__(
        self,
        config: GeneratorConfig,
        latents: LatentList,
        psis: Sequence[float],
        settings: DrawSettings,
    ) -> None:
        super().__init__(config, settings)
        check_latents(latents, config, settings)
        self.latents, self.psis = latents, tuple(dict.fromkeys(psis))
        self.columns, self.rows = len(self.psis), len(latents)
        self.labels = number_labels(self.psis)

    @property
    def is_mapped(self) -> bool:
        return True  # all are truncated, so psi is always recorded

    @property
    def noise_names(self) -> Sequence[str]:
        return self.latents.noise_names

    def names(self) -> Iterator[str]:
        for latent in self.latents.unchecked():
            yield from (f"{latent.name}-psi{label}" for label in self.labels)

    def row_names(self) -> Iterator[str]:
        return (latent.label for latent in self.latents.unchecked())

    def details(self) -> Mapping[str, Any]:
        return {"latents": self.latents.describe(), "psis": self.psis}

    def cells(self, G: Generator) -> Iterator[Cell]:
        whole = replace(self.settings, psi=None, cutoff=None)
        points = locate(G, self.latents.unchecked(), whole, self.batch_size(G))
        for latent, point in zip(self.latents.unchecked(), points, strict=True):
            for psi, label in zip(self.psis, self.labels, strict=True):
                ws = truncate_ws(point.ws[None], G.mapping.w_avg, psi, self.settings.cutoff)[0]
                provenance = self.provenance(G, latent.provenance, True) | {"psi": psi}
                yield Cell(replace(point, ws=ws), provenance, f"{latent.name}-psi{label}")


def truncate(
    G: Generator,
    latents: Latents,
    psis: Sequence[float] = PSIS,
    *,
    cutoff: int | None = None,
    class_index: int | None = None,
    noise_mode: NoiseMode = "const",
    batch: int | None = None,
) -> Images:
    """Draw latents with several truncations: `sg2cli.truncate(G, "0-3", psis=(0, 0.5, 1))`.

    Args:
        G: a network, from `sg2cli.load`.
        latents: one per row; see `generate`.
        psis: one per column: 0 is the mean, 1 the latent itself, -1 its opposite (StyleGAN
            appendix B).
        cutoff, class_index, noise_mode, batch: see `generate`.

    Returns: the images, latent by latent.

    Raises UsageError for latents or settings that do not fit the network.
    """
    settings = DrawSettings(None, cutoff, class_index, noise_mode, batch)
    listed = as_latents(latents, G.config, reserved=["grid"])
    return Images(G, Truncate(G.config, listed, psis, settings))
