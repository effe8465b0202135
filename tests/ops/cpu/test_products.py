"""Products of a few rows against torch's own in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import relative

from sg2cli import checkpoints, ops
from sg2cli.ops import linear
from sg2cli.sampling.rendering import random_noise

# N, I, O: one row; rows that are computed together, and one more; outputs of any number.
SHAPES = [(1, 64, 48), (4, 512, 512), (5, 16, 33), (11, 96, 7), (2, 20, 30)]


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradient(randn: Any, shape: tuple[int, int, int]) -> None:
    n, i, o = shape
    x, weight, weigh = randn(n, i), randn(o, i), randn(n, o)
    expected_x, found_x = x.clone().requires_grad_(), x.float().requires_grad_()
    expected, found = F.linear(expected_x, weight), linear(found_x, weight.float())
    (expected * weigh).sum().backward()
    (found * weigh.float()).sum().backward()
    assert found_x.grad is not None and expected_x.grad is not None
    assert relative(found.detach(), expected.detach()) < 1e-6
    assert relative(found_x.grad, expected_x.grad) < 1e-6


def test_any_strides(randn: Any) -> None:
    x, weight = randn(6, 128).float()[::2, ::2], randn(64, 32).float().T
    assert relative(linear(x, weight), x.double() @ weight.T.double()) < 1e-6


def test_a_weight_that_learns_gets_its_gradient(randn: Any) -> None:
    x, weight = randn(3, 16).float(), randn(8, 16).float().requires_grad_()
    (found,) = torch.autograd.grad(linear(x, weight).square().sum(), weight)
    assert relative(found, 2 * F.linear(x, weight).detach().T @ x) < 1e-6


@pytest.mark.skipif(not ops.has_compiled_cpu(), reason="torch's own operations round by the batch")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_is_the_same_in_any_batch(randn: Any, set_threads: Any, threads: int) -> None:
    x, weight = randn(7, 48).float(), randn(33, 48).float()
    expected = linear(x, weight)
    set_threads(threads)
    for count in (1, 2, 5):
        assert torch.equal(torch.cat([linear(part, weight) for part in x.split(count)]), expected)


@pytest.mark.skipif(not ops.has_compiled_cpu(), reason="torch's own operations round by the batch")
def test_an_image_is_the_same_in_any_batch(randn: Any) -> None:
    """To the last bit, from its z on."""
    G = checkpoints.load(device="cpu")
    z, noise = randn(5, G.config.z_dim).float(), random_noise(G, range(5))
    expected = G(z, noise=noise)
    for i in range(5):
        own = {name: maps[i : i + 1] for name, maps in noise.items()}
        assert torch.equal(G(z[i : i + 1], noise=own)[0], expected[i])
