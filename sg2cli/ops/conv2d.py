"""The 3x3 convolution with frozen weights, and its gradient: where the time on a CPU goes.

In float32 and channels_last, down the columns of a picture by Winograd's F(4,3), which takes half
of the multiplications of a direct convolution (Lavin and Gray 2015, arXiv:1509.09308, section 4.3),
at a relative error of 5e-6. Along the rows they are those of torch's own 1x3 convolutions, so that
all the rest is sums of whole rows, and any processor is used as well as oneDNN uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sg2cli.ops.gradients import first_order

# Of fewer channels or pixels, the sums take longer than the multiplications that they save; of more
# weights a pixel, reading the transformed weights, which are twice as many. The batch does not
# count: another way rounds otherwise, and a picture is to come out the same in any.
LEAST_CHANNELS = 64
LEAST_PIXELS = 1024
MOST_WEIGHTS = 2304  # a pixel: 512 x 512 kernels from 32x32 on, 256 x 256 from 16x16
# Down to so many pixels with so many channels, but then picture by picture: of so few, oneDNN's
# convolutions round otherwise in a batch.
LEAST_CHANNELS_ALONE, LEAST_PIXELS_ALONE = 128, 256
TILE = 4  # rows of the result that are computed together
AT_ONCE = 1 << 22  # numbers of x, so that what becomes of a large batch does not pile up
LAST = torch.channels_last


def has_onednn() -> bool:
    """Whether this torch was built with it: on Macs it is not."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


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
        return convolve(x.contiguous(memory_format=LAST), weight, bias)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return convolve_back(grad.contiguous(memory_format=LAST), weight), None, None


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, rows: slice | None = None
) -> Tensor:
    """As `conv3x3`, of x in channels_last, with no gradient; only these rows of the result."""
    rows = rows or slice(0, x.shape[2])
    if _takes_winograd(x, weight, rows):
        return _winograd(x, kept(weight, _transformed), bias, rows)
    return _rows_of(F.conv2d(x, kept(weight, _last), bias, padding=1), rows)


def convolve_back(grad: Tensor, weight: Tensor, rows: slice | None = None) -> Tensor:
    """The gradient of x: that of the result [N,O,H,W], weight [O,I,3,3] -> [N,I,H,W]."""
    rows = rows or slice(0, grad.shape[2])
    if _takes_winograd(grad, weight, rows):
        return _winograd(grad, kept(weight, _transformed_back), None, rows)
    return _rows_of(F.conv_transpose2d(grad, kept(weight, _last), padding=1), rows)


def _rows_of(y: Tensor, rows: slice) -> Tensor:
    return y if rows == slice(0, y.shape[2]) else y[:, :, rows]


def _takes_winograd(x: Tensor, weight: Tensor, rows: slice) -> bool:
    pixels, channels = x.shape[2] * x.shape[3], min(weight.shape[:2])
    many = pixels >= LEAST_PIXELS and channels >= LEAST_CHANNELS
    enough = pixels >= LEAST_PIXELS_ALONE and channels >= LEAST_CHANNELS_ALONE
    whole = (rows.stop - rows.start) % TILE == 0
    return (many or enough) and whole and weight.numel() <= MOST_WEIGHTS * pixels


def _winograd(x: Tensor, weights: Tensor, bias: Tensor | None, rows: slice) -> Tensor:
    """Rows of the convolution: x [N,I,H,W], weights [6,O,I,1,3] -> [N,O,rows,W]."""
    shape = (len(x), weights.shape[1], rows.stop - rows.start, x.shape[3])
    y = torch.empty(shape, dtype=x.dtype, memory_format=LAST)
    alone = x.shape[2] * x.shape[3] < LEAST_PIXELS
    count = 1 if alone else max(1, AT_ONCE // x.shape[1:].numel())
    for some, result in zip(torch.split(x, count), torch.split(y, count), strict=True):
        _winograd_into(result, some, weights, bias, rows.start, rows.stop)
    return y


def _winograd_into(
    y: Tensor, x: Tensor, weights: Tensor, bias: Tensor | None, top: int, bottom: int
) -> None:
    """The transforms are those of the points 0, 1, -1, 2, -2 and infinity."""
    x = x.permute(0, 2, 3, 1)  # [N,H,W,I]
    n, _, w, channels = x.shape
    tiles = (bottom - top) // TILE
    # d0 to d5 of each tile; the first d0 and the last d5 may lie outside, where zeros are.
    d1, d2, d3, d4 = (x[:, top + k : bottom : TILE] for k in range(TILE))
    v = x.new_empty(6, n, tiles, w, channels)
    a, b = torch.sub(d4, d2, alpha=4), torch.sub(d3, d1, alpha=4)
    torch.add(a, b, out=v[1])
    torch.sub(a, b, out=v[2])
    torch.sub(d4, d2, out=a)
    torch.sub(d3, d1, out=b)
    torch.add(a, b, alpha=2, out=v[3])
    torch.sub(a, b, alpha=2, out=v[4])
    torch.sub(a, d2, alpha=4, out=v[0])  # v0 = 4 d0 - 5 d2 + d4
    first = 1 if top == 0 else 0
    v[0][:, first:].add_(x[:, top - 1 + TILE * first : bottom - TILE : TILE], alpha=4)
    torch.add(d3, b, alpha=4, out=v[5]).neg_()  # v5 = 4 d1 - 5 d3 + d5
    d5 = x[:, top + TILE : bottom + 1 : TILE]
    v[5][:, : d5.shape[1]].add_(d5)
    m0, m1, m2, m3, m4, m5 = (
        # What is added to m1 comes to all rows.
        F.conv2d(part.permute(0, 3, 1, 2), weight, bias if k == 1 else None, padding=(0, 1))
        for k, (part, weight) in enumerate(zip(v, weights, strict=True))
    )
    p, q, r, s = m1 + m2, m1.sub_(m2), m3 + m4, m3.sub_(m4)
    torch.add(m0.add_(p), r, out=y[:, :, 0::TILE])
    torch.add(q, s, alpha=2, out=y[:, :, 1::TILE])
    torch.add(p, r, alpha=4, out=y[:, :, 2::TILE])
    torch.add(m5.add_(q), s, alpha=8, out=y[:, :, 3::TILE])


def _transformed(weight: Tensor) -> Tensor:
    """[O,I,3,3] -> [6,O,I,1,3]."""
    o, i, _, _ = weight.shape
    columns = weight.permute(2, 0, 3, 1).reshape(3, -1)
    # Each in channels_last, in which torch would otherwise bring them for each use.
    return (_points() @ columns).view(6, o, 1, 3, i).permute(0, 1, 4, 2, 3)


def _transformed_back(weight: Tensor) -> Tensor:
    """Of the weight of the gradient, turned by 180 degrees: [O,I,3,3] -> [6,I,O,1,3]."""
    return _transformed(weight.transpose(0, 1).flip(2, 3))


@lru_cache
def _points() -> Tensor:
    """A column of the kernel as a polynomial, at the points: [6,3]."""
    rows = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.float32) / 24


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
