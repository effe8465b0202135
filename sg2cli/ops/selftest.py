"""Comparison of each operation with its float64 reference on small inputs, for `sg2 doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sg2cli import ops
from sg2cli.ops import reference

TOLERANCE = 1e-4  # relative, in the 2-norm; float32 gives 1e-6 or better
BLUR = (1.0, 3.0, 3.0, 1.0)


class Check(NamedTuple):
    """An operation, its reference, and the shapes of its operands; the first has a gradient."""

    name: str
    tuned: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    constants: tuple[Any, ...] = ()
    gradient: bool = True


def _plain_rgb(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor, *rgb: Tensor) -> Tensor:
    return reference.to_rgb(reference.styled_conv(x, weight, styles, bias), *rgb)


def _tuned_rgb(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor, *rgb: Tensor) -> Tensor:
    return ops.styled_conv_rgb(x, [ops.Layer(weight, styles, bias)], *rgb)


def _plain_sum(rgb: Tensor, bias: Tensor, img: Tensor) -> Tensor:
    return reference.add_rgb(rgb, bias, 1.0, img, BLUR)


def _tuned_sum(rgb: Tensor, bias: Tensor, img: Tensor) -> Tensor:
    return ops.add_rgb(rgb, bias, 1.0, img, BLUR)


X, WEIGHT, STYLES, BIAS = (2, 32, 12, 9), (16, 32, 3, 3), (2, 32), (16,)
SMALL, LARGE = (2, 1, 12, 9), (2, 1, 24, 18)  # noise
RGB = ((3, 16, 1, 1), (2, 16))
LRELU = (0.2, 1.4, 2.0)  # slope, gain, clamp
CHECKS = (
    Check("linear", ops.linear, reference.linear, ((5, 32), (20, 32))),
    Check("conv3x3", ops.conv3x3, reference.conv3x3, (X, WEIGHT, BIAS), (0.0,)),
    Check(
        "styled_conv",
        ops.styled_conv,
        reference.styled_conv,
        (X, WEIGHT, STYLES, BIAS, SMALL),
        (None, *LRELU),
    ),
    Check(
        "styled_conv, upsampling",
        ops.styled_conv,
        reference.styled_conv,
        (X, WEIGHT, STYLES, BIAS, LARGE),
        (BLUR, *LRELU),
    ),
    Check("styled_conv_rgb", _tuned_rgb, _plain_rgb, (X, WEIGHT, STYLES, BIAS, *RGB), (), False),
    Check("to_rgb", ops.to_rgb, reference.to_rgb, (X, (3, 32, 1, 1), STYLES)),
    Check("add_rgb", _tuned_sum, _plain_sum, ((2, 3, 12, 10), (3,), (2, 3, 6, 5))),
    Check("upsample2d", ops.upsample2d, reference.upsample2d, ((2, 3, 7, 5),), (BLUR,)),
    Check("unit_distance", ops.unit_distance, reference.unit_distance, (X, X, (1, 32, 1, 1))),
)


def errors(device: str) -> Iterator[tuple[str, float]]:
    """The name of each operation, and the larger of the relative errors of values and gradient."""
    for check in CHECKS:
        numbers = torch.Generator().manual_seed(0)
        given = [
            torch.randn(shape, generator=numbers, dtype=torch.float64, device="cpu")
            for shape in check.shapes
        ]
        expected = _results(check.plain, given, check, "cpu", torch.float64)
        found = _results(check.tuned, given, check, device, torch.float32)
        yield check.name, max(map(_relative, found, expected))


def _results(
    operation: Callable[..., Tensor],
    given: list[Tensor],
    check: Check,
    device: str,
    dtype: torch.dtype,
) -> list[Tensor]:
    """The values, and the gradient of their weighted sum with respect to the first operand."""
    x, *rest = (t.to(device, dtype, copy=True) for t in given)
    y = operation(x.requires_grad_(check.gradient), *rest, *check.constants)
    if not check.gradient:
        return [y]
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device="cpu").view(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weights.to(y)).sum(), x)]


def _relative(found: Tensor, expected: Tensor) -> float:
    difference = (found.cpu().double() - expected).norm() / expected.norm()
    return float(difference) if difference.isfinite() else float("inf")
