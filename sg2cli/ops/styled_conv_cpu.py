"""`styled_conv` on a CPU, in float32, for weights that do not learn.

In channels_last, where oneDNN's convolutions are at their fastest, among them those with a filter
for each channel. A batch is taken in pieces that stay in the cache and whose memory serves the next
one: some pictures, or some rows of one, which lie together in this layout. Where many pixels are
upsampled, styles and demodulation multiply the weights and the filter instead of them.

The gradient is that of x, styles and noise, and of no weight, out of x and the result alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sg2cli.ops.conv2d import convolve, convolve_back, energy, finish, has_onednn, kept, turned
from sg2cli.ops.gradients import first_order
from sg2cli.ops.upfirdn2d import filter_kernel
from sg2cli.ops.winograd import LAST, TILE, After, of_pictures
from sg2cli.settings import ResampleFilter

# Numbers of x in a piece, 8 MiB: with what becomes of them they stay in a cache of 32 MiB.
PIECE = 1 << 21
LEAST_PIECE = 8192  # pixels, whatever that makes
# A picture of so many numbers has weights of its own where it is upsampled.
OWN_WEIGHTS = 1 << 22


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether this is the way for x and weight, gradients in the weight apart."""
    single = x.dtype == weight.dtype == torch.float32
    return x.device.type == "cpu" and single and has_onednn()


class Layer(NamedTuple):
    """What `sg2cli.ops.styled_conv` takes beside x."""

    weight: Tensor
    styles: Tensor
    bias: Tensor
    noise: Tensor | None = None
    taps: ResampleFilter | None = None
    slope: float = 1.0
    gain: float = 1.0
    clamp: float | None = None

    @property
    def how(self) -> _How:
        return _How(self.taps, self.slope, self.clamp)


def styled_conv(x: Tensor, layer: Layer) -> Tensor:
    """See `sg2cli.ops.styled_conv`."""
    return _StyledConv.apply(x.contiguous(memory_format=LAST), *_operands(x, layer), layer.how)


