"""Pictures: pixels to files and back, with what made them; sheets of many.

An image is an array [H,W,C] of uint8 with 1 to 4 channels: grey, grey and alpha, RGB, RGBA.
"""

from __future__ import annotations

import io
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from sg2cli import cores
from sg2cli.errors import Sg2Error, UsageError, reason
from sg2cli.files import NameTaken, kind, new_file
from sg2cli.image_files import BAD_PICTURES, opened
from sg2cli.storage.reading import Source

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Image = np.ndarray[Any, np.dtype[np.uint8]]

FORMATS = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}
FORMATS_WRITTEN = ("PNG", "JPEG", "WEBP")
LIMITS = {"png": 2**31 - 1, "jpg": 65535, "webp": 16383}  # pixels a side
DESCRIPTION = 0x010E  # the EXIF tag ImageDescription, for formats without text chunks
MAX_SHEET = 1 << 30  # bytes of pixels of a sheet that is held in memory
IN_FLIGHT = 64 << 20  # bytes of pixels that wait for an encoder


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


def encode(image: Image, format: str, made_by: Mapping[str, Any]) -> bytes:
    """The bytes of a picture file, format png, jpg or webp, with what made it inside.

    A PNG has it as JSON in the text chunk `sg2`, the others in the EXIF field ImageDescription.
    """
    import PIL.Image
    from PIL.PngImagePlugin import PngInfo

    picture = PIL.Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    described = json.dumps(made_by)
    file = io.BytesIO()
    if format == "png":
        info = PngInfo()
        info.add_text("sg2", described)
        picture.save(file, "png", compress_level=1, pnginfo=info)
        return file.getvalue()
    exif = PIL.Image.Exif()
    exif[DESCRIPTION] = described
    if format == "jpg":
        picture.save(file, "jpeg", quality=95, subsampling=0, exif=exif)
    else:
        picture.save(file, "webp", quality=95, exif=exif)
    return file.getvalue()


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
    try:
        with _opened(path) as picture:
            text = picture.info.get("sg2") or picture.getexif().get(DESCRIPTION)
            size, mode = picture.size, picture.mode
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


def is_kept(path: Path, made_by: Mapping[str, Any]) -> bool:
    """Whether the picture exists as the same settings make it, whatever version of sg2 did.

    Sg2Error when something else has its name.
    """
    what = kind(path)
    if what == "nothing":
        return False
    if what == "file":  # to read a pipe may take for ever
        _, _, found = inspect(path)
        if found is not None and same_recipe(found, made_by):
            return True
    raise Sg2Error(
        f"{path} was made with other settings: --overwrite replaces it, another --out spares it"
    )


def same_recipe(found: Mapping[str, Any], made_by: Mapping[str, Any]) -> bool:
    """Whether two accounts of what made a file agree in all but the version of sg2."""
    as_read = json.loads(json.dumps(made_by))
    return {**found, "version": None} == {**as_read, "version": None}


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
        self._row: Image = np.full((height, columns * width, channels), 255, np.uint8)
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
    """A PNG that is written a few rows at a time, as Pillow cannot (PNG specification 5-10)."""

    def __init__(
        self, file: IO[bytes], size: tuple[int, int], channels: int, made_by: Mapping[str, Any]
    ) -> None:
        self._file = file
        self._compressor = zlib.compressobj(1)
        colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">2I5B", *size, 8, colour_type, 0, 0, 0))
        self._chunk(b"tEXt", b"sg2\0" + json.dumps(made_by).encode("ascii"))

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

    def _chunk(self, kind: bytes, content: bytes) -> None:
        if content or kind == b"IEND":
            self._file.write(struct.pack(">I", len(content)) + kind + content)
            self._file.write(struct.pack(">I", zlib.crc32(kind + content)))


class ImageWriter:
    """Encodes and writes pictures beside the network, in the order in which they were put.

    `on_written(path, made_by, is_new)` is called for each, in order, as soon as it and those before
    it are complete; not new is what another process made meanwhile from the same settings, which
    `skip_existing` allows. The first error comes out of the next `put`, or of the end of the block.
    A block that ends by an error finishes what was put; one that is interrupted drops what has not
    begun, and does not wait for an `on_written` that stands still.
    """

    def __init__(
        self,
        on_written: Callable[[Path, Mapping[str, Any], bool], object],
        overwrite: bool = False,
        skip_existing: bool = False,
    ) -> None:
        self.on_written = on_written
        self.overwrite = overwrite
        self.skip_existing = skip_existing
        # One is enough to keep up with a CPU; a GPU may outrun it.
        workers = max(1, min(4, cores.available()))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="write")
        # Started now, as later there may be no memory for a thread.
        started = threading.Barrier(workers + 1)
        for _ in range(workers):
            self._pool.submit(started.wait)
        started.wait()
        self._changed = threading.Condition()  # guards all below; never held while telling
        self._put = self._under_way = self._active = 0
        self._done: dict[int, tuple[Path, Mapping[str, Any], bool] | None] = {}  # None: failed
        self._error: BaseException | None = None
        self._telling = threading.Lock()  # guards the two below
        self._told = 0
        self._deaf = False  # on_written failed: a closed pipe

    def put(self, path: Path, image: Image, made_by: Mapping[str, Any]) -> None:
        """Take a picture; waits while too many are under way."""
        limit = max(4, min(64, IN_FLIGHT // image.nbytes))
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < limit or self._error)
            self._raise()
            index = self._put
            self._put += 1
            self._under_way += 1
        self._pool.submit(self._work, index, path, image, made_by)

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, Exception):
            self._pool.shutdown(wait=True)
        else:
            self._pool.shutdown(wait=False, cancel_futures=True)
            with self._changed:
                self._changed.wait_for(lambda: not self._active, timeout=10)
        if self._telling.acquire(timeout=1):  # those behind one that was dropped
            for index in range(self._told, self._put):
                self._tell(index)
            self._telling.release()
        if error is None:
            self._raise()

    def _raise(self) -> None:
        if self._error:
            raise self._error

    def _work(self, index: int, path: Path, image: Image, made_by: Mapping[str, Any]) -> None:
        with self._changed:
            self._active += 1
        done, error = None, None
        try:
            done = (path, made_by, self._write(path, image, made_by))
        except BaseException as raised:  # raised again by `put` or at the end
            error = raised
        with self._changed:
            self._active -= 1
            self._under_way -= 1
            self._done[index] = done
            self._error = self._error or error
            self._changed.notify_all()
        with self._telling:
            while self._told in self._done:
                self._tell(self._told)
                self._told += 1

    def _write(self, path: Path, image: Image, made_by: Mapping[str, Any]) -> bool:
        """Whether the file is new."""
        content = encode(image, FORMATS[path.suffix.lower()], made_by)
        try:
            with new_file(path, self.overwrite) as file:
                file.write(content)
        except NameTaken:
            if self.skip_existing and is_kept(path, made_by):
                return False
            raise
        return True

    def _tell(self, index: int) -> None:
        done = self._done.pop(index, None)
        if done and not self._deaf:
            try:
                self.on_written(*done)
            except BaseException as error:
                self._deaf = True
                with self._changed:
                    self._error = self._error or error
                    self._changed.notify_all()
