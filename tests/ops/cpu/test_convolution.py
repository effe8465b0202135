"""The frozen 3x3 convolution against torch's own in float64."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import relative

from sg2cli import ops
from sg2cli.ops import conv3x3
from sg2cli.ops.cpu import runtime, weights
from sg2cli.ops.cpu.convolution import convolve
from sg2cli.ops.cpu.epilogue import Epilogue
from sg2cli.ops.cpu.runtime import LAST
from sg2cli.ops.cpu.winograd import ALGORITHMS, SAME, UPS, Algorithm

compiled = pytest.mark.skipif(not ops.has_compiled_cpu(), reason="no compiled code here")

# N, I, O, H, W: few pixels; few channels; an odd number of rows; one image; batches; long rows.
SHAPES = [
    (1, 80, 64, 7, 5),
    (2, 3, 64, 48, 50),
    (1, 65, 64, 61, 47),
    (1, 48, 80, 36, 31),
    (5, 64, 32, 32, 33),
    (2, 64, 64, 4, 300),
    (3, 64, 3, 40, 40),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("slope", [1, 0, 0.3])
def test_values_and_gradient(randn: Any, shape: Any, with_bias: bool, slope: float) -> None:
    n, i, o, h, w = shape
    x, weight, weigh = randn(n, i, h, w), randn(o, i, 3, 3), randn(n, o, h, w)
    bias = randn(o) if with_bias else None
    expected_x = x.clone().requires_grad_()
    before = F.conv2d(expected_x, weight, bias, padding=1)
    expected = F.leaky_relu(before, slope)
    # No gradient where rounding may move a value over the kink.
    weigh *= slope == 1 or before.abs() > 1e-3
    (expected * weigh).sum().backward()
    found_x = x.float().requires_grad_()
    found = conv3x3(found_x, weight.float(), None if bias is None else bias.float(), slope)
    (found * weigh.float()).sum().backward()
    assert found_x.grad is not None
    assert relative(found.detach(), expected.detach()) < 2e-5
    assert relative(found_x.grad, expected_x.grad) < 2e-5
    with torch.inference_mode():
        drawn = conv3x3(x.float(), weight.float(), None if bias is None else bias.float(), slope)
    assert torch.equal(drawn, found)


@compiled
@pytest.mark.parametrize("size", [1, 4, 8, 16, 40, 70])
@pytest.mark.parametrize("channels", [(3, 64), (64, 3), (128, 256)])
def test_an_image_is_the_same_in_any_batch_and_on_any_threads(
    randn: Any, set_threads: Any, size: int, channels: tuple[int, int]
) -> None:
    """To the last bit: one that is not may find another minimum in a projection."""
    inputs, outputs = channels
    x, weight = randn(9, inputs, size, size).float(), randn(outputs, inputs, 3, 3).float()
    expected = conv3x3(x, weight)
    for count in (1, 2, 4):
        parts = [conv3x3(part, weight) for part in x.split(count)]
        assert torch.equal(torch.cat(parts), expected)
    set_threads(5 - torch.get_num_threads())
    assert torch.equal(conv3x3(x, weight), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_any_layout(randn: Any, layout: torch.memory_format) -> None:
    x, weight = randn(2, 32, 72, 65).float(), randn(32, 32, 3, 3).float()
    expected = F.conv2d(x, weight, padding=1)
    found = conv3x3(x.to(memory_format=layout), weight.to(memory_format=layout))
    assert relative(found, expected) < 2e-5


@compiled
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.name)
@pytest.mark.parametrize("n", [1, 40])
def test_rows_of_it(randn: Any, algorithm: Algorithm, n: int) -> None:
    """Of each kind, where the threads share the tiles of few images, and where they need not."""
    x, weight = randn(n, 64, 25, 9), randn(48, 64, 3, 3)
    if algorithm is SAME:
        whole = F.conv2d(x, weight, padding=1)
    elif algorithm in UPS:
        whole = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    else:
        whole = F.conv2d(x, weight, stride=2)
    single = x.float().contiguous(memory_format=LAST)
    height, width = whole.shape[2:]
    for rows in (slice(0, 8), slice(4, 8), slice(2, 9), slice(6, height), slice(4, 5)):
        found = convolve(algorithm, single, weight.float(), rows, width)
        assert relative(found, whole[:, :, rows]) < 2e-5


@pytest.mark.parametrize("how", ["in place", "data"])
def test_weights_that_change_are_transformed_anew(randn: Any, how: str) -> None:
    x = randn(1, 64, 8, 8).float()
    weight = torch.nn.Parameter(randn(64, 64, 3, 3).float(), requires_grad=False)
    before = conv3x3(x, weight)
    if how == "data":
        weight.data = weight.data * 2
    else:
        weight.mul_(2)
    assert relative(conv3x3(x, weight), 2 * before) < 1e-5


@compiled
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_that_are_gone_are_forgotten(randn: Any, layout: torch.memory_format) -> None:
    x = randn(1, 64, 16, 16).float()
    gc.collect()
    before = len(weights._TRANSFORMS)
    for inputs in (64, 63):
        weight = randn(64, inputs, 3, 3).float().to(memory_format=layout)
        conv3x3(x[:, :inputs], weight)
        assert len(weights._TRANSFORMS) == before + 1
        del weight
        gc.collect()
        assert len(weights._TRANSFORMS) == before


@compiled
def test_a_second_derivative_is_refused(randn: Any) -> None:
    x = randn(1, 64, 16, 16).float().requires_grad_()
    y = conv3x3(x, randn(64, 64, 3, 3).float()).sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(y, x, create_graph=True)


@pytest.mark.parametrize("learns", ["weight", "bias"])
def test_trainable_weights_get_their_gradient(randn: Any, learns: str) -> None:
    x, weight, bias = randn(1, 32, 48, 48), randn(32, 32, 3, 3), randn(32)
    leaf = (weight if learns == "weight" else bias).requires_grad_()
    (expected,) = torch.autograd.grad(F.conv2d(x, weight, bias, padding=1).square().sum(), leaf)
    parts = [x.float(), weight.detach().float(), bias.detach().float()]
    single = parts[1 if learns == "weight" else 2].requires_grad_()
    (found,) = torch.autograd.grad(conv3x3(*parts).square().sum(), single)
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("inputs", [48, 40])
def test_weights_for_other_channels_are_refused(randn: Any, inputs: int) -> None:
    with pytest.raises(RuntimeError, match="channels"):
        conv3x3(randn(1, inputs, 8, 8).float(), randn(32, 32, 3, 3).float())


@pytest.mark.parametrize("n", [1, 2])
def test_a_single_pixel(randn: Any, n: int) -> None:
    x, weight = randn(n, 32, 1, 1), randn(32, 32, 3, 3)
    gradients = []
    for kind in (torch.float32, torch.float64):
        leaf = x.to(kind).requires_grad_()
        y = conv3x3(leaf, weight.to(kind), None, 0.5)
        gradients += torch.autograd.grad(y, leaf, torch.ones(2 * n, 32, 1, 1, dtype=kind)[::2])
    assert relative(*gradients) < 1e-5


def test_other_defaults_of_torch_change_nothing(randn: Any) -> None:
    x, weight = randn(1, 32, 8, 8).float(), randn(32, 32, 3, 3).float()
    expected = conv3x3(x, weight)
    runtime.filled.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(conv3x3(x, weight), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_float64_is_torchs_own(randn: Any) -> None:
    x, weight = randn(1, 32, 48, 48), randn(32, 32, 3, 3)
    assert torch.equal(conv3x3(x, weight), F.conv2d(x, weight, padding=1))


def test_it_is_deterministic(randn: Any) -> None:
    x, weight = randn(3, 32, 40, 40).float(), randn(64, 32, 3, 3).float()
    results = [conv3x3(x, weight) for _ in range(5)]
    assert all(torch.equal(results[0], again) for again in results)


@compiled
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_and_in_its_image(randn: Any, bad: float) -> None:
    x, weight = randn(3, 32, 16, 16).float(), randn(32, 32, 3, 3).float()
    x[1, 5, 7, 7] = bad
    epilogue = Epilogue(bias=randn(32).float(), slope=0, clamp=2)
    x = x.to(memory_format=LAST)
    found = convolve(SAME, x, weight, slice(0, 16), 16, epilogue=epilogue).isnan()
    assert found[1, :, 6:9, 6:9].all() or bad == float("inf")  # which may be clamped
    assert not found[::2].any()


@compiled
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.name)
def test_processors_without_avx512(
    randn: Any, monkeypatch: pytest.MonkeyPatch, algorithm: Algorithm
) -> None:
    """Have half of the registers: code for them runs on later ones, too."""
    from sg2cli.ops.cpu import kernels_winograd

    name, features = runtime.processor()
    older = {key: value and "avx512" not in key for key, value in features.items()}
    monkeypatch.setattr(runtime, "processor", lambda: ("haswell", older))
    monkeypatch.setattr(kernels_winograd, "ROWS", 6)
    monkeypatch.setattr(kernels_winograd, "FEWER", 2)
    x, weight = randn(2, 64, 23, 23).float().to(memory_format=LAST), randn(48, 64, 3, 3).float()
    rows, width = slice(0, 10), 10
    runtime.kernel.cache_clear()
    try:
        found = convolve(algorithm, x, weight, rows, width)
    finally:
        runtime.kernel.cache_clear()
    monkeypatch.undo()
    assert relative(found, convolve(algorithm, x, weight, rows, width).double()) < 2e-5
