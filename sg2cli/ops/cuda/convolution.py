"""3x3 convolutions in float32 on tensor cores, with the gradient of the input.

cuDNN computes float32 without TF32 on the GPU's plain cores, at a third of their speed for small
maps and a sixtieth for transposed convolutions of a single image. Here each factor is split into
two numbers of TF32, and the three largest of their four products are summed in float32. What is
left out is about 2^-22 of a product, so the error is near that of float32; and it is faster than
the best of cuDNN's (benchmarks/README.md) on the GPU that was measured. Consumer cards have TF32 at
the speed of float32, so that it cannot pay there.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import triton  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

from sg2cli.ops.cuda import kernels
from sg2cli.ops.cuda.launch import empty, launch
from sg2cli.ops.tensors import first_order

MEASURED = {(9, 0)}  # compute capabilities: H100, H200
LEAST_STEPS = 4  # of the sum over taps and channels, for a program


class Window(NamedTuple):
    """Which pixels of the input a pixel of the output sums up, and with which weights.

    Output pixel `spread * r + offset` reads the input at `stride * r + step * t + start` for each
    tap t, and multiplies by the weight at `first + order * t`; in y and x.
    """

    taps_y: int = 3
    taps_x: int = 3
    first_y: int = 0
    first_x: int = 0
    offset_y: int = 0
    offset_x: int = 0
    stride: int = 1
    step: int = 1
    start: int = 0
    order: int = 1
    spread: int = 1


PADDED = Window(start=-1)
PADDED_BACKWARD = Window(start=-1, first_y=2, first_x=2, order=-1)
STRIDED = Window(stride=2)  # the gradient of the transposed convolution


def _phase(y: int, x: int) -> Window:
    """A transposed convolution of stride 2 at the pixels that are even (0) or odd (1) in y and x:
    the weights 0 and 2 meet there, or 1 alone."""
    return Window(2 - y, 2 - x, y, x, y, x, step=-1, order=2, spread=2)


PHASES = [(y, x, _phase(y, x)) for y in (0, 1) for x in (0, 1)]


def supports(x: Tensor) -> bool:
    """Whether x is float32, on a GPU where this is faster (or in Triton's interpreter)."""
    if x.is_cuda and (torch.version.hip or _capability(x.device) not in MEASURED):
        return False
    return x.dtype == torch.float32


def conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """x [N,I,H,W], weight [O,I,3,3] -> [N,O,H,W], padded; channels_last."""
    y: Tensor = _Convolution.apply(x, weight, False)
    return y


def conv_transpose3x3(x: Tensor, weight: Tensor) -> Tensor:
    """With stride 2: x [N,I,H,W], weight [O,I,3,3] -> [N,O,2H+1,2W+1]; channels_last."""
    y: Tensor = _Convolution.apply(x, weight, True)
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, transposed: bool) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.transposed = transposed
        n, _, h, w = x.shape
        weight = weight.contiguous(memory_format=torch.channels_last)
        if not transposed:
            return _convolve(x, weight, PADDED, (h, w))
        y = empty(x, n, len(weight), 2 * h + 1, 2 * w + 1)
        for odd_y, odd_x, window in PHASES:
            _convolve_into(y, x, weight, window, (h + 1 - odd_y, w + 1 - odd_x))
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        weight = weight.transpose(0, 1).contiguous(memory_format=torch.channels_last)
        h, w = dy.shape[2:]
        if ctx.transposed:
            return _convolve(dy, weight, STRIDED, (h // 2, w // 2)), None, None
        return _convolve(dy, weight, PADDED_BACKWARD, (h, w)), None, None


def _convolve(x: Tensor, weight: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    y = empty(x, len(x), len(weight), *size)
    _convolve_into(y, x, weight, window, size)
    return y


def _convolve_into(
    y: Tensor, x: Tensor, weight: Tensor, window: Window, size: tuple[int, int]
) -> None:
    """The pixels of y [N,O,.,.] that the window leads to, so many of them; weight [O,3,3,I]."""
    x = x.contiguous(memory_format=torch.channels_last)
    n, channels, h, w = x.shape
    outputs = len(weight)
    tile_p, tile_o, tile_i, warps = _tile(outputs)
    programs = triton.cdiv(n * size[0] * size[1], tile_p), triton.cdiv(outputs, tile_o)
    steps = window.taps_y * window.taps_x * triton.cdiv(channels, tile_i)
    wanted = 2 * _processors(x.device) // (programs[0] * programs[1])
    parts = max(1, min(wanted, steps // LEAST_STEPS))
    if window.spread > 1:
        parts = 1  # its pixels are some of y's
    # Small maps: more programs than tiles, each with a part of the sum.
    out = y if parts == 1 else empty(y, parts * n, *y.shape[1:])
    launch(
        kernels.convolution_kernel, (*programs, parts),
        x, weight, out, n, h, w, channels, *size, outputs, *y.shape[2:],
        triton.cdiv(steps, parts), **{name.upper(): k for name, k in window._asdict().items()},
        TILE_P=tile_p, TILE_O=tile_o, TILE_I=tile_i, num_warps=warps, num_stages=3,
    )  # fmt: skip
    if parts > 1:
        torch.sum(out.view(parts, n, *y.shape[1:]), dim=0, out=y)


def _tile(outputs: int) -> tuple[int, int, int, int]:
    """A program's pixels, outputs and channels at a time, and its warps: what was fastest."""
    if outputs > 64:
        return 128, 128, 32, 8
    return (128, 64, 32, 8) if outputs > 32 else (128, 32, 32, 4)


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":  # the interpreter: a few parts of the sum
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count
