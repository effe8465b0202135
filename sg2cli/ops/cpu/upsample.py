"""Upsampling of images without the zeros: convolutions of few channels waste work."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sg2cli.ops.tensors import first_order
from sg2cli.settings import ResampleFilter

# What the two pixels that a pixel becomes take of the one before it, of itself, and of the next.
Phases = tuple[tuple[float, float, float], tuple[float, float, float]]


def upsample2d(x: Tensor, taps: ResampleFilter) -> Tensor:
    """Twice the size: x [N,C,H,W] -> [N,C,2H,2W]. The filter is separable, of up to 4 taps."""
    return _Upsample.apply(x, phases(taps))


def phases(taps: ResampleFilter) -> Phases:
    """Of zero insertion and the filter, along one dimension."""
    weights = [float(tap) for tap in taps]  # type: ignore[arg-type]

    def factor(phase: int, place: int) -> float:
        k = phase + len(taps) // 2 - 1 - 2 * place
        return 2 * weights[k] / sum(weights) if 0 <= k < len(taps) else 0.0

    first, second = (tuple(factor(phase, place) for place in (-1, 0, 1)) for phase in (0, 1))
    return first, second  # type: ignore[return-value]


class _Upsample(torch.autograd.Function):
    """Columns, then rows. Of slices autograd would make an image of zeros each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, phases: Phases) -> Tensor:
        ctx.phases = phases
        for dim in (2, 3):
            y = x.new_empty(*x.shape[: dim + 1], 2, *x.shape[dim + 1 :])
            for pixel, factors in zip(y.unbind(dim + 1), phases, strict=True):
                _weighted_sum(x, dim, factors, pixel)
            x = y.flatten(dim, dim + 1)
        return x

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        for dim in (3, 2):
            pixels = dy.unflatten(dim, (-1, 2)).unbind(dim + 1)  # type: ignore[no-untyped-call]
            first, second = (
                _weighted_sum(pixel, dim, factors[::-1], torch.empty_like(pixel))
                for pixel, factors in zip(pixels, ctx.phases, strict=True)
            )
            dy = first.add_(second)
        return dy, None


def _weighted_sum(x: Tensor, dim: int, factors: tuple[float, ...], y: Tensor) -> Tensor:
    """Into y: for each place along `dim` the sum of the one before it, itself and the next."""
    before, own, after = factors
    torch.mul(x, own, out=y)
    n = x.shape[dim] - 1
    if before:
        y.narrow(dim, 1, n).add_(x.narrow(dim, 0, n), alpha=before)
    if after:
        y.narrow(dim, 0, n).add_(x.narrow(dim, 1, n), alpha=after)
    return y
