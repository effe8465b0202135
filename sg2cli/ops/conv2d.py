"""The 3x3 convolution with frozen weights, and its gradient; and what is made of weights once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sg2cli.ops import jit
from sg2cli.ops.jit import LANES, LAST
from sg2cli.ops.tensors import any_requires_grad, first_order, saved
from sg2cli.ops.winograd import PLAIN, After, convolve


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, slope: float = 1) -> Tensor:
    """leaky_relu(`F.conv2d(x, weight, bias, padding=1)`): x [N,I,H,W], weight [O,I,3,3].

    -> [N,O,H,W]. Without a gradient in weight and bias it takes the fastest way on a CPU, and x its
    gradient likewise: the same call gives the same result, to the last bit, and a picture comes out
    the same in any batch.
    """
    # Channels are padded; of what does not fit torch says what is wrong.
    fits = x.ndim == 4 and weight.ndim == 4 and weight.shape[1:] == (x.shape[1], 3, 3)
    fits = fits and (bias is None or bias.shape == weight.shape[:1])
    parts = (x, weight) if bias is None else (x, weight, bias)
    if fits and jit.serves(*parts, channels=()) and not any_requires_grad(weight, bias):
        return _Conv3x3.apply(x, weight, bias, slope)
    y = F.conv2d(x, weight, bias, padding=1)
    return y if slope == 1 else F.leaky_relu_(y, slope)


class _Conv3x3(torch.autograd.Function):
    """Channels are added, of zeros, up to a multiple of those that are computed together."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
        if bias is not None:
            bias = _padded(bias, 0)
        rows, after = slice(0, x.shape[2]), After(bias=bias, slope=slope)
        x = _padded(x, 1).contiguous(memory_format=LAST)
        y = convolve(PLAIN, x, kept(weight, _all_padded), rows, x.shape[3], after=after)
        ctx.save_for_backward(weight, None if slope == 1 else y)  # of x nothing
        ctx.slope = slope
        return y[:, : len(weight)]

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        weight, y = saved(ctx)
        rows, width = slice(0, grad.shape[2]), grad.shape[3]
        grad = _padded(grad, 1).contiguous(memory_format=LAST)
        back = kept(weight, _all_padded).transpose(0, 1)
        dx = convolve(PLAIN, grad, back, rows, width, signs=y, slope=ctx.slope, turned=True)
        return dx[:, : weight.shape[1]], None, None, None


def _all_padded(weight: Tensor) -> Tensor:
    return _padded(_padded(weight, 0), 1)


def _padded(t: Tensor, dim: int) -> Tensor:
    missing = -t.shape[dim] % LANES
    return F.pad(t, (*[0] * 2 * (t.ndim - 1 - dim), 0, missing)) if missing else t


def energy(weight: Tensor) -> Tensor:
    """The sum of squares of each kernel: [O,I,3,3] -> [O,I]."""
    return weight.square().sum(dim=(2, 3))


# What is made of frozen weights is made but once: for small pictures that takes longer than the
# convolution. By weight and what made it; with the weight's version, as a change makes it stale,
# and itself, as another tensor may take its place (`.data = ...`).
_KEPT = WeakTensorKeyDictionary()
# What is larger is not kept in inference mode, in which pictures are drawn: for large ones it would
# be a tenth of the memory and save a hundredth of the time. A search takes it over and over.
MOST_KEPT = 1 << 20


def kept(weight: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
    """make(weight), from memory if that was asked for before.

    Changes of a weight are noticed, all but those in place of its `.data`.
    """
    if weight.is_inference():  # has no version; none that lasts is one
        return make(weight)
    known = _KEPT.setdefault(weight, {})  # type: ignore[no-untyped-call]
    if make in known:
        version, before, made = known[make]
        if version == weight._version and before.data_ptr() == weight.data_ptr():
            return made
    with torch.inference_mode(False), torch.no_grad():  # to do for gradients, too
        made = make(weight)
    if made is not weight and not (torch.is_inference_mode_enabled() and made.numel() > MOST_KEPT):
        known[make] = weight._version, weight.detach(), made
    return made
