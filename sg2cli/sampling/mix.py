"""Style mixing: rows with the styles of columns, as a grid (StyleGAN section 3.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sg2cli.errors import UsageError
from sg2cli.latents.given import Latents, as_latents
from sg2cli.latents.mixing import Styles, default_styles, parse_styles, style_rows
from sg2cli.latents.mixing import mix as mix_ws
from sg2cli.latents.sources import Latent, LatentList
from sg2cli.sampling.drawing import Cell, Drawing, check_latents
from sg2cli.sampling.images import Images
from sg2cli.sampling.rendering import Point, locate
from sg2cli.settings import DrawSettings, GeneratorConfig, NoiseMode

if TYPE_CHECKING:
    from sg2cli.generator import Generator

MAX_LATENTS = 10_000  # rows or columns, whose ws are held in memory


class Mix(Drawing):
    """Every row with styles of every column, below and beside the unmixed images."""

    def __init__(
        self,
        config: GeneratorConfig,
        rows: LatentList,
        columns: LatentList,
        styles: Styles | None,
        settings: DrawSettings,
    ) -> None:
        super().__init__(config, settings)
        self.styles = style_rows(styles or default_styles(config), config)
        for latents in (rows, columns):
            check_latents(latents, config, settings)
            if len(latents) > MAX_LATENTS:
                raise UsageError(
                    f"a grid has at most {MAX_LATENTS:,} rows and columns: mix fewer at a time"
                )
        self.row_list, self.column_list = rows, columns
        self.row_latents = list(rows.unchecked())
        self.column_latents = _renamed(list(columns.unchecked()), self.row_latents)
        self.columns, self.rows = len(self.column_latents) + 1, len(self.row_latents) + 1
        _check_names([r.name for r in self.row_latents], [c.name for c in self.column_latents])

    @property
    def is_mapped(self) -> bool:
        return self.row_list.need_mapping or self.column_list.need_mapping

    @property
    def result_count(self) -> int:
        return len(self.row_latents) * len(self.column_latents)

    @property
    def noise_names(self) -> Sequence[str]:
        return self.row_list.noise_names

    def names(self) -> Iterator[str]:
        yield from {latent.name: None for latent in (*self.column_latents, *self.row_latents)}
        yield from (f"{r.name}-{c.name}" for r in self.row_latents for c in self.column_latents)

    def cell_labels(self) -> Iterator[str]:
        yield ""
        yield from (latent.label for latent in self.column_latents)
        yield from super().cell_labels()

    def row_names(self) -> Iterator[str]:
        return (latent.label for latent in self.row_latents)

    def details(self) -> Mapping[str, Any]:
        return {
            "rows": self.row_list.describe(),
            "columns": self.column_list.describe(),
            "styles": self.styles,
        }

    def cells(self, G: Generator) -> Iterator[Cell | None]:
        size = self.batch_size(G)
        row_points = list(locate(G, self.row_latents, self.settings, size))
        column_points = list(locate(G, self.column_latents, self.settings, size))
        yield None
        for latent, point in zip(self.column_latents, column_points, strict=True):
            yield self._unmixed(G, latent, point)
        seen = {latent.name for latent in self.column_latents}
        for row, row_point in zip(self.row_latents, row_points, strict=True):
            yield self._unmixed(G, row, row_point, named=row.name not in seen)
            for column, column_point in zip(self.column_latents, column_points, strict=True):
                details = {"row": row.provenance, "column": column.provenance}
                provenance = self.provenance(
                    G, {**details, "styles": self.styles}, row.is_mapped or column.is_mapped
                )
                ws = mix_ws(row_point.ws, column_point.ws, self.styles)
                yield Cell(replace(row_point, ws=ws), provenance, f"{row.name}-{column.name}")

    def _unmixed(self, G: Generator, latent: Latent, point: Point, named: bool = True) -> Cell:
        provenance = self.provenance(G, latent.provenance, latent.is_mapped)
        return Cell(point, provenance, latent.name if named else None, is_header=True)


def _check_names(rows: list[str], columns: list[str]) -> None:
    """UsageError if two images would get the same name, as names of files may contain dashes."""
    row_set, column_set = set(rows), set(columns)
    for name in {*row_set, *column_set}:
        for match in re.finditer("-", name):
            first, rest = name[: match.start()], name[match.end() :]
            twice = name in row_set and any(f"{rest}-{column}" in column_set for column in columns)
            if first in row_set and (rest in column_set or twice):
                raise UsageError(
                    f"two images would get the same name because of {name}: rename the file"
                )


def _renamed(latents: list[Latent], others: list[Latent]) -> list[Latent]:
    """Rename latents whose names equal those of different latents in `others`."""
    found = {latent.name: latent.provenance for latent in others}
    renamed = []
    for latent in latents:
        name, number = latent.name, 1
        while found.setdefault(name, latent.provenance) != latent.provenance:
            number += 1
            name = f"{latent.name}-{number}"
        renamed.append(replace(latent, name=name))
    return renamed


def mix(
    G: Generator,
    rows: Latents,
    cols: Latents,
    styles: str | None = None,
    *,
    psi: float | None = None,
    cutoff: int | None = None,
    class_index: int | None = None,
    noise_mode: NoiseMode = "const",
    batch: int | None = None,
) -> Images:
    """Mix styles: `sg2cli.mix(G, rows=found, cols="55,821", styles="coarse")`.

    Args:
        G: a network, from `sg2cli.load`.
        rows: latents that provide the remaining styles; see `generate`.
        cols: latents that provide the styles.
        styles: the styles taken from `cols`: "coarse" (4-8 pixels), "middle" (16-32), "fine"
            (64 and up), or rows of ws as "0-6" or "0,3-5"; None: "0-6".
        psi, cutoff, class_index, noise_mode, batch: see `generate`.

    Returns: the mixed images, row by row; their grid also has the unmixed images, at the start of
    its rows and columns.

    Raises UsageError for latents, styles or settings that do not fit the network.
    """
    settings = DrawSettings(psi, cutoff, class_index, noise_mode, batch)
    try:
        chosen = parse_styles(styles) if styles else None
    except ValueError as error:
        raise UsageError(str(error)) from error
    row_list = as_latents(rows, G.config, reserved=["grid"])
    column_list = as_latents(cols, G.config, reserved=["grid"])
    return Images(G, Mix(G.config, row_list, column_list, chosen, settings))