def styled_pixels(x: Tensor, layers: Sequence[Layer], rgb_weight: Tensor) -> Tensor:
    """See `sg2cli.ops.styled_conv`: rgb_weight [N,C,O], with no gradient.

    The last layer does not upsample; the one before it, if there is one, does.
    """
    n, _, h, w = x.shape
    x = x.contiguous(memory_format=LAST)
    below = layers[:-1]
    channels, u = (len(below[0].weight), 2) if below else (x.shape[1], 1)
    operands = [_operands(x, layer) for layer in layers]
    y = x.new_empty(n, rgb_weight.shape[1], u * h, u * w)
    alone = _has_own_weights(x, layers[0].taps)
    for some, pieces in _shares((n, channels, u * h, u * w), None, alone):
        steps = [
            (_layer(x[some], weight, styles[some], scale[some], bias, layer.how), noise)
            for layer, (weight, styles, scale, bias, noise) in zip(layers, operands, strict=True)
        ]
        for piece in pieces:
            rows, around = piece.rows(), piece.around()
            part, first = x[some, :, around], around.start
            if below:
                under = _Piece(around.start // 2, -(-around.stop // 2), h, _halo(below[0].taps))
                part = steps[0][0](
                    x[some, :, under.around()],
                    under.inner(2),
                    _rows_of(steps[0][1], some, under.rows(2)),
                    None,
                )
                first = under.rows(2).start
            layer, noise = steps[-1]
            within = slice(rows.start - first, rows.stop - first)
            part = layer(part, within, _rows_of(noise, some, rows), None)
            y[some, :, rows] = _pixels(part, rgb_weight[some])
    return y


class _How(NamedTuple):
    taps: ResampleFilter | None
    slope: float
    clamp: float | None


def _operands(x: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Weight, styles, scale, bias, noise. A gain above 0 may as well go before the leaky ReLU."""
    weight, styles, bias, noise, gain = *layer[:4], layer.gain
    scale = (styles.square() @ kept(weight, energy).T + 1e-8).rsqrt() * gain  # [N,O], eq. 2 squared
    if noise is not None:
        noise = noise.reshape(-1, 1, *noise.shape[-2:]) * gain
        if len(noise) not in (1, len(x)):
            raise ValueError(f"{len(noise)} noise maps for {len(x)} pictures")
    return weight, styles, scale, bias * gain, noise


class _StyledConv(torch.autograd.Function):
    """x [N,I,H,W], weight [O,I,3,3], styles [N,I], scale [N,O], bias [O], noise [N|1,1,uH,uW].

    -> [N,O,uH,uW]; u is 2 where it upsamples, else 1.
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
        how: _How,
    ) -> Tensor:
        u = 2 if how.taps else 1
        shape = (len(x), len(weight), u * x.shape[2], u * x.shape[3])
        y = torch.empty(shape, dtype=x.dtype, memory_format=LAST)
        for some, pieces in _shares(x.shape, how.taps, _has_own_weights(x, how.taps)):
            layer = _layer(x[some], weight, styles[some], scale[some], bias, how)
            for piece in pieces:
                rows = piece.rows(u)
                plus = _rows_of(noise, some, rows)
                layer(x[some, :, piece.around()], piece.inner(u), plus, y[some, :, rows])
        ctx.save_for_backward(x, weight, styles, scale, bias, noise, y)
        ctx.how = how
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, styles, scale, bias, noise, y = ctx.saved_tensors
        taps, slope, clamp = ctx.how
        u = 2 if taps else 1
        dy = dy.contiguous(memory_format=LAST)
        dx, dstyles, dscale = torch.empty_like(x), torch.zeros_like(styles), torch.zeros_like(scale)
        dnoise = None if noise is None else y.new_empty(len(y), 1, *y.shape[2:])
        for some, pieces in _shares(x.shape, taps, _has_own_weights(x, taps)):
            back = _convolution_back(x[some], weight, scale[some], taps)
            for piece in pieces:
                inner, rows = piece.inner(u), piece.rows(u)
                d, part = (z[some, :, piece.around(u)] for z in (dy, y))
                if clamp is not None:
                    d = torch.ops.aten.hardtanh_backward(d, part, -clamp, clamp)
                # scale * dscale is the sum over the convolution's result times its gradient. That
                # result is y less slope, bias and noise; the slope cancels out.
                total = (d * part)[:, :, inner].sum(dim=(2, 3))
                if slope != 1:
                    d = torch.ops.aten.leaky_relu_backward(d, part, slope, True)
                within = d[:, :, inner]
                if noise is None or dnoise is None:
                    total -= bias * within.sum(dim=(2, 3))
                else:
                    # In one pass, and row by row: such a sum over all pixels loses digits.
                    plus = bias.new_ones(len(d), within.shape[2], 2, within.shape[3])
                    plus[:, :, 1] = _rows_of(noise, some, rows)[:, 0]  # type: ignore[index]
                    over_pixels = (plus @ within.permute(0, 2, 3, 1)).sum(dim=1)  # [n,2,O]
                    total -= bias * over_pixels[:, 0] + over_pixels[:, 1]
                    torch.sum(within, dim=1, keepdim=True, out=dnoise[some, :, rows])
                dscale[some] += total / scale[some]
                d, here = back(d, piece.inner()), piece.rows()
                dstyles[some] += (d * x[some, :, here]).sum(dim=(2, 3))
                torch.mul(d, styles[some, :, None, None], out=dx[some, :, here])
        if dnoise is not None:
            dnoise = dnoise.sum_to_size(noise.shape)
        return dx, None, dstyles, dscale, None, dnoise, None


class Pixels(torch.autograd.Function):
    """A 1x1 convolution with weights of each picture's own: x [N,I,H,W], weight [N,C,I].

    -> [N,C,H,W]. By hand, as autograd's product for the gradient of so few weights takes ten times
    as long as this one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _pixels(x, weight).contiguous()

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        dy = dy.flatten(2).contiguous()
        return (dy.mT @ weight).mT.view_as(x), dy @ x.flatten(2).mT


def _pixels(x: Tensor, weight: Tensor) -> Tensor:
    pixels = x.flatten(2).mT @ weight.mT  # [N,HW,C], the order that is faster
    return pixels.mT.view(len(x), -1, *x.shape[2:])


def _layer(
    x: Tensor, weight: Tensor, styles: Tensor, scale: Tensor, bias: Tensor, how: _How
) -> Callable[[Tensor, slice, Tensor | None, Tensor | None], Tensor]:
    """What it does with a part of these pictures: of that, the rows, their noise, and out."""
    taps, slope, clamp = how
    if not taps:

        def plain(x: Tensor, rows: slice, noise: Tensor | None, out: Tensor | None) -> Tensor:
            return convolve(x, weight, rows, styles, After(scale, bias, noise, slope, clamp), out)

        return plain
    into, own = styles[:, :, None, None], _has_own_weights(x, taps)
    turned_weight = turned(weight * into[0]) if own else kept(weight, turned)
    kernel = blur_kernel(taps, len(weight))
    if own:
        kernel = kernel * scale[0, :, None, None, None]

    def upsampling(x: Tensor, rows: slice, noise: Tensor | None, out: Tensor | None) -> Tensor:
        if own:
            t = blur(upsampled(x, turned_weight), kernel, bias)[:, :, rows]
            return finish(t, After(None, None, noise, slope, clamp), out)
        t = blur(upsampled(x * into, turned_weight), kernel)[:, :, rows]
        return finish(t, After(scale, bias, noise, slope, clamp), out)

    return upsampling


def _convolution_back(
    x: Tensor, weight: Tensor, scale: Tensor, taps: ResampleFilter | None
) -> Callable[[Tensor, slice], Tensor]:
    """The gradient of styles * x: rows of that."""
    if not taps:
        return lambda d, rows: convolve_back(d, weight, rows, scale)
    own, out = _has_own_weights(x, taps), scale[:, :, None, None]
    kernel, weight = blur_kernel(taps, len(weight)).flip(2, 3), kept(weight, turned)
    if own:
        kernel = kernel * out[0, :, None]
        return lambda d, rows: F.conv2d(blur_back(d, kernel), weight, stride=2)[:, :, rows]
    return lambda d, rows: F.conv2d(blur_back(d * out, kernel), weight, stride=2)[:, :, rows]


def _has_own_weights(x: Tensor, taps: ResampleFilter | None) -> bool:
    return taps is not None and x.shape[1:].numel() >= OWN_WEIGHTS


@dataclass(frozen=True)
class _Piece:
    """Rows of a picture; slices are those of one that is u times as high."""

    top: int
    bottom: int
    height: int  # of the picture
    halo: int  # rows on either side that the result depends on

    def rows(self, u: int = 1) -> slice:
        return slice(u * self.top, u * self.bottom)

    def around(self, u: int = 1) -> slice:
        """With the halo, where there is one. Of its convolution only `inner` is right."""
        last = min(self.bottom + self.halo, self.height)
        return slice(u * max(self.top - self.halo, 0), u * last)

    def inner(self, u: int = 1) -> slice:
        """Of what is `around`, the piece itself."""
        before = u * self.top - self.around(u).start
        return slice(before, before + u * (self.bottom - self.top))


def _halo(taps: ResampleFilter | None) -> int:
    """Rows of x on either side of some that their result depends on."""
    return -(-len(taps) // 4) if taps else 1


def _shares(
    shape: Sequence[int], taps: ResampleFilter | None, alone: bool
) -> Iterator[tuple[slice, list[_Piece]]]:
    """Pictures that are convolved together, or each alone, and in which pieces."""
    n, channels, h, w = shape
    pixels = max(LEAST_PIECE, PIECE // channels)
    count, rows = max(1, pixels // (h * w)), max(1, pixels // w // TILE) * TILE
    if alone:
        count = 1
    # All shares are equal, as a picture may come out otherwise in a smaller one.
    count = max((k for k in range(1, min(count, n) + 1) if n % k == 0), default=1)
    pieces = [_Piece(top, min(top + rows, h), h, _halo(taps)) for top in range(0, h, rows)]
    for i in range(0, n, count):
        yield slice(i, min(i + count, n)), pieces


def _rows_of(noise: Tensor | None, some: slice, rows: slice) -> Tensor | None:
    noise = of_pictures(noise, some)
    return None if noise is None else noise[:, :, rows]


def upsampled(x: Tensor, weight: Tensor) -> Tensor:
    """Zero insertion and convolution: x [N,I,H,W], weight [I,O,3,3] -> [N,O,2H+1,2W+1]."""
    return F.conv_transpose2d(x, weight, stride=2)


def blur(t: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """The filter after `upsampled`: t [N,O,2H+1,2W+1], kernel [O,1,f,f] -> [N,O,2H,2W]."""
    return F.conv2d(t, kernel, bias, padding=kernel.shape[-1] // 2 - 1, groups=t.shape[1])


def blur_back(d: Tensor, kernel: Tensor) -> Tensor:
    """The gradient of t, with the kernel turned: d [N,O,2H,2W] -> [N,O,2H+1,2W+1]."""
    return F.conv2d(d, kernel, padding=kernel.shape[-1] // 2, groups=d.shape[1])


@lru_cache(maxsize=64)
def blur_kernel(taps: ResampleFilter, channels: int) -> Tensor:
    """[O,1,f,f], as `conv2d` takes it, times 4 for the zeros that were inserted; f is even."""
    with torch.inference_mode(False):  # what is kept must do for gradients, too
        f = 4 * filter_kernel(taps, torch.float32, torch.device("cpu")).flip(0, 1)
        odd = len(f) % 2
        return F.pad(f, (0, odd, 0, odd)).repeat(channels, 1, 1, 1)
