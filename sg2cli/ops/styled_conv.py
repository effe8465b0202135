"""A layer of the synthesis network: modulated convolution, noise, bias, activation, clamp.

This chooses how it is computed, and is the only place that does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from sg2cli.ops import jit, styled_conv_cpu
from sg2cli.ops.bias_act import bias_act
from sg2cli.ops.modulated_conv2d import HALF, modulated_conv2d
from sg2cli.ops.shapes import check_add_rgb, check_styled_conv, check_to_rgb
from sg2cli.ops.styled_conv_cpu import Layer
from sg2cli.ops.tensors import any_requires_grad, is_intercepted, is_plain
from sg2cli.ops.upfirdn2d import filter_kernel, upsample2d
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
    return styled_convs(x, [Layer(weight, styles, bias, noise, taps, slope, gain, clamp)])


def styled_convs(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """`styled_conv` by each of the layers, where nothing else needs what is between them."""
    if _by_triton(x, *layers):
        from sg2cli.ops import styled_conv_triton

        return styled_conv_triton.styled_convs(x, layers)
    for layer in layers:
        check_styled_conv(x.shape, *layer[:5])
        if _by_compiled_code(x, layer):
            x = styled_conv_cpu.styled_conv(x, layer)
        else:
            x = styled_conv_reference(x, *layer)
    return x


def _by_compiled_code(x: Tensor, layer: Layer) -> bool:
    weight, styles, bias, noise, taps, *_ = layer
    return (
        styled_conv_cpu.serves(x, weight, taps)
        and is_plain(styles, bias, noise)
        and not any_requires_grad(weight, bias)
    )


def styled_conv_rgb(
    x: Tensor, layers: Sequence[Layer], rgb_weight: Tensor, rgb_styles: Tensor
) -> Tensor:
    """`to_rgb` of `styled_conv` by each of the layers, where nothing else needs that: [N,C,H,W].

    rgb_weight [C,O,1,1], rgb_styles [N,O]. The layers are one, or one that upsamples and one that
    does not. So the largest feature maps of a network are never stored on a CPU, unless a gradient
    needs them.
    """
    tensors = [x, rgb_weight, rgb_styles, *(t for layer in layers for t in layer[:4])]
    if (
        not any_requires_grad(*tensors)
        and all(_by_compiled_code(x, layer) for layer in layers)
        and is_plain(rgb_weight, rgb_styles)
    ):
        _check_all(x, layers, rgb_weight, rgb_styles)
        own = (rgb_weight.flatten(1) * rgb_styles[:, None]).expand(len(x), -1, -1)  # [N,C,O]
        return styled_conv_cpu.styled_pixels(x, layers, own)
    return to_rgb(styled_convs(x, layers), rgb_weight, rgb_styles)


def _check_all(x: Tensor, layers: Sequence[Layer], weight: Tensor, styles: Tensor) -> None:
    """The shapes of layers in turn, and of ToRGB, without the maps between them."""
    shape: tuple[int, ...] = x.shape
    for layer in layers:
        shape = check_styled_conv(shape, *layer[:5])
    check_to_rgb(shape, weight, styles)


def add_rgb(
    rgb: Tensor,
    bias: Tensor,
    clamp: float | None,
    img: Tensor | None,
    taps: ResampleFilter,
) -> Tensor:
    """clamp(rgb + bias), and the picture so far at twice its size, in the precision of the bias.

    rgb [N,C,2H,2W], bias [C], img [N,C,H,W] -> [N,C,2H,2W]
    """
    check_add_rgb(rgb, bias, img)
    if _by_triton(rgb) and bias.dtype == torch.float32 and not any_requires_grad(bias):
        from sg2cli.ops import styled_conv_triton

        return styled_conv_triton.add_rgb(rgb, bias, clamp, img, taps)
    rgb = bias_act(rgb, bias, clamp=clamp).to(bias.dtype)
    return rgb if img is None else upsample2d(img, taps).add(rgb)


def _by_triton(x: Tensor, *layers: Layer) -> bool:
    if not x.is_cuda or x.dtype not in (torch.float32, *HALF) or not has_triton():
        return False
    weights = [t for layer in layers for t in (layer.weight, layer.bias)]
    single = all(t.dtype == torch.float32 for t in weights)
    return single and not is_intercepted() and not any_requires_grad(*weights)


@cache
def has_triton() -> bool:
    """Whether torch brought Triton, and the GPU is one that it compiles for."""
    if not torch.cuda.is_available() or not find_spec("triton"):
        return False
    return bool(torch.version.hip) or torch.cuda.get_device_capability() >= (7, 5)


def ways(device: str) -> str:
    """Which operations a device uses, and why, for people."""
    if device == "cpu":
        if jit.openmp():
            return "Winograd's convolutions, compiled by LLVM, in float32"
        return "torch's own operations: llvmlite and OpenMP are not there for faster ones"
    if device.startswith("cuda"):
        if has_triton():
            return "cuDNN's convolutions, fused Triton kernels for the rest"
        why = "this GPU is too old for it" if find_spec("triton") else "there is none here"
        return f"torch's own operations, not Triton's: {why}"
    return "torch's own operations: there are fused ones for CPU and CUDA only"


def to_rgb(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """A 1x1 convolution, modulated and not demodulated: x [N,I,H,W] -> [N,C,H,W].

    weight [C,I,1,1], styles [N,I]
    """
    check_to_rgb(x.shape, weight, styles)
    if x.dtype in HALF:
        return modulated_conv2d(x, weight, styles, demodulate=False)
    # So few weights that each picture may have its own, which reads x but once.
    own = (weight.flatten(1) * styles[:, None]).expand(len(x), -1, -1)  # [N,C,I]
    if styled_conv_cpu.serves_pixels(x, own) and is_plain(weight, styles):
        return styled_conv_cpu.Pixels.apply(x, own)
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
