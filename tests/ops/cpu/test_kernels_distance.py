"""The compiled distance of LPIPS against torch's own operations in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import relative

from sg2cli.ops import unit_distance


@pytest.mark.parametrize("shape", [(3, 16, 5, 7), (1, 64, 1, 1), (2, 20, 4, 4)])
@pytest.mark.parametrize("targets", ["own", "one"])
@pytest.mark.parametrize("scale", [1.0, 1e-10])
def test_values_and_gradient(
    randn: Any, shape: tuple[int, ...], targets: str, scale: float
) -> None:
    """Also of vectors that are hardly longer than what keeps zeros from being divided by."""
    a, b, weight = randn(*shape) * scale, randn(*shape), randn(1, shape[1], 1, 1).abs()
    b = b if targets == "own" else b[:1]
    found, gradients = [], []
    for kind in (torch.float32, torch.float64):
        leaf = a.to(kind).requires_grad_()
        distance = unit_distance(leaf, b.to(kind), weight.to(kind))
        weigh = torch.arange(1, len(a) + 1, dtype=kind)
        gradients += torch.autograd.grad((distance * weigh).sum(), leaf)
        found.append(distance.detach())
    assert found[0].shape == (len(a),)
    assert relative(*found) < 1e-5 and relative(*gradients) < 1e-5


def test_zeros_have_a_finite_gradient(randn: Any) -> None:
    a, b, weight = torch.zeros(1, 16, 3, 3), randn(1, 16, 3, 3).float(), torch.ones(1, 16, 1, 1)
    leaf = a.requires_grad_()
    (gradient,) = torch.autograd.grad(unit_distance(leaf, b, weight).sum(), leaf)
    assert gradient.isfinite().all() and gradient.norm() > 0


def test_a_target_that_learns_gets_its_gradient(randn: Any) -> None:
    a, b, weight = randn(2, 16, 3, 3), randn(2, 16, 3, 3), randn(1, 16, 1, 1).abs()
    gradients = []
    for kind in (torch.float32, torch.float64):
        leaf = b.to(kind).requires_grad_()
        distance = unit_distance(a.to(kind), leaf, weight.to(kind)).sum()
        gradients += torch.autograd.grad(distance, leaf)
    assert relative(*gradients) < 1e-5
