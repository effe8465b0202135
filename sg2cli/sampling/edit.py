"""Latents moved along directions of W."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sg2cli.errors import UsageError, brief
from sg2cli.latents import directions
from sg2cli.latents.direction_notation import DirectionSource, open_direction
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


@dataclass(frozen=True)
class Move:
    """A direction, and how far latents move along it in each column of the grid."""

    source: DirectionSource
    amounts: tuple[float, ...]


class Edit(Drawing):
    """A grid with a row for each latent and a column for each amount.

    Latents move along several directions at once: in each column, by an amount of each.
    """

    directions: Sequence[Direction] = ()  # found by `find`

    def __init__(
        self,
        config: GeneratorConfig,
        latents: LatentList,
        moves: Sequence[Move],
        layers: str | None,
        settings: DrawSettings,
    ) -> None:
        """`moves`: with equally many amounts each; `layers`: None for all rows of ws."""
        super().__init__(config, settings)
        self.moved = layer_rows(layers, config)
        check_latents(latents, config, settings)
        # The standard deviation of W is measured with the mapping network.
        check_settings(config, settings, needs_class=True)
        self.latents, self.moves = latents, list(moves)
        self.columns, self.rows = len(self.moves[0].amounts), len(latents)
        self.labels = _labels(self.moves)
        self.suffixes = _suffixes(self.labels)

    def find(
        self, G: Generator, on_mapped: Callable[[int], object] = lambda count: None
    ) -> Sequence[Direction]:
        """Find the directions; `on_mapped` receives the number of latents mapped to measure them.

        UsageError for one that moves none of the layers.
        """
        if not self.directions:
            index = self.settings.class_index
            self.directions = [
                directions.find_direction(move.source, G, self.moved, index, on_mapped)
                for move in self.moves
            ]
        return self.directions

    @property
    def is_mapped(self) -> bool:
        return self.latents.need_mapping

    @property
    def noise_names(self) -> Sequence[str]:
        return self.latents.noise_names

    def names(self) -> Iterator[str]:
        for latent in self.latents.unchecked():
            yield from (f"{latent.name}-{suffix}" for suffix in self.suffixes)

    def row_names(self) -> Iterator[str]:
        return (latent.label for latent in self.latents.unchecked())

    def details(self) -> Mapping[str, Any]:
        change = self._change("amounts", [list(move.amounts) for move in self.moves])
        return {"latents": self.latents.describe(), **change}

    def cells(self, G: Generator) -> Iterator[Cell]:
        found = self.find(G)
        points = locate(G, self.latents.unchecked(), self.settings, self.batch_size(G))
        for latent, point in zip(self.latents.unchecked(), points, strict=True):
            for column, suffix in enumerate(self.suffixes):
                amounts = [move.amounts[column] for move in self.moves]
                ws = point.ws
                for direction, amount in zip(found, amounts, strict=True):
                    ws = directions.edit(ws, direction, amount, self.moved)
                details = {**latent.provenance, **self._change("amount", amounts)}
                provenance = self.provenance(G, details, latent.is_mapped)
                yield Cell(replace(point, ws=ws), provenance, f"{latent.name}-{suffix}")

    def _change(self, key: str, amounts: Sequence[Any]) -> dict[str, Any]:
        """The directions in the provenance, with the amounts of each."""
        assert self.directions
        each = [
            {**direction.provenance, key: amount}
            for direction, amount in zip(self.directions, amounts, strict=True)
        ]
        moved = {"layers": self.moved}
        return {**each[0], **moved} if len(each) == 1 else {"directions": each, **moved}


def _labels(moves: Sequence[Move]) -> list[str]:
    """Labels of the columns: the amount, or those that differ between directions, as "+1_-2"."""
    different = dict.fromkeys(move.amounts for move in moves)
    columns = zip(*(number_labels(amounts, "+") for amounts in different), strict=True)
    return ["_".join(amounts) for amounts in columns]


def _suffixes(labels: Sequence[str]) -> list[str]:
    """The ends of the names of images, which sort by column: "0_-3", "1_+0", "2_+3".

    A single column needs no number.
    """
    digits = len(str(len(labels) - 1))
    numbered = [f"{column:0{digits}d}_{label}" for column, label in enumerate(labels)]
    return numbered if len(labels) > 1 else list(labels)


def _moves(G: Generator, direction: object, amounts: Any) -> list[Move]:
    """The moves of the arguments of `edit`; UsageError for those that do not fit together."""
    if isinstance(direction, Mapping):
        if amounts is not None:
            raise UsageError("each direction has amounts of its own: do not give `amounts` as well")
        given = [(name, _checked(each)) for name, each in direction.items()]
    else:
        shared = _checked(1.0 if amounts is None else amounts)
        names = direction if isinstance(direction, list | tuple) else [direction]
        given = [(name, shared) for name in names]
    columns = max((len(each) for _, each in given), default=0)
    if not columns:
        raise UsageError("no directions: give at least one")
    moves = []
    for name, each in given:
        if len(each) not in (1, columns):
            raise UsageError(
                f"{len(each)} amounts of {name}, but {columns} of another direction: give each "
                "one amount, or equally many"
            )
        each = each * columns if len(each) == 1 else each
        moves.append(Move(open_direction(name, G.config, G.path), tuple(each)))
    return moves


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
    direction: str | Sequence[str] | Mapping[str, float | Sequence[float]],
    amounts: float | Sequence[float] | None = None,
    *,
    layers: str | None = None,
    psi: float | None = None,
    cutoff: int | None = None,
    class_index: int | None = None,
    noise_mode: NoiseMode = "const",
    batch: int | None = None,
) -> Images:
    """Move latents along directions of W: `sg2cli.edit(G, found, "smile", 1.0)`.

    Args:
        G: a network, from `sg2cli.load`.
        latents: one per row; see `generate`.
        direction: a name, from NETWORK.directions.safetensors beside the network; "sefa:K" or
            "pca:K" (from 0, the strongest), a file of `directions` as "FILE:sefa:K" or "FILE:NAME",
            an .npy or .pt [w_dim] or [num_ws,w_dim], or GANSpace's, SeFa's and rosinality's files
            as "FILE:K". Several add up: {"smile": 1, "sefa:0": -2}, each with its own amounts.
        amounts: one or several distances, in standard deviations of W along the direction, or in
            units of a named direction; default 1. Several directions in a list share them; in a
            dict, the k-th image of a latent takes the k-th amount of each direction.
        layers: rows of ws to move, like `styles` of `mix`; None: all.
        psi, cutoff, class_index, noise_mode, batch: see `generate`.

    Returns: the images, latent by latent.

    Raises UsageError for arguments that do not fit the network, Sg2Error for an unreadable file.
    """
    settings = DrawSettings(psi, cutoff, class_index, noise_mode, batch)
    moves = _moves(G, direction, amounts)
    listed = as_latents(latents, G.config, reserved=["grid"])
    drawing = Edit(G.config, listed, moves, layers, settings)
    drawing.find(G)
    return Images(G, drawing)
