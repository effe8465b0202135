"""Opening untrusted image files with Pillow.

The structure of a file is checked first, its size before any pixel is decoded, and all that Pillow
reads is charged to a budget.
"""

from __future__ import annotations

import os
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sg2cli.images.limits import budget_of, check_pixels
from sg2cli.images.structure import count_images
from sg2cli.images.tiff import TIFF_SIZES
from sg2cli.storage.budget import (
    MAX_PHOTO,
    MAX_PIXELS_IN_PYTHON,
    MAX_SIDE,
    Budget,
    LimitExceeded,
)
from sg2cli.storage.reading import CountedFile, Source

UNREADABLE = "damaged, or not an image that sg2 can read"
SEVERAL = "it holds several images: save one of them alone"
BAD_IMAGES = (ValueError, SyntaxError, TypeError, LookupError, RuntimeError, struct.error)


@contextmanager
def opened(source: Source, formats: Sequence[str], sized: bool = True) -> Iterator[Any]:
    """Open a single image in one of Pillow's formats; no pixel is decoded yet.

    LimitExceeded for a file that exceeds a limit; Pillow raises OSError and BAD_IMAGES, in the
    block as well. Without `sized`, any number of pixels is accepted: do not decode them.
    """
    import PIL.Image

    if sized and source.size > MAX_PHOTO:
        raise LimitExceeded(f"it has more than the limit of {MAX_PHOTO:,} bytes")
    budget = budget_of(source.size)
    if count_images(source, budget, sized) > 1:
        raise LimitExceeded(SEVERAL)
    PIL.Image.init()
    with _guarded(budget), _open(CountedFile(source, budget), formats) as image:
        if image.format == "AVIF" and image.n_frames > 1:
            raise LimitExceeded(SEVERAL)
        if sized:
            _check_size(image, budget)
        try:
            yield image
        except PIL.Image.DecompressionBombError as error:
            raise _beyond_pillow() from error


def _open(file: CountedFile, formats: Sequence[str]) -> Any:
    """As `PIL.Image.open`, without its check of the size, which `_check_size` makes instead.

    Pillow's limit is a global of the whole process. It belongs to the program that uses sg2 as a
    library, so it is neither changed nor needed here.
    """
    import PIL.Image

    start = file.read(16)
    for format in formats:
        factory, accept = PIL.Image.OPEN.get(format, (None, None))
        accepted = accept is None or accept(start)
        if factory is None or not accepted or isinstance(accepted, str):  # a reason why not
            continue
        file.seek(0)
        try:
            return factory(file, "")  # type: ignore[arg-type]
        except PIL.Image.DecompressionBombError as error:  # some formats check parts of an image
            raise _beyond_pillow() from error
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # not this format after all
    raise PIL.UnidentifiedImageError(UNREADABLE)


def _beyond_pillow() -> LimitExceeded:
    return LimitExceeded("it has more pixels than PIL.Image.MAX_IMAGE_PIXELS allows: reduce it")


def _check_size(image: Any, budget: Budget) -> None:
    import PIL.Image

    width, height = image.size
    check_pixels(image.format, width, height)
    if max(width, height) > MAX_SIDE:
        raise LimitExceeded(f"it has {width} x {height} pixels: a side may have up to {MAX_SIDE:,}")
    in_python = any(tile[0] in PIL.Image.DECODERS for tile in image.tile)
    if not in_python:
        return
    if width * height > MAX_PIXELS_IN_PYTHON:
        raise LimitExceeded(
            f"it has more than {MAX_PIXELS_IN_PYTHON >> 20} million pixels, too many for this kind "
            f"of {image.format}: save it as a PNG"
        )
    budget.limits["reads"] += 2 * width * height  # such decoders read pixel by pixel


@contextmanager
def without_libtiff_messages(image: Any) -> Iterator[None]:
    """Discard what libtiff prints to stderr while it decodes; an exception has it as well.

    This affects the whole process: libtiff cannot be configured through Pillow.
    """
    try:
        kept = os.dup(2) if image.format == "TIFF" else None
    except OSError:  # it is closed
        kept = None
    if kept is None:
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


_PILLOW = threading.RLock()  # the method and the warning filters below are global


@contextmanager
def _guarded(budget: Budget) -> Iterator[None]:
    """Pillow without warnings, and with a limit on tags, for this thread.

    Before version 13 it reads the data of each tag of a TIFF or of EXIF, wherever they lie, so that
    a directory of thousands of tags is read as thousands of times the file.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    thread = threading.get_ident()

    def counted(directory: Any, file: Any) -> Any:
        if threading.get_ident() == thread:  # other threads may read files of their own
            _charge_tags(directory, file, budget)
        return load(directory, file)

    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load = ImageFileDirectory_v2.load
        ImageFileDirectory_v2.load = counted  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            ImageFileDirectory_v2.load = load  # type: ignore[method-assign]


def _charge_tags(directory: Any, file: Any, budget: Budget) -> None:
    """Charge the tags of the directory at this position, and the bytes that they refer to."""
    begin, order = file.tell(), directory._endian
    big = getattr(directory, "_bigtiff", False)
    with suppress(struct.error):  # truncated: Pillow reports it
        (count,) = _unpack(order + ("Q" if big else "H"), file)
        budget.charge("tags_read", count)
        for _ in range(count):
            _, kind, number, value = _unpack(order + ("2HQ8s" if big else "2HI4s"), file)
            size = number * TIFF_SIZES.get(kind, 1)
            if size > len(value):
                budget.charge("bytes_of_tags_read", size)
    file.seek(begin)


def _unpack(layout: str, file: Any) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))
