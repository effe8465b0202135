"""Users' own pictures, of any kind that Pillow reads, as pixels that a network can be held to.

Files are read as if an enemy had made them: the size is checked before a pixel is unpacked.
"""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sg2cli.errors import Sg2Error, UsageError, reason
from sg2cli.images import BAD_PICTURES

if TYPE_CHECKING:
    import numpy as np

    from sg2cli.images import Image

Box = tuple[int, int, int, int]  # x, y, width, height
Crop = Literal["center", "none"] | Box

PHOTO_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".ppm", ".jp2")
)
# Of all that Pillow reads, formats of pictures; EPS, for one, would start an interpreter.
FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "PPM", "JPEG2000"),
    *("TGA", "ICO", "PCX", "SGI", "QOI"),
)
MAX_PIXELS = 1 << 28  # a picture of 16384 x 16384; three bytes each are held
SIGNED, WHITE_IS_ZERO = 2, 0  # values of a TIFF's SampleFormat and PhotometricInterpretation
MIN_SIDE = 16  # of what is left after cropping; below, there is nothing to find


@dataclass(frozen=True)
class Photo:
    """A picture as a network of its size is held to it."""

    pixels: Image  # [H,W,C] uint8
    mask: np.ndarray[Any, np.dtype[np.float32]] | None = None  # [H,W]: 0 does not count, 1 does

    @property
    def sha256(self) -> str:
        """Of the pixels and the mask."""
        digest = hashlib.sha256(self.pixels.tobytes())
        if self.mask is not None:
            digest.update(self.mask.tobytes())
        return digest.hexdigest()


def read_photo(
    source: Path | bytes,
    size: int,
    channels: int,
    crop: Crop = "center",
    background: str = "white",
    mask: Path | None = None,
) -> Photo:
    """A picture file, or its bytes, cropped and reduced (Lanczos) to [size,size,channels].

    What is transparent shows the background; an ICC profile is applied, EXIF rotation is undone.
    Crop 'center' takes the largest square in the middle, 'none' all, which is squeezed into a
    square. The mask is a picture of the same size, of which white counts and grey weighs.
    Sg2Error says what is wrong with the file.
    """
    import numpy as np
    import PIL.Image

    name = str(source) if isinstance(source, Path) else "stdin"
    with _opened(source, name) as picture:
        upright = picture.size
        box = _box(upright, crop, name, min(MIN_SIDE, size))
        shown = _flatten(picture, "L" if channels == 1 else "RGB", background).crop(box)
        shown = shown.resize((size, size), PIL.Image.Resampling.LANCZOS)
    pixels = np.array(shown).reshape(size, size, channels)
    if mask is None:
        return Photo(pixels)
    with _opened(mask, str(mask)) as picture:
        if picture.size != upright:
            raise UsageError(
                f"the mask {mask} is {_by(picture.size)} pixels, {name} is {_by(upright)}: "
                "they have to lie on one another"
            )
        weight = _flatten(picture, "L", "black").crop(box)
        weight = weight.resize((size, size), PIL.Image.Resampling.BOX)
    weights = np.array(weight, np.float32) / np.float32(255)
    if not weights.any():
        raise UsageError(f"the mask {mask} is black where {name} is cropped: nothing counts")
    return Photo(pixels, weights)


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Any]:
    """A picture through Pillow, upright; every error that comes out of the block names it."""
    import PIL.Image
    from PIL import ImageOps

    try:
        if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
            source = source.read_bytes()  # a pipe
        if source == b"" or (isinstance(source, Path) and not source.stat().st_size):
            raise Sg2Error(f"{name} is empty")
        PIL.Image.init()
        formats = [format for format in FORMATS if format in PIL.Image.OPEN]
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        limit = PIL.Image.MAX_IMAGE_PIXELS
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            PIL.Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # so many are warned of, twice is refused
            try:
                with PIL.Image.open(file, formats=formats) as picture:
                    if picture.mode == "I" and picture.format == "TIFF":
                        raise Sg2Error(
                            f"{name} has 32 bits a pixel, which may mean anything: "
                            "save it with 8 or 16"
                        )
                    # MPO: photos of phones, whose further pictures are previews and depth.
                    frames = getattr(picture, "n_frames", 1)
                    if frames > 1 and picture.format != "MPO":
                        raise Sg2Error(f"{name} holds {frames} pictures: save one of them alone")
                    ImageOps.exif_transpose(picture, in_place=True)
                    yield picture
            finally:
                PIL.Image.MAX_IMAGE_PIXELS = limit
    except PIL.UnidentifiedImageError as error:
        raise Sg2Error(
            f"{name} is no picture that can be read: give a PNG, JPEG, WebP..."
        ) from error
    except PIL.Image.DecompressionBombError as error:
        raise Sg2Error(
            f"{name} unpacks to more than {MAX_PIXELS >> 20} million pixels: reduce it first"
        ) from error
    except OSError as error:
        raise Sg2Error(f"cannot read {name}: {reason(error)}") from error
    except (*BAD_PICTURES, MemoryError) as error:
        raise Sg2Error(f"{name} cannot be used: {error}") from error


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _box(size: tuple[int, int], crop: Crop, name: str, smallest: int) -> Box:
    """Left, top, right, bottom of what is shown."""
    width, height = size
    if crop == "center":
        side = min(size)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, (width + side) // 2, (height + side) // 2)
    elif crop == "none":
        box = (0, 0, width, height)
    else:
        left, top, right, bottom = crop[0], crop[1], crop[0] + crop[2], crop[1] + crop[3]
        if right > width or bottom > height:
            raise UsageError(
                f"--crop {','.join(map(str, crop))} reaches beyond {name}, {_by(size)} pixels"
            )
        box = (left, top, right, bottom)
    if min(box[2] - box[0], box[3] - box[1]) < smallest:
        shown = _by((box[2] - box[0], box[3] - box[1]))
        raise Sg2Error(f"{name} shows {shown} pixels: too few, {smallest} x {smallest} are needed")
    return box


