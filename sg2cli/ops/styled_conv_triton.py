"""`styled_conv` and the sum of pictures on CUDA, in Triton; cuDNN keeps the convolutions.

Written by us for channels_last and any shape; sums are taken in float32, in a fixed order, so that
the same call gives the same result. Nothing is compiled before it is first needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
import triton  # type: ignore[import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

from sg2cli.ops.modulated_conv2d import modulation
from sg2cli.ops.styled_conv_cpu import Layer
from sg2cli.ops.tensors import first_order
from sg2cli.ops.upfirdn2d import filter_kernel
from sg2cli.settings import ResampleFilter

# A program's share of a layer, pixels by channels, 8 numbers a thread, and 4 in the backward pass,
# which holds more of them in registers (benchmarks/README.md); and of a picture.
TILE, BACK_TILE, WIDEST = 1024, 512, 64
ELEMENTS = 512


@triton.jit
def filtered(x, f, rows, columns, c, h, w, channels, inside, TAPS: tl.constexpr, PAD: tl.constexpr):  # type: ignore[no-untyped-def]
    """[pixels,channels] in float32: x [H,W,C], correlated with f [TAPS,TAPS] if TAPS."""
    if TAPS == 0:
        at = (rows * w + columns)[:, None] * channels + c[None, :]
        return tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([rows.shape[0], c.shape[0]], tl.float32)
    for ky in tl.static_range(TAPS):
        for kx in tl.static_range(TAPS):
            y, z = rows + ky - PAD, columns + kx - PAD
            there = (y >= 0) & (y < h) & (z >= 0) & (z < w)
            at = (y * w + z)[:, None] * channels + c[None, :]
            part = tl.load(x + at, mask=inside & there[:, None], other=0.0).to(tl.float32)
            total += part * tl.load(f + ky * TAPS + kx)
    return total


@triton.jit
def layer_kernel(  # type: ignore[no-untyped-def]
    x, y, f, scale, noise, bias, then,
    h, w, out_h, out_w, channels, noise_step, slope, gain, clamp,
    TAPS: tl.constexpr, PAD: tl.constexpr, ACTS: tl.constexpr, NOISE: tl.constexpr,
    CLAMPS: tl.constexpr, THEN: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """y = clamp(gain * leaky_relu(filtered(x) * scale + noise + bias)) * then, or filtered(x)."""
    n = tl.program_id(2).to(tl.int64)
    p = tl.program_id(0) * P + tl.arange(0, P)
    c = tl.program_id(1) * C + tl.arange(0, C)
    inside = (p < out_h * out_w)[:, None] & (c < channels)[None, :]
    x += n * h * w * channels
    y += n * out_h * out_w * channels
    v = filtered(x, f, p // out_w, p % out_w, c, h, w, channels, inside, TAPS, PAD)
    if ACTS:
        v *= tl.load(scale + n * channels + c, mask=c < channels, other=0.0)[None, :]
        v += tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
        if NOISE:
            own = tl.load(noise + n * noise_step + p, mask=p < out_h * out_w, other=0.0)
            v += own.to(tl.float32)[:, None]
        v = tl.where(v < 0, v * slope, v) * gain
        if CLAMPS:
            v = tl.minimum(tl.maximum(v, -clamp), clamp)
        if THEN:
            v *= tl.load(then + n * channels + c, mask=c < channels, other=0.0)[None, :]
    at = p[:, None] * channels + c[None, :]
    tl.store(y + at, v.to(y.dtype.element_ty), mask=inside)


@triton.jit
def layer_backward_kernel(  # type: ignore[no-untyped-def]
    x, dy, f, scale, noise, bias, then, dv, dscale, dnoise, dthen,
    h, w, out_h, out_w, channels, noise_step, slope, gain, clamp,
    TAPS: tl.constexpr, PAD: tl.constexpr, NOISE: tl.constexpr,
    CLAMPS: tl.constexpr, THEN: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """The gradient dv of filtered(x), and those of scale, noise and then.

    dscale and dthen [N,programs,C] are sums over each program's pixels.
    """
    block, n = tl.program_id(0), tl.program_id(1).to(tl.int64)
    p = block * P + tl.arange(0, P)
    x += n * h * w * channels
    dy += n * out_h * out_w * channels
    dv += n * out_h * out_w * channels
    sums = (n * tl.num_programs(0) + block) * channels
    own = tl.zeros([P], tl.float32)
    if NOISE:
        own = tl.load(noise + n * noise_step + p, mask=p < out_h * out_w, other=0.0)
        own = own.to(tl.float32)
    over_channels = tl.zeros([P], tl.float32)
    for first in range(0, channels, C):
        c = first + tl.arange(0, C)
        inside = (p < out_h * out_w)[:, None] & (c < channels)[None, :]
        v = filtered(x, f, p // out_w, p % out_w, c, h, w, channels, inside, TAPS, PAD)
        factor = tl.load(scale + n * channels + c, mask=c < channels, other=0.0)[None, :]
        z = v * factor + own[:, None]
        z += tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
        at = p[:, None] * channels + c[None, :]
        d = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        a = tl.where(z < 0, z * slope, z) * gain
        if THEN:
            cut = a
            if CLAMPS:
                cut = tl.minimum(tl.maximum(a, -clamp), clamp)
            tl.store(dthen + sums + c, tl.sum(d * cut, axis=0), mask=c < channels)
            d *= tl.load(then + n * channels + c, mask=c < channels, other=0.0)[None, :]
        if CLAMPS:
            d = tl.where((a < -clamp) | (a > clamp), 0.0, d)
        d = tl.where(z < 0, d * slope, d) * gain
        over_channels += tl.sum(d, axis=1)
        tl.store(dscale + sums + c, tl.sum(d * v, axis=0), mask=c < channels)
        tl.store(dv + at, (d * factor).to(dv.dtype.element_ty), mask=inside)
    if NOISE:
        tl.store(dnoise + n * out_h * out_w + p, over_channels, mask=p < out_h * out_w)


@triton.jit
def picture_kernel(  # type: ignore[no-untyped-def]
    rgb, bias, img, f, y,
    h, w, channels, step_n, step_c, step_h, step_w, clamp,
    CLAMPS: tl.constexpr, TAPS: tl.constexpr, PAD: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """y [C,h,w] = clamp(rgb + bias) + img [C,h/2,w/2], upsampled, where there is one (TAPS)."""
    n = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * E + tl.arange(0, E)
    inside = e < channels * h * w
    c, row, column = e // (h * w), e // w % h, e % w
    at = n * step_n + c * step_c + row * step_h + column * step_w
    v = tl.load(rgb + at, mask=inside, other=0.0).to(tl.float32)
    v += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    if CLAMPS:
        v = tl.minimum(tl.maximum(v, -clamp), clamp)
    if TAPS > 0:
        img += n * channels * (h // 2) * (w // 2)
        for ky in tl.static_range(TAPS):
            for kx in tl.static_range(TAPS):
                i, j = row + ky - PAD, column + kx - PAD  # zeros stand at the odd places
                there = inside & (i >= 0) & (i < h) & (j >= 0) & (j < w)
                there = there & (i % 2 == 0) & (j % 2 == 0)
                place = (c * (h // 2) + i // 2) * (w // 2) + j // 2
                part = tl.load(img + place, mask=there, other=0.0)
                v += part * tl.load(f + ky * TAPS + kx)
    tl.store(y + n * channels * h * w + e, v, mask=inside)


@triton.jit
def picture_backward_kernel(  # type: ignore[no-untyped-def]
    dy, f, dimg, h, w, channels, TAPS: tl.constexpr, PAD: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """The gradient of the picture before it was upsampled: dy [C,2h,2w] -> dimg [C,h,w]."""
    n = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * E + tl.arange(0, E)
    inside = e < channels * h * w
    c, row, column = e // (h * w), e // w % h, e % w
    dy += n * channels * 4 * h * w
    v = tl.zeros([E], tl.float32)
    for ky in tl.static_range(TAPS):
        for kx in tl.static_range(TAPS):
            i, j = 2 * row - ky + PAD, 2 * column - kx + PAD
            there = inside & (i >= 0) & (i < 2 * h) & (j >= 0) & (j < 2 * w)
            part = tl.load(dy + (c * 2 * h + i) * 2 * w + j, mask=there, other=0.0)
            v += part * tl.load(f + ky * TAPS + kx)
    tl.store(dimg + n * channels * h * w + e, v, mask=inside)


@lru_cache(maxsize=64)
def _correlated(taps: ResampleFilter, device: torch.device, transposed: bool) -> Tensor:
    """The filter times 4, for the zeros that were inserted, as `filtered` takes it."""
    with torch.inference_mode(False):
        f = filter_kernel(taps, torch.float64, torch.device("cpu")) * 4
        return (f if transposed else f.flip(0, 1)).to(device, torch.float32).contiguous()


def styled_convs(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """See `sg2cli.ops.styled_conv`: what ends a layer multiplies by the next one's styles."""
    ready = [modulation(x.dtype, layer.weight, layer.styles) for layer in layers]
    x = x * ready[0][0].to(x.dtype)[:, :, None, None]
    for layer, (_, weight, scale), then in zip(
        layers, ready, [*(styles for styles, *_ in ready[1:]), None], strict=True
    ):
        x, weight = x.contiguous(memory_format=torch.channels_last), weight.to(x.dtype)
        if layer.taps:
            v = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        else:
            v = F.conv2d(x, weight, padding=1)
        x = finish(v, scale, *layer[2:], then)
    return x


