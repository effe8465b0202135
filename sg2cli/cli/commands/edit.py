"""`sg2 edit`: move latents along a direction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg2cli.cli.direction_options import AMOUNT, DIRECTION, Amount
from sg2cli.cli.help import Command
from sg2cli.cli.options import (
    PATH,
    STYLES,
    drawing_options,
    labels_option,
    latents_argument,
    network_options,
    output_options,
)
from sg2cli.cli.output import image_output
from sg2cli.cli.saved_latents import LatentsOutput, save_latents_option
from sg2cli.cli.session import Session, open_session
from sg2cli.cli.video import VideoOutput, fps_option, is_video
from sg2cli.errors import UsageError
from sg2cli.latents.direction_notation import open_direction
from sg2cli.latents.mixing import format_styles
from sg2cli.sampling.edit import Edit, Move

if TYPE_CHECKING:
    from sg2cli.latents.mixing import Styles
    from sg2cli.latents.notation import LatentSource

COLUMNS, FRAMES = 7, 60  # amounts of a range in a grid, in a video
RANGE, NAMED_RANGE = (-3.0, 3.0), (-1.0, 1.0)


@click.command(cls=Command)
@latents_argument(required=True)
@network_options
@click.option(
    "--direction",
    "directions",
    type=DIRECTION,
    required=True,
    multiple=True,
    metavar="DIRECTION",
    help="A name (sg2 directions --list), sefa:K, pca:K, FILE, FILE:K or FILE:NAME; several add "
    "up, as smile=1 or smile=-1..1.",
)
@click.option(
    "--amount",
    type=AMOUNT,
    help="Amount or range; default -3..3 std, of a name -1..1.",
)
@click.option(
    "--steps",
    type=click.IntRange(2, 10_000),
    metavar="N",
    help="Columns or frames of a range; default 7 or 60.",
)
@click.option("--layers", type=STYLES, help="Rows of ws to move: 0-5, coarse; default all.")
@drawing_options
@fps_option
@click.option(
    "-o",
    "--out",
    "--outdir",
    type=PATH,
    default="out",
    show_default=True,
    metavar="DIR|VIDEO",
    help="Folder, or .mp4, .gif, .webp.",
)
@labels_option
@save_latents_option
@output_options
def edit(
    given: tuple[LatentSource, ...],
    directions: tuple[tuple[str, Amount | None], ...],
    amount: Amount | None,
    steps: int | None,
    layers: Styles | None,
    fps: float,
    out: str,
    labels: bool,
    save_to: Path | None,
    overwrite: bool,
    skip_existing: bool,
    **options: Any,
) -> None:
    """Move LATENTS along directions, as a grid with a row for each, or a video.
    The columns go through the ranges of all directions at once.

    \b
    sg2 edit 0-3 --direction glasses
    sg2 edit 28 --direction glasses=1 --direction smile=0..2 --steps 3
    sg2 edit out/me --direction pca:2 --amount -2..2 --out me.gif
    """
    session, settings = open_session(**options)
    to_video = is_video(out)
    moves = _moves(session, directions, amount, steps or (FRAMES if to_video else COLUMNS))
    if steps and len(moves[0].amounts) == 1:
        raise UsageError("--steps requires a range of amounts, such as -3..3")
    listed = session.latents(given, "LATENTS", reserved=["grid"])
    chosen = format_styles(layers) if layers else None
    drawing = Edit(session.config, listed, moves, chosen, settings)
    saved = LatentsOutput(save_to, overwrite, skip_existing)
    if not to_video:
        session.check_outputs([save_to], given)
        output = image_output(out, "png", overwrite, skip_existing, session.console)
        session.draw_images(drawing, output, saved, labels)
        return
    if labels:
        raise UsageError("--labels is for a grid: use a folder as --out")
    if len(listed) > 1 or drawing.columns == 1:
        raise UsageError("a video shows one latent over a range of amounts: use a folder as --out")
    video = VideoOutput(drawing, session.console, out, fps, overwrite, skip_existing)
    session.check_outputs([video.path, save_to], given)
    session.draw_video(drawing, video, saved)


def _moves(
    session: Session,
    given: Sequence[tuple[str, Amount | None]],
    amount: Amount | None,
    columns: int,
) -> list[Move]:
    """The directions with their amounts in each column, of which there is one without a range."""
    if amount is not None and all(own is not None for _, own in given):
        raise UsageError("--amount is for a --direction without an amount of its own: remove one")
    moves = []
    for text, own in given:
        source = open_direction(text, session.config, session.network.path)
        default = amount or (NAMED_RANGE if source.is_named else RANGE)
        moves.append((source, own or default))
    count = columns if any(low != high for _, (low, high) in moves) else 1
    return [Move(source, spread(*ends, count)) for source, ends in moves]


def spread(low: float, high: float, count: int) -> tuple[float, ...]:
    """Evenly spaced amounts; all the same if the ends are."""
    if low == high:
        return (low,) * count
    return tuple(low + (high - low) * i / (count - 1) for i in range(count))
