"""A layer, as each device computes it, against the plain one in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import relative
from torch import Tensor

from sg2cli import ops
from sg2cli.ops import Layer, reference, styled_conv, styled_conv_rgb, to_rgb, upsample2d
from sg2cli.ops.cpu import runtime
from sg2cli.ops.reference import modulated_conv2d, upfirdn2d

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
# N, I, O, H, W: channels that are not compiled; few pixels; long rows; high; many channels.
SHAPES = [
    (5, 4, 6, 5, 3),
    (3, 16, 32, 4, 4),
    (2, 16, 16, 7, 70),
    (2, 16, 16, 39, 6),
    (1, 32, 48, 31, 13),
    (2, 64, 80, 16, 5),
]


@pytest.fixture(params=["whole", "bands"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image at once, or in bands of as few rows as there can be."""
    if request.param == "bands":
        if not ops.has_compiled_cpu():
            pytest.skip("no compiled code here")
        from sg2cli.ops.cpu import layers

        monkeypatch.setattr(layers, "BAND", 1)


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
    way: None, randn: Any, case: str, shape: tuple[int, ...], noise: str
) -> None:
    how = {"slope": 0.2, "gain": 2**0.5, **CASES[case]}
    given = operands(randn, shape, "taps" in how, noise)
    single = [None if t is None else t.float() for t in given]
    assert single[0] is not None and single[1] is not None
    if ops.has_compiled_cpu():
        layer = Layer(single[1], single[2], single[3], single[4], how.get("taps"))
        fits = shape[1] % 16 == 0 and case not in ("no-product", "eight-taps")
        assert ops._supports_layer(single[0], layer) == fits
    expected = results(reference.styled_conv, given, how)
    for found, right in zip(results(styled_conv, single, how), expected, strict=True):
        assert found.shape == right.shape
        assert relative(found, right) < 2e-5
    with torch.inference_mode():
        drawn = styled_conv(*single, **how)  # type: ignore[arg-type]
    assert relative(drawn, expected[0]) < 2e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pixels(randn: Any, shape: tuple[int, ...], layout: torch.memory_format) -> None:
    n, i, _, h, w = shape
    given = randn(n, i, h, w), randn(3, i, 1, 1), randn(n, i)

    def all_of(dtype: torch.dtype) -> list[Tensor]:
        x, weight, styles = (t.to(dtype, copy=True) for t in given)
        leaves = [x.to(memory_format=layout).requires_grad_(), styles.requires_grad_()]
        y = to_rgb(leaves[0], weight, leaves[1])
        weigh = torch.linspace(-1, 1, y.numel(), dtype=dtype).view(y.shape)
        return [y.detach(), *torch.autograd.grad((y * weigh).sum(), leaves)]

    expected = modulated_conv2d(*given, demodulate=False)
    for found, right in zip(all_of(torch.float32), all_of(torch.float64), strict=True):
        assert relative(found, right) < 2e-5
    assert relative(all_of(torch.float64)[0], expected) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", ["none", "shared", "own"])
@pytest.mark.parametrize(
    "taps", [None, *(CASES[case]["taps"] for case in CASES if "taps" in CASES[case])]
)
def test_pixels_of_layers(
    way: None, randn: Any, shape: tuple[int, ...], noise: str, taps: Any
) -> None:
    """Of one, or of two, the first of which upsamples."""
    n, inputs, channels, h, w = shape
    x, *first = operands(randn, shape, True, noise)
    size = (2 * h, 2 * w) if taps else (h, w)
    last = operands(randn, (n, channels if taps else inputs, 64, *size), False, noise)[1:]
    rgb = randn(3, 64, 1, 1), randn(n, 64)

    def drawn(dtype: torch.dtype, x: Tensor) -> Tensor:
        def own(given: list[Tensor | None]) -> list[Any]:
            return [None if t is None else t.to(dtype) for t in given]

        layers = [Layer(*own(last), None, 0.2, 1.4, 0.9)]
        if taps:
            layers.insert(0, Layer(*own(first), taps, 0.5, 1.2, 5.0))
        return styled_conv_rgb(x, layers, *(t.to(dtype) for t in rgb))

    gradients, pixels = [], []
    for dtype in (torch.float32, torch.float64):
        assert x is not None
        leaf = x.to(dtype, copy=True).requires_grad_()
        y = drawn(dtype, leaf)
        gradients.append(torch.autograd.grad(y.square().sum(), leaf)[0])
        with torch.inference_mode():
            pixels += [y.detach(), drawn(dtype, leaf.detach())]
    # Of two layers it is that of each in turn, where a kink may lie between float32 and float64.
    assert taps or relative(*gradients) < 2e-5
    assert all(relative(found, pixels[-1]) < 2e-5 for found in pixels)


