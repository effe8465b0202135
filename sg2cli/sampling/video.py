"""The images of a drawing as a video, one a frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sg2cli.errors import Sg2Error
from sg2cli.images.video import write_video
from sg2cli.storage.atomic import make_folder, new_file

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.images.pixels import Pixels
    from sg2cli.sampling.drawing import Drawing


def draw_video(
    drawing: Drawing,
    G: Generator,
    path: Path,
    fps: float,
    overwrite: bool = False,
    on_frame: Callable[[], object] = lambda: None,
    on_note: Callable[[str], object] = lambda text: None,
) -> None:
    """Draw images into an .mp4, .gif or .webp; only a batch of them is in memory.

    `images.video.check_video` has found that the format and the size fit. Sg2Error for an image
    that is not finite, or an existing file, unless `overwrite`; then nothing is written.
    """
    make_folder(path.parent)
    with new_file(path, overwrite) as file:
        write_frames(drawing, G, file, path.suffix, fps, on_frame, on_note)


def write_frames(
    drawing: Drawing,
    G: Generator,
    file: IO[bytes],
    suffix: str,
    fps: float,
    on_frame: Callable[[], object] = lambda: None,
    on_note: Callable[[str], object] = lambda text: None,
) -> None:
    """As `draw_video`, into an open, seekable file."""

    def frames() -> Iterator[Pixels]:
        cells = (c for c in drawing.cells(G) if c and c.is_result)
        for image in drawing.render(G, (cell.source for cell in cells), on_note):
            if isinstance(image, Sg2Error):
                raise image
            yield image
            on_frame()

    write_video(file, suffix, frames(), drawing.result_count, fps)
