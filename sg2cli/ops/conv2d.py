"""The 3x3 convolution with frozen weights, and its gradient: where the time on a CPU goes.

Where it pays, in float32, it goes through NNPACK, whose Winograd F(6x6, 3x3) needs a fifth of the
multiplications of a direct convolution (Lavin and Gray 2015, arXiv:1509.09308), at a relative
error of 5e-6. torch carries NNPACK, but takes it by itself on phones only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

# Of a picture with fewer pixels, NNPACK takes longer to transform the weights than it saves; with
# fewer channels, to transform the pixels, or to bring them into its layout and back. The batch
# does not count: another way rounds otherwise, and a picture is to come out the same in any.
LEAST_PIXELS = 1024
LEAST_CHANNELS, LEAST_CHANNELS_LAST = 32, 128
TILE = 6  # pixels of the result that Winograd computes at once, in each direction
# A picture that is smaller than this is convolved together with the rest of its batch.
SMALL = 4096


@cache
def has_nnpack() -> bool:
    """Whether this torch has NNPACK, and this processor what it needs. It also initialises it."""
    if not hasattr(torch, "_nnpack_spatial_convolution"):
        return False
    return bool(torch.backends.nnpack.is_available())  # type: ignore[no-untyped-call]


@cache
def takes_nnpack() -> bool:
    """Whether convolutions go through NNPACK, which has no AVX512.

    With that, on Intel's Xeons, direct convolutions do 180 GFLOP/s a core; Winograd, as many as it
    spares counted in, 100 to 200. On AMD's it was faster even so.
    """
    cpuinfo = Path("/proc/cpuinfo")
    is_intel = cpuinfo.is_file() and b"GenuineIntel" in cpuinfo.read_bytes()[:4096]
    direct = is_intel and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return has_nnpack() and not direct


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=1)`: x [N,I,H,W], weight [O,I,3,3] -> [N,O,H,W].

    Without a gradient in weight and bias it takes the fastest way on a CPU, and x its gradient
    likewise. The same call gives the same result, to the last bit, on as many threads.
    """
    learns = weight.requires_grad or (bias is not None and bias.requires_grad)
    if x.device.type != "cpu" or x.dtype != torch.float32 or (learns and torch.is_grad_enabled()):
        return F.conv2d(x, weight, bias, padding=1)
    return _Conv3x3.apply(x, weight, bias)


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)  # nothing of x: the weight is frozen
        return convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return convolve_back(grad, weight), None, None


def energy(weight: Tensor) -> Tensor:
    """The sum of squares of each kernel: [O,I,3,3] -> [O,I]."""
    return _kept(weight, _energy)


def _energy(weight: Tensor) -> Tensor:
    return weight.square().sum(dim=(2, 3))


def transposed(weight: Tensor) -> Tensor:
    """The weight of the gradient: [O,I,3,3] -> [I,O,3,3], turned by 180 degrees."""
    # In this order and as one dimension: a third of the time of flip(2, 3).
    o, i, _, _ = weight.shape
    return weight.reshape(o, i, 9).transpose(0, 1).contiguous().flip(2).view(i, o, 3, 3)


# What is made of frozen weights is made but once: for small pictures that takes longer than the
# convolution. By weight and what made it; with the weight's version, as a change makes it stale.
_KEPT = WeakTensorKeyDictionary()


def _kept(weight: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
    if weight.is_inference():  # has no version; none that lasts is one
        return make(weight)
    known = _KEPT.setdefault(weight, {})
    if make not in known or known[make][0] != weight._version:
        with torch.inference_mode(False), torch.no_grad():  # to do for gradients, too
            known[make] = weight._version, make(weight)
    return known[make][1]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `conv3x3`, for float32 on a CPU, with no gradient. The result has the layout of x."""
    n, i, h, w = x.shape
    if not _takes_nnpack(x, weight):
        if n > 1 and i < LEAST_CHANNELS and not _is_channels_last(x):
            # oneDNN sums so few in another order by the batch.
            return torch.cat([F.conv2d(one, weight, bias, padding=1) for one in x.split(1)])
        return F.conv2d(x, weight, bias, padding=1)
    last = _is_channels_last(x)
    if n > 1 and h * w < SMALL:
        # One picture, tall: the weights are transformed once. Rows of zeros keep them apart, so
        # many that each begins where a tile does, and rounds as it would alone.
        pitch = -(-(h + 1) // TILE) * TILE
        tall = x.new_zeros(1, i, n, pitch, w)
        tall[0, :, :, :h] = x.transpose(0, 1)
        y = _nnpack(tall.view(1, i, -1, w), weight, bias)
        y = y.view(-1, n, pitch, w)[:, :, :h].transpose(0, 1)
        return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    # NNPACK has a slower way for batches.
    parts = [_nnpack(one.contiguous(), weight, bias) for one in x.split(1)]
    if last:  # as matrices, which torch turns faster
        parts = [y.flatten(2).mT.contiguous().mT.view(y.shape) for y in parts]
    return parts[0] if n == 1 else torch.cat(parts)


def convolve_back(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of x: that of the result [N,O,H,W], weight [O,I,3,3] -> [N,I,H,W]."""
    if _takes_nnpack(grad, weight):
        return convolve(grad, _kept(weight, transposed))
    return F.conv_transpose2d(grad, weight, padding=1)


def _takes_nnpack(x: Tensor, weight: Tensor) -> bool:
    least = LEAST_CHANNELS_LAST if _is_channels_last(x) else LEAST_CHANNELS
    pixels = x.shape[2] * x.shape[3]
    return min(weight.shape[:2]) >= least and pixels >= LEAST_PIXELS and takes_nnpack()


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _nnpack(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch._nnpack_spatial_convolution(x, weight.contiguous(), bias, (1, 1))
