"""`sg2 edit`: latents moved along a direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from sg2cli import checkpoints, images
from sg2cli.cli.console import Console
from sg2cli.cli.film import Film, fps_option, is_film
from sg2cli.cli.options import (
    AMOUNT,
    LATENTS,
    PATH,
    STYLES,
    drawing_options,
    network_options,
    output_options,
)
from sg2cli.cli.pictures import Pictures
from sg2cli.cli.session import Session, is_mapped
from sg2cli.cli.sheets import Cell, Layout, draw_cells, labels
from sg2cli.directions import check_direction
from sg2cli.errors import UsageError
from sg2cli.sampling import check_settings
from sg2cli.settings import DrawSettings, Precision
from sg2cli.styles import Styles, style_rows

if TYPE_CHECKING:
    from sg2cli.latents import LatentSource
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
    filmed = is_film(out)
    low, high = amount
    if low == high and steps:
        raise UsageError(f"--steps are of a range of amounts, as -3..3, not of {low:g}")
    count = 1 if low == high else steps or (60 if filmed else 7)
    amounts = [low if count == 1 else low + (high - low) * i / (count - 1) for i in range(count)]
    texts = labels(amounts, "+")
    if filmed and (len(todo) > 1 or count == 1):
        raise UsageError("a film is of one latent over a range: give a folder to --out")
    film = Film(session, out, count, fps, overwrite, skip_existing) if filmed else None
    session.check_outputs([film.path if film else None], latents)
    pictures = Pictures(out, "png", overwrite, skip_existing, console) if not filmed else None
    if pictures:
        names = (f"{latent.name}-{text}" for latent in todo.unchecked() for text in texts)
        pictures.check(chain(["grid"], names))

    G, used = session.load(device, precision)
    from sg2cli import directions, sampling

    with console.progress("Mapping", 100_000, "latent") as bar:
        index = drawing.class_index
        found = directions.find_direction(direction, G, rows, index, bar.update)
    if found.checkpoint not in (None, session.network.sha256):
        console.note(f"warning: {direction} was found in another network")
    size = sampling.batch_size(G, drawing, len(todo) * count)
    made_of = {**found.made_of, "layers": rows}

    def cells() -> Iterator[Cell[Point]]:
        points = sampling.locate(G, todo.unchecked(), drawing, size)
        for latent, point in zip(todo.unchecked(), points, strict=True):
            for amount, text in zip(amounts, texts, strict=True):
                ws = directions.edit(point.ws, found, amount, rows)
                edited = {**latent.made_of, **made_of, "amount": amount}
                made_by = session.made_by(used, edited, is_mapped(latent))
                yield Cell(replace(point, ws=ws), made_by, f"{latent.name}-{text}")

    mode, say = drawing.noise_mode, console.note
    render = partial(sampling.try_render, G, noise_mode=mode, size=size, say=say)

    all_made_of = {"latents": todo.describe(), **made_of, "amounts": amounts}
    made_by = session.made_by(used, all_made_of, todo.need_mapping)
    if film:
        film.write((cell.source for cell in cells()), made_by, render)
    elif pictures:
        header = images.column_header(texts, session.shape)
        layout = Layout(count, len(todo), made_by, header)
        draw_cells(pictures, cells(), len(todo) * count, session.shape, layout, render)
