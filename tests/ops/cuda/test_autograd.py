"""The Triton kernels against the plain operations, values and gradients.

Without a GPU they run in Triton's interpreter, which must be chosen before they are loaded.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from networks import relative
from torch import Tensor

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")

from sg2cli.ops import Layer, bias_act, filter_kernel, upsample2d  # noqa: E402
from sg2cli.ops.cuda import autograd as fused  # noqa: E402
from sg2cli.ops.reference import styled_conv as styled_conv_reference  # noqa: E402
from sg2cli.ops.reference import to_rgb as to_rgb_reference  # noqa: E402
from sg2cli.ops.reference import upfirdn2d  # noqa: E402

BLUR = (1, 3, 3, 1)
BARS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
# The interpreter is slow: small shapes, no multiples of anything.
SHAPES = [(1, 3, 5, 3, 7), (2, 5, 67, 5, 3)] + [(2, 40, 129, 33, 31)] * CUDA
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "up": {"taps": BLUR},
    "clamped": {"clamp": 0.6},
    "up-clamped": {"taps": (1, 2, 4, 1), "clamp": 0.6},
    "linear": {"slope": 1.0, "gain": 1.0},
    "one-tap": {"taps": (1,)},
    "eight-taps": {"taps": (-1, 2, 5, 9, 9, 5, 2, -1)},
    "no-product": {"taps": ((1.0, 2.0, 0.0), (0.0, 3.0, 1.0), (1.0, 0.0, 4.0))},
}
DEVICE = pytest.param("cuda", marks=pytest.mark.cuda) if CUDA else "cpu"


@pytest.fixture(params=[DEVICE])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def gradients(y: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    weigh = torch.linspace(0, 9, y.numel(), dtype=torch.float64).sin().view(y.shape).to(y)
    return [y.detach(), *torch.autograd.grad((y * weigh).sum(), leaves)]


@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize("case", ["plain", "up-clamped", "eight-taps"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", ["shared"])
def test_a_layer(
    randn: Any, device: str, dtype: torch.dtype, case: str, shape: tuple[int, ...], noise: str
) -> None:
    how = {"slope": 0.2, "gain": 2**0.5, **CASES[case]}
    n, i, o, h, w = shape
    u = 2 if "taps" in how else 1
    maps = {"none": None, "shared": randn(u * h, u * w), "own": randn(n, 1, u * h, u * w)}[noise]
    x, weight, bias = randn(n, i, h, w), randn(o, i, 3, 3), randn(o)
    styles = randn(n, i) + 1

    def run(layer: Any, full: torch.dtype, half: torch.dtype) -> list[Tensor]:
        leaves = [x.to(device, half, copy=True)]
        leaves += [t.to(device, full, copy=True) for t in (styles, maps) if t is not None]
        leaves = [t.requires_grad_() for t in leaves]
        map_ = leaves[2] if maps is not None else None
        y = layer(leaves[0], weight.to(device, full), leaves[1], bias.to(device, full), map_)
        assert y.dtype == half
        return gradients(y, leaves)

    def reference(*given: Any) -> Tensor:
        return styled_conv_reference(*given, **how)

    def ours(*given: Any) -> Tensor:
        y = fused.styled_convs(given[0], [Layer(*given[1:], **how)])
        assert y.is_contiguous(memory_format=torch.channels_last)
        return y

    found = run(ours, torch.float32, dtype)
    expected = run(reference, torch.float64, torch.float64)
    # Rounded, some numbers are on the other side of a bend: in half precision, or among many.
    often = dtype != torch.float32 or x.numel() > 10**5
    bars = [BARS[dtype]] + [BARS[dtype] * (30 if often else 1)] * 9
    for ours_, right, bar in zip(found, expected, bars, strict=False):
        assert ours_.shape == right.shape
        assert relative(ours_.cpu(), right.cpu()) < 3 * bar


@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("noise", ["none", "shared", "own"])
def test_what_follows_the_convolution(
    randn: Any,
    device: str,
    dtype: torch.dtype,
    case: str,
    noise: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the same numbers, be they in half precision: only the result is rounded."""
    monkeypatch.setattr(fused.kernels, "LEAST_PROGRAMS", 1)  # several tiles in each
    how = {"slope": 0.2, "gain": 2**0.5, **CASES[case]}
    taps, (n, o, h, w) = how.pop("taps", None), (2, 67, 6, 4)
    size = (h + 1, w + 1) if taps else (h, w)
    v = randn(n, o, *size).to(dtype)
    maps = {"none": None, "shared": randn(h, w), "own": randn(n, 1, h, w)}[noise]
    rest = [t.float() for t in (randn(n, o) + 1, randn(n, o), maps) if t is not None]
    bias = randn(o).float()

    def run(finish: Any, kind: torch.dtype | None) -> list[Tensor]:
        leaves = [t.to(device, kind or t.dtype, copy=True) for t in (v, *rest)]
        leaves = [t.requires_grad_() for t in leaves]
        map_ = leaves[3] if maps is not None else None
        return gradients(finish(leaves[0], leaves[1], leaves[2], map_), leaves)

    def reference(v: Tensor, scale: Tensor, then: Tensor, map_: Tensor | None) -> Tensor:
        if taps:
            pad = (len(taps) + 1) // 2 - 1, (len(taps) - 2) // 2
            v = upfirdn2d(v, filter_kernel(taps, v.dtype, v.device), 1, pad, gain=4)
        v = v * scale[:, :, None, None]
        v = v if map_ is None else v + map_
        return bias_act(v, bias.to(v), **how) * then[:, :, None, None]

    def ours(v: Tensor, scale: Tensor, then: Tensor, map_: Tensor | None) -> Tensor:
        return fused.finish(v, scale, bias.to(device), map_, taps, then=then, **how)

    bar = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
    for found, right in zip(run(ours, None), run(reference, torch.float64), strict=True):
        assert found.shape == right.shape
        assert relative(found.cpu(), right.cpu()) < bar


