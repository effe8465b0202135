"""A layer of the synthesis network: modulated convolution, noise, bias, activation, clamp.

This chooses how it is computed, and is the only place that does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sg2cli.ops import styled_conv_cpu
from sg2cli.ops.bias_act import bias_act
from sg2cli.ops.modulated_conv2d import HALF, modulated_conv2d
from sg2cli.ops.upfirdn2d import filter_kernel
from sg2cli.settings import ResampleFilter


def styled_conv(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    bias: Tensor,
    noise: Tensor | None = None,
    taps: ResampleFilter | None = None,
    slope: float = 1.0,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """clamp(gain * leaky_relu(modulated_conv2d(x) + noise + bias)) (StyleGAN2 fig. 2c).

    x [N,I,H,W], weight [O,I,3,3], styles [N,I], bias [O] -> [N,O,H,W]; with a filter's taps it
    upsamples, to [N,O,2H,2W]. Noise [H,W], [1,1,H,W] or [N,1,H,W] of the result, strength and all.
    """
    if _by_cpu(x, weight, bias, taps):
        y, _ = styled_conv_cpu.styled_conv(x, weight, styles, bias, noise, taps, slope, gain, clamp)
        assert y is not None
        return y
    return styled_conv_reference(x, weight, styles, bias, noise, taps, slope, gain, clamp)


def styled_conv_rgb(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    bias: Tensor,
    noise: Tensor | None,
    slope: float,
    gain: float,
    clamp: float | None,
    rgb_weight: Tensor,
    rgb_styles: Tensor,
    keep: bool = True,
) -> tuple[Tensor | None, Tensor]:
    """`styled_conv`, and `to_rgb` of its result: [N,O,H,W] (None unless `keep`), [N,C,H,W].

    rgb_weight [C,O,1,1], rgb_styles [N,O].
    """
    if _by_cpu(x, weight, bias, None):
        own = rgb_weight.flatten(1) * rgb_styles[:, None]  # [N,C,O]
        y, rgb = styled_conv_cpu.styled_conv(
            x, weight, styles, bias, noise, None, slope, gain, clamp, own, keep
        )
        assert rgb is not None
        return y, rgb
    y = styled_conv_reference(x, weight, styles, bias, noise, None, slope, gain, clamp)
    return y, to_rgb(y, rgb_weight, rgb_styles)


def _by_cpu(x: Tensor, weight: Tensor, bias: Tensor, taps: ResampleFilter | None) -> bool:
    learns = torch.is_grad_enabled() and (weight.requires_grad or bias.requires_grad)
    return styled_conv_cpu.serves(x, weight, taps) and not learns


def to_rgb(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """A 1x1 convolution, modulated and not demodulated: x [N,I,H,W] -> [N,C,H,W].

    weight [C,I,1,1], styles [N,I]
    """
    if x.dtype in HALF:
        return modulated_conv2d(x, weight, styles, demodulate=False)
    # So few weights that each picture may have its own, which reads x but once.
    own = weight.flatten(1) * styles[:, None]  # [N,C,I]
    return torch.bmm(own, x.flatten(2)).view(len(x), -1, *x.shape[2:])


def styled_conv_reference(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    bias: Tensor,
    noise: Tensor | None = None,
    taps: ResampleFilter | None = None,
    slope: float = 1.0,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """`styled_conv` in torch's own operations: any device, precision and gradient."""
    f = filter_kernel(taps, x.dtype, x.device) if taps else None
    x = modulated_conv2d(x, weight, styles, f)
    if noise is not None:
        x = x + noise.to(x.dtype)
    return bias_act(x, bias, slope, gain, clamp)
