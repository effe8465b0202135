"""`styled_conv` on a CPU, in float32, for weights that do not learn.

The pictures are taken in pieces that stay in the cache: a piece is scaled by the styles, convolved,
written once, and has all that follows done to it in place. Upsampling is part of the convolution:
zero insertion, 3x3 kernel and filter together are a 3x3 convolution for each of the four pixels
that a pixel becomes, for which `conv2d` has a fast way.

The gradient is taken likewise, piece by piece, out of x and the result alone: that of x, styles and
noise, and of no weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sg2cli.ops.conv2d import convolve, takes_nnpack, transposed
from sg2cli.ops.upfirdn2d import polyphase
from sg2cli.settings import ResampleFilter

# Below so many pixels, torch's own operations take no longer.
LEAST_PIXELS = 2048
# Numbers of x in a piece, 8 MiB: with what becomes of them they stay in a cache of 32 MiB.
PIECE = 1 << 21
# A piece has at least so many pixels, whatever that makes: each transforms the weights anew.
LEAST_PIECE = 8192


def serves(x: Tensor, weight: Tensor, taps: ResampleFilter | None) -> bool:
    """Whether this is the way for x and weight, gradients in the weight apart."""
    if x.device.type != "cpu" or not x.dtype == weight.dtype == torch.float32:
        return False
    if x.shape[2] * x.shape[3] < LEAST_PIXELS:
        return False
    # Four pixels of 3x3 products instead of nine products in all: only Winograd makes up for it.
    return taps is None or (len(taps) <= 4 and takes_nnpack())


def styled_conv(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    bias: Tensor,
    noise: Tensor | None,
    taps: ResampleFilter | None,
    slope: float,
    gain: float,
    clamp: float | None,
    rgb_weight: Tensor | None = None,
    keep: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """See `sg2cli.ops.styled_conv`. With rgb_weight [N,C,O] also its product with the result.

    -> [N,O,uH,uW] and [N,C,uH,uW]; only the second without `keep`, which then is never stored as a
    whole unless a gradient needs it.
    """
    energy = styles.square() @ weight.square().sum(dim=(2, 3)).T  # [N,O], eq. 2 squared
    scale = (energy + 1e-8).rsqrt()
    if noise is not None:
        noise = noise.reshape(-1, 1, *noise.shape[-2:])
    operands = (x, weight, styles, scale, bias, noise, rgb_weight)
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands)
    how = _How(taps, slope, gain, clamp, keep, keep or learns)
    return _StyledConv.apply(*operands, how)


class _How(NamedTuple):
    taps: ResampleFilter | None
    slope: float
    gain: float
    clamp: float | None
    returns: bool  # the result itself
    stores: bool


class _StyledConv(torch.autograd.Function):
    """x [N,I,H,W], weight [O,I,3,3], styles [N,I], scale [N,O], bias [O], noise [N|1,1,uH,uW].

    rgb_weight [N,C,O]; u is 2 where it upsamples, else 1; -> [N,O,uH,uW], [N,C,uH,uW].
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        styles: Tensor,
        scale: Tensor,
        bias: Tensor,
        noise: Tensor | None,
        rgb_weight: Tensor | None,
        how: _How,
    ) -> tuple[Tensor | None, Tensor | None]:
        u = 2 if how.taps else 1
        kernel = upsampling_kernel(weight, how.taps) if how.taps else weight
        n, _, h, w = x.shape
        y = x.new_empty(n, len(weight), u * h, u * w) if how.stores else None
        rgb = None
        if rgb_weight is not None:
            assert u == 1
            rgb = x.new_empty(n, rgb_weight.shape[1], h, w)
        for piece in _pieces(x):
            some, rows = piece.samples, piece.rows(u)
            frame, inside = piece.frame(x, x.shape[1])
            torch.mul(x[some, :, piece.around()], styles[some, :, None, None], out=inside)
            t = piece.unframe(convolve(frame, kernel, rows=0), u)
            # A gain above 0 may as well go before the leaky ReLU.
            t.mul_((scale[some] * how.gain)[:, None, None, :, None, None])
            if noise is not None:
                t.add_(_apart(_of(noise, some)[:, :, rows] * how.gain, u))
            t.add_(bias[:, None, None], alpha=how.gain)
            if how.slope != 1:
                F.leaky_relu_(t, how.slope)
            if how.clamp is not None:
                t.clamp_(-how.clamp, how.clamp)
            if y is not None:
                _apart(y[some, :, rows], u).copy_(t)
            if rgb is not None and rgb_weight is not None:
                part = torch.bmm(rgb_weight[some], t[:, 0, 0].flatten(2))
                rgb[some, :, rows] = part.view(len(part), -1, piece.bottom - piece.top, w)
        ctx.save_for_backward(x, weight, styles, scale, bias, noise, rgb_weight, y)
        ctx.set_materialize_grads(False)
        ctx.how = how
        return (y if how.returns else None), rgb

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, drgb: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, styles, scale, bias, noise, rgb_weight, y = ctx.saved_tensors
        taps, slope, gain, clamp, *_ = ctx.how
        u = 2 if taps else 1
        kernel = transposed(upsampling_kernel(weight, taps) if taps else weight)
        dx, dstyles, dscale = torch.empty_like(x), torch.zeros_like(styles), torch.zeros_like(scale)
        dnoise = None if noise is None else y.new_empty(len(y), 1, *y.shape[2:])
        drgb_weight = None if rgb_weight is None else torch.zeros_like(rgb_weight)
        for piece in _pieces(x):
            some, inner, rows = piece.samples, piece.inner(u), piece.rows(u)
            around = piece.around(u)
            part = y[some, :, around]
            dt = None if dy is None else dy[some, :, around]
            if drgb is not None and drgb_weight is not None:
                drgb_part = drgb[some, :, around].flatten(2)
                through = torch.bmm(rgb_weight[some].mT, drgb_part).view(part.shape)
                dt = through if dt is None else through.add_(dt)
                drgb_part, y_part = (z[some, :, rows].flatten(2) for z in (drgb, y))
                drgb_weight[some] += torch.bmm(drgb_part, y_part.mT)
            if dt is None:
                return (None,) * 8
            if clamp is not None:
                dt = torch.ops.aten.hardtanh_backward(dt, part, -clamp, clamp)
            # scale * dscale is the sum over the convolution's result times its gradient. That
            # result is `part` less gain, slope, bias and noise; gain and slope cancel out.
            total = (dt * part)[:, :, inner].sum(dim=(2, 3))
            if slope != 1:
                dt = torch.ops.aten.leaky_relu_backward(dt, part, slope, True)
            dt = dt * gain
            within = dt[:, :, inner]
            total -= bias * within.sum(dim=(2, 3))
            if dnoise is not None:
                total -= (within * _of(noise, some)[:, :, rows]).sum(dim=(2, 3))
                dnoise[some, :, rows] = within.sum(dim=1, keepdim=True)
            dscale[some] += total / scale[some]
            frame, inside = piece.frame(x, u * u * dt.shape[1])
            inside = inside.view(len(dt), u, u, dt.shape[1], -1, x.shape[3])
            inside.copy_(_apart(dt * scale[some, :, None, None], u))
            dt = piece.unframe(convolve(frame, kernel, rows=0))[:, 0, 0]
            here = piece.rows()
            dstyles[some] += (dt * x[some, :, here]).sum(dim=(2, 3))
            torch.mul(dt, styles[some, :, None, None], out=dx[some, :, here])
        if dnoise is not None:
            dnoise = dnoise.sum_to_size(noise.shape)
        return dx, None, dstyles, dscale, None, dnoise, drgb_weight, None