@pytest.mark.parametrize("dtype", BARS)
def test_layers_in_turn(randn: Any, device: str, dtype: torch.dtype) -> None:
    """What ends the first multiplies by the styles of the second, and takes their gradient."""
    x, styles, more = randn(2, 3, 4, 6), randn(2, 3) + 1, randn(2, 5) + 1
    weights, biases = [randn(5, 3, 3, 3), randn(7, 5, 3, 3)], [randn(5), randn(7)]

    def run(full: torch.dtype, half: torch.dtype) -> list[Tensor]:
        leaves = [x.to(device, half, copy=True), *(t.to(device, full) for t in (styles, more))]
        leaves = [t.clone().requires_grad_() for t in leaves]
        given = zip(weights, leaves[1:], biases, strict=True)
        layers = [Layer(w.to(device, full), s, b.to(device, full)) for w, s, b in given]
        layers = [
            layers[0]._replace(taps=BLUR, slope=0.2, gain=1.4, clamp=2.0),
            layers[1]._replace(slope=0.5, gain=0.8),
        ]
        if full == torch.float64:
            y = styled_conv_reference(styled_conv_reference(leaves[0], *layers[0]), *layers[1])
        else:
            y = fused.styled_convs(leaves[0], layers)
        assert y.dtype == half
        return gradients(y, leaves)

    found, expected = run(torch.float32, dtype), run(torch.float64, torch.float64)
    bars = [BARS[dtype]] + [BARS[dtype] * (1 if dtype == torch.float32 else 10)] * 3
    for ours, right, bar in zip(found, expected, bars, strict=True):
        assert ours.shape == right.shape
        assert relative(ours.cpu(), right.cpu()) < 3 * bar


def operands(randn: Any) -> tuple[Tensor, ...]:
    return randn(2, 3, 4, 6), randn(5, 3, 3, 3), randn(2, 3) + 1, randn(5)


