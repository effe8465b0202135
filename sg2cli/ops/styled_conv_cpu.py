"""`styled_conv` on a CPU, in float32, for weights that do not learn.

In channels_last, where oneDNN's convolutions are at their fastest, among them those with a filter
for each channel. Styles and demodulation multiply the weights where those are fewer than pixels,
and the filter: then only noise and activation are steps of their own, in place.

The gradient is that of x, styles and noise, and of no weight, out of x and the result alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sg2cli.ops.conv2d import convolve, convolve_back, energy
from sg2cli.ops.upfirdn2d import filter_kernel
from sg2cli.settings import ResampleFilter

LAST = torch.channels_last


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether this is the way for x and weight, gradients in the weight apart."""
    single = x.dtype == weight.dtype == torch.float32
    return x.device.type == "cpu" and single and torch.backends.mkldnn.is_available()


def styled_conv(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    bias: Tensor,
    noise: Tensor | None,
    taps: ResampleFilter | None,
    slope: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """See `sg2cli.ops.styled_conv`."""
    # A gain above 0 may as well go before the leaky ReLU.
    scale = (styles.square() @ energy(weight).T + 1e-8).rsqrt() * gain  # [N,O], eq. 2 squared
    if noise is not None:
        noise = noise.reshape(-1, 1, *noise.shape[-2:]) * gain
    x = x.contiguous(memory_format=LAST)
    return _StyledConv.apply(x, weight, styles, scale, bias * gain, noise, _How(taps, slope, clamp))


class _How(NamedTuple):
    taps: ResampleFilter | None
    slope: float
    clamp: float | None


class _StyledConv(torch.autograd.Function):
    """x [N,I,H,W], weight [O,I,3,3], styles [N,I], scale [N,O], bias [O], noise [N|1,1,uH,uW].

    -> [N,O,uH,uW]; u is 2 where it upsamples, else 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        styles: Tensor,
        scale: Tensor,
        bias: Tensor,
        noise: Tensor | None,
        how: _How,
    ) -> Tensor:
        taps, slope, clamp = how
        if _own_weights(x, weight):
            parts = zip(x.split(1), styles[:, None, :, None, None], scale, strict=True)
            y = _joined(
                (
                    blur(_upconv(one, weight * s), taps, factor, bias)
                    if taps
                    else convolve(one, weight * (s * factor[:, None, None, None]), bias)
                    for one, s, factor in parts
                ),
                len(x),
            )
        else:
            scaled = x * styles[:, :, None, None]
            if taps:
                y = blur(_upconv(scaled, weight), taps)
            else:
                y = convolve(scaled, weight)
            y.mul_(scale[:, :, None, None]).add_(bias[:, None, None])
        if noise is not None:
            y.add_(noise)
        if slope != 1:
            F.leaky_relu_(y, slope)
        if clamp is not None:
            y.clamp_(-clamp, clamp)
        ctx.save_for_backward(x, weight, styles, scale, bias, noise, y)
        ctx.how = how
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, styles, scale, bias, noise, y = ctx.saved_tensors
        taps, slope, clamp = ctx.how
        d = dy.contiguous(memory_format=LAST)
        if clamp is not None:
            d = torch.ops.aten.hardtanh_backward(d, y, -clamp, clamp)
        # scale * dscale is the sum over the convolution's result times its gradient. That result
        # is y less slope, bias and noise; the slope cancels out.
        total = (d * y).sum(dim=(2, 3))
        if slope != 1:
            d = torch.ops.aten.leaky_relu_backward(d, y, slope, True)
        pixels = d.permute(0, 2, 3, 1).flatten(1, 2)  # [N,HW,O]
        total -= bias * pixels.sum(dim=1)
        dnoise = None
        if noise is not None:
            total -= (noise.flatten(1)[:, None] @ pixels)[:, 0]
            dnoise = pixels.sum(dim=2).view(len(y), 1, *y.shape[2:]).sum_to_size(noise.shape)
        dscale = total / scale
        if _own_weights(x, weight):
            dx = _joined(
                (
                    F.conv2d(blur_back(one, taps, factor), weight.transpose(0, 1), stride=2)
                    if taps
                    else convolve_back(one, weight * factor[:, None, None, None])
                    for one, factor in zip(d.split(1), scale, strict=True)
                ),
                len(x),
            )
        else:
            d = d * scale[:, :, None, None]
            if taps:
                dx = F.conv2d(blur_back(d, taps), weight.transpose(0, 1), stride=2)
            else:
                dx = convolve_back(d, weight)
        dstyles = (dx * x).sum(dim=(2, 3))
        dx = dx.mul_(styles[:, :, None, None])
        return dx, None, dstyles, dscale, None, dnoise, None


def _own_weights(x: Tensor, weight: Tensor) -> bool:
    """Whether each picture has weights of its own: where they are fewer than its numbers in x."""
    return 9 * len(weight) <= x.shape[2] * x.shape[3]


def _upconv(x: Tensor, weight: Tensor) -> Tensor:
    """Zero insertion and convolution: x [N,I,H,W], weight [O,I,3,3] -> [N,O,2H+1,2W+1]."""
    return F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)


def _joined(parts: Iterator[Tensor], n: int) -> Tensor:
    """A batch of n pictures, of which no more than one is there twice."""
    first = next(parts)
    if n == 1:
        return first
    batch = torch.empty((n, *first.shape[1:]), dtype=first.dtype, memory_format=LAST)
    batch[:1] = first
    del first
    for k, part in enumerate(parts, 1):
        batch[k : k + 1] = part
    return batch


def blur(
    t: Tensor, taps: ResampleFilter, scale: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Each channel filtered, with a gain of 4: t [N,O,2H+1,2W+1] -> scale * t + bias [N,O,2H,2W].

    scale and bias [O]
    """
    kernel = _kernels(taps, t.shape[1], t.dtype)
    if scale is not None:
        kernel = kernel * scale[:, None, None, None]
    return F.conv2d(t, kernel, bias, padding=kernel.shape[-1] // 2 - 1, groups=t.shape[1])


def blur_back(d: Tensor, taps: ResampleFilter, scale: Tensor | None = None) -> Tensor:
    """The gradient of t: d [N,O,2H,2W], scale [O] -> [N,O,2H+1,2W+1]."""
    kernel = _kernels(taps, d.shape[1], d.dtype).flip(2, 3)
    if scale is not None:
        kernel = kernel * scale[:, None, None, None]
    return F.conv2d(d, kernel, padding=kernel.shape[-1] // 2, groups=d.shape[1])


@lru_cache(maxsize=64)
def _kernels(taps: ResampleFilter, channels: int, dtype: torch.dtype) -> Tensor:
    """[O,1,f,f], as `conv2d` takes it, times 4 for the zeros that were inserted; f is even."""
    with torch.inference_mode(False):  # what is kept must do for gradients, too
        f = 4 * filter_kernel(taps, dtype, torch.device("cpu")).flip(0, 1)
        odd = len(f) % 2
        return F.pad(f, (0, odd, 0, odd)).repeat(channels, 1, 1, 1)
