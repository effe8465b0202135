"""Photos of users, in any format that Pillow reads, as the target of a projection.

Files are untrusted: the size is checked before any pixel is decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sg2cli.errors import Sg2Error, UsageError, reason
from sg2cli.images.colours import embedded_profile, flatten
from sg2cli.images.pillow import BAD_IMAGES, opened, without_libtiff_messages
from sg2cli.storage.paths import kind
from sg2cli.storage.reading import Source

if TYPE_CHECKING:
    import numpy as np

    from sg2cli.images.pixels import Pixels

Box = tuple[int, int, int, int]  # x, y, width, height
Crop = Literal["center", "none"] | Box

PHOTO_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".ppm", ".jp2")
)
# A subset of what Pillow reads; EPS, for example, would start an interpreter.
FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "PPM", "JPEG2000"),
    *("TGA", "ICO", "PCX", "SGI", "QOI"),
)
ORIENTATION = 0x0112  # the tag of EXIF
STRIP = 1 << 22  # pixels converted at once
MIN_SIDE = 16  # minimum side after cropping


@dataclass(frozen=True)
class Region:
    """The part of a photo that is projected, and its size afterwards: widths before heights."""

    photo: tuple[int, int]
    crop: Box
    scaled: tuple[int, int]

    @property
    def is_centre(self) -> bool:
        """Whether something was cut off, alike at opposite sides."""
        x, y, *kept = self.crop
        centre = [(all_ - some) // 2 for all_, some in zip(self.photo, kept, strict=True)]
        return kept != [*self.photo] and [x, y] == centre

    def __str__(self) -> str:
        """'cropped 400x600 to its centre 400x400, scaled to 128x128'; '' for a photo as it is."""
        x, y, *kept = self.crop
        wide, high = self.scaled
        whole, part = "{}x{}".format(*self.photo), "{}x{}".format(*kept)
        done = []
        if part != whole:
            place = f"its centre {part}" if self.is_centre else f"{part} at {x},{y}"
            done.append(f"cropped {whole} to {place}")
        if kept != [wide, high]:
            # The centre in the shape of the result is rounded to whole pixels.
            keeps_shape = abs(kept[0] * high - kept[1] * wide) < max(wide, high)
            verb = "scaled" if keeps_shape else "stretched"
            done.append(
                f"{verb} to {wide}x{high}" if done else f"{verb} from {part} to {wide}x{high}"
            )
        return ", ".join(done)


@dataclass(frozen=True)
class Photo:
    """A photo at the resolution of a network."""

    pixels: Pixels  # [H,W,C] uint8
    mask: np.ndarray[Any, np.dtype[np.float32]] | None = None  # [H,W]: 0 does not count, 1 does
    region: Region | None = None  # None: these pixels were not read from a file

    @property
    def sha256(self) -> str:
        """Hash of the pixels and the mask, in hexadecimal."""
        digest = hashlib.sha256(self.pixels.tobytes())
        if self.mask is not None:
            digest.update(self.mask.tobytes())
        return digest.hexdigest()


def read_photo(
    source: Path | bytes,
    size: tuple[int, int],
    channels: int,
    crop: Crop = "center",
    background: str = "white",
    mask: Path | bytes | None = None,
    name: str | None = None,
) -> Photo:
    """An image file, or its bytes, cropped and reduced (Lanczos) to [H,W,channels].

    `size`: H, W.

    Transparent parts show the background; ICC profiles are applied, EXIF rotation is undone.
    Crop 'center' takes the largest part in the middle that has the shape of the result, 'none'
    squeezes the whole image into it. The mask is an image of the same size: white has weight 1,
    black 0. Sg2Error if the file cannot be used; it names the path, or `name` for bytes.
    """
    import numpy as np

    name = name or (str(source) if isinstance(source, Path) else "stdin")
    with _reading(source, name) as image:
        upright = image.size
        box = _box(upright, crop, name, size)
        mode = "L" if channels == 1 else "RGB"
        pixels = _reduced(image, box, size, mode, background, smooth=True)
    pixels = pixels.reshape(*size, channels)
    left, top, right, bottom = box
    region = Region(upright, (left, top, right - left, bottom - top), (size[1], size[0]))
    if mask is None:
        return Photo(pixels, region=region)
    mask_name = f"the mask {mask}" if isinstance(mask, Path) else f"the mask of {name}"
    with _reading(mask, mask_name) as image:
        if image.size != upright:
            raise UsageError(
                f"{mask_name} is {_by(image.size)} pixels, {name} is {_by(upright)}: "
                "they must have the same size"
            )
        shades = _reduced(image, box, size, "L", "black", smooth=False)
    weights = shades.astype(np.float32) / np.float32(255)
    if not weights.any():
        raise UsageError(f"{mask_name} is black everywhere inside the crop of {name}")
    return Photo(pixels, weights, region)


def check_photo(path: Path) -> None:
    """Sg2Error if this is not an image; no pixel is decoded, and a pipe is not read.

    UsageError if there is no file.
    """
    what = kind(path)
    if what == "nothing":
        raise UsageError(f"no file {path}: check the path")
    if what != "other":  # a pipe can be read only once
        with _reading(path, str(path), decoded=False):
            pass


class _Upright:
    """A decoded image with the orientation of its EXIF data applied.

    Parts are rotated as they are cropped, so that the image is in memory only once.
    """

    def __init__(self, image: Any) -> None:
        from PIL.Image import Transpose

        self.image = image
        turns = {
            2: Transpose.FLIP_LEFT_RIGHT,
            3: Transpose.ROTATE_180,
            4: Transpose.FLIP_TOP_BOTTOM,
            5: Transpose.TRANSPOSE,
            6: Transpose.ROTATE_270,
            7: Transpose.TRANSVERSE,
            8: Transpose.ROTATE_90,
        }
        orientation = image.getexif().get(ORIENTATION, 1)
        self._orientation = orientation if orientation in turns else 1
        self._turn = turns.get(self._orientation)
        width, height = image.size
        self.size = (height, width) if self._orientation >= 5 else (width, height)

    def crop(self, box: Box) -> Any:
        """The part between left, top, right and bottom, upright."""
        left, top, right, bottom = box
        width, height = self.size
        if self._orientation in (2, 3, 6, 7):
            left, right = width - right, width - left
        if self._orientation in (3, 4, 7, 8):
            top, bottom = height - bottom, height - top
        if self._orientation >= 5:
            left, top, right, bottom = top, left, bottom, right
        part = self.image.crop((left, top, right, bottom))
        return part if self._turn is None else part.transpose(self._turn)


@contextmanager
def _reading(source: Path | bytes, name: str, decoded: bool = True) -> Iterator[_Upright]:
    """Open an image, upright, and decode it; errors raised in the block name it."""
    import PIL.Image

    try:
        with Source(source) as file:
            if not file.size:
                raise Sg2Error(f"{name} is empty")
            with opened(file, FORMATS) as image:
                if image.mode == "I" and image.format == "TIFF":
                    raise Sg2Error(
                        f"{name} has 32 bits per pixel, an ambiguous format: save it with 8 or 16"
                    )
                if decoded:
                    with without_libtiff_messages(image):
                        image.load()
                yield _Upright(image)
    except PIL.UnidentifiedImageError as error:
        raise Sg2Error(f"{name} is {error}: give a PNG, JPEG or WebP") from error
    except (OSError, MemoryError) as error:
        raise Sg2Error(f"cannot read {name}: {reason(error)}") from error
    except BAD_IMAGES as error:
        is_text = error.args and isinstance(error.args[0], str)  # Pillow may quote bytes
        why = error if is_text else "it is damaged"
        raise Sg2Error(f"{name} cannot be used: {why}") from error


def _reduced(
    upright: _Upright, box: Box, size: tuple[int, int], mode: str, background: str, smooth: bool
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The box, in 8 bits per channel, reduced to [H,W] or [H,W,3].

    It works in strips, so that little memory is used beside the decoded image. Lanczos and box
    filters are separable, rows first, so the pixels equal those of a single call.
    """
    import numpy as np
    import PIL.Image

    left, top, right, bottom = box
    high, wide = size
    method = PIL.Image.Resampling.LANCZOS if smooth else PIL.Image.Resampling.BOX
    narrow = PIL.Image.new(mode, (wide, bottom - top))
    to_srgb = embedded_profile(upright.image)
    height = max(1, STRIP // (right - left))
    for y in range(top, bottom, height):
        strip = upright.crop((left, y, right, min(y + height, bottom)))
        shown = flatten(strip, upright.image, mode, background, to_srgb)
        narrow.paste(shown.resize((wide, shown.height), method), (0, y - top))
    return np.array(narrow.resize((wide, high), method))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _box(photo: tuple[int, int], crop: Crop, name: str, size: tuple[int, int]) -> Box:
    """Left, top, right, bottom of the crop of a photo of this width and height."""
    width, height = photo
    high, wide = size
    if crop == "center":
        across, down = min(width, height * wide // high), min(height, width * high // wide)
        left, top = (width - across) // 2, (height - down) // 2
        box = (left, top, left + across, top + down)
    elif crop == "none":
        box = (0, 0, width, height)
    else:
        left, top, right, bottom = crop[0], crop[1], crop[0] + crop[2], crop[1] + crop[3]
        if right > width or bottom > height:
            raise UsageError(
                f"the crop {','.join(map(str, crop))} reaches beyond {name}, {_by(photo)} pixels"
            )
        box = (left, top, right, bottom)
    smallest = min(MIN_SIDE, *size)
    if min(box[2] - box[0], box[3] - box[1]) < smallest:
        shown = _by((box[2] - box[0], box[3] - box[1]))
        raise Sg2Error(
            f"{name} shows {shown} pixels: too few, at least {smallest} x {smallest} are needed"
        )
    return box
