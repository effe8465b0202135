"""The modulated convolution, plain and upsampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sg2cli.ops.upfirdn2d import upfirdn2d

HALF = (torch.float16, torch.bfloat16)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
) -> Tensor:
    """Convolve each sample with weights scaled by its own style (StyleGAN2 section 2.2, eq. 1-3).

    x [N,I,H,W], weight [O,I,k,k], styles [N,I] -> [N,O,H,W]; with a filter [f,f] and a 3x3 weight
    it upsamples, to [N,O,2H,2W].

    Scales activations, not weights: same result, one dense convolution instead of N groups,
    and no weight gradient when only the styles are optimised.
    """
    styles, weight, scale = modulation(x.dtype, weight, styles, demodulate)
    x = x * styles.to(x.dtype)[:, :, None, None]
    y = _convolve(x, weight.to(x.dtype), resample_filter)
    return y * scale.to(y.dtype)[:, :, None, None]


def modulation(
    dtype: torch.dtype, weight: Tensor, styles: Tensor, demodulate: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """What scales the activations before the convolution, its weight, and what scales its result.

    weight [O,I,k,k], styles [N,I] -> styles [N,I], weight [O,I,k,k], scale [N,O] or [N,1]

    In half precision the convolution sees styles of at most 1 and weights small enough that no
    sum overflows; what that takes away comes back, in float32, with the demodulation.
    """
    scale = torch.ones_like(styles[:, :1])
    if demodulate:
        energy = styles.square() @ weight.square().sum(dim=(2, 3)).T  # [N,O], eq. 2 squared
        scale = (energy + 1e-8).rsqrt()
    if dtype in HALF:
        fan_in = weight[0].numel()
        style_max = styles.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)  # [N,1]
        weight_max = weight.abs().amax().clamp_min(1e-8) * fan_in**0.5
        styles, weight = styles / style_max, weight / weight_max
        scale = scale * (style_max * weight_max)
    return styles, weight, scale


def _convolve(x: Tensor, weight: Tensor, resample_filter: Tensor | None) -> Tensor:
    if resample_filter is None:
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    # Insert zeros, convolve, filter: the first two are a transposed convolution, 2H + 1 wide.
    taps = resample_filter.shape[-1]
    x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    return upfirdn2d(x, resample_filter, 1, ((taps + 1) // 2 - 1, (taps - 2) // 2), gain=4)
