"""A layer of the synthesis network in compiled code, and its gradient, without autograd.

Where a layer upsamples, what its convolution gives is larger than all else: it is made in bands of
rows, whose memory serves the next one and stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from sg2cli import devices
from sg2cli.ops.cpu import winograd
from sg2cli.ops.cpu.convolution import convolve
from sg2cli.ops.cpu.epilogue import IDENTITY, TAPS, Epilogue, per_image
from sg2cli.ops.cpu.kernels_layers import FilterArguments, SumsArguments
from sg2cli.ops.cpu.products import pixels
from sg2cli.ops.cpu.runtime import LAST, filled, kernel, new_map, scratch, scratch_map
from sg2cli.ops.cpu.winograd import DOWN, SAME
from sg2cli.ops.tensors import constant
from sg2cli.settings import ResampleFilter

BAND = 1 << 21  # numbers, 8 MiB: a few such maps stay in a cache of 32 MiB
Part = tuple[Tensor, Tensor, ResampleFilter | None, Epilogue]  # weight, styles, taps, epilogue


def prepare_backward(taps: ResampleFilter | None, slope: float) -> None:
    """Compile what `backward` needs."""
    kernel("kernels_layers", "sums", slope, True)
    kernel("kernels_layers", "sums", 1.0, False)
    kernel("kernels_winograd", "convolution", DOWN if taps else SAME, 1.0, 1.0)
    if taps:
        kernel("kernels_layers", "filtered", 1.0)


def forward(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    taps: ResampleFilter | None,
    epilogue: Epilogue,
    rows: slice,
    out: Tensor | None = None,
) -> Tensor:
    """Rows of the result: x [N,I,H,W], weight [O,I,3,3], styles [N,I] -> [N,O,rows,W|2W]."""
    n, _, h, w = x.shape
    if not taps:
        return convolve(SAME, x, weight, rows, w, styles, epilogue, out)
    outputs, size = weight.shape[0], 2 * w + 1
    if out is None:
        out = new_map(n, outputs, rows.stop - rows.start, 2 * w)
    # The last rows of a tile of each band are only inputs of the filter.
    for some, band in _bands(n, rows.stop - rows.start, outputs * size, less=4):
        top, bottom = rows.start + band.start, rows.start + band.stop
        seen = slice(max(top - 1, 0) // 2 * 2, min(bottom + 2, 2 * h + 1))
        part = x[some]
        t = scratch_map("upsampled", len(part), outputs, seen.stop - seen.start, size)
        algorithm = winograd.best_up(seen.stop - seen.start, size)
        convolve(algorithm, part, weight, seen, size, styles[some], out=t)
        result = out[some, :, band]
        _filter(t, correlated(taps), top - seen.start - 1, -1, epilogue.part(some, band), result)
    return out


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    taps: ResampleFilter | None,
    epilogue: Epilogue,
    y: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of x, styles, scale and noise, from x and the result y."""
    scale, bias, noise, slope, clamp = epilogue
    assert scale is not None and bias is not None
    dy = dy.contiguous(memory_format=LAST)
    known = Epilogue(None, None, noise, slope, clamp)
    d, (total, over_pixels, with_noise), over_channels = _activation_backward(dy, y, known)
    # scale * dscale is the sum over the convolution's result times its gradient. That result is
    # y less slope, bias and noise; the slope cancels out.
    dscale = (total - bias * over_pixels - with_noise) / scale
    d = _convolution_backward(d, weight, scale, taps)
    dx, (dstyles, *_), _ = _activation_backward(d, x, IDENTITY, styles, out=d)
    dnoise = None if noise is None else over_channels.sum_to_size(noise.shape)
    return dx, dstyles, dscale, dnoise


