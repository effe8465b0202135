"""`sg2 generate`: latents to pictures."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg2cli.cli.console import Console
from sg2cli.cli.options import (
    GRID,
    LATENTS,
    LATENTS_FILE,
    SEEDS,
    drawing_options,
    network_options,
    output_options,
)
from sg2cli.cli.pictures import Pictures
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.files import clash
from sg2cli.images import same_recipe
from sg2cli.latent_files import inspect, save_latents
from sg2cli.settings import DrawSettings, Precision

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.latents import Latent, LatentList, LatentSource


@click.command()
@network_options
@click.option("--seeds", type=SEEDS, metavar="SEEDS", help="Seeds to draw: 85, 0-99 or 85,100-105.")
@click.option(
    "--latents",
    "--projected-w",
    type=LATENTS,
    metavar="LATENTS",
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
@click.option("--format", type=click.Choice(("png", "jpg", "webp")), help="[default: png]")
@click.option(
    "--batch",
    type=click.IntRange(1, 4096),
    metavar="N",
    help="Pictures computed at once. [default: by resolution]",
)
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
    seeds: tuple[LatentSource, ...] | None,
    latents: tuple[LatentSource, ...] | None,
    grid: tuple[int, int] | str | None,
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
    from sg2cli import checkpoints, devices, images, sampling
    from sg2cli.latents import open_latents

    console = Console(as_json, quiet)
    drawing = DrawSettings(**settings)
    if not (seeds or latents):
        raise UsageError("nothing to draw: give --seeds or --latents (see sg2 generate --help)")
    opened = checkpoints.find_network(network)
    config = opened.config
    todo = open_latents((seeds or ()) + (latents or ()), config, reserved=["grid"] if grid else [])
    sampling.check_settings(config, drawing, todo.need_mapping)
    pictures = Pictures(out, format, overwrite, skip_existing, console)
    if pictures.holds_one and not grid and len(todo) > 1:
        raise UsageError(
            f"{len(todo)} pictures do not go into one: add --grid, or give a folder to --out"
        )
    columns, rows = _grid_shape(grid, len(todo)) if grid else (1, 1)
    size = config.img_resolution
    shape = (size, size, config.img_channels)
    images.check_format(pictures.format, config.img_channels, columns * size, rows * size)
    singles = not (grid and pictures.holds_one)
    pictures.prepare(chain(["grid"] if grid else [], (latent.name for latent in todo)))
    for warning in todo.warnings(opened.sha256):
        console.note(f"warning: {warning}")

    G = opened.load(devices.resolve(device))
    used = G.set_precision(precision)

    def made_by(latent: Latent) -> dict[str, Any]:
        mapped = latent.space in ("seed", "z")
        return sampling.made_by(opened.sha256, used, drawing, latent.made_of, mapped)

    def all_made_by(**more: str) -> dict[str, Any]:
        made_of = {"latents": todo.describe(), **more}
        return sampling.made_by(opened.sha256, used, drawing, made_of, todo.need_mapping)

    if save_to:
        _save(save_to, G, todo, drawing, all_made_by(), pictures)
    with ExitStack() as stack:
        sheet: images.Sheet | None = None
        sheet_made_by = all_made_by(grid=f"{columns}x{rows}")
        if grid and not pictures.keeps("grid", sheet_made_by):
            file = stack.enter_context(pictures.open("grid", sheet_made_by))
            sheet = images.Sheet(file, pictures.format, columns, rows, shape, sheet_made_by)
        bar = stack.enter_context(console.progress("Drawing", len(todo), "picture"))
        stack.enter_context(pictures)
        kept: deque[Path | None] = deque()  # for each latent in order: where it is, or None

        def remaining() -> Iterator[Latent]:
            for latent in todo:
                if singles and pictures.keeps(latent.name, made_by(latent)):
                    kept.append(pictures.path(latent.name))
                elif singles or sheet:
                    kept.append(None)
                    yield latent

        def paste_kept() -> None:
            while kept and (path := kept.popleft()):
                if sheet:
                    sheet.append(images.read_image(path, shape))
                bar.update()

        for sample in sampling.draw(G, remaining(), drawing):
            paste_kept()
            if singles:
                pictures.put(sample.latent.name, sample.image, made_by(sample.latent))
            if sheet:
                sheet.append(sample.image)
            bar.update()
        paste_kept()
        if sheet:
            sheet.finish()
    if pictures.kept:
        console.note(f"{pictures.written} written, {pictures.kept} kept as they were")


def _grid_shape(grid: tuple[int, int] | str, count: int) -> tuple[int, int]:
    """Columns and rows: as asked, or nearly square, and full where 2:1 allows that."""
    if not isinstance(grid, str):
        if count > grid[0] * grid[1]:
            raise UsageError(f"--grid={grid[0]}x{grid[1]} has no room for {count} pictures")
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
    made_by: Mapping[str, Any],
    pictures: Pictures,
) -> None:
    """Save the latents; --skip-existing keeps a file that the same settings made."""
    if path.exists() and not pictures.overwrite:
        if not pictures.skip_existing:
            raise clash(path)
        if not same_recipe(inspect(path)[1], made_by):
            raise Sg2Error(
                f"{path} does not say that these settings made it: "
                "--overwrite replaces it, another name spares it"
            )
        return
    from sg2cli.sampling import ws_streams

    save_latents(path, ws_streams(G, todo, drawing), made_by, pictures.overwrite)
    pictures.console.wrote(path, made_by)
