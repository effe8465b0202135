"""Latents moved along a direction of W."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.errors import UsageError, brief
from sg2cli.latents import directions
from sg2cli.latents.direction_notation import open_direction
from sg2cli.latents.directions import Direction
from sg2cli.latents.given import Latents, as_latents
from sg2cli.latents.mixing import layer_rows
from sg2cli.latents.sources import LatentList
from sg2cli.sampling.drawing import Cell, Drawing, check_latents, number_labels
from sg2cli.sampling.images import Images
from sg2cli.sampling.rendering import check_settings, locate
from sg2cli.settings import DrawSettings, GeneratorConfig, NoiseMode

if TYPE_CHECKING:
    from sg2cli.generator import Generator


class Edit(Drawing):
    """A grid with a row for each latent and a column for each amount."""

    direction: Direction | None = None  # found by `find`

    def __init__(
        self,
        config: GeneratorConfig,
        latents: LatentList,
        direction: str,
        amounts: Sequence[float],
        layers: str | None,
        settings: DrawSettings,
        network: Path | None = None,
    ) -> None:
        """`direction`: a name, 'sefa:K', 'pca:K' or a file; `layers`: None for all rows of ws;
        `network`: its file, beside which names are looked up."""
        super().__init__(config, settings)
        self.moved = layer_rows(layers, config)
        self.source = open_direction(direction, config, network)
        check_latents(latents, config, settings)
        # The standard deviation of W is measured with the mapping network.
        check_settings(config, settings, needs_class=True)
        self.latents, self.amounts = latents, list(amounts)
        self.columns, self.rows = len(self.amounts), len(latents)
        self.labels = number_labels(self.amounts, "+")

    def find(
        self, G: Generator, on_mapped: Callable[[int], object] = lambda count: None
    ) -> Direction:
        """Find the direction; `on_mapped` receives the number of latents mapped to measure it."""
        if self.direction is None:
            index = self.settings.class_index
            found = directions.find_direction(self.source, G, self.moved, index, on_mapped)
            self.direction = found
        return self.direction

    @property
    def is_mapped(self) -> bool:
        return self.latents.need_mapping

    @property
    def noise_names(self) -> Sequence[str]:
        return self.latents.noise_names

    def names(self) -> Iterator[str]:
        for latent in self.latents.unchecked():
            yield from (f"{latent.name}-{label}" for label in self.labels)

    def details(self) -> Mapping[str, Any]:
        assert self.direction
        change = {**self.direction.provenance, "layers": self.moved}
        return {"latents": self.latents.describe(), **change, "amounts": self.amounts}

    def cells(self, G: Generator) -> Iterator[Cell]:
        direction = self.find(G)
        change = {**direction.provenance, "layers": self.moved}
        points = locate(G, self.latents.unchecked(), self.settings, self.batch_size(G))
        for latent, point in zip(self.latents.unchecked(), points, strict=True):
            for amount, label in zip(self.amounts, self.labels, strict=True):
                ws = directions.edit(point.ws, direction, amount, self.moved)
                details = {**latent.provenance, **change, "amount": amount}
                provenance = self.provenance(G, details, latent.is_mapped)
                yield Cell(replace(point, ws=ws), provenance, f"{latent.name}-{label}")


def _checked(amounts: Any) -> list[float]:
    """One or several amounts as a list; UsageError if they are not finite numbers."""
    several = isinstance(amounts, Iterable) and not isinstance(amounts, str)
    checked: list[float] = []
    for amount in amounts if several else [amounts]:
        try:
            number = math.nan if isinstance(amount, str | bool) else float(amount)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"amount {brief(str(amount))} is not a finite number")
        checked.append(number)
    if not checked:
        raise UsageError("no amounts: give at least one number")
    return checked


def edit(
    G: Generator,
    latents: Latents,
    direction: str,
    amounts: float | Sequence[float] = 1.0,
    *,
    layers: str | None = None,
    psi: float | None = None,
    cutoff: int | None = None,
    class_index: int | None = None,
    noise_mode: NoiseMode = "const",
    batch: int | None = None,
) -> Images:
    """Move latents along a direction of W: `sg2cli.edit(G, found, "smile", 1.0)`.

    Args:
        G: a network, from `sg2cli.load`.
        latents: one per row; see `generate`.
        direction: a name, from NETWORK.directions.safetensors beside the network; "sefa:K" or
            "pca:K" (from 0, the strongest), a file of `directions` as "FILE:sefa:K" or "FILE:NAME",
            an .npy [w_dim] or [num_ws,w_dim], or rosinality's factor.pt as "FILE:K".
        amounts: one or several distances, in standard deviations of W along the direction, or in
            units of a named direction.
        layers: rows of ws to move, like `styles` of `mix`; None: all.
        psi, cutoff, class_index, noise_mode, batch: see `generate`.

    Returns: the images, latent by latent.

    Raises UsageError for arguments that do not fit the network, Sg2Error for an unreadable file.
    """
    settings = DrawSettings(psi, cutoff, class_index, noise_mode, batch)
    each = _checked(amounts)
    listed = as_latents(latents, G.config, reserved=["grid"])
    drawing = Edit(G.config, listed, direction, each, layers, settings, G.path)
    drawing.find(G)
    return Images(G, drawing)
