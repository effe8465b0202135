"""`sg2 generate`: an image for each latent."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg2cli.cli.help import Command
from sg2cli.cli.options import (
    GRID,
    LATENTS,
    PATH,
    SEEDS,
    SHARD,
    drawing_options,
    labels_option,
    latents_argument,
    network_options,
    output_options,
    sources_option,
)
from sg2cli.cli.output import draw_into, image_output
from sg2cli.cli.saved_latents import LatentsOutput, save_latents_option
from sg2cli.cli.session import open_session
from sg2cli.errors import UsageError
from sg2cli.images import codecs
from sg2cli.sampling.generate import Generate
from sg2cli.sampling.grids import Grid

if TYPE_CHECKING:
    from sg2cli.latents.notation import LatentSource


@click.command(cls=Command)
@latents_argument()
@network_options
@sources_option("--seeds", type=SEEDS, help="Seeds: 85, 0-99 or 85,100-105.")
@sources_option(
    "--latents",
    "--projected-w",
    type=LATENTS,
    help="Files, file[0-9] for rows, avg, - for stdin.",
)
@drawing_options
@click.option(
    "--grid",
    type=GRID,
    is_flag=False,
    flag_value="auto",
    metavar="[=WxH]",
    help="Add a grid, or write only that to a file.",
)
@labels_option
@click.option(
    "--shard",
    type=SHARD,
    metavar="I/N",
    help="Part I of N, to share work by N processes.",
)
@click.option(
    "--format",
    type=click.Choice(("png", "jpg", "webp")),
    metavar="TYPE",
    help="png, jpg or webp; default png.",
)
@save_latents_option
@click.option(
    "-o",
    "--out",
    "--outdir",
    type=PATH,
    default="out",
    show_default=True,
    metavar="DIR|FILE|-",
    help="Folder, image, or - (stdout).",
)
@output_options
def generate(
    given: tuple[LatentSource, ...],
    seeds: tuple[LatentSource, ...],
    latents: tuple[LatentSource, ...],
    grid: tuple[int, int] | str | None,
    labels: bool,
    shard: tuple[int, int] | None,
    format: str | None,
    save_to: Path | None,
    out: str,
    overwrite: bool,
    skip_existing: bool,
    **options: Any,
) -> None:
    """Generate images from LATENTS: seeds, files, images that sg2 made, folders, avg.

    \b
    sg2 generate 0-99 --trunc 0.7
    sg2 generate 0-31 --grid --out faces
    sg2 generate 0-199:10 ten.npz out/me --out faces --skip-existing
    sg2 generate 5 --out - > five.png
    """
    session, settings = open_session(**options)
    reserved = ["grid"] if grid else []
    sources = given + seeds + latents
    listed = session.latents(sources, "--seeds or --latents, or arguments such as 0-9", reserved)
    output = image_output(out, format, overwrite, skip_existing, session.console)
    if output.holds_one and not grid and len(listed) > 1:
        raise UsageError(
            f"{len(listed)} images do not fit into one file: add --grid, or use a folder as --out"
        )
    if shard and (grid or save_to):
        raise UsageError(f"{'--grid' if grid else '--save-latents'} cannot be used with --shard")
    asked = grid if isinstance(grid, tuple) else None
    drawing = Generate(session.config, listed, settings, asked, shard or (1, 1))
    if labels and not grid:
        raise UsageError("--labels is for a grid: add --grid")
    image_grid = Grid(drawing, labels) if grid else None
    height, width, channels = drawing.shape
    codecs.check_format(
        output.format, channels, *(image_grid.size if image_grid else (width, height))
    )
    output.check(chain(reserved, drawing.names()))
    session.check_outputs([save_to, output.file], sources)
    session.check_images(output, drawing.names())
    saved = LatentsOutput(save_to, overwrite, skip_existing)
    saved.check([] if output.stream else [output.file or output.folder])

    G = session.load()
    saved.write(drawing, G, session.console, shown=not output.stream)
    draw_into(
        output,
        drawing,
        G,
        session.console,
        grid=image_grid,
        singles=not (grid and output.holds_one),
        done_options=saved.done_options,
    )
