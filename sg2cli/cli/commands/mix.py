"""`sg2 mix`: style mixing."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg2cli.cli.help import Command
from sg2cli.cli.options import (
    LATENTS,
    STYLES,
    drawing_options,
    labels_option,
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
@click.argument("given", type=LATENTS, metavar="[ROWS COLS]", nargs=-1)
@network_options
@sources_option(
    "--rows",
    type=LATENTS,
    help="Latents of the rows: seeds, files or avg.",
)
@sources_option(
    "--cols",
    type=LATENTS,
    help="Latents of the columns: source of the styles.",
)
@click.option(
    "--styles",
    type=STYLES,
    help="coarse (4-8 px), middle (16-32), fine (64 and up), or rows of ws; default 0-6.",
)
@drawing_options
@out_option
@labels_option
@save_latents_option
@output_options
def mix(
    given: tuple[tuple[LatentSource, ...], ...],
    rows: tuple[LatentSource, ...],
    cols: tuple[LatentSource, ...],
    styles: Styles | None,
    out: str,
    labels: bool,
    save_to: Path | None,
    overwrite: bool,
    skip_existing: bool,
    **options: Any,
) -> None:
    """Mix styles: images of the rows with styles of the columns, and a grid.

    ROWS and COLS are two arguments; with --rows or --cols, all arguments are the other.

    \b
    sg2 mix 85,100 55,821 --styles coarse
    sg2 mix out/me out/you --cols 0-5 --styles 0-3
    """
    rows, cols = _rows_and_columns(given, rows, cols)
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
    session.draw_images(drawing, output, saved, labels)


def _rows_and_columns(
    given: tuple[tuple[LatentSource, ...], ...],
    rows: tuple[LatentSource, ...],
    cols: tuple[LatentSource, ...],
) -> tuple[tuple[LatentSource, ...], tuple[LatentSource, ...]]:
    """The latents of rows and columns, of which each is an option or arguments."""
    if given and not (rows or cols):
        if len(given) != 2:
            raise UsageError(
                "give two arguments, latents of rows and of columns, such as `sg2 mix 85,100 "
                "55,821`, or use --rows and --cols"
            )
        return given
    arguments = tuple(chain.from_iterable(given))
    if arguments and rows and cols:
        raise UsageError("latents are given as arguments beside --rows and --cols: remove some")
    rows, cols = rows or arguments, cols or arguments
    for name, latents in (("--rows", rows), ("--cols", cols)):
        if not latents:
            raise UsageError(f"no latents: give {name}, or two arguments such as 85,100 55,821")
    return rows, cols