def finish(
    v: Tensor,
    scale: Tensor,
    bias: Tensor,
    noise: Tensor | None = None,
    taps: ResampleFilter | None = None,
    slope: float = 1.0,
    gain: float = 1.0,
    clamp: float | None = None,
    then: Tensor | None = None,
) -> Tensor:
    """What follows the convolution: v [N,O,H,W], or [N,O,2H+1,2W+1] to be filtered -> y.

    scale [N,O], bias [O], noise [H,W] or [N|1,1,H,W], then [N,O]
    """
    if noise is not None:
        noise = noise.reshape(-1, 1, *noise.shape[-2:])
    return _Finish.apply(v, scale, bias, noise, then, (taps, slope, gain, clamp))


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        v: Tensor,
        scale: Tensor,
        bias: Tensor,
        noise: Tensor | None,
        then: Tensor | None,
        how: tuple[Any, ...],
    ) -> Tensor:
        v = v.contiguous(memory_format=torch.channels_last)
        scale, then = scale.float().contiguous(), None if then is None else then.contiguous()
        noise = None if noise is None else noise.contiguous()
        ctx.save_for_backward(v, scale, bias, noise, then)
        ctx.how = how
        return _run(v, scale, bias, noise, then, how)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        v, scale, bias, noise, then = ctx.saved_tensors
        taps, slope, gain, clamp = ctx.how
        n, channels, out_h, out_w = dy.shape
        dy = dy.contiguous(memory_format=torch.channels_last)
        dv = torch.empty_like(dy)
        p, c = _tile(channels, BACK_TILE)
        blocks = triton.cdiv(out_h * out_w, p)
        dscale = scale.new_empty(n, blocks, channels)
        dthen = None if then is None else torch.empty_like(dscale)
        dnoise = None if noise is None else scale.new_empty(n, 1, out_h, out_w)
        f, size, pad = _filter_of(taps, v)
        layer_backward_kernel[(blocks, n)](
            v, dy, f, scale, noise, bias, then, dv, dscale, dnoise, dthen,
            v.shape[2], v.shape[3], out_h, out_w, channels, _step(noise),
            slope, gain, clamp or 0.0,
            TAPS=size, PAD=pad, NOISE=noise is not None, CLAMPS=clamp is not None,
            THEN=then is not None, P=p, C=c,
        )  # fmt: skip
        if taps:
            dv = _transposed_filter(dv, taps, v)
        if dnoise is not None:
            dnoise = dnoise.sum_to_size(noise.shape).to(noise.dtype)
        if dthen is not None:
            dthen = dthen.sum(dim=1).to(then.dtype)
        return dv, dscale.sum(dim=1), None, dnoise, dthen, None


