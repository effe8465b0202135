"""Results: an image with its latent and provenance, and images that are drawn when asked for."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error, UsageError
from sg2cli.images.codecs import FORMATS, encode
from sg2cli.images.video import SUFFIXES, check_video
from sg2cli.latents.given import latent_of
from sg2cli.latents.sources import Latent
from sg2cli.sampling.grids import Grid
from sg2cli.sampling.video import draw_video
from sg2cli.storage.atomic import check_file, make_folder, new_file
from sg2cli.storage.paths import user_path

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.images.pixels import Pixels
    from sg2cli.sampling.drawing import Cell, Drawing
    from sg2cli.sampling.rendering import Point


@dataclass(frozen=True, eq=False, repr=False)
class Image:
    """A generated image; displays in a notebook, and is accepted wherever a latent is.

    `numpy.asarray(image)` is its pixels.
    """

    name: str  # of the file, without extension: seed0085
    pixels: Pixels  # [H,W,C] uint8, C 1 to 4: grey, grey and alpha, RGB, RGBA
    latent: Latent  # ws [num_ws,w_dim] as it was drawn, and noise maps [H,W]
    provenance: Mapping[str, Any]  # checkpoint, seed, psi, ...; written by `save`

    @property
    def ws(self) -> Any:
        """[num_ws,w_dim] after truncation, in float32."""
        return self.latent.ws

    @property
    def noise(self) -> Mapping[str, Any]:
        """The noise maps [H,W] of the latent, by the name of their buffer."""
        return self.latent.noise

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write a .png, .jpg or .webp with its provenance.

        UsageError for another extension; Sg2Error if the file exists, unless `overwrite`.
        """
        file = user_path(str(path))
        content = encode(self.pixels, _format_of(file), self.provenance, self.ws)
        make_folder(file.parent)
        with new_file(file, overwrite) as target:
            target.write(content)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        return np.array(self.pixels, dtype, copy=True if copy is None else copy)

    def __repr__(self) -> str:
        height, width, _ = self.pixels.shape
        return f"Image({self.name!r}, {width}x{height})"

    def _repr_png_(self) -> bytes:
        return encode(self.pixels, "png", self.provenance)


class Images:
    """Images that are drawn lazily, in batches: iterate over, index or save them.

    Each iteration draws them again. A notebook shows their grid; they are accepted wherever latents
    are.
    """

    def __init__(self, G: Generator, drawing: Drawing) -> None:
        self._G, self._drawing = G, drawing

    def __len__(self) -> int:
        return self._drawing.result_count

    def __iter__(self) -> Iterator[Image]:
        """Sg2Error for an image that is not finite."""
        for cell, image in self._drawn():
            if cell and image and cell.is_result:
                yield image

    def __getitem__(self, index: int) -> Image:
        """Draws all images up to this one; for a negative index, all images."""
        images = list(self) if index < 0 else self
        for number, image in enumerate(images):
            if number == (index if index >= 0 else index + len(images)):
                return image
        raise IndexError(f"image {index} is out of range")

    def _drawn(self) -> Iterator[tuple[Cell | None, Image | None]]:
        """Every cell of the grid with its image, in order."""
        drawing, G = self._drawing, self._G
        waiting, to_draw = tee(drawing.cells(G))
        points: deque[Point] = deque()
        images = drawing.render(G, (c.source for c in to_draw if c), on_point=points.append)
        for cell in waiting:
            if cell is None:
                yield None, None
                continue
            pixels = next(images)
            if isinstance(pixels, Sg2Error):
                raise Sg2Error(f"{cell.name}: {pixels}") if cell.name else pixels
            name, point = cell.name or "", points.popleft()
            latent = replace(latent_of(name, point.ws, point.noise), seed=point.seed)
            yield cell, Image(name, pixels, latent, cell.provenance)

    def save(
        self, path: str | Path, fps: float = 30, overwrite: bool = False, labels: bool = False
    ) -> None:
        """Write all images into a folder, or as a grid (.png, .jpg, .webp) or video.

        `labels`: with the seeds and names of latents above the images of a grid.

        A single image is not put into a grid. A video is an .mp4 (requires the extra `video`) or
        .gif of `fps` frames per second; an interpolation is also saved as an animated .webp.
        UsageError for another extension; Sg2Error if a file exists, unless `overwrite`.
        """
        file, drawing = user_path(str(path)), self._drawing
        suffix = file.suffix.lower()
        if suffix in SUFFIXES and (suffix not in FORMATS or not drawing.has_grid):
            self._save_video(file, fps, overwrite)
        elif not suffix:
            for image in self:
                image.save(file / f"{image.name}.png", overwrite)
        elif drawing.count == 1:
            self[0].save(file, overwrite)
        else:
            format = _format_of(file)
            check_file(file, overwrite)
            make_folder(file.parent)
            with new_file(file, overwrite) as target:
                self._write_grid(target, format, labels)

    def _save_video(self, file: Path, fps: float, overwrite: bool) -> None:
        height, width, _ = self._drawing.shape
        check_video(file, width, height, fps)
        check_file(file, overwrite)
        draw_video(self._drawing, self._G, file, fps, overwrite)

    def _write_grid(self, file: Any, format: str, labels: bool = False) -> None:
        grid = Grid(self._drawing, labels).open(file, format, self._G)
        for _, image in self._drawn():
            grid.append(None if image is None else image.pixels)
        grid.finish()

    def __repr__(self) -> str:
        height, width, _ = self._drawing.shape
        return f"Images({len(self)} of {width}x{height})"

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self._write_grid(content, "png")
        return content.getvalue()


def _format_of(file: Path) -> str:
    """The format of an image file; UsageError for another extension."""
    try:
        return FORMATS[file.suffix.lower()]
    except KeyError:
        raise UsageError(f"{file}: images are saved as {', '.join(FORMATS)}") from None
