"""Zero insertion, padding and a FIR filter: the resampling of StyleGAN2 (appendix B).

A filter is a tensor [f,f] that sums to 1. It is convolved in the mathematical sense, that is
flipped against `torch.nn.functional.conv2d`, which matters for asymmetric ones.
"""

from __future__ import annotations

from functools import lru_cache

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


def upsample2d(x: Tensor, f: Tensor) -> Tensor:
    """Twice the size, brightness kept: x [N,C,H,W] -> [N,C,2H,2W]."""
    taps = f.shape[-1]
    return upfirdn2d(x, f, up=2, padding=((taps + 1) // 2, (taps - 2) // 2), gain=4)
