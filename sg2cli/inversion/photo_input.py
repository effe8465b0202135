"""Photos in any form that the library accepts: paths, PIL images, arrays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from sg2cli.errors import UsageError
from sg2cli.images.photos import Crop, Photo, read_photo
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.paths import user_path

if TYPE_CHECKING:
    import PIL.Image

    from sg2cli.images.pixels import Pixels

PhotoInput = Union[str, Path, "PIL.Image.Image", "Pixels"]
SAVED_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # which a PNG can hold


def check_network(config: GeneratorConfig) -> None:
    """UsageError for a network whose images cannot be compared with photos."""
    if config.img_channels not in (1, 3):
        raise UsageError(
            f"this network draws {config.img_channels} channels: photos have 3, or 1 if grey"
        )


def read_photo_for(
    config: GeneratorConfig,
    source: Path | bytes,
    crop: Crop = "center",
    background: str = "white",
    mask: Path | bytes | None = None,
    name: str | None = None,
) -> Photo:
    """Read a photo at the size of a network's images; see `photos.read_photo`."""
    return read_photo(source, config.size, config.img_channels, crop, background, mask, name)


def as_source(given: PhotoInput) -> tuple[str, Path | bytes]:
    """A name, and a path or the bytes of a PNG, so that all photos are read in the same way.

    UsageError for other types.
    """
    import PIL.Image

    if isinstance(given, str | Path):
        path = user_path(str(given))
        return str(path), path
    if not isinstance(given, PIL.Image.Image):
        given = _from_array(given)
    file = io.BytesIO()
    plain = given if given.mode in SAVED_MODES else given.convert("RGB")
    plain.save(file, "PNG", compress_level=1, exif=given.getexif())
    return "photo", file.getvalue()


def _from_array(given: Any) -> PIL.Image.Image:
    import numpy as np
    import PIL.Image

    if not hasattr(given, "shape"):
        kind = type(given).__name__
        raise UsageError(f"a {kind} is not a photo: give a path, a PIL image or an array [H,W,C]")
    array = np.asarray(given)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    shape, dtype = list(array.shape), array.dtype
    if dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)):
        raise UsageError(f"the photo is {dtype} {shape}: give uint8 [H,W], [H,W,3] or [H,W,4]")
    if not array.size:
        raise UsageError(f"the photo is empty: {shape}")
    return PIL.Image.fromarray(array)