@dataclass(frozen=True)
class _Piece:
    """Rows of one picture.

    Slices of rows are those of a picture u times as high.
    """

    samples: slice
    top: int
    bottom: int
    height: int  # of a picture

    def rows(self, u: int = 1) -> slice:
        return slice(u * self.top, u * self.bottom)

    def around(self, u: int = 1) -> slice:
        """And one row more on either side, where there is one."""
        return slice(u * max(self.top - 1, 0), u * min(self.bottom + 1, self.height))

    def inner(self, u: int = 1) -> slice:
        """Of what is `around`, the piece itself."""
        before = self.top - max(self.top - 1, 0)
        return slice(u * before, u * (before + self.bottom - self.top))

    def frame(self, x: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        """[1,C,2+r,W] to convolve, and the place in it for what is `around`; the rest is zeros."""
        place = self.around()
        frame = x.new_zeros(1, channels, 2 + self.bottom - self.top, x.shape[3])
        start = 0 if self.top else 1
        return frame, frame[:, :, start : start + place.stop - place.start]

    def unframe(self, y: Tensor, u: int = 1) -> Tensor:
        """What the convolution without its border gives, as [1,u,u,O,r,W]."""
        return y.view(1, u, u, -1, self.bottom - self.top, y.shape[3])


def _pieces(x: Tensor) -> Iterator[_Piece]:
    # Never of several pictures: Winograd's rounding depends on where a pixel lies in its tile, and
    # a picture is to come out the same, to the last bit, at any place in a batch.
    n, channels, h, w = x.shape
    rows = max(1, max(LEAST_PIECE, PIECE // channels) // w)
    for i in range(n):
        for top in range(0, h, rows):
            yield _Piece(slice(i, i + 1), top, min(top + rows, h), h)


def _apart(y: Tensor, u: int) -> Tensor:
    """[N,O,uH,uW] -> [N,u,u,O,H,W]: the pixels that a pixel becomes, apart. A view."""
    n, o, h, w = y.shape
    return y.view(n, o, h // u, u, w // u, u).permute(0, 3, 5, 1, 2, 4)


def _of(noise: Tensor, samples: slice) -> Tensor:
    return noise if len(noise) == 1 else noise[samples]


def upsampling_kernel(weight: Tensor, taps: ResampleFilter) -> Tensor:
    """Zero insertion, `weight` and the filter as one kernel: [O,I,3,3] -> [4O,I,3,3].

    Its results are the pixels (0,0), (0,1), (1,0), (1,1) of every 2x2, each O channels.
    """
    o, i, _, _ = weight.shape
    spread = polyphase(taps, 3).to(weight.dtype)
    kernel = torch.bmm(weight.reshape(1, o * i, 9).expand(4, -1, -1), spread)
    return kernel.view(4 * o, i, 3, 3)
