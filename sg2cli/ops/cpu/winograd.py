"""Winograd's algorithm for 3x3 convolutions: its matrices, and a reference that can be read.

A tile x of the input becomes `BT x BT^T`, its values at some points; they are multiplied, point by
point, by those of the weights, `G w G^T`, and summed over channels; and `AT m AT^T` makes a tile of
the output of that (Lavin and Gray 2015, arXiv:1509.09308, section 4.1). That takes a quarter of the
multiplications of a direct convolution, at a relative error of 2e-6. README.md draws the tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from sg2cli.ops.tensors import constant

TILE = 4  # pixels a side of a tile, of the smaller one of input and output

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class Algorithm:
    """A one-dimensional convolution; images are convolved in both directions.

    Pixels of a tile of the output are AT @ ((G @ w) * (BT @ x)).
    """

    name: str
    BT: Matrix  # [points, input pixels of a tile]
    G: Matrix  # [points, 3]
    AT: Matrix  # [output pixels of a tile, points]
    x_step: int  # input pixels from one tile to the next
    x_first: int  # first input pixel of the first tile
    y_step: int  # output pixels from one tile to the next; the last may have one more

    @property
    def points(self) -> int:
        return len(self.BT)

    def tiles(self, pixels: int) -> int:
        """Number of tiles for `pixels` of the output."""
        return -(-max(pixels - (len(self.AT) - self.y_step), 1) // self.y_step)


def input_transform(algorithm: Algorithm, x: Tensor) -> Tensor:
    """BT x BT^T for all tiles of the output: x [N,C,H,W] -> [N,C,tiles,tiles,points,points]."""
    BT, side = _tensor(algorithm.BT, x), len(algorithm.BT[0])
    for dim in (2, 3):
        size = algorithm.x_step * (_tiles(algorithm, x.shape[dim]) - 1) + side
        before = -algorithm.x_first
        padding = [0, 0, 0, 0]
        padding[2 * (3 - dim) : 2 * (3 - dim) + 2] = before, size - before - x.shape[dim]
        x = F.pad(x, padding)
    tiles = x.unfold(2, side, algorithm.x_step).unfold(3, side, algorithm.x_step)
    return BT @ tiles @ BT.T


def weight_transform(algorithm: Algorithm, weight: Tensor) -> Tensor:
    """G w G^T: weight [O,I,3,3] -> [O,I,points,points]."""
    G = _tensor(algorithm.G, weight)
    return G @ weight @ G.T


def output_transform(algorithm: Algorithm, m: Tensor, height: int, width: int) -> Tensor:
    """AT m AT^T, side by side: m [N,C,tiles,tiles,points,points] -> [N,C,height,width]."""
    AT, step = _tensor(algorithm.AT, m), algorithm.y_step
    tiles = AT @ m @ AT.T
    n, c, down, across, size, _ = tiles.shape
    y = m.new_zeros(n, c, step * down + size - step, step * across + size - step)
    for i in range(down):
        for j in range(across):
            y[:, :, step * i : step * i + size, step * j : step * j + size] = tiles[:, :, i, j]
    return y[:, :, :height, :width]


def convolve(algorithm: Algorithm, x: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
    """The whole convolution, as in the compiled code: x [N,I,H,W] -> [N,O,height,width]."""
    points = input_transform(algorithm, x)
    products = torch.einsum("nihwab,oiab->nohwab", points, weight_transform(algorithm, weight))
    return output_transform(algorithm, products, height, width)


def _tiles(algorithm: Algorithm, pixels: int) -> int:
    """Number of tiles for the output of `pixels` of the input."""
    return algorithm.tiles(-(-pixels // algorithm.x_step) * algorithm.y_step + 1)


def _tensor(matrix: Matrix, like: Tensor) -> Tensor:
    return torch.tensor(matrix, dtype=like.dtype)


def toom_cook(points: Sequence[int], taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """BT, G and AT for these points and infinity; these determine the number of outputs.

    y[n] is the sum of g[k] x[n + k]: the transpose of a product of polynomials that is found from
    its values at the points (Winograd 1980, Arithmetic Complexity of Computations, section IV).
    """
    outputs = len(points) + 2 - taps
    BT, G = [], []
    for a in points:
        others = [b for b in points if b != a]
        BT.append([*_with_roots(others), 0])
        G.append([Fraction(a**k, prod(a - b for b in others)) for k in range(taps)])
    BT.append(_with_roots(points))
    G.append([Fraction(k == taps - 1) for k in range(taps)])
    AT = [[a**n for a in points] + [int(n == outputs - 1)] for n in range(outputs)]
    return _matrix(BT), _matrix(G), _matrix(AT)


def _with_roots(roots: Sequence[int]) -> list[int]:
    """The coefficients of the polynomial with these roots, lowest first."""
    found = [1]
    for root in roots:
        found = [a - root * b for a, b in zip([0, *found], [*found, 0], strict=True)]
    return found


def _matrix(rows: Sequence[Sequence[Fraction | int]]) -> Matrix:
    return tuple(tuple(float(x) for x in row) for row in rows)


def _unit(place: int | None, size: int) -> tuple[float, ...]:
    return tuple(float(k == place) for k in range(size))


def _same() -> Algorithm:
    """F(4,3): y[j] = sum of w[k] x[j + k - 1]."""
    return Algorithm("same", *toom_cook((0, 1, -1, 2, -2), 3), TILE, -1, TILE)


def _up(name: str, points: Sequence[int]) -> Algorithm:
    """Zeros inserted: y[2j] = w[0] x[j] + w[2] x[j - 1], which is F(.,2), y[2j + 1] = w[1] x[j].

    The output has one pixel more than twice those of the input.
    """
    BT, G, AT = toom_cook(points, 2)
    even = [(*row, *_unit(None, TILE)) for row in AT]
    odd = [(*_unit(None, len(BT)), *_unit(j, TILE)) for j in range(TILE)]
    return Algorithm(
        name,
        BT=(*BT, *(_unit(j + 1, len(BT)) for j in range(TILE))),
        G=(*((b, 0.0, a) for a, b in G), *[_unit(1, 3)] * TILE),
        AT=tuple((odd if k % 2 else even)[k // 2] for k in range(len(even) + TILE)),
        x_step=TILE,
        x_first=-1,
        y_step=2 * TILE,
    )


def _down() -> Algorithm:
    """The gradient of `_up`: y[j] = w[0] x[2j] + w[2] x[2j + 2] + w[1] x[2j + 1]."""
    BT, G, AT = toom_cook((0, 1, -1, 2), 2)
    side = 2 * len(BT) - 1
    spread = [tuple(row[k // 2] if k % 2 == 0 else 0.0 for k in range(side)) for row in BT]
    return Algorithm(
        "down",
        BT=(*spread, *(_unit(2 * j + 1, side) for j in range(TILE))),
        G=(*((a, 0.0, b) for a, b in G), *[_unit(1, 3)] * TILE),
        AT=tuple((*row, *_unit(j, TILE)) for j, row in enumerate(AT)),
        x_step=2 * TILE,
        x_first=0,
        y_step=TILE,
    )


SAME, DOWN = _same(), _down()
UPS = _up("up", (0, 1, -1, 2)), _up("up, one pixel more", (0, 1, -1, 2, -2))
ALGORITHMS = (SAME, *UPS, DOWN)


def best_up(rows: int, width: int) -> Algorithm:
    """The upsampling algorithm with the fewest products for this size."""
    return min(UPS, key=lambda it: it.points**2 * it.tiles(rows) * it.tiles(width))


@lru_cache
def g_tensor(algorithm: Algorithm) -> Tensor:
    """G as a tensor, for the compiled code."""
    return constant(algorithm.G)
