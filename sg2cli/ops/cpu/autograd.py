"""The operations of `sg2cli.ops.reference` in compiled code, with the gradients that they need.

Float32, and weights that take no gradient. Gradients are those of x, styles, noise and the like;
they have no derivatives themselves. Their kernels are compiled with the forward pass, so that
KernelUnavailable is raised while plain torch can still take over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sg2cli.ops.cpu import layers, products, runtime
from sg2cli.ops.cpu.convolution import convolve
from sg2cli.ops.cpu.epilogue import TAPS, Epilogue
from sg2cli.ops.cpu.runtime import LANES, LAST
from sg2cli.ops.cpu.weights import cached_transform, energy, pad, pad_both
from sg2cli.ops.cpu.winograd import SAME
from sg2cli.ops.reference import Layer, rgb_weights
from sg2cli.ops.tensors import any_requires_grad, first_order, saved
from sg2cli.settings import ResampleFilter


def is_short(taps: ResampleFilter | None) -> bool:
    """Whether a filter is one that is compiled: separable, of up to 4 taps."""
    return taps is None or (len(taps) <= TAPS and not isinstance(taps[0], tuple))


def fits(*channels: int) -> bool:
    """Whether these are whole vectors."""
    return not any(count % LANES for count in channels)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """A row comes out the same in any batch; linear algebra libraries round by the batch."""
    if any_requires_grad(x):
        runtime.kernel("kernels_pixels", "linear_back")
    return _Linear.apply(x, weight)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return products.linear(x, weight)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (weight,) = saved(ctx)
        return products.linear_backward(dy, weight), None


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, slope: float = 1.0) -> Tensor:
    """Channels are padded with zeros up to a multiple of those that are computed together."""
    if any_requires_grad(x):
        runtime.kernel("kernels_winograd", "convolution", SAME, slope, 1.0)
    return _Conv3x3.apply(x, weight, bias, slope)


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
        if bias is not None:
            bias = pad(bias, 0)
        rows, epilogue = slice(0, x.shape[2]), Epilogue(bias=bias, slope=slope)
        x = pad(x, 1).contiguous(memory_format=LAST)
        padded = cached_transform(weight, pad_both)
        y = convolve(SAME, x, padded, rows, x.shape[3], epilogue=epilogue)
        ctx.save_for_backward(weight, None if slope == 1 else y)  # nothing of x
        ctx.slope = slope
        return y[:, : weight.shape[0]]

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        weight, y = saved(ctx)
        rows, width = slice(0, dy.shape[2]), dy.shape[3]
        dy = pad(dy, 1).contiguous(memory_format=LAST)
        back = cached_transform(weight, pad_both).transpose(0, 1)
        dx = convolve(SAME, dy, back, rows, width, signs=y, slope=ctx.slope, turned=True)
        return dx[:, : weight.shape[1]], None, None, None


def styled_conv(x: Tensor, *given: Any) -> Tensor:
    """x [N,I,H,W] and what is in a `Layer` -> [N,O,H,W] or [N,O,2H,2W]."""
    layer = Layer(*given)
    if any_requires_grad(x, layer.styles, layer.noise):
        layers.prepare_backward(layer.taps, layer.slope)
    x = x.contiguous(memory_format=LAST)
    n, _, h, w = x.shape
    u = 2 if layer.taps else 1
    styles, epilogue = layer.styles.expand(n, -1), _epilogue(layer, n, u * h, u * w)
    return _StyledConv.apply(x, layer.weight, styles, layer.taps, *epilogue)


class _StyledConv(torch.autograd.Function):
    """x [N,I,H,W], weight [O,I,3,3], styles [N,I], scale [N,O], bias [O], noise [N|1,1,uH,uW]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        styles: Tensor,
        taps: ResampleFilter | None,
        *given: Any,
    ) -> Tensor:
        epilogue = Epilogue(*given)
        rows = slice(0, (2 if taps else 1) * x.shape[2])
        y = layers.forward(x, weight, styles, taps, epilogue, rows)
        ctx.save_for_backward(x, weight, styles, *epilogue[:3], y)
        ctx.constants = taps, *epilogue[3:]
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, styles, scale, bias, noise, y = saved(ctx)
        taps, slope, clamp = ctx.constants
        epilogue = Epilogue(scale, bias, noise, slope, clamp)
        dx, dstyles, dscale, dnoise = layers.backward(dy, x, weight, styles, taps, epilogue, y)
        return dx, None, dstyles, None, dscale, None, dnoise, None, None


def _epilogue(layer: Layer, n: int, height: int, width: int) -> Epilogue:
    """What makes a result of this size of the layer's convolution.

    A gain above 0 may as well come before the leaky ReLU.
    """
    squares = linear(layer.styles.square(), cached_transform(layer.weight, energy))
    scale = (squares + 1e-8).rsqrt()  # StyleGAN2 eq. 2
    noise = layer.noise
    if noise is not None:
        noise = noise.float().reshape(-1, 1, *noise.shape[-2:]) * layer.gain
        noise = noise.expand(-1, -1, height, width)
    scale = (scale * layer.gain).expand(n, -1)
    return Epilogue(scale, layer.bias.float() * layer.gain, noise, layer.slope, layer.clamp)


def styled_conv_rgb(
    x: Tensor, parts: Sequence[Layer], rgb_weight: Tensor, rgb_styles: Tensor
) -> Tensor:
    """ToRGB of one layer, or of two of which the first upsamples, without gradients."""
    x = x.contiguous(memory_format=LAST)
    n, _, h, w = x.shape
    height, width = len(parts) * h, len(parts) * w
    ready = [
        (
            layer.weight,
            layer.styles.expand(n, -1),
            layer.taps,
            _epilogue(layer, n, height, width),
        )
        for layer in parts
    ]
    return layers.rgb_of_layers(x, ready, rgb_weights(n, rgb_weight, rgb_styles))


def to_rgb(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """Reads x once for all channels of the image."""
    if any_requires_grad(x, weight, styles):
        runtime.kernel("kernels_pixels", "pixels_back", weight.shape[0])
    return _Pixels.apply(x, rgb_weights(x.shape[0], weight, styles))


class _Pixels(torch.autograd.Function):
    """x [N,I,H,W], weight [N,C,I] -> [N,C,H,W]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.contiguous(memory_format=LAST), weight.contiguous()
        ctx.save_for_backward(x, weight)
        return products.pixels(x, weight, x.new_empty(len(x), weight.shape[1], *x.shape[2:]))

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = saved(ctx)
        return products.pixels_backward(x, weight, dy)


def unit_distance(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """In two passes over memory, and three for the gradient: plain torch takes some twenty."""
    if any_requires_grad(a):
        runtime.kernel("kernels_distance", "distance_back")
    return _UnitDistance.apply(a, b, weight)


class _UnitDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        a, b = (t.contiguous(memory_format=LAST) for t in (a, b))
        weight = weight.flatten().contiguous()
        found, lengths = products.distance(a, b, weight)
        ctx.save_for_backward(a, b, weight, lengths)
        return found

    @staticmethod
    @first_order
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None]:
        a, b, weight, lengths = saved(ctx)
        factor = (d / a[0, 0].numel()).contiguous()
        return products.distance_backward(a, b, weight, lengths, factor), None, None
