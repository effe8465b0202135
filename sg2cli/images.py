"""Pictures: pixels to files and back, with what made them; sheets of many.

An image is an array [H,W,C] of uint8 with 1 to 4 channels: grey, grey and alpha, RGB, RGBA.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error, UsageError, reason
from sg2cli.files import kind
from sg2cli.image_files import BAD_PICTURES, opened
from sg2cli.provenance import (
    DESCRIPTION,
    PLACEHOLDER,
    PNG_SIGNATURE,
    PNG_TEXT_AT,
    describe,
    fill_in_hash,
    insert_into_png,
    is_unchanged,
    png_text,
    same_settings,
)
from sg2cli.storage.reading import Source

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Image = np.ndarray[Any, np.dtype[np.uint8]]

FORMATS = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}
FORMATS_WRITTEN = ("PNG", "JPEG", "WEBP")
LIMITS = {"png": 2**31 - 1, "jpg": 65535, "webp": 16383}  # pixels a side
MAX_SHEET = 1 << 30  # bytes of pixels of a sheet that is held in memory


def to_images(pictures: Tensor) -> Image:
    """[N,C,H,W], of which -1..1 is shown -> [N,H,W,C] uint8, rounded as NVIDIA's scripts do.

    Sg2Error when a value is not finite: no picture is better than a wrong one.
    """
    import torch

    if not pictures.isfinite().all():
        raise Sg2Error(
            "the network drew NaN or infinity: a latent that holds them or is too far out, "
            "or too low a --precision"
        )
    pixels = (pictures * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def encode(image: Image, format: str, provenance: Mapping[str, Any]) -> bytes:
    """The bytes of an image file, format png, jpg or webp, with its provenance inside."""
    import PIL.Image

    picture = PIL.Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    file = io.BytesIO()
    if format == "png":
        picture.save(file, "png", compress_level=1)
        return insert_into_png(file.getvalue(), provenance)
    exif = PIL.Image.Exif()
    exif[DESCRIPTION] = describe(provenance, PLACEHOLDER)
    if format == "jpg":
        picture.save(file, "jpeg", quality=95, subsampling=0, exif=exif)
    else:
        picture.save(file, "webp", quality=95, exif=exif)
    return fill_in_hash(file.getvalue())


def check_format(format: str, channels: int, width: int, height: int) -> None:
    """UsageError when pictures of this kind have no such files."""
    if format == "jpg" and channels in (2, 4):
        raise UsageError("this network draws an alpha channel, which jpg lacks: use png or webp")
    if max(width, height) > LIMITS[format]:
        raise UsageError(f"{width}x{height} pixels are beyond what {format} holds: use png")


def inspect(path: Path) -> tuple[tuple[int, int], str, dict[str, Any] | None]:
    """Width and height, mode, and what made it, as `encode` wrote it, or None; no pixel is read.

    Sg2Error when the file is no picture.
    """
    import PIL

    try:
        with _opened(path) as picture:
            text = picture.info.get("sg2") or picture.getexif().get(DESCRIPTION)
            size, mode = picture.size, picture.mode
    except PIL.UnidentifiedImageError as error:
        raise Sg2Error(f"{path} is {error}") from error
    except (OSError, MemoryError) as error:
        raise Sg2Error(f"{path} is not a picture that can be read ({reason(error)})") from error
    except BAD_PICTURES as error:
        raise Sg2Error(f"{path} is a damaged picture ({error}): remove it") from error
    try:
        fields = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        fields = None
    return size, mode, fields if isinstance(fields, dict) else None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A picture of a kind that sg2 writes; a sheet may be large, and only its header be read."""
    with Source(path) as source, opened(source, FORMATS_WRITTEN, sized=False) as picture:
        yield picture


def read_image(path: Path, shape: tuple[int, ...]) -> Image:
    """The pixels of a picture that `encode` wrote, [H,W,C]; Sg2Error if they are not such."""
    import numpy as np

    try:
        with _opened(path) as picture:
            if picture.size == (shape[1], shape[0]):
                mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[shape[2]]
                return np.asarray(picture.convert(mode)).reshape(shape)
    except (OSError, MemoryError) as error:
        raise Sg2Error(f"cannot read {path}: {reason(error)}") from error
    except BAD_PICTURES as error:
        raise Sg2Error(f"{path} is a damaged picture ({error}): remove it") from error
    raise Sg2Error(f"{path} is {picture.size[0]}x{picture.size[1]} pixels: remove it")


def is_kept(path: Path, provenance: Mapping[str, Any], size: tuple[int, int]) -> bool:
    """Whether a file holds the whole image [w,h] that these settings give, by any version of sg2.

    False where there is none; Sg2Error where something else has its name.
    """
    what = kind(path)
    if what == "nothing":
        return False
    if what == "file":  # reading a FIFO may block forever
        found_size, _, found = inspect(path)
        if found is not None and same_settings(found, provenance):
            _check_unchanged(path, found, found_size, size)
            return True
    raise Sg2Error(
        f"{path} was made with other settings: --overwrite replaces it, another --out keeps it"
    )


