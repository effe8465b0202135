"""Zero insertion, padding and a FIR filter: the resampling of StyleGAN2 (appendix B).

A filter is a tensor [f,f] that sums to 1. It is convolved in the mathematical sense, that is
flipped against `torch.nn.functional.conv2d`, which matters for asymmetric ones.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from sg2cli.settings import ResampleFilter


@lru_cache(maxsize=64)
def filter_kernel(taps: ResampleFilter, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The kernel [f,f], sum 1, of taps [f] (for both directions) or [f][f]; one copy is shared."""
    f = torch.tensor(taps, dtype=torch.float64, device="cpu")
    if f.ndim == 1:
        f = torch.outer(f, f)
    return (f / f.sum()).to(device, dtype)


def upfirdn2d(
    x: Tensor, f: Tensor, up: int = 1, padding: tuple[int, int] = (0, 0), gain: float = 1.0
) -> Tensor:
    """Insert zeros, pad by (before, after) in both directions, filter.

    x [N,C,H,W], f [f,f] -> [N,C,up*H+before+after-f+1,...]. Negative padding crops.
    """
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(n, c, h * up, w * up)
    x = F.pad(x, (*padding, *padding))
    kernel = (f * gain).flip(0, 1).expand(c, 1, -1, -1)
    return F.conv2d(x, kernel, groups=c)


@lru_cache(maxsize=16)
def polyphase(taps: ResampleFilter, size: int) -> Tensor:
    """Zero insertion and a filter of up to 4 taps as 3x3 kernels: [4,size*size,9].

    A kernel [size,size] (1 or 3), flat, times this is the kernel that gives, from the picture as it
    was before zeros were inserted, the pixel (0,0), (0,1), (1,0) or (1,1) of each 2x2.
    """
    with torch.inference_mode(False):  # what is kept must do for gradients, too
        f = 4 * filter_kernel(taps, torch.float64, torch.device("cpu"))
        last = len(f) // 2 + (size - 3) // 2  # the filter is centred on the kernel's result
        spread = torch.zeros(2, 2, size, size, 3, 3, dtype=torch.float64)
        places = [
            (phase, a, d, k)
            for phase, a, d in product(range(2), range(size), range(3))
            if 0 <= (k := phase + last - a - 2 * (d - 1)) < len(f)
        ]
        for (py, ay, dy, ky), (px, ax, dx, kx) in product(places, places):
            spread[py, px, ay, ax, dy, dx] = f[ky, kx]
        return spread.view(4, size * size, 9)


def upsample2d(x: Tensor, taps: ResampleFilter) -> Tensor:
    """Twice the size, brightness kept: x [N,C,H,W] -> [N,C,2H,2W]."""
    n, c, h, w = x.shape
    if len(taps) > 4 or x.device.type != "cpu":
        f = filter_kernel(taps, x.dtype, x.device)
        return upfirdn2d(x, f, up=2, padding=((len(f) + 1) // 2, (len(f) - 2) // 2), gain=4)
    # Each pixel of a 2x2 by itself, without the zeros: a picture of few channels is no work for a
    # convolution.
    x = F.pad(x, (1, 1, 1, 1))
    pixels = []
    for kernel in polyphase(taps, 1).view(4, 9).tolist():
        pixel = torch.zeros_like(x[..., 1:-1, 1:-1])
        for i, factor in enumerate(kernel):
            if factor:
                top, left = divmod(i, 3)
                pixel = pixel.add(x[..., top : top + h, left : left + w], alpha=factor)
        pixels.append(pixel)
    return F.pixel_shuffle(torch.stack(pixels, dim=2).flatten(1, 2), 2)
