"""`sg2 directions`: find unsupervised directions of W."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sg2cli.cli.help import Command
from sg2cli.cli.options import (
    DIRECTIONS_FILE,
    STYLES,
    class_option,
    json_option,
    network_options,
    overwrite_option,
    quiet_option,
)
from sg2cli.cli.session import open_session
from sg2cli.latents import discovery
from sg2cli.latents.mixing import Styles, format_styles, style_rows
from sg2cli.sampling import check_settings
from sg2cli.storage.atomic import check_file


@click.command(cls=Command)
@network_options
@click.option(
    "--layers",
    type=STYLES,
    help="Rows of ws for SeFa: 0-5, coarse; default all.",
)
@click.option(
    "--samples",
    type=click.IntRange(2, 10_000_000),
    default=discovery.SAMPLES,
    show_default=True,
    metavar="N",
    help="Latents sampled for PCA.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Random seed of the samples.",
)
@class_option
@click.option(
    "-o",
    "--out",
    type=DIRECTIONS_FILE,
    default="directions.safetensors",
    show_default=True,
    help="Output file.",
)
@overwrite_option
@json_option
@quiet_option
def directions(
    layers: Styles | None, samples: int, seed: int, out: Path, overwrite: bool, **options: Any
) -> None:
    """Find directions of W: SeFa from the weights, PCA from samples.

    The file has sefa and pca [K,w_dim], and the standard deviation of W along each.

    \b
    sg2 directions --out found.safetensors
    sg2 edit 0-3 --direction found.safetensors:sefa:0
    """
    session, settings = open_session(**options)
    check_settings(session.config, settings, needs_class=True)
    if layers:
        style_rows(layers, session.config)
    check_file(out, overwrite)
    session.check_outputs([out])
    G = session.load()
    with session.console.progress("Mapping", samples, "latent") as bar:
        found = discovery.directions(
            G,
            layers=format_styles(layers) if layers else None,
            samples=samples,
            seed=seed,
            class_index=settings.class_index,
            on_mapped=bar.update,
        )
    found.save(out, overwrite)
    session.console.wrote(out, found.provenance)
