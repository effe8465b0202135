"""The images of a drawing as a video, one a frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

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

    def frames() -> Iterator[Pixels]:
        cells = (c for c in drawing.cells(G) if c and c.is_result)
        for image in drawing.render(G, (cell.source for cell in cells), on_note):
            if isinstance(image, Sg2Error):
                raise image
            yield image
            on_frame()

    make_folder(path.parent)
    with new_file(path, overwrite) as file:
        write_video(file, path.suffix, frames(), drawing.result_count, fps)
