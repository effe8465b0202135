"""Image files: pixels to bytes and back, with the provenance inside."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error, UsageError, reason
from sg2cli.images.pillow import BAD_IMAGES, opened
from sg2cli.images.stored_ws import pack_ws
from sg2cli.provenance import (
    DESCRIPTION,
    PLACEHOLDER,
    WS_KEY,
    describe,
    fill_in_hash,
    insert_into_png,
    is_of_seed,
    is_unchanged,
    same_settings,
)
from sg2cli.storage.paths import kind, refuse_special
from sg2cli.storage.reading import Source

if TYPE_CHECKING:
    from sg2cli.images.pixels import Pixels
    from sg2cli.images.stored_ws import Array

FORMATS = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}
FORMATS_WRITTEN = ("PNG", "JPEG", "WEBP")
MAX_EXIF = 65_000  # bytes of text in a jpg: a segment has up to 65,533
LIMITS = {"png": 2**31 - 1, "jpg": 65535, "webp": 16383}  # pixels a side


def encode(
    pixels: Pixels, format: str, provenance: Mapping[str, Any], ws: Array | None = None
) -> bytes:
    """The bytes of an image file, format png, jpg or webp, with its provenance inside.

    `ws` [num_ws,w_dim]: the latent, which is stored too, so that the image can be used as one; not
    where it follows from the provenance, in a grid, or in a jpg that is too small for it.
    """
    if ws is not None and not is_of_seed(provenance) and "grid" not in provenance:
        packed = {WS_KEY: pack_ws(ws)}
        if format != "jpg" or len(describe({**provenance, **packed}, PLACEHOLDER)) < MAX_EXIF:
            provenance = {**provenance, **packed}
    return _encode(pixels, format, provenance)


def _encode(pixels: Pixels, format: str, provenance: Mapping[str, Any]) -> bytes:
    import PIL.Image

    image = PIL.Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    if format == "png":
        image.save(file, "png", compress_level=1)
        return insert_into_png(file.getvalue(), provenance)
    exif = PIL.Image.Exif()
    exif[DESCRIPTION] = describe(provenance, PLACEHOLDER)
    if format == "jpg":
        try:
            image.save(file, "jpeg", quality=95, subsampling=0, exif=exif)
        except ValueError as error:  # EXIF is limited to 64 KiB
            raise Sg2Error("the names of its latents are too long for a jpg: use png") from error
    else:
        image.save(file, "webp", quality=95, exif=exif)
    return fill_in_hash(file.getvalue())


def check_format(format: str, channels: int, width: int, height: int) -> None:
    """UsageError if the format cannot hold images with these channels or this size."""
    if format == "jpg" and channels in (2, 4):
        raise UsageError(
            "this network draws an alpha channel, which jpg does not support: use png or webp"
        )
    if max(width, height) > LIMITS[format]:
        raise UsageError(f"{width}x{height} pixels are beyond what {format} holds: use png")


def inspect_image(
    source: Path | bytes, name: str | None = None
) -> tuple[tuple[int, int], str, dict[str, Any] | None]:
    """Width and height, mode, and the provenance that `encode` wrote, if any; no pixel is read.

    Sg2Error, with the `name` of bytes, if the file is not an image.
    """
    import PIL

    path = str(source) if isinstance(source, Path) else name
    try:
        with _opened(source) as image:
            text = image.info.get("sg2") or image.getexif().get(DESCRIPTION)
            size, mode = image.size, image.mode
    except PIL.UnidentifiedImageError as error:
        raise Sg2Error(f"{path} is {error}") from error
    except (OSError, MemoryError) as error:
        raise Sg2Error(f"{path} is not an image that can be read ({reason(error)})") from error
    except BAD_IMAGES as error:
        raise Sg2Error(f"{path} is a damaged image ({error}): remove it") from error
    try:
        fields = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        fields = None
    return size, mode, fields if isinstance(fields, dict) else None


@contextmanager
def _opened(path: Path | bytes) -> Iterator[Any]:
    """Open an image in a format that sg2 writes; a grid may be large, so read only its header."""
    with Source(path) as source, opened(source, FORMATS_WRITTEN, sized=False) as image:
        yield image


def read_image(path: Path, shape: tuple[int, ...]) -> Pixels:
    """The pixels [H,W,C] of an image that `encode` wrote; Sg2Error if it has another shape."""
    import numpy as np

    try:
        with _opened(path) as image:
            if image.size == (shape[1], shape[0]):
                mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[shape[2]]
                return np.asarray(image.convert(mode)).reshape(shape)
    except (OSError, MemoryError) as error:
        raise Sg2Error(f"cannot read {path}: {reason(error)}") from error
    except BAD_IMAGES as error:
        raise Sg2Error(f"{path} is a damaged image ({error}): remove it") from error
    raise Sg2Error(f"{path} is {image.size[0]}x{image.size[1]} pixels: remove it")


def is_kept(path: Path, provenance: Mapping[str, Any], size: tuple[int, int]) -> bool:
    """Whether a file is the complete image [w,h] of these settings, by any version of sg2.

    False if there is no file; Sg2Error if there is a different one.
    """
    what = kind(path)
    if what == "nothing":
        return False
    refuse_special(path)  # reading a FIFO may block forever
    if what == "file":
        found_size, _, found = inspect_image(path)
        if found is not None and same_settings(found, provenance):
            _check_unchanged(path, found, found_size, size)
            return True
        if found is None:
            raise Sg2Error(
                f"{path} was not written by sg2, or was saved by another program later: "
                "`overwrite` replaces it, another `out` keeps it"
            )
    raise Sg2Error(
        f"{path} was made with other settings: `overwrite` replaces it, another `out` keeps it"
    )


def _check_unchanged(
    path: Path, provenance: Mapping[str, Any], found: tuple[int, int], size: tuple[int, int]
) -> None:
    """Sg2Error for an image file of another size, damaged, or edited since it was written."""
    remedy = "`overwrite` replaces it, another `out` keeps it"
    if found != size:
        raise Sg2Error(
            f"{path} is {found[0]}x{found[1]} pixels instead of {size[0]}x{size[1]}: {remedy}"
        )
    try:
        unchanged = is_unchanged(path, provenance)
        if unchanged is None:  # written by an older version
            with _opened(path) as image:
                image.load()
    except (OSError, MemoryError, *BAD_IMAGES) as error:
        raise Sg2Error(f"{path} is damaged ({error}): {remedy}") from error
    if unchanged is False:
        raise Sg2Error(f"{path} was changed or cut short after sg2 wrote it: {remedy}")
