"""Where the frames of a video go: into a video file, or a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from sg2cli.cli.console import Terminated
from sg2cli.cli.grid import Cell, draw_cells
from sg2cli.cli.options import PATH, together
from sg2cli.cli.output import OTHER_SUFFIXES, ImageOutput, check_choice
from sg2cli.cli.session import Session
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.images.codecs import FORMATS
from sg2cli.images.video import SUFFIXES, check_video, write_video
from sg2cli.storage.atomic import check_file, make_folder, new_file
from sg2cli.storage.paths import kind, user_path

if TYPE_CHECKING:
    from sg2cli.images.pixels import Image
    from sg2cli.sampling import Point

fps_option = click.option(
    "--fps",
    type=click.FloatRange(0.1, 240),
    default=30,
    show_default=True,
    help="Frames a second of a film.",
)
video_options = together(
    click.option(
        "--frames",
        type=click.IntRange(2),
        default=60,
        show_default=True,
        metavar="N",
        help="Frames of the film.",
    ),
    fps_option,
    click.option(
        "-o",
        "--out",
        type=PATH,
        required=True,
        metavar="FILM|DIR",
        help="An .mp4, .gif or .webp, or a folder for the frames.",
    ),
)


NOT_VIDEOS = (OTHER_SUFFIXES | FORMATS.keys() | {".avi", ".mkv", ".mpg", ".webm"}) - set(SUFFIXES)


def is_video(out: str) -> bool:
    """Whether the name asks for a video, not a folder; UsageError for what is neither."""
    path = user_path(out)
    if out == "-" or (path.suffix.lower() in NOT_VIDEOS and kind(path) != "folder"):
        raise UsageError(f"{out}: give a folder, or a film: {', '.join(SUFFIXES)}")
    if out.endswith("/") or kind(path) == "folder":
        return False
    return path.suffix.lower() in SUFFIXES


class VideoOutput:
    """The destination of so many frames, found free before any work."""

    def __init__(
        self,
        session: Session,
        out: str,
        frames: int,
        fps: float,
        overwrite: bool,
        skip_existing: bool,
    ) -> None:
        self.session, self.frames, self.fps, self.overwrite = session, frames, fps, overwrite
        self.path = user_path(out) if is_video(out) else None
        if not self.path:
            self.pictures = ImageOutput(out, "png", overwrite, skip_existing, session.console)
            self.pictures.check(map(self._name, range(frames)))
            return
        check_choice(overwrite, skip_existing)
        height, width, _ = session.shape
        check_video(self.path, width, height, fps)
        if skip_existing and kind(self.path) == "file":
            raise Sg2Error(
                f"{self.path} exists, and a film does not say what made it: "
                "--overwrite replaces it, another name spares it"
            )
        check_file(self.path, overwrite)

    def _name(self, frame: int) -> str:
        return f"frame{frame:0{max(4, len(str(self.frames - 1)))}d}"

    def write(
        self,
        points: Iterator[Point],
        provenance: Mapping[str, Any],
        render: Callable[[Iterator[Point]], Iterator[Image | Sg2Error]],
    ) -> None:
        """Draw the points, one a frame; only a batch of them is in memory."""
        if not self.path:
            cells = (
                Cell(point, {**provenance, "frame": frame}, self._name(frame))
                for frame, point in enumerate(points)
            )
            draw_cells(self.pictures, cells, self.frames, self.session.shape, None, render)
            return
        console = self.session.console
        make_folder(self.path.parent)

        def images() -> Iterator[Image]:
            with console.progress("Drawing", self.frames, "frame") as bar:
                for image in render(points):
                    if isinstance(image, Sg2Error):
                        raise image
                    yield image
                    bar.update()

        try:
            with new_file(self.path, self.overwrite) as file:
                write_video(file, self.path.suffix, images(), self.frames, self.fps)
        except (KeyboardInterrupt, Terminated):
            console.note(
                f"stopped: {self.path} is not written, as a film is whole or not there; frames in "
                "a folder can be gone on with, by --skip-existing"
            )
            raise
        console.wrote(self.path, {**provenance, "fps": self.fps})
