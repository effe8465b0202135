"""Grids of images in one file, written row by row, with optional column labels."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from sg2cli.errors import UsageError
from sg2cli.images.codecs import check_format, encode
from sg2cli.images.labels import label_height
from sg2cli.provenance import PNG_SIGNATURE, PNG_TEXT_AT, png_text

if TYPE_CHECKING:
    from sg2cli.images.pixels import Pixels

MAX_GRID = 1 << 30  # bytes of pixels held in memory


class ImageGrid:
    """A grid of images of one size, appended in reading order; missing ones are white.

    A PNG is written row by row, with one row of images in memory; jpg and webp are kept in memory
    as a whole.
    """

    def __init__(
        self,
        file: IO[bytes],
        format: str,
        columns: int,
        rows: int,
        shape: tuple[int, ...],
        provenance: Mapping[str, Any],
        header: Pixels | None = None,
        strips: Iterator[Pixels] | None = None,
    ) -> None:
        """`shape` [H,W,C]: of an image; `header` [h,columns*W,C]: drawn above the first row.

        `strips`: one for each row, drawn above it, of `label_height`.
        """
        import numpy as np

        height, width, channels = shape
        self.columns, self.rows, self.shape = columns, rows, shape
        self.size = grid_size(columns, rows, shape, header, strips is not None)
        self._strips = strips
        check_format(format, channels, *self.size)
        self._row: Pixels = _white_row((height, columns * width, channels))
        self._count = 0
        self._take: Callable[[Pixels], None]
        self._finish: Callable[[], None]
        if format == "png":
            stream = PngStream(file, self.size, channels, provenance)
            self._take, self._finish = stream.write, stream.finish
        else:
            if self.size[0] * self.size[1] * channels > MAX_GRID:
                raise UsageError(
                    f"{self.size[0]}x{self.size[1]} pixels are too many for {format}: use png"
                )
            taken: list[Pixels] = []
            self._take = taken.append
            self._finish = lambda: _write_all(
                file, encode(np.concatenate(taken), format, provenance)
            )
        if header is not None:
            self._take(header)

    def append(self, image: Pixels | None) -> None:
        """Fill the next cell, or leave it white."""
        column = self._count % self.columns
        width = self.shape[1]
        self._row[:, column * width : (column + 1) * width] = 255 if image is None else image
        self._count += 1
        if column == self.columns - 1:
            if self._strips is not None:
                self._take(next(self._strips))
            self._take(self._row.copy())

    def finish(self) -> None:
        """Fill missing cells with white, and end the file."""
        while self._count < self.columns * self.rows:
            self.append(None)
        self._finish()


def grid_size(
    columns: int, rows: int, shape: tuple[int, ...], header: Pixels | None, has_strips: bool
) -> tuple[int, int]:
    """Width and height of a grid of images [H,W,C]."""
    height = shape[0] + (label_height(shape[1]) if has_strips else 0)
    return columns * shape[1], rows * height + (0 if header is None else len(header))


def _white_row(shape: tuple[int, int, int]) -> Pixels:
    """A white row of cells; UsageError if it is too large."""
    import numpy as np

    try:
        if math.prod(shape) <= MAX_GRID:
            return np.full(shape, 255, np.uint8)
    except MemoryError:
        pass
    raise UsageError(
        f"a row of the grid has {shape[1]}x{shape[0]} pixels, too many for memory: use fewer "
        "columns"
    )


def _write_all(file: IO[bytes], content: bytes) -> None:
    file.write(content)


class PngStream:
    """Writes a PNG a few rows at a time (PNG specification, sections 5 to 10).

    The file must be seekable: the hash in the provenance is written last.
    """

    def __init__(
        self, file: IO[bytes], size: tuple[int, int], channels: int, provenance: Mapping[str, Any]
    ) -> None:
        self._file, self._start, self._provenance = file, file.tell(), provenance
        self._compressor = zlib.compressobj(1)
        self._digest = hashlib.sha256()
        colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        self._write(PNG_SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">2I5B", *size, 8, colour_type, 0, 0, 0))
        file.write(png_text(provenance))

    def write(self, rows: Pixels) -> None:
        """Write rows of pixels [h,W,C] with the filter Sub (differences to the left pixel)."""
        import numpy as np

        differences = rows.copy()
        differences[:, 1:] -= rows[:, :-1]
        lines = np.ones((len(rows), 1 + rows[0].size), np.uint8)  # a row begins with its filter, 1
        lines[:, 1:] = differences.reshape(len(rows), -1)
        self._chunk(b"IDAT", self._compressor.compress(lines.tobytes()))

    def finish(self) -> None:
        self._chunk(b"IDAT", self._compressor.flush())
        self._chunk(b"IEND", b"")
        end = self._file.tell()
        self._file.seek(self._start + PNG_TEXT_AT)
        self._file.write(png_text(self._provenance, self._digest.hexdigest()))
        self._file.seek(end)

    def _chunk(self, kind: bytes, content: bytes) -> None:
        if content or kind == b"IEND":
            checksum = struct.pack(">I", zlib.crc32(kind + content))
            self._write(struct.pack(">I", len(content)) + kind + content + checksum)

    def _write(self, content: bytes) -> None:
        self._digest.update(content)
        self._file.write(content)
