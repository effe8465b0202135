"""Labels of images in a grid: strips of text above the images of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sg2cli.images.pixels import Pixels

MIN_FONT = 5  # pixels
MAX_LABEL = 100  # characters, far more than fit


def _font_size(width: int) -> int:
    """The size of the font above an image of this width."""
    return min(40, max(10, width // 6))


def label_height(width: int) -> int:
    """The height of a strip of labels above images of this width."""
    return 2 * _font_size(width)


def column_header(labels: Sequence[str], shape: tuple[int, ...]) -> Pixels:
    """A strip [h,columns*W,C] with a label above each column of images [H,W,C].

    Labels are at least the height of their font apart, down to a font of 5 pixels.
    """
    from PIL import ImageFont

    width = shape[1]
    size = _font_size(width)
    font = ImageFont.load_default(size)
    while size > MIN_FONT and max(map(font.getlength, labels)) > width - size:
        size -= 1
        font = ImageFont.load_default(size)
    return _strip([(label, font) for label in labels], shape, 2 * size)


def label_strip(labels: Sequence[str], shape: tuple[int, ...]) -> Pixels:
    """As `column_header`, of `label_height` whatever the labels; an empty one is left out.

    A long label gets a smaller font, and loses its middle where that is not enough.
    """
    width = shape[1]
    fitted = [_fitted(label, width) for label in labels]
    return _strip(fitted, shape, label_height(width))


def _fitted(label: str, width: int) -> tuple[str, Any]:
    """A label that fits above an image, and its font."""
    from PIL import ImageFont

    if len(label) > MAX_LABEL:
        label = label[: MAX_LABEL // 2] + label[-MAX_LABEL // 2 :]
    size = _font_size(width)
    smallest = max(MIN_FONT, 2 * size // 3)
    while size > smallest and ImageFont.load_default(size).getlength(label) > width - size:
        size -= 1
    font = ImageFont.load_default(size)
    keep, shown = len(label), label
    while keep > 1 and font.getlength(shown) > width - size:
        keep -= 1  # of the beginning and the end, which tell files apart
        shown = f"{label[: -(-keep // 2)]}..{label[len(label) - keep // 2 :]}"
    return (shown if font.getlength(shown) <= width else "", font)


def _strip(labels: Sequence[tuple[str, Any]], shape: tuple[int, ...], height: int) -> Pixels:
    """Labels, each in its font, centred above each image."""
    import numpy as np
    import PIL.Image
    from PIL import ImageDraw

    width, channels = shape[1], shape[2]
    strip = PIL.Image.new("L", (width * len(labels), height), 255)
    draw = ImageDraw.Draw(strip)
    for i, (label, font) in enumerate(labels):
        draw.text((width * i + width // 2, height // 2), label, fill=0, font=font, anchor="mm")
    grey = np.asarray(strip)[:, :, None]
    if channels in (2, 4):  # the last is alpha
        opaque = np.full_like(grey, 255)
        return np.concatenate([grey.repeat(channels - 1, axis=2), opaque], axis=2)
    return grey.repeat(channels, axis=2)