def _check_unchanged(
    path: Path, provenance: Mapping[str, Any], found: tuple[int, int], size: tuple[int, int]
) -> None:
    """Sg2Error for an image file of another size, damaged, or edited since it was written."""
    remedy = "--overwrite replaces it, another --out keeps it"
    if found != size:
        raise Sg2Error(
            f"{path} is {found[0]}x{found[1]} pixels instead of {size[0]}x{size[1]}: {remedy}"
        )
    try:
        unchanged = is_unchanged(path, provenance)
        if unchanged is None:  # written by an older version
            with _opened(path) as picture:
                picture.load()
    except (OSError, MemoryError, *BAD_PICTURES) as error:
        raise Sg2Error(f"{path} is damaged ({error}): {remedy}") from error
    if unchanged is False:
        raise Sg2Error(f"{path} was changed or cut short after sg2 wrote it: {remedy}")


class Sheet:
    """A grid of pictures of one size, which are appended along the rows; what is left out is white.

    A PNG is written while the sheet fills, so that one row of pictures is in memory. jpg and webp
    have to be held whole.
    """

    def __init__(
        self,
        file: IO[bytes],
        format: str,
        columns: int,
        rows: int,
        shape: tuple[int, ...],
        made_by: Mapping[str, Any],
        header: Image | None = None,
    ) -> None:
        """`shape` [H,W,C] is a picture's; a header [h,columns*W,C] stands above all."""
        import numpy as np

        height, width, channels = shape
        self.columns, self.rows, self.shape = columns, rows, shape
        self.size = (columns * width, rows * height + (0 if header is None else len(header)))
        check_format(format, channels, *self.size)
        self._row: Image = self._allocate(np, (height, columns * width, channels))
        self._count = 0
        self._take: Callable[[Image], None]
        self._finish: Callable[[], None]
        if format == "png":
            stream = PngStream(file, self.size, channels, made_by)
            self._take, self._finish = stream.write, stream.finish
        else:
            if self.size[0] * self.size[1] * channels > MAX_SHEET:
                raise UsageError(f"{self.size[0]}x{self.size[1]} pixels are too many: use png")
            taken: list[Image] = []
            self._take = taken.append
            self._finish = lambda: _write_all(file, encode(np.concatenate(taken), format, made_by))
        if header is not None:
            self._take(header)

    @staticmethod
    def _allocate(np: Any, shape: tuple[int, int, int]) -> Image:
        """A white row of cells; UsageError when it is too large."""
        try:
            if math.prod(shape) <= MAX_SHEET:
                return np.full(shape, 255, np.uint8)
        except MemoryError:
            pass
        raise UsageError(
            f"a row of the grid has {shape[1]}x{shape[0]} pixels, which memory does not hold: give "
            "fewer columns"
        )

    def append(self, image: Image | None) -> None:
        """Fill the next cell, or leave it white."""
        column = self._count % self.columns
        width = self.shape[1]
        self._row[:, column * width : (column + 1) * width] = 255 if image is None else image
        self._count += 1
        if column == self.columns - 1:
            self._take(self._row.copy())

    def finish(self) -> None:
        """Leave what is missing white, and end the file."""
        while self._count < self.columns * self.rows:
            self.append(None)
        self._finish()


def _write_all(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def column_header(labels: Sequence[str], shape: tuple[int, ...]) -> Image:
    """A strip [h,columns*W,C] with a label above each column of pictures [H,W,C]."""
    import numpy as np
    import PIL.Image
    from PIL import ImageDraw, ImageFont

    width, channels = shape[1], shape[2]
    size = min(40, max(10, width // 6))
    while size > 5 and max(map(ImageFont.load_default(size).getlength, labels)) > width - 2:
        size -= 1
    font = ImageFont.load_default(size)
    strip = PIL.Image.new("L", (width * len(labels), 2 * size), 255)
    draw = ImageDraw.Draw(strip)
    for i, label in enumerate(labels):
        draw.text((width * i + width // 2, size), label, fill=0, font=font, anchor="mm")
    grey = np.asarray(strip)[:, :, None]
    if channels in (2, 4):  # the last is alpha
        opaque = np.full_like(grey, 255)
        return np.concatenate([grey.repeat(channels - 1, axis=2), opaque], axis=2)
    return grey.repeat(channels, axis=2)


class PngStream:
    """A PNG that is written a few rows at a time, as Pillow cannot (PNG specification 5-10).

    The file has to be seekable: the hash in the provenance is known when all is written.
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

    def write(self, rows: Image) -> None:
        """Rows of pixels [h,W,C], each with the filter Sub: the difference to the pixel before."""
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
