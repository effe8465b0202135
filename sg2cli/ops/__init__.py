"""The operations of the networks, and the only place that selects a backend.

`reference` defines each in plain torch. `cpu` implements them with kernels compiled by LLVM, `cuda`
some of them with Triton kernels. SG2_BACKEND=reference disables both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sg2cli.ops import backend, reference, shapes
from sg2cli.ops.backend import KernelUnavailable, only_reference
from sg2cli.ops.cpu import runtime
from sg2cli.ops.reference import HALF, Layer, bias_act, filter_kernel, modulated_conv2d
from sg2cli.ops.replay import Replayed
from sg2cli.ops.tensors import any_requires_grad, is_intercepted, is_plain
from sg2cli.settings import ResampleFilter

__all__ = ["Layer", "Replayed", "add_rgb", "bias_act", "conv3x3", "describe_backend"]
__all__ += ["filter_kernel", "has_compiled_cpu", "has_triton", "linear", "modulated_conv2d"]
__all__ += ["only_reference", "release_memory", "styled_conv", "styled_conv_rgb", "styled_convs"]
__all__ += ["to_rgb", "unit_distance", "upsample2d"]

if hasattr(os, "register_at_fork"):
    # A forked child does not have the threads of OpenMP, and would wait for them forever.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [N,I], weight [O,I] -> [N,O]. On a CPU, a row does not depend on the others."""
    right = x.ndim == weight.ndim == 2 and x.shape[1] == weight.shape[1]
    if right and _supports_cpu(x, weight) and not any_requires_grad(weight):
        if missing := -x.shape[1] % runtime.LANES:
            x, weight = (torch.nn.functional.pad(t, (0, missing)) for t in (x, weight))
        return _compiled("linear", reference.linear, x, weight)
    return reference.linear(x, weight)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, slope: float = 1.0) -> Tensor:
    """leaky_relu(conv2d(x) + bias), padded: x [N,I,H,W], weight [O,I,3,3], bias [O] -> [N,O,H,W].

    On a CPU, without gradients of weight and bias, results do not depend on the batch.
    """
    right = x.ndim == weight.ndim == 4 and weight.shape[1:] == (x.shape[1], 3, 3)
    right = right and (bias is None or bias.shape == weight.shape[:1])
    if right and _supports_cpu(x, weight, bias) and not any_requires_grad(weight, bias):
        return _compiled("conv3x3", reference.conv3x3, x, weight, bias, slope)
    if right and _supports_cuda(x, weight, bias):
        return _triton("conv3x3", reference.conv3x3, x, weight, bias, slope)
    return reference.conv3x3(x, weight, bias, slope)


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
    already multiplied by its strength. ValueError if a shape does not fit.
    """
    return styled_convs(x, [Layer(weight, styles, bias, noise, taps, slope, gain, clamp)])


def styled_convs(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Several layers of `styled_conv` in sequence, without access to intermediate results."""
    shape: tuple[int, ...] = x.shape
    for layer in layers:
        shape = shapes.check_styled_conv(shape, *layer[:5])
    if _supports_cuda(x, *(t for layer in layers for t in (layer.weight, layer.bias))):
        return _triton("styled_convs", _styled_convs_reference, x, layers)
    for layer in layers:
        if _supports_layer(x, layer):
            x = _compiled("styled_conv", reference.styled_conv, x, *layer)
        else:
            x = reference.styled_conv(x, *layer)
    return x


