"""ToRGB, fully connected layers and the distance of LPIPS in compiled code, without autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from sg2cli.ops.cpu.kernels_distance import DistanceArguments, DistanceBackArguments
from sg2cli.ops.cpu.kernels_pixels import (
    LinearArguments,
    LinearBackArguments,
    PixelsArguments,
    PixelsBackArguments,
)
from sg2cli.ops.cpu.runtime import kernel

SIZES = ("images", "channels", "height", "width")


def pixels(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """x [N,I,H,W] times weight [N,C,I], into y [N,C,H,W], of which rows follow each other."""
    weight = weight.contiguous()
    outputs = weight.shape[1]
    if y.stride(3) != 1 or y.stride(2) != y.shape[3]:
        raise ValueError(f"y must have contiguous images; its strides are {y.stride()}")
    kernel("kernels_pixels", "pixels", outputs)(
        PixelsArguments(
            **dict(zip(SIZES, x.shape, strict=True)),
            outputs=outputs,
            x=x,
            weight=weight,
            y=y,
            y_image=y.stride(0),
            y_channel=y.stride(1),
        )
    )
    return y


def pixels_backward(x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight."""
    n, channels, height, _ = x.shape
    outputs, dx = weight.shape[1], torch.empty_like(x)
    sums = x.new_empty(n, height, outputs, channels)
    kernel("kernels_pixels", "pixels_back", outputs)(
        PixelsBackArguments(
            **dict(zip(SIZES, x.shape, strict=True)),
            outputs=outputs,
            x=x,
            weight=weight,
            dy=dy.contiguous(),
            dx=dx,
            sums=sums,
        )
    )
    return dx, sums.sum(dim=1)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [N,I], weight [O,I] -> [N,O]."""
    x, weight = x.contiguous(), weight.contiguous()
    (n, inputs), outputs = x.shape, weight.shape[0]
    y = x.new_empty(n, outputs)
    kernel("kernels_pixels", "linear")(LinearArguments(n, inputs, outputs, x, weight, y))
    return y


def linear_backward(dy: Tensor, weight: Tensor) -> Tensor:
    """dy [N,O], weight [O,I] -> [N,I]."""
    dy, weight = dy.contiguous(), weight.contiguous()
    n, (outputs, inputs) = dy.shape[0], weight.shape
    dx = dy.new_empty(n, inputs)
    kernel("kernels_pixels", "linear_back")(LinearBackArguments(n, inputs, outputs, dy, weight, dx))
    return dx


def distance(a: Tensor, b: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The distances [N], and the lengths that their gradient needs."""
    n, _, height, width = a.shape
    sums, lengths = a.new_empty(n, height), a.new_empty(n, height, width, 2)
    kernel("kernels_distance", "distance")(
        DistanceArguments(
            **dict(zip(SIZES, a.shape, strict=True)),
            a=a,
            b=b,
            b_shared=int(len(b) != n),
            weight=weight,
            lengths=lengths,
            sums=sums,
        )
    )
    return sums.sum(dim=1) / (height * width), lengths


def distance_backward(
    a: Tensor, b: Tensor, weight: Tensor, lengths: Tensor, factor: Tensor
) -> Tensor:
    """The gradient of a, for factors [N] of the images."""
    da = torch.empty_like(a)
    kernel("kernels_distance", "distance_back")(
        DistanceBackArguments(
            **dict(zip(SIZES, a.shape, strict=True)),
            a=a,
            b=b,
            b_shared=int(len(b) != len(a)),
            weight=weight,
            lengths=lengths,
            factor=factor,
            da=da,
        )
    )
    return da
