"""`sg2 generate`: latents to pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg2cli import checkpoints
from sg2cli.cli.console import Console
from sg2cli.cli.grid import Cell, Layout, draw_cells
from sg2cli.cli.options import (
    GRID,
    LATENTS,
    LATENTS_FILE,
    PATH,
    SEEDS,
    SHARD,
    drawing_options,
    network_options,
    output_options,
    sources_option,
)
from sg2cli.cli.output import ImageOutput
from sg2cli.cli.session import Session, is_mapped
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.images import codecs, pixels
from sg2cli.latents.files import inspect_latents, save_latents
from sg2cli.provenance import is_unchanged, same_settings
from sg2cli.settings import DrawSettings, Precision
from sg2cli.storage.atomic import NameTaken, check_folder, make_folder
from sg2cli.storage.paths import is_there

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.latents.notation import LatentSource
    from sg2cli.latents.sources import Latent, LatentList

MAX_EMPTY = 10_000  # cells of a grid


@click.command()
@network_options
@sources_option("--seeds", type=SEEDS, help="Seeds to draw: 85, 0-99 or 85,100-105.")
@sources_option(
    "--latents",
    "--projected-w",
    type=LATENTS,
    help="Latents to draw: .safetensors, .npz or .npy files, file[2] or file[0-9] for rows, "
    "avg for the mean, - for stdin.",
)
@drawing_options
@click.option(
    "--grid",
    type=GRID,
    is_flag=False,
    flag_value="auto",
    metavar="[=WxH]",
    help="Draw a sheet, too: grid.png in the folder, or nothing else into a file.",
)
@click.option(
    "--shard",
    type=SHARD,
    metavar="I/N",
    help="Draw a part only, so that N processes share the work: 1/8, 2/8, ... 8/8.",
)
@click.option("--format", type=click.Choice(("png", "jpg", "webp")), help="[default: png]")
@click.option(
    "--save-latents",
    "save_to",
    type=LATENTS_FILE,
    metavar="FILE",
    help="Save the ws as drawn: .safetensors, .npz (NVIDIA's projected_w) or .npy.",
)
@click.option(
    "-o",
    "--out",
    "--outdir",
    type=PATH,
    default="out",
    show_default=True,
    metavar="DIR|FILE|-",
    help="A folder, a picture's file, or - for its bytes on stdout.",
)
@output_options
def generate(
    network: str,
    device: str,
    precision: Precision,
    seeds: tuple[LatentSource, ...],
    latents: tuple[LatentSource, ...],
    grid: tuple[int, int] | str | None,
    shard: tuple[int, int] | None,
    format: str | None,
    save_to: Path | None,
    out: str,
    overwrite: bool,
    skip_existing: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Draw pictures from seeds or latents.

    \b
    sg2 generate --seeds 0-99 --trunc 0.7
    sg2 generate --seeds 0-31 --grid --out faces
    sg2 generate --seeds 5 --out - | display
    """
    from sg2cli import sampling

    console = Console(as_json, quiet)
    drawing = DrawSettings(**settings)
    session = Session(checkpoints.find_network(network), drawing, console)
    todo = session.open(seeds + latents, "--seeds or --latents", ["grid"] if grid else [])
    pictures = ImageOutput(out, format, overwrite, skip_existing, console)
    if pictures.holds_one and not grid and len(todo) > 1:
        raise UsageError(
            f"{len(todo)} pictures do not go into one: add --grid, or give a folder to --out"
        )
    if save_to and skip_existing and save_to.suffix != ".safetensors":
        raise UsageError(
            f"{save_to} cannot tell what made it, which --skip-existing needs: save a .safetensors"
        )
    if shard and (grid or save_to):
        raise UsageError(
            f"{'--grid' if grid else '--save-latents'} is of all pictures: leave --shard out"
        )
    first, step = (shard[0] - 1, shard[1]) if shard else (0, 1)
    count = len(range(first, len(todo), step))
    columns, rows = _grid_shape(grid, len(todo)) if grid else (1, 1)
    size, _, channels = session.shape
    codecs.check_format(pictures.format, channels, columns * size, rows * size)
    singles = not (grid and pictures.holds_one)
    names = (latent.name for latent in islice(todo.unchecked(), first, None, step))
    pictures.check(chain(["grid"] if grid else [], names))

    session.check_outputs([save_to, pictures.file], seeds + latents)
    if save_to:
        check_folder(save_to.parent)
        outputs = [] if pictures.to_stdout else [pictures.file or pictures.folder]
        if os.path.realpath(save_to) in map(os.path.realpath, outputs):
            raise UsageError(f"--out and --save-latents are both {save_to}: give two names")
        if save_to.suffix != ".safetensors":  # it cannot tell what made it
            pictures.done_options.append("--save-latents")

    G, used = session.load(device, precision)

    def provenance_of_all(**more: str) -> dict[str, Any]:
        all_latents = {"latents": todo.describe(), **more}
        return session.provenance(used, all_latents, todo.need_mapping)

    if save_to:
        _save(save_to, G, todo, drawing, provenance_of_all(), pictures)
    layout = None
    if grid:
        layout = Layout(columns, rows, provenance_of_all(grid=f"{columns}x{rows}"))
    cells = (
        Cell(
            latent,
            session.provenance(used, latent.provenance, is_mapped(latent)),
            latent.name if singles else None,
        )
        for latent in islice(todo.unchecked(), first, None, step)
    )

    def render(latents: Iterator[Latent]) -> Iterator[pixels.Image | Sg2Error]:
        return sampling.try_draw(G, latents, drawing, console.note)

    draw_cells(pictures, cells, count, session.shape, layout, render)


def _grid_shape(grid: tuple[int, int] | str, count: int) -> tuple[int, int]:
    """Columns and rows: as asked, or nearly square, and full where 2:1 allows that."""
    if not isinstance(grid, str):
        if count > grid[0] * grid[1]:
            raise UsageError(f"--grid={grid[0]}x{grid[1]} has no room for {count} pictures")
        if (empty := grid[0] * grid[1] - count) > MAX_EMPTY:
            raise UsageError(
                f"--grid={grid[0]}x{grid[1]} leaves {empty:,} cells empty: {MAX_EMPTY:,} are the "
                "limit"
            )
        return grid
    side = math.isqrt(count - 1) + 1
    full = [columns for columns in range(side, 2 * side) if count % columns == 0]
    columns = full[0] if full and full[0] ** 2 <= 2 * count else side
    return columns, -(-count // columns)


def _save(
    path: Path,
    G: Generator,
    todo: LatentList,
    drawing: DrawSettings,
    provenance: Mapping[str, Any],
    pictures: ImageOutput,
) -> None:
    """Save the latents; --skip-existing keeps a file that the same settings made."""
    from sg2cli.sampling import ws_streams

    try:
        if is_there(path) and not pictures.overwrite:
            raise NameTaken(path)
        make_folder(path.parent)
        with pictures.console.progress("Mapping", len(todo), "latent") as bar:
            streams = ws_streams(G, todo, drawing, on_row=bar.update)
            save_latents(path, streams, provenance, pictures.overwrite)
    except NameTaken:  # before, or by another process meanwhile
        if not pictures.skip_existing:
            raise
        found = inspect_latents(path)[1]
        if not same_settings(found, provenance) or is_unchanged(path, found) is False:
            raise Sg2Error(
                f"{path} was made with other settings, or changed after sg2 wrote it: "
                "--overwrite replaces it, another name keeps it"
            ) from None
    else:
        if not pictures.to_stdout:
            pictures.console.wrote(path, provenance)
