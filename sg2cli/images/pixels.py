"""Conversion between the output of a network and 8-bit pixels.

Pixels are an array [H,W,C] of uint8 with 1 to 4 channels: grey, grey and alpha, RGB, RGBA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def to_pixels(images: Tensor) -> Pixels:
    """[N,C,H,W] in -1..1 -> [N,H,W,C] uint8, clamped and rounded as in NVIDIA's scripts.

    Sg2Error if a value is not finite.
    """
    import torch

    if not images.isfinite().all():
        raise Sg2Error(
            "the network drew NaN or infinity: the latent holds them or is too far from the mean, "
            "or the `precision` is too low"
        )
    pixels = (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def to_tensor(images: Pixels, like: Tensor) -> Tensor:
    """[N,H,W,C] uint8 -> [N,C,H,W] of -1..1, with the dtype and device of `like`."""
    import torch

    return torch.from_numpy(images).to(like).permute(0, 3, 1, 2) / 127.5 - 1
