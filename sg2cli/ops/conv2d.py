"""The 3x3 convolution with frozen weights, and its gradient: where the time on a CPU goes.

In float32 and channels_last: by Winograd where that is faster, see `sg2cli.ops.winograd`, or by
torch's own convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sg2cli.ops import winograd
from sg2cli.ops.gradients import first_order
from sg2cli.ops.winograd import LAST, NOTHING, After

# Of fewer channels or pixels, there is nothing to gain. The batch does not count: another way
# rounds otherwise, and a picture is to come out the same in any.
LEAST_CHANNELS = 32
LEAST_PIXELS = 256


def has_onednn() -> bool:
    """Whether this torch was built with it: on Macs it is not."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, slope: float = 1) -> Tensor:
    """leaky_relu(`F.conv2d(x, weight, bias, padding=1)`): x [N,I,H,W], weight [O,I,3,3].

    -> [N,O,H,W]. Without a gradient in weight and bias it takes the fastest way on a CPU, and x its
    gradient likewise. The same call gives the same result, to the last bit, on as many threads.
    """
    learns = weight.requires_grad or (bias is not None and bias.requires_grad)
    if x.device.type != "cpu" or x.dtype != torch.float32 or (learns and torch.is_grad_enabled()):
        return finish(F.conv2d(x, weight, bias, padding=1), After(slope=slope))
    return _Conv3x3.apply(x, weight, bias, slope)


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
        after = After(bias=bias, slope=slope)
        y = convolve(x.contiguous(memory_format=LAST), weight, after=after)
        ctx.save_for_backward(weight, None if slope == 1 else y)  # of x nothing
        ctx.slope = slope
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        weight, y = ctx.saved_tensors
        grad = grad.contiguous(memory_format=LAST)
        return convolve_back(grad, weight, signs=y, slope=ctx.slope), None, None, None


def convolve(
    x: Tensor,
    weight: Tensor,
    rows: slice | None = None,
    styles: Tensor | None = None,
    after: After = NOTHING,
    out: Tensor | None = None,
) -> Tensor:
    """The convolution of styles * x, padded by 1, and what comes after it, with no gradient.

    x [N,I,H,W] in channels_last, weight [O,I,3,3], styles [N,I] -> only these rows [N,O,rows,W], in
    `out` if that is given.
    """
    rows = rows or slice(0, x.shape[2])
    if _takes_winograd(x, weight):
        points = kept(weight, winograd.transformed)
        return winograd.convolve(x, points, rows, styles, after, out)
    if styles is not None:
        x = x * styles[:, :, None, None]
    y = F.conv2d(x, kept(weight, _last), padding=1)
    return finish(_rows_of(y, rows), after, out)


def convolve_back(
    grad: Tensor,
    weight: Tensor,
    rows: slice | None = None,
    scale: Tensor | None = None,
    signs: Tensor | None = None,
    slope: float = 1,
) -> Tensor:
    """The gradient of x: that of the result [N,O,H,W], times scale [N,O] -> rows of [N,I,H,W].

    Where signs, the result of a leaky ReLU, are not above 0, the slope multiplies it, too.
    """
    rows = rows or slice(0, grad.shape[2])
    if _takes_winograd(grad, weight):
        points = kept(weight, winograd.transformed_back)
        return winograd.convolve(grad, points, rows, scale, signs=signs, slope=slope)
    if signs is not None:
        grad = torch.ops.aten.leaky_relu_backward(grad, signs, slope, True)
    if scale is not None:
        grad = grad * scale[:, :, None, None]
    return _rows_of(F.conv_transpose2d(grad, kept(weight, _last), padding=1), rows)


def finish(t: Tensor, after: After, out: Tensor | None = None) -> Tensor:
    """What comes after a convolution t [N,O,H,W], in `out`, or, if that is not given, in t."""
    scale, bias, noise, slope, clamp = after
    if scale is not None:
        plus = t.new_zeros(()) if bias is None else bias[:, None, None]
        t = torch.addcmul(plus, t, scale[:, :, None, None])
    elif bias is not None:
        t.add_(bias[:, None, None])
    if noise is not None:
        t = torch.add(t, noise, out=t if out is None else out)
    elif out is not None:
        t = out.copy_(t)
    if slope != 1:
        F.leaky_relu_(t, slope)
    if clamp is not None:
        t.clamp_(-clamp, clamp)
    return t


def _rows_of(y: Tensor, rows: slice) -> Tensor:
    return y if rows == slice(0, y.shape[2]) else y[:, :, rows]


def _takes_winograd(x: Tensor, weight: Tensor) -> bool:
    outputs, inputs = weight.shape[:2]
    many = x.shape[2] * x.shape[3] >= LEAST_PIXELS and min(outputs, inputs) >= LEAST_CHANNELS
    return many and winograd.serves(inputs, outputs)


def energy(weight: Tensor) -> Tensor:
    """The sum of squares of each kernel: [O,I,3,3] -> [O,I]."""
    return weight.square().sum(dim=(2, 3))


def turned(weight: Tensor) -> Tensor:
    """With the channels the other way round: [O,I,3,3] -> [I,O,3,3] in channels_last."""
    return weight.transpose(0, 1).contiguous(memory_format=LAST)


def _last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=LAST)


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
