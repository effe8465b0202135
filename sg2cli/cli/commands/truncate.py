"""`sg2 truncate`: the truncation trick as a grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg2cli.cli.help import Command
from sg2cli.cli.options import (
    LATENTS,
    PSI_LIST,
    SEEDS,
    batch_option,
    class_and_noise_options,
    labels_option,
    latents_argument,
    network_options,
    out_option,
    output_options,
    sources_option,
    tuned_option,
)
from sg2cli.cli.output import image_output
from sg2cli.cli.saved_latents import LatentsOutput, save_latents_option
from sg2cli.cli.session import open_session
from sg2cli.sampling.truncate import Truncate

if TYPE_CHECKING:
    from sg2cli.latents.notation import LatentSource


@click.command(cls=Command)
@latents_argument()
@network_options
@sources_option("--seeds", type=SEEDS, help="Seeds, one per row: 85, 0-3.")
@sources_option(
    "--latents",
    type=LATENTS,
    help="Other latents: files, file[2], avg, -.",
)
@click.option(
    "--psi",
    "psis",
    type=PSI_LIST,
    default="-1,-0.5,0,0.5,0.7,1",
    show_default=True,
    help="One column each; 0: mean, 1: no truncation.",
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
@labels_option
@save_latents_option
@output_options
def truncate(
    given: tuple[LatentSource, ...],
    seeds: tuple[LatentSource, ...],
    latents: tuple[LatentSource, ...],
    psis: tuple[float, ...],
    out: str,
    labels: bool,
    save_to: Path | None,
    overwrite: bool,
    skip_existing: bool,
    **options: Any,
) -> None:
    """Draw LATENTS with several truncations, as a grid.

    \b
    sg2 truncate 0-3
    sg2 truncate 85 --psi 0,0.5,1,1.5 --cutoff 4
    """
    session, settings = open_session(**options)
    sources = given + seeds + latents
    listed = session.latents(
        sources, "--seeds or --latents, or arguments such as 0-3", reserved=["grid"]
    )
    drawing = Truncate(session.config, listed, psis, settings)
    output = image_output(out, "png", overwrite, skip_existing, session.console)
    session.check_outputs([save_to], sources)
    saved = LatentsOutput(save_to, overwrite, skip_existing)
    session.draw_images(drawing, output, saved, labels)
