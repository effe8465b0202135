"""`sg2 mix`: styles of one latent in another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg2cli import checkpoints
from sg2cli.cli.console import Console
from sg2cli.cli.grid import Cell, Layout, draw_cells
from sg2cli.cli.options import (
    LATENTS,
    STYLES,
    drawing_options,
    network_options,
    out_option,
    output_options,
    sources_option,
)
from sg2cli.cli.output import ImageOutput
from sg2cli.cli.session import Session, is_mapped
from sg2cli.errors import UsageError
from sg2cli.latents.mixing import Styles, default_styles, style_rows
from sg2cli.latents.mixing import mix as mix_ws
from sg2cli.latents.notation import LatentFile
from sg2cli.settings import DrawSettings, Precision

if TYPE_CHECKING:
    from sg2cli.latents.notation import LatentSource
    from sg2cli.latents.sources import Latent
    from sg2cli.sampling import Point

STDIN = LatentFile(Path("-"))
MOST = 10_000  # rows or columns: their ws are held in memory


@click.command()
@network_options
@sources_option(
    "--rows",
    type=LATENTS,
    required=True,
    help="What the rows of the sheet begin with: seeds, files or avg.",
)
@sources_option(
    "--cols",
    type=LATENTS,
    required=True,
    help="What the columns give their styles from.",
)
@click.option(
    "--styles",
    type=STYLES,
    help="What comes from the columns: coarse (4-8 px), middle (16-32), fine (64 and up), or "
    "rows of ws as 0-6. [default: 0-6, coarse and middle]",
)
@drawing_options
@out_option
@output_options
def mix(
    network: str,
    device: str,
    precision: Precision,
    rows: tuple[LatentSource, ...],
    cols: tuple[LatentSource, ...],
    styles: Styles | None,
    out: str,
    overwrite: bool,
    skip_existing: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Mix styles: pictures of the rows with styles of the columns, and a sheet.

    \b
    sg2 mix --rows 85,100 --cols 55,821 --styles coarse
    sg2 mix --rows me/projected.safetensors --cols 0-5 --styles 0-3
    """
    if any(source == STDIN for source in rows) and any(source == STDIN for source in cols):
        raise UsageError("stdin can be read but once: give a file to --rows or --cols")
    console = Console(as_json, quiet)
    drawing = DrawSettings(**settings)
    session = Session(checkpoints.find_network(network), drawing, console)
    config = session.network.config
    taken = style_rows(styles or default_styles(config), config)
    row_list = session.open(rows, "--rows", reserved=["grid"])
    col_list = session.open(cols, "--cols", reserved=["grid"])
    pictures = ImageOutput(out, "png", overwrite, skip_existing, console)
    pictures.needs_folder()
    if len(row_list) > MOST or len(col_list) > MOST:
        raise UsageError(f"a sheet has {MOST:,} rows and columns at most: mix fewer at a time")
    row_latents = list(row_list.unchecked())
    col_latents = _renamed(list(col_list.unchecked()), row_latents)
    both = {latent.name: latent for latent in (*col_latents, *row_latents)}
    _check_names([row.name for row in row_latents], [col.name for col in col_latents])
    mixed = (f"{row.name}-{col.name}" for row in row_latents for col in col_latents)
    pictures.check(chain(["grid"], both, mixed))

    G, used = session.load(device, precision)
    from sg2cli import sampling

    size = sampling.batch_size(G, drawing, (len(row_latents) + 1) * (len(col_latents) + 1))
    row_points = list(sampling.locate(G, row_latents, drawing, size))
    col_points = list(sampling.locate(G, col_latents, drawing, size))

    def alone(latent: Latent, point: Point, first: bool = True) -> Cell[Point]:
        provenance = session.provenance(used, latent.provenance, is_mapped(latent))
        return Cell(point, provenance, latent.name if first else None)

    def cells() -> Iterator[Cell[Point] | None]:
        yield None
        for latent, point in zip(col_latents, col_points, strict=True):
            yield alone(latent, point)
        seen = {latent.name for latent in col_latents}
        for row, row_point in zip(row_latents, row_points, strict=True):
            yield alone(row, row_point, first=row.name not in seen)
            for col, col_point in zip(col_latents, col_points, strict=True):
                pair = {"row": row.provenance, "column": col.provenance, "styles": taken}
                mapped = is_mapped(row) or is_mapped(col)
                ws = mix_ws(row_point.ws, col_point.ws, taken)
                yield Cell(
                    sampling.Point(ws, row_point.seed, row_point.noise),
                    session.provenance(used, pair, mapped),
                    f"{row.name}-{col.name}",
                )

    mapped = row_list.need_mapping or col_list.need_mapping
    described = {"rows": row_list.describe(), "columns": col_list.describe(), "styles": taken}
    layout = Layout(
        len(col_latents) + 1, len(row_latents) + 1, session.provenance(used, described, mapped)
    )

    mode, say = drawing.noise_mode, console.note
    render = partial(sampling.try_render, G, noise_mode=mode, size=size, say=say)

    count = layout.columns * layout.rows
    draw_cells(pictures, cells(), count, session.shape, layout, render)


def _check_names(rows: list[str], cols: list[str]) -> None:
    """UsageError where two pictures would have one name, as files may have a dash in theirs."""
    row_set, col_set = set(rows), set(cols)
    for name in {*row_set, *col_set}:
        for match in re.finditer("-", name):
            first, rest = name[: match.start()], name[match.end() :]
            twice = name in row_set and any(f"{rest}-{col}" in col_set for col in cols)
            if first in row_set and (rest in col_set or twice):
                raise UsageError(f"two pictures would be named after {name}: rename the file")


def _renamed(latents: list[Latent], others: list[Latent]) -> list[Latent]:
    """Latents whose names differ from those of others, unless they are the same latent."""
    from dataclasses import replace

    found = {latent.name: latent.provenance for latent in others}
    renamed = []
    for latent in latents:
        name, number = latent.name, 1
        while found.setdefault(name, latent.provenance) != latent.provenance:
            number += 1
            name = f"{latent.name}-{number}"
        renamed.append(replace(latent, name=name))
    return renamed
