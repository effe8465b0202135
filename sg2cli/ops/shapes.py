"""Checks of shapes, with the same ValueError on every device, before any work."""

from __future__ import annotations

from torch import Tensor

from sg2cli.settings import ResampleFilter


def check_styled_conv(
    shape: tuple[int, ...],
    weight: Tensor,
    styles: Tensor,
    bias: Tensor,
    noise: Tensor | None,
    taps: ResampleFilter | None,
) -> tuple[int, ...]:
    """x [N,I,H,W], weight [O,I,3,3], styles [N|1,I], bias [O], noise [uH,uW] or [N|1,1,uH,uW].

    `shape`: of x; returns the shape of the result.
    """
    n, i, h, w = _four("styled_conv", shape)
    o = weight.shape[0]
    _check("styled_conv", "weight", weight, (o, i, 3, 3))
    _check("styled_conv", "styles", styles, (n, i), (1, i))
    _check("styled_conv", "bias", bias, (o,))
    h, w = (2 * h, 2 * w) if taps else (h, w)
    if noise is not None:
        _check("styled_conv", "noise", noise, (n, 1, h, w), (1, 1, h, w), (h, w))
    return n, o, h, w


def check_to_rgb(shape: tuple[int, ...], weight: Tensor, styles: Tensor) -> None:
    """`shape`: of x [N,I,H,W]; weight [C,I,1,1], styles [N|1,I]."""
    n, i, _, _ = _four("to_rgb", shape)
    _check("to_rgb", "weight", weight, (weight.shape[0], i, 1, 1))
    _check("to_rgb", "styles", styles, (n, i), (1, i))


def check_add_rgb(rgb: Tensor, bias: Tensor, img: Tensor | None) -> None:
    """rgb [N,C,2H,2W], bias [C], img [N,C,H,W]."""
    n, c, h, w = _four("add_rgb", rgb.shape)
    _check("add_rgb", "bias", bias, (c,))
    if img is not None:
        _check("add_rgb", "img", img, (n, c, h // 2, w // 2))


def _four(operation: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 4:
        raise ValueError(f"{operation}: x has the shape {list(shape)}, not [N, C, H, W]")
    return shape


def _check(operation: str, name: str, t: Tensor, *shapes: tuple[int, ...]) -> None:
    if t.shape not in shapes:
        fitting = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{operation}: {name} has the shape {list(t.shape)}, not {fitting}")
