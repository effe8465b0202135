"""The operations of `sg2cli.ops.reference` on CUDA, fused by Triton.

Convolutions are those of `convolution` where it supports them (3x3, float32), else of cuDNN.
Weights take no gradient. KernelUnavailable where Triton cannot compile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
import triton  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

from sg2cli.ops.cuda import convolution, kernels
from sg2cli.ops.cuda.launch import empty, launch
from sg2cli.ops.reference import Layer, filter_kernel, modulation
from sg2cli.ops.tensors import first_order
from sg2cli.settings import ResampleFilter


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
        x = x.contiguous(memory_format=torch.channels_last)
        x = finish(convolve(x, weight, layer.taps is not None), scale, *layer[2:], then)
    return x


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, slope: float = 1.0) -> Tensor:
    """See `sg2cli.ops.conv3x3`."""
    y = convolve(x, weight, False)
    y = y if bias is None else y + bias[:, None, None]
    return y if slope == 1 else F.leaky_relu(y, slope)


def convolve(x: Tensor, weight: Tensor, transposed: bool) -> Tensor:
    """x [N,I,H,W], weight [O,I,3,3] -> [N,O,H,W], or, transposed, [N,O,2H+1,2W+1]."""
    if convolution.supports(x):
        kernel = convolution.conv_transpose3x3 if transposed else convolution.conv3x3
        return kernel(x, weight)
    weight = weight.to(x.dtype, memory_format=torch.channels_last)
    if transposed:
        return F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    return F.conv2d(x, weight, padding=1)


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
        p, c = _tile(channels, kernels.BACK_TILE)
        # The sums of many pixels in one program, as long as there are programs enough.
        tiles = max(1, min(kernels.MOST_TILES, out_h * out_w // (p * kernels.LEAST_PROGRAMS)))
        blocks, parts = triton.cdiv(out_h * out_w, p * tiles), triton.cdiv(channels, c)
        dscale = scale.new_empty(n, blocks, channels)
        dthen = None if then is None else torch.empty_like(dscale)
        dnoise = None if noise is None else scale.new_empty(n, parts, out_h, out_w)
        f, size, pad = _filter_of(taps, v)
        launch(
        kernels.layer_backward_kernel, (blocks, parts, n),
            v, dy, f, scale, noise, bias, then, dv, dscale, dnoise, dthen,
            v.shape[2], v.shape[3], out_h, out_w, channels, _step(noise),
            slope, gain, clamp or 0.0,
            TAPS=size, PAD=pad, NOISE=noise is not None, CLAMPS=clamp is not None,
            THEN=then is not None, P=p, C=c, TILES=tiles,
        )  # fmt: skip
        if taps:
            dv = _transposed_filter(dv, taps, v)
        if dnoise is not None:
            dnoise = dnoise.sum(dim=1, keepdim=True).sum_to_size(noise.shape).to(noise.dtype)
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
    y = empty(v, n, channels, out_h, out_w)
    p, c = _tile(channels)
    grid = (triton.cdiv(out_h * out_w, p), triton.cdiv(channels, c), n)
    launch(
        kernels.layer_kernel, grid,
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
    dx = empty(v, n, channels, h, w)
    p, c = _tile(channels)
    grid = (triton.cdiv(h * w, p), triton.cdiv(channels, c), n)
    launch(
        kernels.layer_kernel, grid,
        dv, dx, _correlated(taps, v.device, True), None, None, None, None,
        dv.shape[2], dv.shape[3], h, w, channels, 0, 1.0, 1.0, 0.0,
        TAPS=size, PAD=size - 1 - ((size + 1) // 2 - 1), ACTS=False, NOISE=False, CLAMPS=False,
        THEN=False, P=p, C=c,
    )  # fmt: skip
    return dx


def _tile(channels: int, numbers: int = kernels.TILE) -> tuple[int, int]:
    """Pixels and channels of a program."""
    wide = min(kernels.WIDEST, triton.next_power_of_2(channels))
    return numbers // wide, wide


def _filter_of(taps: ResampleFilter | None, v: Tensor) -> tuple[Tensor | None, int, int]:
    """The filter, its size, and the zeros before: one wider than the result is what it filters."""
    if taps is None:
        return None, 0, 0
    return _correlated(taps, v.device, False), len(taps), (len(taps) + 1) // 2 - 1


def _step(noise: Tensor | None) -> int:
    """From one image's map to the next one's."""
    return 0 if noise is None or len(noise) == 1 else noise.shape[2] * noise.shape[3]


def to_rgb(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """See `sg2cli.ops.to_rgb`; float32, for up to 16 colours."""
    y: Tensor = _ToRGB.apply(x, weight.flatten(1), styles)
    return y


class _ToRGB(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        styles = styles.contiguous()
        n, channels, h, w = x.shape
        y = torch.empty(n, h, w, len(weight), dtype=torch.float32, device=x.device)
        step = 0 if len(styles) == 1 else channels
        launch(
        kernels.rgb_kernel, (triton.cdiv(h * w, kernels.PIXELS), n),
            x, weight, styles, y, h * w, channels, step,
            COLORS=len(weight), P=kernels.PIXELS, C=16, TILE_I=32,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, styles)
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, Tensor]:
        x, weight, styles = ctx.saved_tensors
        n, channels, h, w = x.shape
        dy = dy.permute(0, 2, 3, 1).reshape(n, h * w, -1).to(x.dtype)
        modulated = (weight * styles[:, None]).to(x.dtype).expand(n, -1, -1)
        dx = torch.bmm(dy, modulated).view(n, h, w, channels).permute(0, 3, 1, 2)
        flat = x.permute(0, 2, 3, 1).view(n, h * w, channels)
        dweight = torch.bmm(dy.mT, flat).float()  # [N,C,I], of each image's own weights
        return dx, None, (dweight * weight).sum(dim=1).sum_to_size(styles.shape)


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
        launch(
        kernels.picture_kernel, (triton.cdiv(channels * h * w, kernels.ELEMENTS), n),
            rgb, bias, None if img is None else img.contiguous(), f, y,
            h, w, channels, *rgb.stride(), clamp or 0.0,
            CLAMPS=clamp is not None, TAPS=0 if img is None else len(taps),
            PAD=(len(taps) + 1) // 2, E=kernels.ELEMENTS,
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
            launch(
        kernels.picture_backward_kernel, (triton.cdiv(channels * h * w, kernels.ELEMENTS), n),
                dy.contiguous(), _correlated(taps, dy.device, False), dimg, h, w, channels,
                TAPS=len(taps), PAD=(len(taps) + 1) // 2, E=kernels.ELEMENTS,
            )  # fmt: skip
        return drgb, None, None, dimg, None
