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
PIXELS = 128  # of ToRGB
MOST_TILES, LEAST_PROGRAMS = 32, 64  # in the backward pass, an image and its WIDEST channels
# Sizes that differ from layer to layer: Triton would compile a kernel anew for multiples of 16.
LAYER_SIZES = ["h", "w", "out_h", "out_w", "noise_step"]
CONVOLUTION_SIZES = ["images", "h", "w", "rows", "columns", "out_h", "out_w", "steps"]


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


@triton.jit(do_not_specialize=LAYER_SIZES)
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


@triton.jit(do_not_specialize=LAYER_SIZES)
def layer_backward_kernel(  # type: ignore[no-untyped-def]
    x, dy, f, scale, noise, bias, then, dv, dscale, dnoise, dthen,
    h, w, out_h, out_w, channels, noise_step, slope, gain, clamp,
    TAPS: tl.constexpr, PAD: tl.constexpr, NOISE: tl.constexpr, CLAMPS: tl.constexpr,
    THEN: tl.constexpr, P: tl.constexpr, C: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The gradient dv of filtered(x), and those of scale, noise and then.

    dscale and dthen [N,programs,channels] are sums over each program's pixels, TILES times P, and
    dnoise [N,programs,pixels] over its channels, C.
    """
    block, part, n = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    c = part * C + tl.arange(0, C)
    known = c < channels
    x += n * h * w * channels
    dy += n * out_h * out_w * channels
    dv += n * out_h * out_w * channels
    factor = tl.load(scale + n * channels + c, mask=known, other=0.0)[None, :]
    shift = tl.load(bias + c, mask=known, other=0.0).to(tl.float32)[None, :]
    next_styles = factor
    if THEN:
        next_styles = tl.load(then + n * channels + c, mask=known, other=0.0)[None, :]
    for_scale = tl.zeros([C], tl.float32)
    for_then = tl.zeros([C], tl.float32)
    for tile in range(TILES):
        p = (block * TILES + tile) * P + tl.arange(0, P)
        there = p < out_h * out_w
        inside = there[:, None] & known[None, :]
        v = filtered(x, f, p // out_w, p % out_w, c, h, w, channels, inside, TAPS, PAD)
        z = v * factor + shift
        if NOISE:
            own = tl.load(noise + n * noise_step + p, mask=there, other=0.0)
            z += own.to(tl.float32)[:, None]
        at = p[:, None] * channels + c[None, :]
        d = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        a = tl.where(z < 0, z * slope, z) * gain
        if THEN:
            cut = a
            if CLAMPS:
                cut = tl.minimum(tl.maximum(a, -clamp), clamp)
            for_then += tl.sum(d * cut, axis=0)
            d *= next_styles
        if CLAMPS:
            d = tl.where((a < -clamp) | (a > clamp), 0.0, d)
        d = tl.where(z < 0, d * slope, d) * gain
        for_scale += tl.sum(d * v, axis=0)
        tl.store(dv + at, (d * factor).to(dv.dtype.element_ty), mask=inside)
        if NOISE:
            sums = (n * tl.num_programs(1) + part) * (out_h * out_w)
            tl.store(dnoise + sums + p, tl.sum(d, axis=1), mask=there)
    sums = (n * tl.num_programs(0) + block) * channels
    tl.store(dscale + sums + c, for_scale, mask=known)
    if THEN:
        tl.store(dthen + sums + c, for_then, mask=known)


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


@triton.jit(do_not_specialize=CONVOLUTION_SIZES)
def convolution_kernel(  # type: ignore[no-untyped-def]
    x, weight, y,
    images, h, w, channels, rows, columns, outputs, out_h, out_w, steps,
    TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr, FIRST_Y: tl.constexpr, FIRST_X: tl.constexpr,
    OFFSET_Y: tl.constexpr, OFFSET_X: tl.constexpr, STRIDE: tl.constexpr, STEP: tl.constexpr,
    START: tl.constexpr, ORDER: tl.constexpr, SPREAD: tl.constexpr,
    TILE_P: tl.constexpr, TILE_O: tl.constexpr, TILE_I: tl.constexpr,
):  # fmt: skip
    """A 3x3 convolution as a matrix product in three parts of TF32: see `convolution.Window`.

    x [N,h,w,C], weight [O,3,3,C] -> rows x columns pixels of y [parts,N,out_h,out_w,O], each part
    being the sum over so many steps, a step TILE_I channels of a tap.
    """
    part = tl.program_id(2)
    p = tl.program_id(0) * TILE_P + tl.arange(0, TILE_P)
    o = tl.program_id(1) * TILE_O + tl.arange(0, TILE_O)
    inside = p < images * rows * columns
    n = (p // (rows * columns)).to(tl.int64)
    r, c = p // columns % rows, p % columns
    blocks = tl.cdiv(channels, TILE_I)
    x += n * (h * w * channels)
    total = tl.zeros([TILE_P, TILE_O], tl.float32)
    for k in range(part * steps, min((part + 1) * steps, TAPS_Y * TAPS_X * blocks)):
        tap = k // blocks
        i = (k - tap * blocks) * TILE_I + tl.arange(0, TILE_I)
        tap_y = tap // TAPS_X
        tap_x = tap - tap_y * TAPS_X
        row, column = r * STRIDE + tap_y * STEP + START, c * STRIDE + tap_x * STEP + START
        there = inside & (row >= 0) & (row < h) & (column >= 0) & (column < w)
        pixel = x + (row * w + column) * channels
        known = (i < channels)[None, :]
        a = tl.load(pixel[:, None] + i[None, :], mask=there[:, None] & known, other=0.0)
        at = ((FIRST_Y + tap_y * ORDER) * 3 + FIRST_X + tap_x * ORDER) * channels
        theirs = weight + (o * 9 * channels)[None, :] + at + i[:, None]
        b = tl.load(theirs, mask=(i < channels)[:, None] & (o < outputs)[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision="tf32x3")
    y += (part.to(tl.int64) * images + n) * (out_h * out_w * outputs)
    at = ((r * SPREAD + OFFSET_Y) * out_w + c * SPREAD + OFFSET_X) * outputs
    mask = inside[:, None] & (o < outputs)[None, :]
    tl.store(y[:, None] + at[:, None] + o[None, :], total, mask=mask)


@triton.jit(do_not_specialize=["pixels", "step_styles"])
def rgb_kernel(  # type: ignore[no-untyped-def]
    x, weight, styles, y, pixels, channels, step_styles,
    COLORS: tl.constexpr, P: tl.constexpr, C: tl.constexpr, TILE_I: tl.constexpr,
):  # fmt: skip
    """y [N,pixels,COLORS] = x [N,pixels,channels] times (weight [COLORS,channels] * styles)."""
    n = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * P + tl.arange(0, P)
    c = tl.arange(0, C)
    x += n * pixels * channels
    total = tl.zeros([P, C], tl.float32)
    for first in range(0, channels, TILE_I):
        i = first + tl.arange(0, TILE_I)
        mask = (p < pixels)[:, None] & (i < channels)[None, :]
        a = tl.load(x + p[:, None] * channels + i[None, :], mask=mask, other=0.0).to(tl.float32)
        s = tl.load(styles + n * step_styles + i, mask=i < channels, other=0.0)
        mask = (i < channels)[:, None] & (c < COLORS)[None, :]
        b = tl.load(weight + c[None, :] * channels + i[:, None], mask=mask, other=0.0)
        total = tl.dot(a, b * s[:, None], total, input_precision="tf32x3")
    at = (n * pixels + p)[:, None] * COLORS + c[None, :]
    tl.store(y + at, total, mask=(p < pixels)[:, None] & (c < COLORS)[None, :])
