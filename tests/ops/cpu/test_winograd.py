"""Winograd's matrices against convolutions by definition, and the compiled code against them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import relative
from torch import Tensor

from sg2cli import ops
from sg2cli.ops.cpu import winograd
from sg2cli.ops.cpu.convolution import convolve
from sg2cli.ops.cpu.runtime import LAST
from sg2cli.ops.cpu.winograd import ALGORITHMS, DOWN, SAME, Algorithm

NAMES = [algorithm.name for algorithm in ALGORITHMS]


def by_definition(algorithm: Algorithm, x: Tensor, weight: Tensor) -> Tensor:
    """What torch's own convolutions give."""
    if algorithm is SAME:
        return F.conv2d(x, weight, padding=1)
    if algorithm is DOWN:
        return F.conv2d(x, weight, stride=2)
    return F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)


@pytest.mark.parametrize("taps", [2, 3])
@pytest.mark.parametrize("points", [(0, 1, -1), (0, 1, -1, 2), (0, 1, -1, 2, -2), (3, 0, -5, 7)])
def test_the_matrices_are_a_correlation(randn: Any, points: tuple[int, ...], taps: int) -> None:
    """AT @ ((G @ g) * (BT @ x)) is the sum of g[k] x[n + k], for any points."""
    matrices = winograd.toom_cook(points, taps)
    BT, G, AT = (torch.tensor(matrix, dtype=torch.float64) for matrix in matrices)
    x, g = randn(BT.shape[1]), randn(taps)
    expected = F.conv1d(x[None, None], g[None, None])[0, 0]
    torch.testing.assert_close(AT @ ((G @ g) * (BT @ x)), expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=NAMES)
def test_the_transforms_of_a_tile_are_its_matrices(randn: Any, algorithm: Algorithm) -> None:
    """BT x BT^T, G w G^T and AT m AT^T, by sums over their elements."""
    BT, G, AT = (torch.tensor(m, dtype=torch.float64) for m in _matrices(algorithm))
    side, first = BT.shape[1], -algorithm.x_first
    x = randn(1, 1, side - first, side - first)
    tile = F.pad(x, (first, 0, first, 0))[0, 0]
    found = winograd.input_transform(algorithm, x)[0, 0, 0, 0]
    torch.testing.assert_close(found, torch.einsum("pi,ij,qj->pq", BT, tile, BT))
    weight = randn(1, 1, 3, 3)
    found = winograd.weight_transform(algorithm, weight)[0, 0]
    torch.testing.assert_close(found, torch.einsum("pi,ij,qj->pq", G, weight[0, 0], G))
    m, size = randn(1, 1, 1, 1, len(BT), len(BT)), len(AT)
    found = winograd.output_transform(algorithm, m, size, size)[0, 0]
    torch.testing.assert_close(found, torch.einsum("yp,pq,xq->yx", AT, m[0, 0, 0, 0], AT))


def _matrices(algorithm: Algorithm) -> tuple[winograd.Matrix, ...]:
    return algorithm.BT, algorithm.G, algorithm.AT


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=NAMES)
@pytest.mark.parametrize("size", [(3, 3), (4, 5), (9, 16), (17, 6)])
def test_the_reference_is_a_convolution(
    randn: Any, algorithm: Algorithm, size: tuple[int, int]
) -> None:
    x, weight = randn(2, 3, *size), randn(4, 3, 3, 3)
    expected = by_definition(algorithm, x, weight)
    found = winograd.convolve(algorithm, x, weight, *expected.shape[2:])
    torch.testing.assert_close(found, expected)


@pytest.mark.skipif(not ops.has_compiled_cpu(), reason="no compiled code here")
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=NAMES)
@pytest.mark.parametrize("size", [(3, 3), (8, 9), (33, 20)])
def test_the_compiled_code_is_the_reference(
    randn: Any, algorithm: Algorithm, size: tuple[int, int]
) -> None:
    x, weight = randn(2, 32, *size), randn(16, 32, 3, 3)
    height, width = by_definition(algorithm, x, weight).shape[2:]
    expected = winograd.convolve(algorithm, x, weight, height, width)
    rows, single = slice(0, height), x.float().contiguous(memory_format=LAST)
    found = convolve(algorithm, single, weight.float(), rows, width)
    assert relative(found, expected) < 2e-6
