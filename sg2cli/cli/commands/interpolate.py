"""`sg2 interpolate`: a video of a path through latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg2cli.cli.help import Command
from sg2cli.cli.options import (
    LATENTS,
    drawing_options,
    latents_argument,
    network_options,
    output_options,
    sources_option,
)
from sg2cli.cli.saved_latents import LatentsOutput, save_latents_option
from sg2cli.cli.session import open_session
from sg2cli.cli.video import VideoOutput, video_options
from sg2cli.latents.interpolation import METHODS, Method
from sg2cli.sampling.interpolate import Interpolate, InterpolationSpace

if TYPE_CHECKING:
    from sg2cli.latents.notation import LatentSource

RANDOM_NOISE = (
    "--noise-mode random: frames with noise of their own would flicker, so all share that of the "
    "first latent; use const, the default, for the network's own noise, or none"
)


@click.command(cls=Command)
@latents_argument()
@network_options
@sources_option(
    "--latents",
    "--seeds",
    type=LATENTS,
    help="Key latents: seeds, files, avg.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="cubic",
    show_default=True,
    metavar="METHOD",
    help="linear, slerp or cubic.",
)
@click.option(
    "--space",
    type=click.Choice(("z", "w")),
    default="w",
    show_default=True,
    help="z only for seeds and z.",
)
@click.option("--loop", is_flag=True, help="Return to the first latent.")
@video_options
@drawing_options
@save_latents_option
@output_options
def interpolate(
    given: tuple[LatentSource, ...],
    latents: tuple[LatentSource, ...],
    method: Method,
    space: InterpolationSpace,
    loop: bool,
    frames: int,
    fps: float,
    out: str,
    save_to: Path | None,
    overwrite: bool,
    skip_existing: bool,
    **options: Any,
) -> None:
    """Interpolate between LATENTS, as a video or a folder of frames.

    The first and last frames are the first and last latents; with --loop, the video ends one frame
    before the first returns.

    \b
    sg2 interpolate 85,265,297 --out faces.mp4
    sg2 interpolate 0-9 --loop --frames 300 --trunc 0.7 --out faces.webp
    """
    session, settings = open_session(**options)
    sources = given + latents
    listed = session.latents(sources, "two or more, such as 85,265,297")
    if settings.noise_mode == "random":
        session.console.note(RANDOM_NOISE)
    drawing = Interpolate(session.config, listed, frames, method, space, loop, settings)
    video = VideoOutput(drawing, session.console, out, fps, overwrite, skip_existing)
    session.check_outputs([video.path, save_to], sources)
    saved = LatentsOutput(save_to, overwrite, skip_existing)
    session.draw_video(drawing, video, saved)
