"""Pixels: what a network draws, as 8-bit images.

An image is an array [H,W,C] of uint8 with 1 to 4 channels: grey, grey and alpha, RGB, RGBA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def to_pixels(images: Tensor) -> Pixels:
    """[N,C,H,W], of which -1..1 is shown -> [N,H,W,C] uint8, rounded as NVIDIA's scripts do.

    Sg2Error when a value is not finite: no image is better than a wrong one.
    """
    import torch

    if not images.isfinite().all():
        raise Sg2Error(
            "the network drew NaN or infinity: a latent that holds them or is too far out, "
            "or too low a --precision"
        )
    pixels = (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def to_tensor(images: Pixels, like: Tensor) -> Tensor:
    """[N,H,W,C] uint8 -> [N,C,H,W] of -1..1, with the dtype and device of `like`."""
    import torch

    return torch.from_numpy(images).to(like).permute(0, 3, 1, 2) / 127.5 - 1
