"""`styled_conv` on a CPU, in float32, for weights that do not learn.

In channels_last, by code that is compiled for it: convolutions with what goes before and after
them, filters likewise, and the sums of the gradient. Where a layer upsamples, what its convolution
gives is larger than all else: it is made in bands of rows, whose memory serves the next one and
stays in the cache.

The gradient is that of x, styles and noise, and of no weight, out of x and the result alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sg2cli import cores
from sg2cli.ops import jit, winograd
from sg2cli.ops.conv2d import energy, kept
from sg2cli.ops.jit import LAST
from sg2cli.ops.linear import linear
from sg2cli.ops.tensors import constant, first_order, saved
from sg2cli.ops.winograd import DOWN, NOTHING, PLAIN, After, convolve, per_picture
from sg2cli.settings import ResampleFilter

BAND = 1 << 21  # numbers, 8 MiB: a few such maps stay in a cache of 32 MiB
TAPS = 4  # of the filters that are compiled


def serves(x: Tensor, weight: Tensor, taps: ResampleFilter | None = None) -> bool:
    """Whether this is the way for x and weight, gradients in the weight apart."""
    filters = taps is None or (len(taps) <= TAPS and not isinstance(taps[0], tuple))
    return filters and jit.serves(x, weight, channels=weight.shape[:2])


def serves_pixels(x: Tensor, weight: Tensor) -> bool:
    """Whether `Pixels` is the way, for pictures of 1 to 4 channels."""
    return jit.serves(x, weight, channels=[x.shape[1]])


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

    def after(self, pictures: int, height: int, width: int) -> After:
        """What makes a result of this size of its convolution. A gain above 0 may as well go before
        the leaky ReLU."""
        squares = linear(self.styles.square(), kept(self.weight, energy))
        scale = (squares + 1e-8).rsqrt()  # eq. 2
        noise = self.noise
        if noise is not None:
            noise = noise.float().reshape(-1, 1, *noise.shape[-2:]) * self.gain
            if len(noise) not in (1, pictures):
                raise ValueError(f"{len(noise)} noise maps for {pictures} pictures")
            noise = noise.expand(-1, -1, height, width)
        scale = (scale * self.gain).expand(pictures, -1)
        return After(scale, self.bias.float() * self.gain, noise, self.slope, self.clamp)


def styled_conv(x: Tensor, layer: Layer) -> Tensor:
    """See `sg2cli.ops.styled_conv`."""
    x = x.contiguous(memory_format=LAST)
    n, _, h, w = x.shape
    u = 2 if layer.taps else 1
    styles, after = layer.styles.expand(n, -1), layer.after(n, u * h, u * w)
    return _StyledConv.apply(x, layer.weight, styles, layer.taps, *after)


def styled_pixels(x: Tensor, layers: Sequence[Layer], rgb_weight: Tensor) -> Tensor:
    """See `sg2cli.ops.styled_conv`: rgb_weight [N,C,O], with no gradient.

    The last layer does not upsample; the one before it, if there is one, does.
    """
    x = x.contiguous(memory_format=LAST)
    n, _, h, w = x.shape
    height, width = len(layers) * h, len(layers) * w  # one of two layers upsamples
    afters = [layer.after(n, height, width) for layer in layers]
    y = x.new_empty(n, rgb_weight.shape[1], height, width)
    # With the rows around it that it needs, a band fills the tiles of the layer that upsamples.
    less = 8 if len(layers) == 2 else 0
    for some, rows in _bands(n, height, len(layers[-1].weight) * width, less):
        part, first = x[some], 0
        for more, layer, after in zip(range(len(layers))[::-1], layers, afters, strict=True):
            weight, styles, *_ = layer
            around = slice(max(rows.start - more, 0), min(rows.stop + more, height))
            out = _room(f"layer {more}", part, len(weight), around, width)
            own = styles.expand(n, -1)[some], layer.taps, after.of(some, around)
            within = slice(around.start - first, around.stop - first)
            part, first = _layer(part, weight, *own, within, out), around.start
        _pixels(part, rgb_weight[some], y[some, :, rows])
    return y


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
        taps: ResampleFilter | None,
        scale: Tensor,
        bias: Tensor,
        noise: Tensor | None,
        slope: float,
        clamp: float | None,
    ) -> Tensor:
        rows = slice(0, (2 if taps else 1) * x.shape[2])
        y = _layer(x, weight, styles, taps, After(scale, bias, noise, slope, clamp), rows)
        ctx.save_for_backward(x, weight, styles, scale, bias, noise, y)
        ctx.how = taps, slope, clamp
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, styles, scale, bias, noise, y = saved(ctx)
        taps, slope, clamp = ctx.how
        after = After(None, None, noise, slope, clamp)
        d, sums, over_channels = _derivative(dy.contiguous(memory_format=LAST), y, after)
        total, over_pixels, with_noise = sums
        # scale * dscale is the sum over the convolution's result times its gradient. That result is
        # y less slope, bias and noise; the slope cancels out.
        dscale = (total - bias * over_pixels - with_noise) / scale
        d = _convolution_back(d, weight, scale, taps)
        dx, (dstyles, *_), _ = _derivative(d, x, NOTHING, styles, out=d)
        dnoise = None if noise is None else over_channels.sum_to_size(noise.shape)
        return dx, None, dstyles, None, dscale, None, dnoise, None, None


def _layer(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    taps: ResampleFilter | None,
    after: After,
    rows: slice,
    out: Tensor | None = None,
) -> Tensor:
    """Rows of the result, and what comes after them."""
    n, _, h, w = x.shape
    if not taps:
        return convolve(PLAIN, x, weight, rows, w, styles, after, out)
    outputs, size = len(weight), 2 * w + 1
    if out is None:
        out = jit.new_map(n, outputs, rows.stop - rows.start, 2 * w)
    # Of its last tile a band leaves the rows that its filter needs to see.
    for some, band in _bands(n, rows.stop - rows.start, outputs * size, less=4):
        top, bottom = rows.start + band.start, rows.start + band.stop
        seen = slice(max(top - 1, 0) // 2 * 2, min(bottom + 2, 2 * h + 1))
        t = _room("upsampled", x[some], outputs, seen, size)
        kind = winograd.up(seen.stop - seen.start, size)
        convolve(kind, x[some], weight, seen, size, styles[some], out=t)
        _filter(
            t, _kernel(taps), top - seen.start - 1, -1, after.of(some, band), out[some, :, band]
        )
    return out


def _convolution_back(
    d: Tensor, weight: Tensor, scale: Tensor, taps: ResampleFilter | None
) -> Tensor:
    """The gradient of styles * x: of that of the convolution's result times scale."""
    n, outputs, h, w = d.shape
    weight = weight.transpose(0, 1)
    if not taps:
        return convolve(PLAIN, d, weight, slice(0, h), w, scale, turned=True)
    kernel = _kernel(taps).flip(0)
    dx = jit.new_map(n, len(weight), h // 2, w // 2)
    for some, band in _bands(n, h // 2, 2 * outputs * w):
        seen = slice(2 * band.start, 2 * band.stop + 1)
        t = _room("upsampled", d[some], outputs, seen, w + 1)
        _filter(d[some], kernel, seen.start - 2, -2, NOTHING, t)
        rows = slice(0, band.stop - band.start)
        convolve(DOWN, t, weight, rows, w // 2, scale[some], out=dx[some, :, band])
    return dx


def _filter(t: Tensor, kernel: Tensor, top: int, left: int, after: After, out: Tensor) -> None:
    """out[i,j] = sum of kernel[k] kernel[l] t[i + k + top, j + l + left], and what comes after."""
    n, channels, height, width = t.shape
    jit.compiled("layer_code", "filtered", after.slope)(
        pictures=n,
        channels=channels,
        taps=kernel,
        **jit.map_of("t", t),
        t_height=height,
        t_width=width,
        top=top,
        left=left,
        outside=jit.filled(0, channels),
        **jit.map_of("y", out),
        y_height=out.shape[2],
        y_width=out.shape[3],
        beyond=jit.scratch("beyond", channels * cores.torch_threads()),
        **after.arguments(channels),
    )


def _derivative(
    dy: Tensor, y: Tensor, after: After, factor: Tensor | None = None, out: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Of y the derivative before its activation and clamp, times factor [N,C].

    And the sums [N,C] over pixels: of dy * y, without what is clamped, and of the derivative, by
    itself and times the noise; and that over channels, [N,1,H,W]. Without noise and activation,
    there is only the first.
    """
    n, channels, height, width = y.shape
    out = torch.empty_like(dy) if out is None else out
    over_pixels = y.new_zeros(n, height, 3, channels)
    over_channels = y.new_empty(n, 1, height, width)
    own, a_factor = per_picture(factor, jit.filled(1, channels))
    jit.compiled("layer_code", "sums", after.slope, factor is None)(
        **jit.sizes(y),
        **jit.map_of("dy", dy),
        **jit.map_of("y", y),
        **jit.map_of("out", out),
        factor=own,
        a_factor=a_factor,
        sums=over_pixels,
        dnoise=over_channels,
        **after.arguments(channels),
    )
    return out, over_pixels.sum(dim=1).unbind(dim=1), over_channels


@lru_cache(maxsize=64)
def _kernel(taps: ResampleFilter) -> Tensor:
    """[4]: what follows zero insertion, along one dimension, as a correlation that begins a pixel
    before the one it makes."""
    before = TAPS // 2 - (len(taps) + 1) // 2
    weights = [float(tap) for tap in taps]  # type: ignore[arg-type]
    factors = [2 * weight / sum(weights) for weight in weights[::-1]]
    return constant([0] * before + factors + [0] * (TAPS - before - len(taps)))


def _bands(n: int, height: int, a_row: int, less: int = 0) -> Iterator[tuple[slice, slice]]:
    """Pictures, and rows of them, whose maps of so many numbers a row stay in the cache.

    Where a picture is too large for one, all bands but the last have a multiple of 8 rows, less
    these. They are the same in any batch.
    """
    rows = max(1, BAND // (8 * a_row)) * 8
    rows = height if rows >= height else max(rows, 16) - less
    together = max(1, BAND // (rows * a_row))
    for i in range(0, n, together):
        for top in range(0, height, rows):
            yield slice(i, min(i + together, n)), slice(top, min(top + rows, height))


def _room(name: str, pictures: Tensor, channels: int, rows: slice, width: int) -> Tensor:
    """Memory for rows of a map of these pictures, that is there until it is asked for again."""
    shape = (len(pictures), rows.stop - rows.start, width, channels)
    numbers = shape[0] * shape[1] * shape[2] * shape[3]
    return jit.scratch(name, numbers)[:numbers].view(shape).permute(0, 3, 1, 2)


class Pixels(torch.autograd.Function):
    """A 1x1 convolution with weights of each picture's own: x [N,I,H,W], weight [N,C,I].

    -> [N,C,H,W]. Of few C, so that all of them are made of x at once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.contiguous(memory_format=LAST), weight.contiguous()
        ctx.save_for_backward(x, weight)
        return _pixels(x, weight, x.new_empty(len(x), weight.shape[1], *x.shape[2:]))

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = saved(ctx)
        n, channels, height, _ = x.shape
        count, dy, dx = weight.shape[1], dy.contiguous(), torch.empty_like(x)
        sums = x.new_empty(n, height, count, channels)
        jit.compiled("layer_code", "pixels_back", count)(
            **jit.sizes(x),
            **jit.map_of("x", x),
            weight=weight,
            dy=dy,
            dy_picture=dy.stride(0),
            dy_channel=dy.stride(1),
            **jit.map_of("dx", dx),
            sums=sums,
        )
        return dx, sums.sum(dim=1)


def _pixels(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """In y, of which a row lies together and the next one follows."""
    weight = weight.contiguous()
    jit.compiled("layer_code", "pixels", weight.shape[1])(
        **jit.sizes(x),
        **jit.map_of("x", x),
        weight=weight,
        y=y,
        y_picture=y.stride(0),
        y_channel=y.stride(1),
    )
    return y
