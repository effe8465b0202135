"""A layer of the synthesis network: modulated convolution, noise, bias, activation, clamp.

`styled_conv` chooses how it is computed, and is the only place that does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sg2cli.ops import styled_conv_cpu
from sg2cli.ops.bias_act import bias_act
from sg2cli.ops.modulated_conv2d import modulated_conv2d
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
    learns = torch.is_grad_enabled() and (weight.requires_grad or bias.requires_grad)
    if styled_conv_cpu.serves(x, weight, taps) and not learns:
        return styled_conv_cpu.styled_conv(x, weight, styles, bias, noise, taps, slope, gain, clamp)
    return styled_conv_reference(x, weight, styles, bias, noise, taps, slope, gain, clamp)


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
