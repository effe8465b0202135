"""The 3x3 convolution with frozen weights, and its gradient: where the time on a CPU goes.

On a CPU in float32 it goes through NNPACK, whose Winograd F(6x6, 3x3) needs a fifth of the
multiplications of a direct convolution (Lavin and Gray 2015, arXiv:1509.09308), at a relative
error of 5e-6. torch carries NNPACK, but takes it by itself on phones only.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

# Of a picture with fewer pixels, NNPACK takes longer to transform the weights than it saves; with
# fewer channels, to transform the pixels. The batch does not count: another way rounds otherwise,
# and a picture is to come out the same in any.
LEAST_PIXELS = 1024
LEAST_CHANNELS = 32
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
        if weight not in _TRANSPOSED:
            _TRANSPOSED[weight] = transposed(weight)
        return convolve(grad, _TRANSPOSED[weight]), None, None


# Frozen weights are turned but once: for small pictures that takes longer than the convolution.
_TRANSPOSED = WeakTensorKeyDictionary()


def transposed(weight: Tensor) -> Tensor:
    """The weight of the gradient: [O,I,3,3] -> [I,O,3,3], turned by 180 degrees."""
    # In this order and as one dimension: a third of the time of flip(2, 3).
    o, i, _, _ = weight.shape
    return weight.reshape(o, i, 9).transpose(0, 1).contiguous().flip(2).view(i, o, 3, 3)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, rows: int = 1) -> Tensor:
    """As `conv3x3`, for float32 on a CPU, with no gradient; `rows` of zeros above and below."""
    n, i, h, w = x.shape
    if n > 1 and i < LEAST_CHANNELS:  # oneDNN sums so few in another order by the batch
        return torch.cat(
            [F.conv2d(one, weight, bias, padding=(rows, 1)) for one in torch.split(x, 1)]
        )
    if min(weight.shape[:2]) < LEAST_CHANNELS or h * w < LEAST_PIXELS or not takes_nnpack():
        return F.conv2d(x, weight, bias, padding=(rows, 1))
    if n > 1 and rows == 1 and h * w < SMALL:
        # One picture, tall: the weights are transformed once. Rows of zeros keep them apart, so
        # many that each begins where a tile does, and rounds as it would alone.
        pitch = -(-(h + 1) // TILE) * TILE
        tall = x.new_zeros(1, i, n, pitch, w)
        tall[0, :, :, :h] = x.transpose(0, 1)
        y = _nnpack(tall.view(1, i, -1, w), weight, bias, rows)
        return y.view(-1, n, pitch, w)[:, :, :h].transpose(0, 1).contiguous()
    x = x.contiguous()
    if n == 1:
        return _nnpack(x, weight, bias, rows)
    # NNPACK has a slower way for batches.
    y = x.new_empty(n, weight.shape[0], h - 2 + 2 * rows, w)
    for picture, result in zip(x.unbind(), y.unbind(), strict=True):
        result.copy_(_nnpack(picture[None], weight, bias, rows)[0])
    return y


def _nnpack(x: Tensor, weight: Tensor, bias: Tensor | None, rows: int) -> Tensor:
    return torch._nnpack_spatial_convolution(x, weight.contiguous(), bias, (rows, 1))