def test_without_a_compiler_all_is_torchs_own(randn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "why_not", lambda: "none here")
    given = [t.float() for t in operands(randn, (1, 16, 16, 6, 6), True, "own") if t is not None]
    expected = reference.styled_conv(*given, taps=BLUR)  # type: ignore[misc]
    assert torch.equal(styled_conv(*given, taps=BLUR), expected)  # type: ignore[misc]


def test_trainable_weights_get_their_gradient(randn: Any) -> None:
    given = operands(randn, (1, 4, 5, 8, 8), True, "shared")
    gradients = []
    for dtype in (torch.float32, torch.float64):
        x, weight, styles, bias, noise = (None if t is None else t.to(dtype) for t in given)
        assert weight is not None and bias is not None
        leaves = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        y = styled_conv(x, leaves[0], styles, leaves[1], noise, BLUR, 0.2)  # type: ignore[arg-type]
        gradients.append(torch.autograd.grad(y.square().sum(), leaves))
    assert max(relative(a, b) for a, b in zip(*gradients, strict=True)) < 1e-5


def test_sums_over_many_pixels_keep_their_digits(randn: Any) -> None:
    """Where the gradient that comes in has a mean, what is left of large sums is small."""
    given = operands(randn, (1, 8, 32, 128, 128), True, "own")
    gradients = []
    for dtype in (torch.float32, torch.float64):
        x, weight, styles, bias, noise = (None if t is None else t.to(dtype) for t in given)
        assert styles is not None
        leaf = styles.clone().requires_grad_()
        y = styled_conv(x, weight, leaf, bias, noise, BLUR, 0.2)  # type: ignore[arg-type]
        weigh = torch.linspace(0, 1, y.numel()).view(y.shape).to(dtype)
        gradients += torch.autograd.grad((y * weigh).sum(), leaf)
    assert relative(*gradients) < 1e-5


