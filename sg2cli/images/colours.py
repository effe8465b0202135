"""Conversion of images of any mode to opaque sRGB with 8 bits per channel."""

from __future__ import annotations

import io
from typing import Any

SIGNED, WHITE_IS_ZERO = 2, 0  # values of a TIFF's SampleFormat and PhotometricInterpretation


def flatten(strip: Any, whole: Any, mode: str, background: str, to_srgb: dict[str, Any]) -> Any:
    """Opaque sRGB with 8 bits per channel, in mode 'RGB' or 'L'."""
    import PIL.Image

    strip, alpha = _without_alpha(_in_8_bits(strip, whole))
    shown = _in_srgb(strip, to_srgb)
    if alpha is not None:
        behind = PIL.Image.new("RGB", shown.size, background)
        behind.paste(shown, mask=alpha)
        shown = behind
    return shown if shown.mode == mode else shown.convert("RGB").convert(mode)


def _without_alpha(image: Any) -> tuple[Any, Any]:
    """The image in a mode that ICC profiles describe, grey, RGB or CMYK, and its alpha.

    Palettes and transparent colours are resolved before any profile is applied.
    """
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("LA" if grey else "RGBA")
        return image.convert("L" if grey else "RGB"), image.getchannel("A")
    if image.mode == "CMYK":
        return image, None
    return image.convert("L" if grey else "RGB"), None


def _in_8_bits(strip: Any, whole: Any) -> Any:
    """Convert images of 12 to 32 bits per channel, which Pillow would clip at 255."""
    import numpy as np
    import PIL.Image
    from PIL import TiffImagePlugin

    fields = getattr(whole, "tag_v2", {})  # of a TIFF
    if SIGNED in fields.get(TiffImagePlugin.SAMPLEFORMAT, ()):
        raise ValueError("it has signed values, whose black level is not defined")
    if not strip.mode.startswith(("I", "F")):
        return strip
    values = np.asarray(strip).astype(np.float64)
    (bits, *_) = fields.get(TiffImagePlugin.BITSPERSAMPLE, (16,))
    highest = 1.0 if strip.mode == "F" else 2.0**bits - 1
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity")
    if values.min() < 0 or values.max() > highest:
        raise ValueError(f"its values are not in the range 0 to {highest:g}")
    if fields.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
        values = highest - values  # Pillow inverts only 8-bit images
    grey = PIL.Image.fromarray((values * (255 / highest) + 0.5).astype(np.uint8))
    transparent = strip.info.get("transparency")
    if isinstance(transparent, int):  # one shade
        grey.putalpha(PIL.Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def embedded_profile(image: Any) -> dict[str, Any]:
    """The embedded profile for `flatten`, which adds the transforms by mode."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile:
        return {}
    try:
        return {"profile": ImageCms.ImageCmsProfile(io.BytesIO(profile))}
    except (OSError, ImageCms.PyCMSError):
        return {}


def _in_srgb(strip: Any, to_srgb: dict[str, Any]) -> Any:
    """Apply the embedded profile; one that cannot be used is ignored."""
    from PIL import ImageCms

    if not to_srgb:
        return strip
    try:
        if strip.mode not in to_srgb:
            own, srgb = to_srgb["profile"], ImageCms.createProfile("sRGB")
            to_srgb[strip.mode] = ImageCms.buildTransform(own, srgb, strip.mode, "RGB")
        return ImageCms.applyTransform(strip, to_srgb[strip.mode]) or strip
    except (OSError, ImageCms.PyCMSError):
        return strip  # as viewers do with a profile that they cannot read
