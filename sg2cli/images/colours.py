"""Images of any mode in 8 bits a channel, in sRGB and without transparency."""

from __future__ import annotations

import io
from typing import Any

SIGNED, WHITE_IS_ZERO = 2, 0  # values of a TIFF's SampleFormat and PhotometricInterpretation


def flatten(strip: Any, whole: Any, mode: str, background: str, to_srgb: dict[str, Any]) -> Any:
    """In 8 bits a channel, sRGB, opaque: 'RGB', or 'L' of it."""
    import PIL.Image

    strip, alpha = _without_alpha(_in_8_bits(strip, whole))
    shown = _in_srgb(strip, to_srgb)
    if alpha is not None:
        behind = PIL.Image.new("RGB", shown.size, background)
        behind.paste(shown, mask=alpha)
        shown = behind
    return shown if shown.mode == mode else shown.convert("RGB").convert(mode)


def _without_alpha(image: Any) -> tuple[Any, Any]:
    """In a mode that an ICC profile may be of, grey, RGB or CMYK; and how opaque it is.

    A palette's numbers, or those of a colour that is said to be transparent, are meant before any
    profile is applied.
    """
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("LA" if grey else "RGBA")
        return image.convert("L" if grey else "RGB"), image.getchannel("A")
    if image.mode == "CMYK":
        return image, None
    return image.convert("L" if grey else "RGB"), None


def _in_8_bits(strip: Any, whole: Any) -> Any:
    """Images of 12 to 32 bits a pixel, which Pillow would cut off at 255."""
    import numpy as np
    import PIL.Image
    from PIL import TiffImagePlugin

    fields = getattr(whole, "tag_v2", {})  # of a TIFF
    if SIGNED in fields.get(TiffImagePlugin.SAMPLEFORMAT, ()):
        raise ValueError("its numbers may be below zero, so that nobody knows what is black")
    if not strip.mode.startswith(("I", "F")):
        return strip
    values = np.asarray(strip).astype(np.float64)
    (bits, *_) = fields.get(TiffImagePlugin.BITSPERSAMPLE, (16,))
    highest = 1.0 if strip.mode == "F" else 2.0**bits - 1
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity")
    if values.min() < 0 or values.max() > highest:
        raise ValueError(f"its values are not of 0 to {highest:g}")
    if fields.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
        values = highest - values  # which Pillow does for 8 bits only
    grey = PIL.Image.fromarray((values * (255 / highest) + 0.5).astype(np.uint8))
    transparent = strip.info.get("transparency")
    if isinstance(transparent, int):  # one shade
        grey.putalpha(PIL.Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def embedded_profile(image: Any) -> dict[str, Any]:
    """For `flatten`: the embedded profile, and by mode the transforms that are made of it."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile:
        return {}
    try:
        return {"profile": ImageCms.ImageCmsProfile(io.BytesIO(profile))}
    except (OSError, ImageCms.PyCMSError):
        return {}


def _in_srgb(strip: Any, to_srgb: dict[str, Any]) -> Any:
    """Colours as the embedded profile means them; one that cannot be used is left alone."""
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