def _convolution_backward(
    d: Tensor, weight: Tensor, scale: Tensor, taps: ResampleFilter | None
) -> Tensor:
    """The gradient of styles * x, from that of the result of the convolution."""
    n, outputs, h, w = d.shape
    weight = weight.transpose(0, 1)
    if not taps:
        return convolve(SAME, d, weight, slice(0, h), w, scale, turned=True)
    flipped = correlated(taps).flip(0)
    dx = new_map(n, weight.shape[0], h // 2, w // 2)
    for some, band in _bands(n, h // 2, 2 * outputs * w):
        first, last = 2 * band.start, 2 * band.stop + 1
        part = d[some]
        t = scratch_map("upsampled", len(part), outputs, last - first, w + 1)
        _filter(part, flipped, first - 2, -2, IDENTITY, t)
        rows = slice(0, band.stop - band.start)
        convolve(DOWN, t, weight, rows, w // 2, scale[some], out=dx[some, :, band])
    return dx


def _filter(t: Tensor, taps: Tensor, top: int, left: int, epilogue: Epilogue, out: Tensor) -> None:
    """out[i,j] = sum of taps[k] taps[l] t[i + k + top, j + l + left], and the epilogue."""
    n, channels, height, width = t.shape
    threads = devices.torch_threads()
    arguments = FilterArguments(
        **epilogue.arguments(channels),
        images=n,
        channels=channels,
        taps=taps,
        t=t,
        t_height=height,
        t_width=width,
        top=top,
        left=left,
        outside=filled(0, channels),
        y=out,
        y_height=out.shape[2],
        y_width=out.shape[3],
        discarded=scratch("discarded", channels * threads),
        threads=threads,
    )
    kernel("kernels_layers", "filtered", epilogue.slope)(arguments, threads)


def _activation_backward(
    dy: Tensor,
    y: Tensor,
    epilogue: Epilogue,
    factor: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """The gradient before the activation and clamp of y, times factor [N,C].

    Also its sums: over pixels [N,C], of dy * y (without clamped ones), of the gradient and of the
    gradient times noise, and over channels [N,1,H,W]. With a factor, only that of dy * y.
    """
    n, channels, height, width = y.shape
    out = torch.empty_like(dy) if out is None else out
    over_pixels = y.new_zeros(n, height, 3, channels)
    over_channels = y.new_empty(n, 1, height, width)
    own_factor, factor_step = per_image(factor, filled(1, channels))
    arguments = SumsArguments(
        **epilogue.arguments(channels),
        images=n,
        channels=channels,
        height=height,
        width=width,
        dy=dy,
        y=y,
        out=out,
        factor=own_factor,
        factor_step=factor_step,
        sums=over_pixels,
        dnoise=over_channels,
    )
    kernel("kernels_layers", "sums", epilogue.slope, factor is None)(arguments)
    return out, over_pixels.sum(dim=1).unbind(dim=1), over_channels


@lru_cache(maxsize=64)
def correlated(taps: ResampleFilter) -> Tensor:
    """[4]: what follows zero insertion, along one dimension, as a correlation that begins a pixel
    before the one it makes."""
    weights = [float(tap) for tap in taps]  # type: ignore[arg-type]
    factors = [2 * weight / sum(weights) for weight in weights[::-1]]
    before = TAPS // 2 - (len(taps) + 1) // 2
    return constant([0.0] * before + factors + [0.0] * (TAPS - before - len(taps)))


def _bands(n: int, height: int, a_row: int, less: int = 0) -> Iterator[tuple[slice, slice]]:
    """Images, and rows of them, whose maps of so many numbers a row stay in the cache.

    Where an image is too large for one, all bands but the last have a multiple of 8 rows, less
    these. They are the same in any batch.
    """
    rows = max(1, BAND // (8 * a_row)) * 8
    rows = height if rows >= height else max(rows, 16) - less
    together = max(1, BAND // (rows * a_row))
    for i in range(0, n, together):
        for top in range(0, height, rows):
            yield slice(i, min(i + together, n)), slice(top, min(top + rows, height))


def rgb_of_layers(x: Tensor, layers: Sequence[Part], rgb_weight: Tensor) -> Tensor:
    """ToRGB of layers in turn, in bands, so that their maps are never stored: -> [N,C,uH,uW].

    rgb_weight [N,C,O]. The last layer does not upsample; the one before it, if there is one, does.
    """
    n, _, h, w = x.shape
    height, width = len(layers) * h, len(layers) * w  # one of two layers upsamples
    y = x.new_empty(n, rgb_weight.shape[1], height, width)
    # With the rows around it that it needs, a band fills the tiles of the layer that upsamples.
    less = 8 if len(layers) == 2 else 0
    for some, rows in _bands(n, height, layers[-1][0].shape[0] * width, less):
        part, first = x[some], 0
        for more, layer in zip(range(len(layers))[::-1], layers, strict=True):
            weight, styles, taps, epilogue = layer
            around = slice(max(rows.start - more, 0), min(rows.stop + more, height))
            count = around.stop - around.start
            out = scratch_map(f"layer {more}", len(part), weight.shape[0], count, width)
            within = slice(around.start - first, around.stop - first)
            own = epilogue.part(some, around)
            part, first = forward(part, weight, styles[some], taps, own, within, out), around.start
        pixels(part, rgb_weight[some], y[some, :, rows])
    return y
