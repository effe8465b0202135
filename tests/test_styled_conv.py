"""A layer, as each device computes it, against the plain one in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import relative
from torch import Tensor

from sg2cli.ops import conv2d, styled_conv_cpu
from sg2cli.ops.styled_conv import styled_conv, styled_conv_reference, styled_conv_rgb
from sg2cli.ops.upfirdn2d import polyphase, upfirdn2d, upsample2d

BLUR = (1, 3, 3, 1)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "up": {"taps": BLUR},
    "clamped": {"clamp": 0.4},
    "up-clamped": {"taps": BLUR, "clamp": 0.4},
    "linear": {"slope": 1.0, "gain": 1.0},
    "up-relu": {"taps": BLUR, "slope": 0.0},
    "one-tap": {"taps": (1,)},
    "two-taps": {"taps": (1, 3)},
    "three-taps": {"taps": (1, 2, 3)},
    "asymmetric": {"taps": (1, 2, 4, 1)},
    "no-product": {"taps": ((1.0, 2.0, 0.0), (0.0, 3.0, 1.0), (1.0, 0.0, 4.0))},
    "eight-taps": {"taps": (-1, 2, 5, 9, 9, 5, 2, -1)},
}
# N, I, O, H, W: by which one piece holds all, some pictures, or some rows.
SHAPES = [(1, 5, 3, 7, 9), (5, 4, 6, 5, 3), (2, 3, 5, 23, 6), (1, 33, 34, 31, 13)]


@pytest.fixture(params=["whole", "pieces"])
def small_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 40 pixels; and the fast way for any size."""
    monkeypatch.setattr(styled_conv_cpu, "LEAST_PIXELS", 0)
    monkeypatch.setattr(conv2d, "LEAST_PIXELS", 0)
    if request.param == "pieces":
        monkeypatch.setattr(styled_conv_cpu, "LEAST_PIECE", 40)
        monkeypatch.setattr(styled_conv_cpu, "PIECE", 0)


def operands(randn: Any, shape: tuple[int, ...], up: bool, noise: str) -> list[Tensor | None]:
    """x, weight, styles, bias, noise."""
    n, i, o, h, w = shape
    size = (2 * h, 2 * w) if up else (h, w)
    maps = {"none": None, "shared": randn(*size), "own": randn(n, 1, *size)}
    return [randn(n, i, h, w), randn(o, i, 3, 3), randn(n, i) + 1, randn(o), maps[noise]]


def results(layer: Any, given: list[Tensor | None], how: dict[str, Any]) -> list[Tensor]:
    """The layer's result, and the gradients in x, styles and noise of a weighed sum of it."""
    x, weight, styles, bias, noise = given
    leaves = [t.clone().requires_grad_() for t in (x, styles, noise) if t is not None]
    y = layer(leaves[0], weight, leaves[1], bias, leaves[2] if noise is not None else None, **how)
    weigh = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).sin().view(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weigh.to(y)).sum(), leaves)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", ["none", "shared", "own"])
def test_values_and_gradients(
    small_pieces: None, randn: Any, case: str, shape: tuple[int, ...], noise: str
) -> None:
    how = {"slope": 0.2, "gain": 2**0.5, **CASES[case]}
    given = operands(randn, shape, "taps" in how, noise)
    single = [None if t is None else t.float() for t in given]
    assert single[0] is not None and single[1] is not None
    fast = styled_conv_cpu.serves(single[0], single[1], how.get("taps"))
    assert fast == (conv2d.takes_nnpack() or "taps" not in how) or case == "eight-taps"
    expected = results(styled_conv_reference, given, how)
    for found, right in zip(results(styled_conv, single, how), expected, strict=True):
        assert found.shape == right.shape
        assert relative(found, right) < 2e-5
    with torch.inference_mode():
        drawn = styled_conv(*single, **how)  # type: ignore[arg-type]
    assert relative(drawn, expected[0]) < 2e-5


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("clamp", [None, 0.4])
def test_with_pixels(
    small_pieces: None, randn: Any, shape: tuple[int, ...], clamp: float | None, keep: bool
) -> None:
    x, weight, styles, bias, noise = operands(randn, shape, False, "own")
    rgb = randn(3, shape[2], 1, 1), randn(shape[0], shape[2])

    def all_of(dtype: torch.dtype) -> list[Tensor]:
        leaves = [t.to(dtype, copy=True).requires_grad_() for t in (x, styles, noise, *rgb[1:])]
        own = weight.to(dtype), leaves[1], bias.to(dtype), leaves[2]
        how = (0.2, 1.4, clamp, rgb[0].to(dtype), leaves[3], keep)
        y, pixels = styled_conv_rgb(leaves[0], *own, *how)
        total = (pixels * torch.linspace(-1, 1, pixels.numel()).view(pixels.shape)).sum()
        assert y is not None or not keep
        if y is not None and keep:
            total = total + y.square().sum()
        return [pixels.detach(), *torch.autograd.grad(total, leaves)]

    for found, right in zip(all_of(torch.float32), all_of(torch.float64), strict=True):
        assert relative(found, right) < 2e-5
    with torch.inference_mode():
        parts = [t.float() for t in (x, weight, styles, bias, noise)]
        y, pixels = styled_conv_rgb(*parts, 0.2, 1.4, clamp, *(t.float() for t in rgb), keep)
    assert (y is not None) == keep
    assert relative(pixels, all_of(torch.float64)[0]) < 2e-5


def test_weights_that_learn_get_their_gradient(randn: Any) -> None:
    given = operands(randn, (1, 4, 5, 8, 8), True, "shared")
    gradients = []
    for dtype in (torch.float32, torch.float64):
        x, weight, styles, bias, noise = (None if t is None else t.to(dtype) for t in given)
        assert weight is not None and bias is not None
        leaves = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        y = styled_conv(x, leaves[0], styles, leaves[1], noise, BLUR, 0.2)  # type: ignore[arg-type]
        gradients.append(torch.autograd.grad(y.square().sum(), leaves))
    assert max(relative(a, b) for a, b in zip(*gradients, strict=True)) < 1e-5


def test_float64_takes_the_plain_way(randn: Any) -> None:
    given = operands(randn, (1, 64, 64, 48, 48), False, "shared")
    assert torch.equal(styled_conv(*given), styled_conv_reference(*given))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", [name for name, how in CASES.items() if "taps" in how])
def test_upsampling_a_picture(randn: Any, case: str) -> None:
    taps = CASES[case]["taps"]
    x = randn(2, 3, 5, 7)
    f = torch.tensor(taps, dtype=torch.float64)
    f = torch.outer(f, f) if f.ndim == 1 else f
    f, t = f / f.sum(), len(f)
    expected = upfirdn2d(x, f, up=2, padding=((t + 1) // 2, (t - 2) // 2), gain=4)
    torch.testing.assert_close(upsample2d(x, taps), expected)


def test_what_is_kept_is_fit_for_gradients(randn: Any) -> None:
    """Also when it is first needed in inference mode."""
    polyphase.cache_clear()
    x = randn(1, 3, 4, 4).float()
    with torch.inference_mode():
        upsample2d(x, BLUR)
    (grad,) = torch.autograd.grad(upsample2d(x.requires_grad_(), BLUR).square().sum(), x)
    assert grad.norm() > 0
