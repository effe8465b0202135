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
from sg2cli.errors import UsageError
from sg2cli.latents.interpolation import METHODS, Method
from sg2cli.sampling.interpolate import (
    FrameLayout,
    Interpolate,
    InterpolationSpace,
    count_frames,
)

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
@click.option("--loop", is_flag=True, help="End one frame before the first latent returns.")
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
    frames: int | None,
    frames_per_latent: int | None,
    grid: tuple[int, int] | str | None,
    scale: int,
    fps: float,
    format: str,
    out: str,
    save_to: Path | None,
    overwrite: bool,
    skip_existing: bool,
    **options: Any,
) -> None:
    """Interpolate between LATENTS, as a video or a folder of frames.

    \b
    sg2 interpolate 85,265,297 --out faces.mp4
    sg2 interpolate 0-31 --grid 4x2 --frames-per-latent 60 --out grid.mp4
    """
    session, settings = open_session(**options)
    sources = given + latents
    listed = session.latents(sources, "two or more, such as 85,265,297")
    if settings.noise_mode == "random":
        session.console.note(RANDOM_NOISE)
    if isinstance(grid, str):
        raise UsageError("--grid needs columns and rows, such as 4x2")
    layout = FrameLayout(*(grid or (1, 1)), scale)
    count = count_frames(len(listed), frames, frames_per_latent, loop, layout)
    config = session.config
    drawing = Interpolate(config, listed, count, method, space, loop, settings, layout)
    if save_to and layout.paths > 1:
        raise UsageError("--save-latents cannot be used with --grid: save those of single paths")
    video = VideoOutput(drawing, session.console, out, fps, overwrite, skip_existing, format)
    session.check_outputs([video.path, save_to], sources)
    saved = LatentsOutput(save_to, overwrite, skip_existing)
    session.draw_video(drawing, video, saved)
