"""`sg2 directions`: directions of W, found without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sg2cli import __version__, checkpoints
from sg2cli.cli.console import Console
from sg2cli.cli.options import (
    DIRECTIONS_FILE,
    STYLES,
    class_option,
    json_option,
    network_options,
    quiet_option,
)
from sg2cli.cli.session import Session
from sg2cli.latents.mixing import Styles, style_rows
from sg2cli.sampling import check_settings
from sg2cli.settings import DrawSettings, Precision
from sg2cli.storage.atomic import check_file, make_folder


@click.command()
@network_options
@click.option(
    "--layers",
    type=STYLES,
    help="Rows of ws whose styles SeFa factorises: 0-5, or coarse,middle. [default: all]",
)
@click.option(
    "--samples",
    type=click.IntRange(2, 10_000_000),
    default=100_000,
    show_default=True,
    metavar="N",
    help="Latents of which PCA is made.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of those latents.",
)
@class_option
@click.option(
    "-o",
    "--out",
    type=DIRECTIONS_FILE,
    default="directions.safetensors",
    show_default=True,
    help="A .safetensors with sefa, pca [K,w_dim] and the deviation of W along each.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@json_option
@quiet_option
def directions(
    network: str,
    device: str,
    precision: Precision,
    layers: Styles | None,
    samples: int,
    seed: int,
    class_index: int | None,
    out: Path,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find directions of W: SeFa from the weights, PCA from samples.

    `sg2 edit --direction FILE:sefa:0` moves along the strongest of them.
    """
    console = Console(as_json, quiet)
    session = Session(
        checkpoints.find_network(network), DrawSettings(class_index=class_index), console
    )
    config = session.network.config
    check_settings(config, session.settings, needs_class=True)
    rows = style_rows(layers, config) if layers else list(range(config.num_ws))
    check_file(out, overwrite)
    session.check_outputs([out])

    G, _ = session.load(device, precision)
    from sg2cli.latents import directions as found

    with console.progress("Mapping", samples, "latent") as bar:
        w = found.moments(G, samples, seed, class_index, bar.update)
    provenance: dict[str, Any] = {
        "checkpoint": session.network.sha256,
        "layers": rows,
        "samples": samples,
        "seed": seed,
        "class": class_index,
        "version": __version__,
    }
    make_folder(out.parent)
    vectors = {"sefa": found.sefa(G, rows), "pca": found.pca(w)}
    found.save_directions(out, vectors, w, provenance, overwrite)
    console.wrote(out, provenance)