def _flatten(picture: Any, mode: str, background: str) -> Any:
    """In 8 bits a channel, sRGB, opaque: 'RGB', or 'L' of it."""
    import PIL.Image

    picture, alpha = _without_alpha(_in_8_bits(picture))
    shown = _in_srgb(picture)
    if alpha is not None:
        behind = PIL.Image.new("RGB", shown.size, background)
        behind.paste(shown, mask=alpha)
        shown = behind
    return shown if shown.mode == mode else shown.convert("RGB").convert(mode)


def _without_alpha(picture: Any) -> tuple[Any, Any]:
    """In a mode that an ICC profile may be of, grey, RGB or CMYK; and how opaque it is.

    A palette's numbers, or those of a colour that is said to be transparent, are meant before any
    profile is applied.
    """
    grey = picture.mode in ("1", "L", "LA")
    if picture.has_transparency_data:
        picture = picture.convert("LA" if grey else "RGBA")
        return picture.convert("L" if grey else "RGB"), picture.getchannel("A")
    if picture.mode == "CMYK":
        return picture, None
    return picture.convert("L" if grey else "RGB"), None


def _in_8_bits(picture: Any) -> Any:
    """Pictures of 12 to 32 bits a pixel, which Pillow would cut off at 255."""
    import numpy as np
    import PIL.Image
    from PIL import TiffImagePlugin

    fields = getattr(picture, "tag_v2", {})  # of a TIFF
    if SIGNED in fields.get(TiffImagePlugin.SAMPLEFORMAT, ()):
        raise ValueError("its numbers may be below zero, so that nobody knows what is black")
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture).astype(np.float64)
    (bits, *_) = fields.get(TiffImagePlugin.BITSPERSAMPLE, (16,))
    highest = 1.0 if picture.mode == "F" else 2.0**bits - 1
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity")
    if values.min() < 0 or values.max() > highest:
        raise ValueError(f"its values are not of 0 to {highest:g}")
    if fields.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
        values = highest - values  # which Pillow does for 8 bits only
    grey = PIL.Image.fromarray((values * (255 / highest) + 0.5).astype(np.uint8))
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):  # one shade
        grey.putalpha(PIL.Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _in_srgb(picture: Any) -> Any:
    """Colours as the embedded profile means them; one that cannot be used is left alone."""
    from PIL import ImageCms

    profile = picture.info.get("icc_profile")
    if not profile:
        return picture
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        shown = ImageCms.profileToProfile(picture, own, srgb, outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):
        return picture  # as viewers do with a profile that they cannot read
    return picture if shown is None else shown