@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize("case", [name for name, how in CASES.items() if "taps" in how])
@pytest.mark.parametrize("clamp", [None, 0.8])
@pytest.mark.parametrize("first", [True, False])
def test_the_sum_of_pictures(
    randn: Any, device: str, dtype: torch.dtype, case: str, clamp: float | None, first: bool
) -> None:
    taps = CASES[case]["taps"]
    # Pixels as a 1x1 convolution of channels_last leaves them.
    rgb = randn(2, 10, 14, 3).to(dtype).permute(0, 3, 1, 2)
    img, bias = randn(2, 3, 5, 7), randn(3)

    def run(sums: Any, kind: torch.dtype, full: torch.dtype) -> list[Tensor]:
        leaves = [rgb.to(device, kind).requires_grad_()]
        leaves += [] if first else [img.to(device, full).requires_grad_()]
        return gradients(sums(leaves[0], bias.to(device, full), *leaves[1:]), leaves)

    def reference(rgb: Tensor, bias: Tensor, img: Tensor | None = None) -> Tensor:
        y = bias_act(rgb, bias, clamp=clamp)
        return y if img is None else y + upsample2d(img, taps)

    def ours(rgb: Tensor, bias: Tensor, img: Tensor | None = None) -> Tensor:
        return fused.add_rgb(rgb, bias, clamp, img, taps)

    found = run(ours, dtype, torch.float32)
    for ours_, right in zip(found, run(reference, torch.float64, torch.float64), strict=True):
        assert relative(ours_.cpu(), right.cpu()) < BARS[dtype]


@pytest.mark.cuda
@pytest.mark.skipif(not CUDA, reason="no GPU")
@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize(("precision", "bar"), [("fp32", 1e-4), ("fp16", 1e-2), ("bf16", 3e-2)])
def test_a_network_on_a_gpu(architecture: Any, precision: Any, bar: float, randn: Any) -> None:
    from networks import random_generator

    G = random_generator(architecture=architecture, img_resolution=64, channels=(40, 33, 20, 16, 9))
    ws = randn(3, G.config.num_ws, G.config.w_dim).float()
    leaves = [ws, ws.clone().cuda()]
    pictures = []
    for leaf in leaves:
        leaf.requires_grad_()
        G.to(leaf.device).set_precision(precision if leaf.is_cuda else "fp32")
        pictures.append(G.synthesis(leaf))
        pictures[-1].square().mean().backward()
    assert relative(pictures[1].detach().cpu(), pictures[0].detach()) < bar
    assert relative(leaves[1].grad.cpu(), leaves[0].grad) < 5 * bar


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_in_float32(
    randn: Any, device: str, shape: tuple[int, ...], transposed: bool
) -> None:
    n, i, o, h, w = shape
    x, weight = randn(n, i, h, w), randn(o, i, 3, 3)

    def run(dtype: torch.dtype) -> list[Tensor]:
        leaf, kernel = (t.to(device, dtype, copy=True) for t in (x, weight))
        leaf.requires_grad_()
        if dtype == torch.float64 and transposed:
            y = torch.nn.functional.conv_transpose2d(leaf, kernel.transpose(0, 1), stride=2)
        elif dtype == torch.float64:
            y = torch.nn.functional.conv2d(leaf, kernel, padding=1)
        else:
            y = fused.convolve(leaf, kernel, transposed)
        return gradients(y, [leaf])

    for ours, right in zip(run(torch.float32), run(torch.float64), strict=True):
        assert ours.shape == right.shape
        assert relative(ours.cpu(), right.cpu()) < 2e-6


@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize("shared", [False, True])
def test_to_rgb(randn: Any, device: str, dtype: torch.dtype, shared: bool) -> None:
    x, weight, styles = randn(2, 37, 5, 7), randn(3, 37, 1, 1), randn(1 if shared else 2, 37)

    def run(kind: torch.dtype, full: torch.dtype) -> list[Tensor]:
        leaves = [x.to(device, kind, copy=True), styles.to(device, full, copy=True)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        operation = to_rgb_reference if full == torch.float64 else fused.to_rgb
        return gradients(operation(leaves[0], weight.to(device, full), leaves[1]), leaves)

    found, expected = run(dtype, torch.float32), run(torch.float64, torch.float64)
    for ours, right in zip(found, expected, strict=True):
        assert relative(ours.cpu(), right.cpu()) < BARS[dtype]
