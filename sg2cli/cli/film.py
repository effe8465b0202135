"""Where the frames of a film go: into a film's file, or a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from sg2cli.cli.options import PATH, together
from sg2cli.cli.pictures import Pictures
from sg2cli.cli.session import Session
from sg2cli.cli.sheets import Cell, draw_cells
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.files import clash, kind, make_folder, new_file, user_path
from sg2cli.films import SUFFIXES, check_film, write_film

if TYPE_CHECKING:
    from sg2cli.images import Image
    from sg2cli.sampling import Point

film_options = together(
    click.option(
        "--frames",
        type=click.IntRange(2),
        default=60,
        show_default=True,
        metavar="N",
        help="Frames of the film.",
    ),
    click.option(
        "--fps",
        type=click.FloatRange(0.1, 240),
        default=30,
        show_default=True,
        help="Frames a second.",
    ),
    click.option(
        "-o",
        "--out",
        type=PATH,
        required=True,
        metavar="FILM|DIR",
        help="An .mp4, .gif or .webp, or a folder for the frames.",
    ),
)


def is_film(out: str) -> bool:
    """Whether the name asks for a film; UsageError for one that sg2 cannot write."""
    path = user_path(out)
    if out == "-":
        raise UsageError("a film does not go to stdout: give a file or a folder to --out")
    if not path.suffix or kind(path) == "folder":
        return False
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: films are written as {', '.join(SUFFIXES)} or into a folder")
    return True


class Film:
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
        self.session, self.frames, self.fps = session, frames, fps
        self.path = user_path(out) if is_film(out) else None
        parent = str(self.path.parent) if self.path else out
        self.pictures = Pictures(parent, "png", overwrite, skip_existing, session.console)
        if self.path:
            height, width, _ = session.shape
            check_film(self.path, width, height)
            self.pictures.check([])
            if kind(self.path) != "nothing" and not overwrite:
                if skip_existing:
                    raise Sg2Error(
                        f"{self.path} exists, and a film does not say what made it: "
                        "--overwrite replaces it, another name spares it"
                    )
                raise clash(self.path)
        else:
            self.pictures.check(map(self._name, range(frames)))

    def _name(self, frame: int) -> str:
        return f"frame{frame:0{max(4, len(str(self.frames - 1)))}d}"

    def write(
        self,
        points: Iterator[Point],
        made_by: Mapping[str, Any],
        render: Callable[[Iterator[Point]], Iterator[Image]],
    ) -> None:
        """Draw the points, one a frame; only a batch of them is in memory."""
        if not self.path:
            cells = (
                Cell(point, {**made_by, "frame": frame}, self._name(frame))
                for frame, point in enumerate(points)
            )
            draw_cells(self.pictures, cells, self.frames, self.session.shape, None, render)
            return
        console = self.session.console
        make_folder(self.path.parent)

        def images() -> Iterator[Image]:
            with console.progress("Drawing", self.frames, "frame") as bar:
                for image in render(points):
                    yield image
                    bar.update()

        with new_file(self.path, self.pictures.overwrite) as file:
            write_film(file, self.path.suffix, images(), self.frames, self.fps)
        console.wrote(self.path, {**made_by, "fps": self.fps})