# x [3,16,8,8], weight [32,16,3,3], styles, bias, noise: one of them, as it must not be.
WRONG_LAYERS: dict[str, tuple[tuple[int, ...], ...]] = {
    "x": ((3, 8, 8), (3, 32, 8, 8), (3, 8, 8, 8), (3, 16, 8, 8, 1), (4, 16, 8, 8)),
    "weight": ((32, 8, 3, 3), (32, 32, 3, 3), (32, 16, 1, 1), (32, 16, 9), (32, 1, 3, 3)),
    "styles": ((3, 8), (3, 1), (3, 32), (2, 16), (4, 16), (16,), (0, 16)),
    "bias": ((1,), (16,), (33,), (32, 1), ()),
    "noise": ((2, 1, 8, 8), (5, 1, 8, 8), (3, 1, 4, 4), (16, 16), (3, 32, 8, 8), (8,), (1, 8)),
}
WRONG_PIXELS: dict[str, tuple[tuple[int, ...], ...]] = {
    "x": ((3, 8, 8), (3, 16, 8, 8), (3, 64, 8, 8)),
    "weight": ((3, 16, 1, 1), (3, 1, 1, 1), (3, 48, 1, 1), (3, 32, 3, 3), (3, 32)),
    "styles": ((3, 16), (3, 1), (2, 32), (3, 48), (32,)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", WRONG_LAYERS)
def test_layers_of_other_shapes_are_refused(randn: Any, name: str, dtype: torch.dtype) -> None:
    right = {"x": (3, 16, 8, 8), "weight": (32, 16, 3, 3), "styles": (3, 16), "bias": (32,)}
    right["noise"] = (3, 1, 8, 8)
    rgb = randn(3, 32, 1, 1).to(dtype), randn(3, 32).to(dtype)
    for shape in WRONG_LAYERS[name]:
        given = {key: randn(*(right | {name: shape})[key]).to(dtype) for key in right}
        with pytest.raises(ValueError, match="shape"):
            styled_conv(**given)
        x = given.pop("x")
        with pytest.raises(ValueError, match="shape"):
            styled_conv_rgb(x, [Layer(**given)], *rgb)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", WRONG_PIXELS)
def test_pixels_of_other_shapes_are_refused(randn: Any, name: str, dtype: torch.dtype) -> None:
    right = {"x": (3, 32, 8, 8), "weight": (3, 32, 1, 1), "styles": (3, 32)}
    layer = [randn(32, 32, 3, 3), randn(3, 32), randn(32)]
    for shape in WRONG_PIXELS[name]:
        given = {key: randn(*(right | {name: shape})[key]).to(dtype) for key in right}
        with pytest.raises(ValueError, match="shape"):
            to_rgb(**given)
        if name != "x":
            last = Layer(*(t.to(dtype) for t in layer))
            with pytest.raises(ValueError, match="shape"):
                styled_conv_rgb(given["x"], [last], given["weight"], given["styles"])


def test_noise_of_another_type_is_taken(randn: Any) -> None:
    given = [t.float() for t in operands(randn, (2, 16, 16, 8, 8), False, "own") if t is not None]
    found = styled_conv(*given[:4], given[4].double())
    assert torch.equal(found, styled_conv(*given)) and found.dtype == torch.float32


def test_one_style_for_all_images(randn: Any) -> None:
    x, weight, styles, bias, _ = operands(randn, (3, 16, 32, 8, 8), False, "none")
    assert x is not None and weight is not None and styles is not None and bias is not None
    x, weight, styles, bias = (t.float() for t in (x, weight, styles[:1], bias))
    same = styles.expand(3, -1)
    expected = styled_conv(x, weight, same, bias)
    assert relative(styled_conv(x, weight, styles, bias), expected) < 1e-6
    rgb = randn(3, 16, 1, 1).float()
    assert relative(to_rgb(x, rgb, styles), to_rgb(x, rgb, same)) < 1e-6


def test_no_images(randn: Any) -> None:
    given = [t.float() for t in operands(randn, (1, 16, 32, 8, 8), True, "shared") if t is not None]
    x, weight, styles, *rest = given
    assert styled_conv(x[:0], weight, styles[:0], *rest, BLUR).shape == (0, 32, 16, 16)


def test_an_image_is_the_same_at_any_place_in_a_batch(randn: Any) -> None:
    given = operands(randn, (1, 256, 256, 16, 16), False, "shared")
    x, weight, styles, bias, noise = (t.float() for t in given if t is not None)
    y = styled_conv(x.expand(33, -1, -1, -1), weight, styles.expand(33, -1), bias, noise, None, 0.2)
    assert all(torch.equal(image, y[0]) for image in y)


def test_float64_takes_the_plain_way(randn: Any) -> None:
    given = operands(randn, (1, 64, 64, 48, 48), False, "shared")
    assert torch.equal(styled_conv(*given), reference.styled_conv(*given))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", [name for name, how in CASES.items() if "taps" in how])
def test_upsampling_an_image(randn: Any, case: str) -> None:
    taps = CASES[case]["taps"]
    x = randn(2, 3, 5, 7)
    f = torch.tensor(taps, dtype=torch.float64)
    f = torch.outer(f, f) if f.ndim == 1 else f
    f, t = f / f.sum(), len(f)
    expected = upfirdn2d(x, f, up=2, padding=((t + 1) // 2, (t - 2) // 2), gain=4)
    torch.testing.assert_close(upsample2d(x, taps), expected)


@pytest.mark.parametrize("taps", [BLUR, (1, 2, 4, 1), (1, 2, 3), (1, 3), (1,)])
def test_the_gradient_of_upsampling(randn: Any, taps: Any) -> None:
    x = randn(2, 3, 1, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: upsample2d(x, taps), x)


@pytest.mark.skipif(not ops.has_compiled_cpu(), reason="no compiled code here")
def test_what_is_kept_is_fit_for_gradients(randn: Any) -> None:
    """Also when it is first needed in inference mode."""
    from sg2cli.ops.cpu import layers

    given = [t.float() for t in operands(randn, (1, 64, 64, 32, 32), True, "own") if t is not None]
    layers.correlated.cache_clear()
    runtime.filled.cache_clear()
    with torch.inference_mode():
        styled_conv(*given, taps=BLUR)  # type: ignore[arg-type, misc]
    given[0].requires_grad_()
    y = styled_conv(*given, taps=BLUR)  # type: ignore[arg-type, misc]
    (grad,) = torch.autograd.grad(y.square().sum(), given[0])
    assert grad.norm() > 0
