"""`sg2 interpolate`: interpolation between latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from sg2cli import checkpoints
from sg2cli.cli.console import Console
from sg2cli.cli.options import (
    LATENTS,
    drawing_options,
    network_options,
    output_options,
    sources_option,
)
from sg2cli.cli.session import Session
from sg2cli.cli.video import VideoOutput, video_options
from sg2cli.errors import UsageError
from sg2cli.latents import interpolation
from sg2cli.latents.interpolation import METHODS, Method, blend_noise, key_frames, steps
from sg2cli.settings import DrawSettings, Precision

if TYPE_CHECKING:
    from sg2cli.latents.notation import LatentSource
    from sg2cli.sampling import Point


@click.command()
@network_options
@sources_option(
    "--latents",
    "--seeds",
    type=LATENTS,
    required=True,
    help="Where the walk leads: seeds, files, file[2], avg, in this order.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="cubic",
    show_default=True,
    help="Straight lines, arcs, or a spline without corners.",
)
@click.option(
    "--space",
    type=click.Choice(("z", "w")),
    default="w",
    show_default=True,
    help="Where to walk: z is for seeds and files of z only.",
)
@click.option("--loop", is_flag=True, help="Walk back to the first latent.")
@video_options
@drawing_options
@output_options
def interpolate(
    network: str,
    device: str,
    precision: Precision,
    latents: tuple[LatentSource, ...],
    method: Method,
    space: str,
    loop: bool,
    frames: int,
    fps: float,
    out: str,
    overwrite: bool,
    skip_existing: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Walk through latents, as a film or a folder of frames.

    The first and the last frame are the first and the last latent; with --loop the film ends a
    frame before the first comes again.

    \b
    sg2 interpolate --latents 85,265,297 --out walk.mp4
    sg2 interpolate --latents 0-9 --loop --frames 300 --trunc 0.7 --out walk.webp
    """
    console = Console(as_json, quiet)
    drawing = DrawSettings(**settings)
    session = Session(checkpoints.find_network(network), drawing, console)
    keys = session.open(latents, "--latents")
    key_frames(len(keys), frames, loop)
    key_latents = list(keys)
    if space == "z" and any(latent.space not in ("seed", "z") for latent in key_latents):
        raise UsageError("--space z is for seeds and files of z: leave it out for w and avg")
    video = VideoOutput(session, out, frames, fps, overwrite, skip_existing)
    session.check_outputs([video.path], latents)

    G, used = session.load(device, precision)
    from sg2cli import sampling

    size = sampling.batch_size(G, drawing, frames)

    def in_w() -> Iterator[Point]:
        points = list(sampling.locate(G, key_latents, drawing, size))
        ws = [point.ws.cpu().numpy() for point in points]
        centre = G.mapping.w_avg.cpu().numpy()
        for place in interpolation.interpolate(ws, frames, method, loop, centre):
            yield sampling.Point(G.mapping.w_avg.new_tensor(place))

    def in_z() -> Iterator[Point]:
        from sg2cli.latents.mapping import z_of

        zs = [z_of(latent, session.network.config.z_dim) for latent in key_latents]
        places = (
            replace(key_latents[0], space="z", values=z, noise={})
            for z in interpolation.interpolate(zs, frames, method, loop)
        )
        return sampling.locate(G, places, drawing, size)

    def points() -> Iterator[Point]:
        own = {name: G.get_buffer(name).cpu().numpy() for name in keys.noise_names}
        way = steps(len(key_latents), frames, loop)
        for point, (a, b, t) in zip(in_w() if space == "w" else in_z(), way, strict=True):
            noise = blend_noise(key_latents[a].noise, key_latents[b].noise, t, own)
            # One seed for all frames: random noise would flicker.
            yield replace(point, noise=noise, seed=key_latents[0].seed)

    mode, say = drawing.noise_mode, console.note
    render = partial(sampling.try_render, G, noise_mode=mode, size=size, say=say)

    described = {
        "walk": keys.describe(),
        "method": method,
        "space": space,
        "loop": loop,
        "frames": frames,
    }
    video.write(points(), session.provenance(used, described, keys.need_mapping), render)
