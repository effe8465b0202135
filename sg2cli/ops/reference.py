"""The operations of the networks in plain torch: any device, precision and order of derivative.

This is the definition; the kernels in `sg2cli.ops.cpu` and `sg2cli.ops.cuda` are tested against it.
N is the batch, I and O are channels in and out, H and W the height and width.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sg2cli.ops.tensors import is_intercepted
from sg2cli.settings import ResampleFilter

HALF = (torch.float16, torch.bfloat16)
# Added to squared lengths and to lengths, so that zero vectors have a gradient.
SQUARE_EPSILON, LENGTH_EPSILON = 1e-20, 1e-10


class Layer(NamedTuple):
    """The arguments of `styled_conv` beside x."""

    weight: Tensor
    styles: Tensor
    bias: Tensor
    noise: Tensor | None = None
    taps: ResampleFilter | None = None
    slope: float = 1.0
    gain: float = 1.0
    clamp: float | None = None


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [N,I], weight [O,I] -> [N,O]."""
    return F.linear(x, weight)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, slope: float = 1.0) -> Tensor:
    """leaky_relu(conv2d(x) + bias): x [N,I,H,W], weight [O,I,3,3], bias [O] -> [N,O,H,W]."""
    y = F.conv2d(x, weight, bias, padding=1)
    return y if slope == 1 else F.leaky_relu(y, slope)


def bias_act(
    x: Tensor, b: Tensor, slope: float = 1.0, gain: float = 1.0, clamp: float | None = None
) -> Tensor:
    """clamp(gain * leaky_relu(x + b)): x [N,C,...], b [C] -> [N,C,...].

    Slope 0.2 is the leaky ReLU, 0 the ReLU, 1 no activation. The gain comes before the clamp,
    which cuts at -clamp and clamp.
    """
    x = x + b.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
    if slope != 1:
        x = F.leaky_relu(x, slope)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


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

    x [N,I,H,W], weight [O,I,3,3], styles [N|1,I], bias [O] -> [N,O,H,W]; with the taps of a filter
    it upsamples, to [N,O,2H,2W]. The noise [H,W], [1,1,H,W] or [N,1,H,W] is that of the result,
    already multiplied by its strength.
    """
    f = filter_kernel(taps, x.dtype, x.device) if taps else None
    x = modulated_conv2d(x, weight, styles, f)
    if noise is not None:
        x = x + noise.to(x.dtype)
    return bias_act(x, bias, slope, gain, clamp)


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

    Scales activations, not weights: same result, one dense convolution instead of N grouped ones,
    and no weight gradient when only the styles are optimised.
    """
    styles, weight, scale = modulation(x.dtype, weight, styles, demodulate)
    x = x * styles.to(x.dtype)[:, :, None, None]
    y = _convolve(x, weight.to(x.dtype), resample_filter)
    return y * scale.to(y.dtype)[:, :, None, None]


def modulation(
    dtype: torch.dtype, weight: Tensor, styles: Tensor, demodulate: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Scales of the activations before a convolution, its weight, and scales of its result.

    weight [O,I,k,k], styles [N,I] -> styles [N,I], weight [O,I,k,k], scale [N,O] or [N,1]

    In half precision, styles are normalised to at most 1 and weights so that no sum overflows; the
    scale, in float32, compensates.
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


def to_rgb(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """A modulated 1x1 convolution without demodulation: x [N,I,H,W] -> [N,C,H,W].

    weight [C,I,1,1], styles [N|1,I]
    """
    if x.dtype in HALF:
        return modulated_conv2d(x, weight, styles, demodulate=False)
    y = torch.bmm(rgb_weights(x.shape[0], weight, styles), x.flatten(2))
    return y.view(x.shape[0], -1, *x.shape[2:])


def rgb_weights(n: int, weight: Tensor, styles: Tensor) -> Tensor:
    """weight [C,I,1,1] scaled by styles [N|1,I] -> [N,C,I]: small enough to store per image."""
    return (weight.flatten(1) * styles[:, None]).expand(n, -1, -1)


def add_rgb(
    rgb: Tensor, bias: Tensor, clamp: float | None, img: Tensor | None, taps: ResampleFilter
) -> Tensor:
    """clamp(rgb + bias) + upsample2d(img), in the precision of the bias.

    rgb [N,C,2H,2W], bias [C], img [N,C,H,W] -> [N,C,2H,2W]
    """
    rgb = bias_act(rgb, bias, clamp=clamp).to(bias.dtype)
    return rgb if img is None else upsample2d(img, taps) + rgb


def unit_distance(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """The mean over pixels of weight * (a / |a| - b / |b|)^2 (LPIPS: Zhang et al. 2018, eq. 1).

    a [N,C,H,W], b [N|1,C,H,W], lengths over channels, weight [1,C,1,1] -> [N]
    """
    difference = _unit(a) - _unit(b)
    return (difference * difference * weight).sum(dim=(1, 2, 3)) / a[0, 0].numel()


def _unit(x: Tensor) -> Tensor:
    squares = x.square().sum(dim=1, keepdim=True)
    return x / ((squares + SQUARE_EPSILON).sqrt() + LENGTH_EPSILON)


def filter_kernel(taps: ResampleFilter, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The kernel [f,f], sum 1, of taps [f] (for both directions) or [f][f]; one copy is shared."""
    if is_intercepted():  # tensors created under a tracer belong to it
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
    """Insert zeros, pad by (before, after) in both directions, filter (StyleGAN2 appendix B).

    x [N,C,H,W], f [f,f] -> [N,C,up*H+before+after-f+1,...]. Negative padding crops. The filter is
    convolved in the mathematical sense: flipped, compared with `torch.nn.functional.conv2d`.
    """
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(n, c, h * up, w * up)
    x = F.pad(x, (*padding, *padding))
    kernel = (f * gain).flip(0, 1).expand(c, 1, -1, -1)
    return F.conv2d(x, kernel, groups=c)


def upsample2d(x: Tensor, taps: ResampleFilter) -> Tensor:
    """Upsample by 2 with a filter of gain 1: x [N,C,H,W] -> [N,C,2H,2W]."""
    f = filter_kernel(taps, x.dtype, x.device)
    return upfirdn2d(x, f, up=2, padding=((len(f) + 1) // 2, (len(f) - 2) // 2), gain=4)
