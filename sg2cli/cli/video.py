"""The destination of frames: a video file, or a folder of images."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sg2cli.cli.console import Console, Terminated
from sg2cli.cli.options import GRID, PATH, together
from sg2cli.cli.output import OTHER_SUFFIXES, check_choice, draw_into, image_output
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.images.codecs import FORMATS
from sg2cli.images.video import SUFFIXES, check_video
from sg2cli.sampling.interpolate import FRAMES
from sg2cli.sampling.video import draw_video, write_frames
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
        metavar="N",
        help=f"Number of frames; default {FRAMES}.",
    ),
    click.option(
        "--frames-per-latent",
        type=click.IntRange(1, 100_000),
        metavar="N",
        help="Instead: frames from one latent to the next.",
    ),
    click.option(
        "--grid",
        type=GRID,
        metavar="WxH",
        help="Show several paths, each with its share of latents.",
    ),
    click.option(
        "--scale",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        metavar="N",
        help="Show each pixel N times as large.",
    ),
    fps_option,
    click.option(
        "--format",
        type=click.Choice(("mp4", "gif", "webp")),
        default="mp4",
        show_default=True,
        metavar="TYPE",
        help="Of --out -: mp4, gif or webp.",
    ),
    click.option(
        "-o",
        "--out",
        type=PATH,
        required=True,
        metavar="VIDEO|DIR|-",
        help=".mp4, .gif, .webp, folder or - (stdout).",
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
        streamed: str = "",
    ) -> None:
        """`streamed`: the format of a video that is written to stdout, if `out` is -."""
        self.console, self.fps, self.overwrite = console, fps, overwrite
        self.streamed = streamed if out == "-" else ""
        height, width, _ = drawing.shape
        if self.streamed:
            if console.as_json:
                raise UsageError(
                    "--json cannot be used with --out -, which writes the video to stdout"
                )
            check_choice(overwrite, skip_existing)
            check_video(Path(f"stdout.{streamed}"), width, height, fps)
            self.path = None
            return
        self.path = user_path(out) if is_video(out) else None
        if not self.path:
            self.folder = image_output(out, "png", overwrite, skip_existing, console)
            self.folder.check(drawing.names())
            return
        check_choice(overwrite, skip_existing)
        check_video(self.path, width, height, fps)
        if skip_existing and kind(self.path) == "file":
            raise Sg2Error(
                f"{self.path} exists, and a video does not record what made it: "
                "--overwrite replaces it, another name keeps it"
            )
        check_file(self.path, overwrite)

    def write(self, drawing: Drawing, G: Generator, done_options: Collection[str] = ()) -> None:
        """Draw the frames; only one batch of them is in memory. `done_options`: see `draw_into`."""
        if self.streamed:
            self._stream(drawing, G)
            return
        if not self.path:
            draw_into(self.folder, drawing, G, self.console, grid=None, done_options=done_options)
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

    @property
    def outputs(self) -> list[Path]:
        """The file or folder that is written."""
        if self.streamed:
            return []
        return [self.path or self.folder.folder]

    def _stream(self, drawing: Drawing, G: Generator) -> None:
        """Draw the frames into a temporary file, as mp4 cannot be written in order, and copy it."""
        console = self.console
        console.check_stream("a video")
        with tempfile.TemporaryFile() as file:
            with console.progress("Generating", drawing.count, "frame") as bar:
                write_frames(
                    drawing, G, file, f".{self.streamed}", self.fps, bar.update, console.note
                )
            file.seek(0)
            while block := file.read(1 << 20):
                console.stream(block)
