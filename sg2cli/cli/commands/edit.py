"""`sg2 edit`: move latents along a direction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg2cli.cli.help import Command
from sg2cli.cli.options import (
    AMOUNT,
    LATENTS,
    PATH,
    STYLES,
    drawing_options,
    network_options,
    output_options,
)
from sg2cli.cli.output import image_output
from sg2cli.cli.saved_latents import LatentsOutput, save_latents_option
from sg2cli.cli.session import open_session
from sg2cli.cli.video import VideoOutput, fps_option, is_video
from sg2cli.errors import UsageError
from sg2cli.latents.direction_notation import open_direction
from sg2cli.latents.mixing import format_styles
from sg2cli.sampling.edit import Edit

if TYPE_CHECKING:
    from sg2cli.latents.mixing import Styles
    from sg2cli.latents.notation import LatentSource

COLUMNS, FRAMES = 7, 60  # amounts of a range in a grid, in a video
RANGE, NAMED_RANGE = (-3.0, 3.0), (-1.0, 1.0)


@click.command(cls=Command)
@click.argument("latents", type=LATENTS)
@network_options
@click.option(
    "--direction",
    required=True,
    metavar="DIRECTION",
    help="A name (sg2 directions --list), sefa:K, pca:K, FILE:sefa:K, FILE:NAME, an .npy, or "
    "factor.pt:K (K from 0, the strongest).",
)
@click.option(
    "--amount",
    type=AMOUNT,
    help="Distance or range. [default: -3..3 std of W, -1..1 of a named direction]",
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
@save_latents_option
@output_options
def edit(
    latents: tuple[LatentSource, ...],
    direction: str,
    amount: tuple[float, float] | None,
    steps: int | None,
    layers: Styles | None,
    fps: float,
    out: str,
    save_to: Path | None,
    overwrite: bool,
    skip_existing: bool,
    **options: Any,
) -> None:
    """Move LATENTS along a direction: a grid with a row for each latent, or a video.

    \b
    sg2 edit 0-3 --direction glasses
    sg2 edit 85 --direction sefa:0 --layers coarse
    sg2 edit me/projected.safetensors --direction pca:2 --amount -2..2 --out me.gif
    """
    session, settings = open_session(**options)
    to_video = is_video(out)
    network = session.network.path
    if amount is None:
        is_named = open_direction(direction, session.config, network).is_named
        amount = NAMED_RANGE if is_named else RANGE
    amounts = _amounts(amount, steps, to_video)
    listed = session.latents(latents, "LATENTS", reserved=["grid"])
    moved = format_styles(layers) if layers else None
    drawing = Edit(session.config, listed, direction, amounts, moved, settings, network)
    saved = LatentsOutput(save_to, overwrite, skip_existing)
    if not to_video:
        session.check_outputs([save_to], latents)
        output = image_output(out, "png", overwrite, skip_existing, session.console)
        session.draw_images(drawing, output, saved)
        return
    if len(listed) > 1 or len(amounts) == 1:
        raise UsageError("a video shows one latent over a range of amounts: use a folder as --out")
    video = VideoOutput(drawing, session.console, out, fps, overwrite, skip_existing)
    session.check_outputs([video.path, save_to], latents)
    session.draw_video(drawing, video, saved)


def _amounts(amount: tuple[float, float], steps: int | None, to_video: bool) -> list[float]:
    """Evenly spaced amounts; UsageError for --steps with a single amount."""
    low, high = amount
    if low == high:
        if steps:
            raise UsageError(f"--steps requires a range of amounts, such as -3..3, not {low:g}")
        return [low]
    count = steps or (FRAMES if to_video else COLUMNS)
    return [low + (high - low) * i / (count - 1) for i in range(count)]
