"""LPIPS against the package of its authors and against published figures; the noise penalty."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from sg2cli import checkpoints, ops
from sg2cli.inversion.losses import LPIPS, noise_penalty, pixel_distance, row_spread, whiten
from sg2cli.settings import LpipsNet

TARGETS = Path(__file__).parent.parent / "targets"
NETS = get_args(LpipsNet)
# Computed once with lpips 0.1.4 and the networks in float32: targets 00-01, 00-02, 01-02.
PUBLISHED = {
    "alex": (0.458198, 0.622901, 0.512627),
    "vgg": (0.517256, 0.651084, 0.488041),
}


def authors_lpips(net: str) -> Any:
    """The network of the package lpips, with the weights that come with sg2."""
    import lpips
    from safetensors.torch import load_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, about how lpips calls it
        theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    own = dict(theirs.named_parameters())
    indices = {name.split(".")[-2]: name.rpartition(".")[0] for name in own if "net." in name}
    tensors = load_file(checkpoints.weights_folder() / f"lpips-{net}.safetensors")
    for name, tensor in tensors.items():
        kind, index, *rest = name.split(".")
        their_name = (
            f"lin{index}.model.1.weight" if kind == "lin" else f"{indices[index]}.{rest[0]}"
        )
        own[their_name].data = tensor.to(torch.float32)
    return theirs


def image(number: int) -> Tensor:
    with PIL.Image.open(TARGETS / f"avatar-dev{number:02d}.png") as opened:
        pixels = np.array(opened.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("net", NETS)
def test_lpips_agrees_with_the_published_figures(net: LpipsNet) -> None:
    lpips = LPIPS(net)
    images = [image(i) for i in range(3)]
    for (a, b), expected in zip([(0, 1), (0, 2), (1, 2)], PUBLISHED[net], strict=True):
        assert lpips(images[a], images[b]).item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("net", NETS)
def test_lpips_and_its_gradient_are_those_of_the_authors(net: LpipsNet, randn: Any) -> None:
    a, b = randn(2, 3, 64, 64), randn(2, 3, 64, 64)
    a.requires_grad_()
    found = LPIPS(net).double()(a, b)
    expected = authors_lpips(net).double()(a, b).flatten()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    gradients = [torch.autograd.grad((weights * y).sum(), a)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("net", NETS)
def test_the_fast_convolutions_give_the_same_distance_and_gradient(
    net: LpipsNet, randn: Any
) -> None:
    a, b = randn(2, 3, 96, 96), randn(2, 3, 96, 96)
    results = []
    for lpips, dtype in ((LPIPS(net), torch.float32), (LPIPS(net).double(), torch.float64)):
        x = a.to(dtype, copy=True).requires_grad_()
        distance = lpips(x, b.to(dtype))
        gradient = torch.autograd.grad(distance.sum(), x)[0].double()
        results.append((distance.double(), gradient))
    (distance, gradient), (expected, expected_gradient) = results
    torch.testing.assert_close(distance, expected, rtol=1e-4, atol=0)
    # Where rounding takes a number over the kink of a ReLU, gradients jump below it.
    error = (gradient - expected_gradient).norm() / expected_gradient.norm()
    assert error < 1e-2


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_the_gradient_of_lpips_is_finite_on_flat_images(net: LpipsNet, value: float) -> None:
    lpips = LPIPS(net)
    for tensor in lpips.buffers():  # and where nothing at all is left of an image
        if value == 0.0:
            tensor.mul_(0.0 if tensor.ndim == 1 else 1.0)
    x = torch.full((1, 3, 64, 64), value, requires_grad=True)
    distance = lpips(x, image(0)[..., :64, :64])
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert distance.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("net", NETS)
def test_grey_images_count_as_three_equal_channels(net: LpipsNet) -> None:
    lpips = LPIPS(net)
    a, b = image(0)[:, :1], image(1)[:, :1]
    three = lpips(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1))
    torch.testing.assert_close(lpips(a, b), three)


@pytest.mark.parametrize("net", NETS)
def test_large_images_are_compared_at_256_and_small_ones_at_all(net: LpipsNet) -> None:
    lpips = LPIPS(net)
    a, b = image(0), image(1)
    doubled = [x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) for x in (a, b)]
    torch.testing.assert_close(lpips(*doubled), lpips(a, b), rtol=1e-4, atol=1e-5)
    for size in (4, 8, 16):
        x = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)
        assert 0 < lpips(x, -x).item() < 2


def test_the_noise_penalty_is_the_squared_correlation_of_neighbours_at_every_size(
    randn: Any,
) -> None:
    maps = [randn(3, 1, size, size) for size in (4, 8, 32)]
    expected = torch.zeros(3, dtype=torch.float64)
    for noise_map in maps:
        for k, x in enumerate(noise_map[:, 0]):
            while True:
                size = len(x)
                sums = [0.0, 0.0]
                for i in range(size):
                    for j in range(size):
                        sums[0] += float(x[i, j] * x[i, (j + 1) % size]) / size**2
                        sums[1] += float(x[i, j] * x[(i + 1) % size, j]) / size**2
                expected[k] += sums[0] ** 2 + sums[1] ** 2
                if size <= 8:
                    break
                x = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
    torch.testing.assert_close(noise_penalty(maps), expected)


def test_whitened_maps_have_mean_0_and_mean_square_1_each(randn: Any) -> None:
    x = whiten(3 * randn(4, 1, 16, 16) + randn(4, 1, 1, 1))
    zeros, ones = torch.zeros(4, dtype=x.dtype), torch.ones(4, dtype=x.dtype)
    torch.testing.assert_close(x.mean(dim=(1, 2, 3)), zeros)
    torch.testing.assert_close(x.square().mean(dim=(1, 2, 3)), ones)


def test_rows_of_ws_spread_by_their_distance_from_their_mean(randn: Any) -> None:
    w = randn(2, 1, 6)
    assert row_spread(w.expand(-1, 5, -1), 2.0).abs().max() < 1e-20
    apart = torch.zeros(1, 4, 6, dtype=torch.float64)
    apart[0, :2, 0], apart[0, 2:, 0] = 3.0, -3.0
    torch.testing.assert_close(row_spread(apart, 1.5).item(), 4.0)


def test_losses_are_an_images_own(randn: Any) -> None:
    a, b = randn(3, 3, 8, 8), randn(3, 3, 8, 8)
    maps = [randn(3, 1, 16, 16)]
    whole = (pixel_distance(a, b), noise_penalty(maps))
    for i in range(3):
        torch.testing.assert_close(whole[0][i], pixel_distance(a[i : i + 1], b[i : i + 1])[0])
        torch.testing.assert_close(whole[1][i], noise_penalty([m[i : i + 1] for m in maps])[0])


@pytest.mark.skipif(not ops.has_compiled_cpu(), reason="torch's own operations round by the batch")
def test_large_noise_maps_are_rounded_alike_in_any_batch(randn: Any, set_threads: Any) -> None:
    """On two threads, which share a map that is alone, but not one of many."""
    maps = randn(4, 1, 512, 512).float()
    set_threads(2)
    expected = noise_penalty([maps]), whiten(maps)
    for i, own in enumerate(maps.split(1)):
        for found, all_of_them in zip((noise_penalty([own]), whiten(own)), expected, strict=True):
            assert torch.equal(found[0], all_of_them[i])
