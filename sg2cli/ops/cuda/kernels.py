"""The Triton kernels: what follows a convolution, and the sum of images; see README.md.

Written for channels_last and any shape; sums are taken in float32, in a fixed order, so that the
same call gives the same result.
"""

from __future__ import annotations

import triton  # type: ignore[import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,unused-ignore]

# A program's share of a layer, pixels by channels, 8 numbers a thread, and 4 in the backward pass,
# which holds more of them in registers (benchmarks/README.md); and of an image.
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
    """The gradient of the image before it was upsampled: dy [C,2h,2w] -> dimg [C,h,w]."""
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
