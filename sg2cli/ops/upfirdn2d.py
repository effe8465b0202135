"""Zero insertion, padding and a FIR filter: the resampling of StyleGAN2 (appendix B).

A filter is a tensor [f,f] that sums to 1. It is convolved in the mathematical sense, that is
flipped against `torch.nn.functional.conv2d`, which matters for asymmetric ones.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sg2cli.ops.tensors import first_order, is_intercepted, is_plain
from sg2cli.settings import ResampleFilter


def filter_kernel(taps: ResampleFilter, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The kernel [f,f], sum 1, of taps [f] (for both directions) or [f][f]; one copy is shared."""
    if is_intercepted():  # what is made under a tracer belongs to it
        return _filter_kernel(taps, dtype, device)
    with torch.inference_mode(False):
        return _shared_filter_kernel(taps, dtype, device)


def _filter_kernel(taps: ResampleFilter, dtype: torch.dtype, device: torch.device) -> Tensor:
    f = torch.tensor(taps, dtype=torch.float64, device="cpu")
    if f.ndim == 1:
        f = torch.outer(f, f)
    return (f / f.sum()).to(device, dtype)


_shared_filter_kernel = lru_cache(maxsize=64)(_filter_kernel)


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


def upsample2d(x: Tensor, taps: ResampleFilter) -> Tensor:
    """Twice the size, brightness kept: x [N,C,H,W] -> [N,C,2H,2W]."""
    if (
        x.dtype == torch.float32
        and len(taps) <= 4
        and not isinstance(taps[0], tuple)
        and is_plain(x)
    ):
        return _Upsample.apply(x, _phases(taps))
    f = filter_kernel(taps, x.dtype, x.device)
    return upfirdn2d(x, f, up=2, padding=((len(f) + 1) // 2, (len(f) - 2) // 2), gain=4)


# What the two pixels that a pixel becomes take of the one before it, of itself, and of the next.
Phases = tuple[tuple[float, float, float], tuple[float, float, float]]


def _phases(taps: ResampleFilter) -> Phases:
    """Of zero insertion and a filter of up to 4 taps, along one dimension."""

    weights = [float(tap) for tap in taps]  # type: ignore[arg-type]

    def factor(phase: int, place: int) -> float:
        k = phase + len(taps) // 2 - 1 - 2 * place
        return 2 * weights[k] / sum(weights) if 0 <= k < len(taps) else 0.0

    first, second = (tuple(factor(phase, place) for place in (-1, 0, 1)) for phase in (0, 1))
    return first, second  # type: ignore[return-value]


class _Upsample(torch.autograd.Function):
    """Rows, then columns, without the zeros: a picture of few channels is no work for convolutions,
    and of slices autograd makes a picture of zeros each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, phases: Phases) -> Tensor:
        ctx.phases = phases
        for dim in (2, 3):
            y = x.new_empty(*x.shape[: dim + 1], 2, *x.shape[dim + 1 :])
            for pixel, factors in zip(y.unbind(dim + 1), phases, strict=True):
                _weighed(x, dim, factors, pixel)
            x = y.flatten(dim, dim + 1)
        return x

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        for dim in (3, 2):
            pixels = dy.unflatten(dim, (-1, 2)).unbind(dim + 1)  # type: ignore[no-untyped-call]
            first, second = (
                _weighed(pixel, dim, factors[::-1], torch.empty_like(pixel))
                for pixel, factors in zip(pixels, ctx.phases, strict=True)
            )
            dy = first.add_(second)
        return dy, None


def _weighed(x: Tensor, dim: int, factors: tuple[float, ...], y: Tensor) -> Tensor:
    """Into y: for each place along `dim` of x the sum of the one before, itself and the next."""
    before, own, after = factors
    torch.mul(x, own, out=y)
    n = x.shape[dim] - 1
    if before:
        y.narrow(dim, 1, n).add_(x.narrow(dim, 0, n), alpha=before)
    if after:
        y.narrow(dim, 0, n).add_(x.narrow(dim, 1, n), alpha=after)
    return y
