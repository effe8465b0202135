"""The destination of frames: a video file, or a folder of images."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import click

from sg2cli.cli.console import Console, Terminated
from sg2cli.cli.options import PATH, together
from sg2cli.cli.output import OTHER_SUFFIXES, check_choice, draw_into, image_output
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.images.codecs import FORMATS
from sg2cli.images.video import SUFFIXES, check_video
from sg2cli.sampling.video import draw_video
from sg2cli.storage.atomic import check_file
from sg2cli.storage.paths import kind, user_path

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.sampling.drawing import Drawing

fps_option = click.option(
    "--fps",
    type=click.FloatRange(0.1, 240),
    default=30,
    show_default=True,
    metavar="FPS",
    help="Frames per second.",
)
video_options = together(
    click.option(
        "--frames",
        type=click.IntRange(2),
        default=60,
        show_default=True,
        metavar="N",
        help="Number of frames.",
    ),
    fps_option,
    click.option(
        "-o",
        "--out",
        type=PATH,
        required=True,
        metavar="VIDEO|DIR",
        help="An .mp4, .gif or .webp, or a folder.",
    ),
)


NOT_VIDEOS = (OTHER_SUFFIXES | FORMATS.keys() | {".avi", ".mkv", ".mpg", ".webm"}) - set(SUFFIXES)


def is_video(out: str) -> bool:
    """Whether the name is that of a video, not of a folder; UsageError if it is neither."""
    path = user_path(out)
    if out == "-" or (path.suffix.lower() in NOT_VIDEOS and kind(path) != "folder"):
        raise UsageError(f"{out}: give a folder, or a video: {', '.join(SUFFIXES)}")
    if out.endswith("/") or kind(path) == "folder":
        return False
    return path.suffix.lower() in SUFFIXES


class VideoOutput:
    """The destination of frames, checked before any work."""

    def __init__(
        self,
        drawing: Drawing,
        console: Console,
        out: str,
        fps: float,
        overwrite: bool,
        skip_existing: bool,
    ) -> None:
        self.console, self.fps, self.overwrite = console, fps, overwrite
        self.path = user_path(out) if is_video(out) else None
        if not self.path:
            self.folder = image_output(out, "png", overwrite, skip_existing, console)
            self.folder.check(drawing.names())
            return
        check_choice(overwrite, skip_existing)
        height, width, _ = drawing.shape
        check_video(self.path, width, height, fps)
        if skip_existing and kind(self.path) == "file":
            raise Sg2Error(
                f"{self.path} exists, and a video does not record what made it: "
                "--overwrite replaces it, another name keeps it"
            )
        check_file(self.path, overwrite)

    def write(self, drawing: Drawing, G: Generator, done_options: Collection[str] = ()) -> None:
        """Draw the frames; only one batch of them is in memory. `done_options`: see `draw_into`."""
        if not self.path:
            draw_into(self.folder, drawing, G, self.console, grid=False, done_options=done_options)
            return
        console, at = self.console, (self.path, self.fps, self.overwrite)
        try:
            with console.progress("Generating", drawing.count, "frame") as bar:
                draw_video(drawing, G, *at, on_frame=bar.update, on_note=console.note)
        except (KeyboardInterrupt, Terminated):
            console.note(
                f"stopped: {self.path} is not written; frames in a folder can be continued with "
                "--skip-existing"
            )
            raise
        console.wrote(self.path, {**drawing.grid_provenance(G), "fps": self.fps})