def _styled_convs_reference(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    for layer in layers:
        x = reference.styled_conv(x, *layer)
    return x


def styled_conv_rgb(
    x: Tensor, layers: Sequence[Layer], rgb_weight: Tensor, rgb_styles: Tensor
) -> Tensor:
    """`to_rgb` of `styled_convs`, without access to intermediate results: [N,C,H,W].

    rgb_weight [C,O,1,1], rgb_styles [N|1,O]; one layer, or an upsampling one and another. On a CPU,
    the largest feature maps of a network are thus never stored, unless a gradient needs them.
    """
    tensors = [x, rgb_weight, rgb_styles, *(t for layer in layers for t in layer[:4])]
    if not any_requires_grad(*tensors) and all(_supports_layer(x, layer) for layer in layers):
        shape: tuple[int, ...] = x.shape
        for layer in layers:
            shape = shapes.check_styled_conv(shape, *layer[:5])
        shapes.check_to_rgb(shape, rgb_weight, rgb_styles)
        if _supports_cpu(rgb_weight, rgb_styles):
            return _compiled("styled_conv_rgb", _rgb_reference, x, layers, rgb_weight, rgb_styles)
    return to_rgb(styled_convs(x, layers), rgb_weight, rgb_styles)


def _rgb_reference(x: Tensor, layers: Sequence[Layer], weight: Tensor, styles: Tensor) -> Tensor:
    return reference.to_rgb(_styled_convs_reference(x, layers), weight, styles)


def to_rgb(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """A modulated 1x1 convolution without demodulation: x [N,I,H,W] -> [N,C,H,W].

    weight [C,I,1,1], styles [N|1,I]. ValueError if a shape does not fit.
    """
    shapes.check_to_rgb(x.shape, weight, styles)
    if not x.shape[1] % runtime.LANES and _supports_cpu(x, weight, styles):
        return _compiled("to_rgb", reference.to_rgb, x, weight, styles)
    if len(weight) <= 16 and _supports_cuda(x, weight):
        return _triton("to_rgb", reference.to_rgb, x, weight, styles)
    return reference.to_rgb(x, weight, styles)


def add_rgb(
    rgb: Tensor, bias: Tensor, clamp: float | None, img: Tensor | None, taps: ResampleFilter
) -> Tensor:
    """clamp(rgb + bias) + upsample2d(img), in the precision of the bias.

    rgb [N,C,2H,2W], bias [C], img [N,C,H,W] -> [N,C,2H,2W]. ValueError if a shape does not fit.
    """
    shapes.check_add_rgb(rgb, bias, img)
    if _supports_cuda(rgb, bias):
        return _triton("add_rgb", reference.add_rgb, rgb, bias, clamp, img, taps)
    rgb = bias_act(rgb, bias, clamp=clamp).to(bias.dtype)
    return rgb if img is None else upsample2d(img, taps).add(rgb)


def upsample2d(x: Tensor, taps: ResampleFilter) -> Tensor:
    """Upsample by 2 with a filter of gain 1: x [N,C,H,W] -> [N,C,2H,2W]."""
    if _supports_cpu(x) and _cpu().is_short(taps):
        from sg2cli.ops.cpu import upsample

        return upsample.upsample2d(x, taps)
    return reference.upsample2d(x, taps)


def unit_distance(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """The mean over pixels of weight * (a / |a| - b / |b|)^2 (LPIPS: Zhang et al. 2018, eq. 1).

    a [N,C,H,W], b [N|1,C,H,W], lengths over channels, weight [1,C,1,1] -> [N]
    """
    right = a.ndim == b.ndim == 4 and a.shape[1:] == b.shape[1:] and len(b) in (1, len(a))
    right = right and weight.shape == (1, a.shape[1], 1, 1) and not a.shape[1] % runtime.LANES
    if right and _supports_cpu(a, b, weight) and not any_requires_grad(b, weight):
        return _compiled("unit_distance", reference.unit_distance, a, b, weight)
    return reference.unit_distance(a, b, weight)


# Selection of the backend.


def _supports_layer(x: Tensor, layer: Layer) -> bool:
    """Whether the CPU kernels support this layer of x."""
    weight, styles, bias, noise, taps, *_ = layer
    o, i, *_ = weight.shape
    return (
        _supports_cpu(x, weight, styles)
        and _cpu().fits(o, i)
        and _cpu().is_short(taps)
        and is_plain(bias, noise)
        and not any_requires_grad(weight, bias)
    )


def _supports_cpu(*tensors: Tensor | None) -> bool:
    """Whether the CPU kernels support these tensors."""
    for t in tensors:
        if t is not None and t.dtype != torch.float32:
            return False
    return is_plain(*tensors) and not only_reference() and runtime.why_not() is None


def _supports_cuda(x: Tensor, *weights: Tensor | None) -> bool:
    """Whether the Triton kernels support x, in single or half precision, and these weights."""
    return (
        x.is_cuda
        and x.dtype in (torch.float32, *HALF)
        and all(t is None or t.dtype == torch.float32 for t in weights)
        and not only_reference()
        and backend.failure("cuda") is None
        and has_triton()
        and not is_intercepted()
        and not any_requires_grad(*weights)
    )


@cache
def _cpu() -> Any:
    """The compiled operations, imported on first use: the module requires llvmlite."""
    from sg2cli.ops.cpu import autograd

    return autograd


def _compiled(name: str, plain: Callable[..., Tensor], *args: Any) -> Tensor:
    """Run the compiled operation, or `plain` if it cannot be compiled."""
    try:
        result: Tensor = getattr(_cpu(), name)(*args)
        return result
    except KernelUnavailable as error:
        backend.give_up("cpu", error)
    return plain(*args)


def _triton(name: str, plain: Callable[..., Tensor], *args: Any) -> Tensor:
    """Run the Triton kernels, or `plain` if they cannot be compiled."""
    from sg2cli.ops.cuda import autograd

    try:
        result: Tensor = getattr(autograd, name)(*args)
        return result
    except KernelUnavailable as error:
        backend.give_up("cuda", error)
    return plain(*args)


def has_compiled_cpu() -> bool:
    """Whether the CPU kernels are in use."""
    return not only_reference() and runtime.why_not() is None


@cache
def has_triton() -> bool:
    """Whether Triton is installed and supports the GPU."""
    if not torch.cuda.is_available() or not find_spec("triton"):
        return False
    return bool(torch.version.hip) or torch.cuda.get_device_capability() >= (7, 5)


def describe_backend(device: str) -> str:
    """A description of the operations that a device uses, and why no faster ones."""
    plain = "torch's own operations"
    if only_reference():
        return f"{plain}: {backend.VARIABLE}=reference"
    if device == "cpu":
        why = runtime.why_not()
        return f"{plain}: {why}" if why else "kernels compiled by LLVM (Winograd), in float32"
    if device.startswith("cuda"):
        if has_triton() and not backend.failure("cuda"):
            return "cuDNN's convolutions, fused Triton kernels for the rest"
        missing = "this GPU is too old for it" if find_spec("triton") else "it is not installed"
        return f"{plain}, without Triton: {backend.failure('cuda') or missing}"
    return f"{plain}: kernels exist only for CPU and CUDA"


def release_memory() -> None:
    """Free the memory that the kernels of this thread keep between calls."""
    runtime.release_scratch()
