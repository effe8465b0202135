"""`sg2 edit`: latents moved along a direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from sg2cli import checkpoints
from sg2cli.cli.console import Console
from sg2cli.cli.grid import Cell, Layout, draw_cells, labels
from sg2cli.cli.options import (
    AMOUNT,
    LATENTS,
    PATH,
    STYLES,
    drawing_options,
    network_options,
    output_options,
)
from sg2cli.cli.output import ImageOutput
from sg2cli.cli.session import Session, is_mapped
from sg2cli.cli.video import VideoOutput, fps_option, is_video
from sg2cli.errors import UsageError
from sg2cli.images import grid
from sg2cli.latents.directions import check_direction
from sg2cli.latents.mixing import Styles, style_rows
from sg2cli.sampling import check_settings
from sg2cli.settings import DrawSettings, Precision

if TYPE_CHECKING:
    from sg2cli.latents.notation import LatentSource
    from sg2cli.sampling import Point


@click.command()
@click.argument("latents", type=LATENTS)
@network_options
@click.option(
    "--direction",
    required=True,
    metavar="DIRECTION",
    help="sefa:K or pca:K (from 0, the strongest); a file of `sg2 directions` as FILE:sefa:K; an "
    ".npy [w_dim] or [num_ws,w_dim]; rosinality's factor.pt as FILE:K.",
)
@click.option(
    "--amount",
    type=AMOUNT,
    default="-3..3",
    show_default=True,
    help="How far, in standard deviations of W along the direction: 2, or a range.",
)
@click.option(
    "--steps",
    type=click.IntRange(2, 10_000),
    metavar="N",
    help="Amounts of a range: columns, or frames of a film. [default: 7, or 60 in a film]",
)
@click.option("--layers", type=STYLES, help="Rows of ws that move: 0-5, coarse. [default: all]")
@drawing_options
@fps_option
@click.option(
    "-o",
    "--out",
    "--outdir",
    type=PATH,
    default="out",
    show_default=True,
    metavar="DIR|FILM",
    help="A folder, or an .mp4, .gif or .webp of one latent.",
)
@output_options
def edit(
    latents: tuple[LatentSource, ...],
    network: str,
    device: str,
    precision: Precision,
    direction: str,
    amount: tuple[float, float],
    steps: int | None,
    layers: Styles | None,
    fps: float,
    out: str,
    overwrite: bool,
    skip_existing: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Move LATENTS along a direction: a sheet, a row a latent, or a film.

    \b
    sg2 edit 0-3 --direction sefa:0
    sg2 edit me/projected.safetensors --direction pca:2 --amount -2..2 --out me.gif
    """
    console = Console(as_json, quiet)
    drawing = DrawSettings(**settings)
    session = Session(checkpoints.find_network(network), drawing, console)
    config = session.network.config
    rows = style_rows(layers, config) if layers else list(range(config.num_ws))
    check_direction(direction, config)
    todo = session.open(latents, "LATENTS", reserved=["grid"])
    # W's deviation is measured through the mapping network, whatever the latents are.
    check_settings(config, drawing, needs_class=True)
    to_video = is_video(out)
    low, high = amount
    if low == high and steps:
        raise UsageError(f"--steps are of a range of amounts, as -3..3, not of {low:g}")
    count = 1 if low == high else steps or (60 if to_video else 7)
    amounts = [low if count == 1 else low + (high - low) * i / (count - 1) for i in range(count)]
    texts = labels(amounts, "+")
    if to_video and (len(todo) > 1 or count == 1):
        raise UsageError("a film is of one latent over a range: give a folder to --out")
    video = VideoOutput(session, out, count, fps, overwrite, skip_existing) if to_video else None
    session.check_outputs([video.path if video else None], latents)
    pictures = ImageOutput(out, "png", overwrite, skip_existing, console) if not to_video else None
    if pictures:
        names = (f"{latent.name}-{text}" for latent in todo.unchecked() for text in texts)
        pictures.check(chain(["grid"], names))

    G, used = session.load(device, precision)
    from sg2cli import sampling
    from sg2cli.latents import directions

    with console.progress("Mapping", 100_000, "latent") as bar:
        index = drawing.class_index
        found = directions.find_direction(direction, G, rows, index, bar.update)
    if found.checkpoint not in (None, session.network.sha256):
        console.note(f"warning: {direction} was found in another network")
    size = sampling.batch_size(G, drawing, len(todo) * count)
    change = {**found.provenance, "layers": rows}

    def cells() -> Iterator[Cell[Point]]:
        points = sampling.locate(G, todo.unchecked(), drawing, size)
        for latent, point in zip(todo.unchecked(), points, strict=True):
            for amount, text in zip(amounts, texts, strict=True):
                ws = directions.edit(point.ws, found, amount, rows)
                edited = {**latent.provenance, **change, "amount": amount}
                provenance = session.provenance(used, edited, is_mapped(latent))
                yield Cell(replace(point, ws=ws), provenance, f"{latent.name}-{text}")

    mode, say = drawing.noise_mode, console.note
    render = partial(sampling.try_render, G, noise_mode=mode, size=size, say=say)

    all_latents = {"latents": todo.describe(), **change, "amounts": amounts}
    provenance = session.provenance(used, all_latents, todo.need_mapping)
    if video:
        video.write((cell.source for cell in cells()), provenance, render)
    elif pictures:
        header = grid.column_header(texts, session.shape)
        layout = Layout(count, len(todo), provenance, header)
        draw_cells(pictures, cells(), len(todo) * count, session.shape, layout, render)
