"""`sg2 mix`: style mixing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg2cli.cli.help import Command
from sg2cli.cli.options import (
    LATENTS,
    STYLES,
    drawing_options,
    network_options,
    out_option,
    output_options,
    sources_option,
)
from sg2cli.cli.output import image_output
from sg2cli.cli.saved_latents import LatentsOutput, save_latents_option
from sg2cli.cli.session import open_session
from sg2cli.errors import UsageError
from sg2cli.latents.notation import LatentFile
from sg2cli.sampling.mix import Mix

if TYPE_CHECKING:
    from sg2cli.latents.mixing import Styles
    from sg2cli.latents.notation import LatentSource

STDIN = LatentFile(Path("-"))


@click.command(cls=Command)
@network_options
@sources_option(
    "--rows",
    type=LATENTS,
    required=True,
    help="Latents of the rows: seeds, files or avg.",
)
@sources_option(
    "--cols",
    type=LATENTS,
    required=True,
    help="Latents of the columns: source of the styles.",
)
@click.option(
    "--styles",
    type=STYLES,
    help="coarse (4-8 px), middle (16-32), fine (64 and up), or rows of ws; default 0-6.",
)
@drawing_options
@out_option
@save_latents_option
@output_options
def mix(
    rows: tuple[LatentSource, ...],
    cols: tuple[LatentSource, ...],
    styles: Styles | None,
    out: str,
    save_to: Path | None,
    overwrite: bool,
    skip_existing: bool,
    **options: Any,
) -> None:
    """Mix styles: images of the rows with styles of the columns, and a grid.

    \b
    sg2 mix --rows 85,100 --cols 55,821 --styles coarse
    sg2 mix --rows me/projected.safetensors --cols 0-5 --styles 0-3
    """
    if any(source == STDIN for source in rows) and any(source == STDIN for source in cols):
        raise UsageError("stdin can be read only once: give a file to --rows or --cols")
    session, settings = open_session(**options)
    drawing = Mix(
        session.config,
        session.latents(rows, "--rows", reserved=["grid"]),
        session.latents(cols, "--cols", reserved=["grid"]),
        styles,
        settings,
    )
    output = image_output(out, "png", overwrite, skip_existing, session.console)
    session.check_outputs([save_to], rows + cols)
    saved = LatentsOutput(save_to, overwrite, skip_existing)
    session.draw_images(drawing, output, saved)