def _run(
    v: Tensor,
    scale: Tensor,
    bias: Tensor,
    noise: Tensor | None,
    then: Tensor | None,
    how: tuple[Any, ...],
) -> Tensor:
    taps, slope, gain, clamp = how
    n, channels, h, w = v.shape
    out_h, out_w = (h - 1, w - 1) if taps else (h, w)
    f, size, pad = _filter_of(taps, v)
    y = _like(v, out_h, out_w)
    p, c = _tile(channels)
    grid = (triton.cdiv(out_h * out_w, p), triton.cdiv(channels, c), n)
    layer_kernel[grid](
        v, y, f, scale, noise, bias, then,
        h, w, out_h, out_w, channels, _step(noise), slope, gain, clamp or 0.0,
        TAPS=size, PAD=pad, ACTS=True, NOISE=noise is not None, CLAMPS=clamp is not None,
        THEN=then is not None, P=p, C=c,
    )  # fmt: skip
    return y


def _transposed_filter(dv: Tensor, taps: ResampleFilter, v: Tensor) -> Tensor:
    """The gradient of what was filtered: the filter the other way round."""
    n, channels, h, w = v.shape
    size = len(taps)
    dx = _like(v, h, w)
    p, c = _tile(channels)
    grid = (triton.cdiv(h * w, p), triton.cdiv(channels, c), n)
    layer_kernel[grid](
        dv, dx, _correlated(taps, v.device, True), None, None, None, None,
        dv.shape[2], dv.shape[3], h, w, channels, 0, 1.0, 1.0, 0.0,
        TAPS=size, PAD=size - 1 - ((size + 1) // 2 - 1), ACTS=False, NOISE=False, CLAMPS=False,
        THEN=False, P=p, C=c,
    )  # fmt: skip
    return dx


def _tile(channels: int, numbers: int = TILE) -> tuple[int, int]:
    """Pixels and channels of a program."""
    wide = min(WIDEST, triton.next_power_of_2(channels))
    return numbers // wide, wide


def _like(v: Tensor, h: int, w: int) -> Tensor:
    shape = (v.shape[0], v.shape[1], h, w)
    return torch.empty(shape, dtype=v.dtype, device=v.device, memory_format=torch.channels_last)


def _filter_of(taps: ResampleFilter | None, v: Tensor) -> tuple[Tensor | None, int, int]:
    """The filter, its size, and the zeros before: one wider than the result is what it filters."""
    if taps is None:
        return None, 0, 0
    return _correlated(taps, v.device, False), len(taps), (len(taps) + 1) // 2 - 1


def _step(noise: Tensor | None) -> int:
    """From one picture's map to the next one's."""
    return 0 if noise is None or len(noise) == 1 else noise.shape[2] * noise.shape[3]


def add_rgb(
    rgb: Tensor, bias: Tensor, clamp: float | None, img: Tensor | None, taps: ResampleFilter
) -> Tensor:
    """clamp(rgb + bias) + upsample2d(img), float32: rgb and result [N,C,2H,2W], img [N,C,H,W]."""
    return _AddRGB.apply(rgb, bias, clamp, img, taps)


class _AddRGB(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rgb: Tensor,
        bias: Tensor,
        clamp: float | None,
        img: Tensor | None,
        taps: ResampleFilter,
    ) -> Tensor:
        n, channels, h, w = rgb.shape
        y = torch.empty(rgb.shape, dtype=torch.float32, device=rgb.device)
        f = None if img is None else _correlated(taps, rgb.device, False)
        picture_kernel[(triton.cdiv(channels * h * w, ELEMENTS), n)](
            rgb, bias, None if img is None else img.contiguous(), f, y,
            h, w, channels, *rgb.stride(), clamp or 0.0,
            CLAMPS=clamp is not None, TAPS=0 if img is None else len(taps),
            PAD=(len(taps) + 1) // 2, E=ELEMENTS,
        )  # fmt: skip
        ctx.save_for_backward(rgb if clamp is not None else None, bias)
        ctx.how = clamp, None if img is None else img.shape, taps, rgb.dtype
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rgb, bias = ctx.saved_tensors
        clamp, shape, taps, dtype = ctx.how
        drgb, dimg = dy.to(dtype), None
        if clamp is not None:
            inside = (rgb.float() + bias.view(1, -1, 1, 1)).abs() <= clamp
            drgb = drgb * inside
        if shape is not None:
            n, channels, h, w = shape
            dimg = dy.new_empty(shape)
            picture_backward_kernel[(triton.cdiv(channels * h * w, ELEMENTS), n)](
                dy.contiguous(), _correlated(taps, dy.device, False), dimg, h, w, channels,
                TAPS=len(taps), PAD=(len(taps) + 1) // 2, E=ELEMENTS,
            )  # fmt: skip
        return drgb, None, None, dimg, None
