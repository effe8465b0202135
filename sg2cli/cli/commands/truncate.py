"""`sg2 truncate`: the truncation trick as a grid."""

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
    LATENTS,
    PSI_LIST,
    SEEDS,
    batch_option,
    class_and_noise_options,
    network_options,
    out_option,
    output_options,
    sources_option,
    tuned_option,
)
from sg2cli.cli.output import ImageOutput
from sg2cli.cli.session import Session
from sg2cli.images import grid
from sg2cli.settings import DrawSettings, Precision

if TYPE_CHECKING:
    from sg2cli.latents.notation import LatentSource
    from sg2cli.sampling import Point


@click.command()
@network_options
@sources_option("--seeds", type=SEEDS, help="Seeds, a row each: 85, 0-3.")
@sources_option(
    "--latents",
    type=LATENTS,
    help="Other latents, a row each: files, file[2], avg, - for stdin.",
)
@click.option(
    "--psi",
    "psis",
    type=PSI_LIST,
    default="-1,-0.5,0,0.5,0.7,1",
    show_default=True,
    help="A column each; 0 is the mean picture, 1 the latent, -1 its opposite.",
)
@click.option(
    "--cutoff",
    "--trunc-cutoff",
    type=click.IntRange(0),
    metavar="N",
    help="Truncate only the first N rows of ws.",
)
@class_and_noise_options
@batch_option
@tuned_option
@out_option
@output_options
def truncate(
    network: str,
    device: str,
    precision: Precision,
    seeds: tuple[LatentSource, ...],
    latents: tuple[LatentSource, ...],
    psis: tuple[float, ...],
    out: str,
    overwrite: bool,
    skip_existing: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Draw latents between their opposites, the mean and themselves, on a sheet.

    \b
    sg2 truncate --seeds 0-3
    sg2 truncate --seeds 85 --psi 0,0.5,1,1.5 --cutoff 4
    """
    console = Console(as_json, quiet)
    drawing = DrawSettings(**settings)
    session = Session(checkpoints.find_network(network), drawing, console)
    todo = session.open(seeds + latents, "--seeds or --latents", reserved=["grid"])
    psis = tuple(dict.fromkeys(psis))
    pictures = ImageOutput(out, "png", overwrite, skip_existing, console)
    pictures.needs_folder()
    texts = labels(psis)
    header = grid.column_header(texts, session.shape)
    names = (f"{latent.name}-psi{text}" for latent in todo.unchecked() for text in texts)
    pictures.check(chain(["grid"], names))

    G, used = session.load(device, precision)
    from sg2cli import sampling
    from sg2cli.latents.mapping import truncate as truncate_ws

    size = sampling.batch_size(G, drawing, len(todo) * len(psis))

    def cells() -> Iterator[Cell[Point]]:
        whole = replace(drawing, psi=None, cutoff=None)
        points = sampling.locate(G, todo.unchecked(), whole, size)
        for latent, point in zip(todo.unchecked(), points, strict=True):
            for psi, text in zip(psis, texts, strict=True):
                ws = truncate_ws(point.ws[None], G.mapping.w_avg, psi, drawing.cutoff)[0]
                provenance = session.provenance(used, latent.provenance, mapped=True) | {"psi": psi}
                yield Cell(replace(point, ws=ws), provenance, f"{latent.name}-psi{text}")

    described = {"latents": todo.describe(), "psis": psis}
    layout = Layout(len(psis), len(todo), session.provenance(used, described, mapped=True), header)

    mode, say = drawing.noise_mode, console.note
    render = partial(sampling.try_render, G, noise_mode=mode, size=size, say=say)

    draw_cells(pictures, cells(), len(todo) * len(psis), session.shape, layout, render)
