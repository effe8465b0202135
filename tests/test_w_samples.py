"""Samples of W against z that are mapped all at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import golden, random_generator

from sg2cli.w_samples import mean_w, sample_w


def mapped(G: Any, count: int, seed: int, classes: list[int] | None = None) -> torch.Tensor:
    z = np.random.RandomState(seed).randn(count, G.config.z_dim)
    c = None if classes is None else torch.eye(G.config.c_dim)[classes]
    w: torch.Tensor = G.mapping(torch.from_numpy(z).float(), c)
    return w


@pytest.mark.parametrize("z_dim", [7, 16])
@pytest.mark.parametrize("batch", [1, 4, 10, 100])
def test_batches_are_the_samples_in_order(z_dim: int, batch: int) -> None:
    G = random_generator(z_dim=z_dim)
    found = [*sample_w(G, 10, seed=3, batch=batch)]
    assert all(len(w) == batch for w in found[:-1])
    torch.testing.assert_close(torch.cat(found), mapped(G, 10, 3), rtol=1e-5, atol=1e-6)


def test_one_class_or_all_in_turn() -> None:
    G, _, _ = golden("cond-32")
    classes = G.config.c_dim
    in_turn = torch.cat([*sample_w(G, 25, seed=0, batch=4)])
    expected = mapped(G, 25, 0, [i % classes for i in range(25)])
    torch.testing.assert_close(in_turn, expected, rtol=1e-5, atol=1e-6)
    of_one = torch.cat([*sample_w(G, 25, seed=0, batch=4, class_index=2)])
    torch.testing.assert_close(of_one, mapped(G, 25, 0, [2] * 25), rtol=1e-5, atol=1e-6)


def test_the_mean_is_that_of_all_samples() -> None:
    G = random_generator()
    expected = mapped(G, 10_000, 123).double().mean(dim=0)
    torch.testing.assert_close(mean_w(G), expected, rtol=1e-5, atol=1e-6)


def test_a_network_in_float64_maps_in_float64() -> None:
    G = random_generator().double()
    assert {w.dtype for w in sample_w(G, 4, seed=0, batch=2)} == {torch.float64}
