"""3x3 convolutions by Winograd's algorithm, with what goes before and after them, on a CPU.

Tiles of x are taken apart into their values at some points, multiplied there by those of the
weights, and put together again (Lavin and Gray 2015, arXiv:1509.09308, section 4.1). That takes a
quarter of the multiplications of a direct convolution, or 0.56 of them where it inserts zeros, at
a relative error of 2e-6. All of it is done by one function that LLVM compiles, some tiles at a
time, which stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import prod
from typing import NamedTuple

from torch import Tensor

from sg2cli import cores
from sg2cli.ops import jit
from sg2cli.ops.jit import LANES, Argument
from sg2cli.ops.tensors import constant

# Tiles that a thread multiplies together: as many as stay in the cache with all their channels, but
# not so few that it takes longer to take the weights apart.
NUMBERS, LEAST_TILES = 1 << 13, 72

BLOCK = 12  # tiles: room is for a multiple of them
TILE = 4  # pixels a side, of the smaller of x and the result

Matrix = tuple[tuple[float, ...], ...]


class Kind(NamedTuple):
    """A convolution of one dimension, of which the two of an image are made.

    Some outputs of a tile of x are after @ ((kernel @ weight) * (before @ x)).
    """

    before: Matrix  # [points, pixels of x]
    kernel: Matrix  # [points, 3]
    after: Matrix  # [pixels of the result, points]
    step: int  # pixels of x from one tile to the next
    first: int  # pixel of x in a tile, from where the tile begins
    made: int  # pixels of the result from one tile to the next; the last tile may have one more

    def tiles(self, pixels: int) -> int:
        """That so many pixels of the result take."""
        return -(-max(pixels - (len(self.after) - self.made), 1) // self.made)


class After(NamedTuple):
    """What becomes of a convolution: clamp(leaky_relu(scale * it + noise + bias))."""

    scale: Tensor | None = None  # [N,O]
    bias: Tensor | None = None  # [O]
    noise: Tensor | None = None  # [N|1,1,H,W]
    slope: float = 1.0  # of the leaky ReLU
    clamp: float | None = None

    def of(self, some: slice, rows: slice) -> After:
        """What becomes of these rows of some of the pictures."""
        scale, noise = self.scale, self.noise
        if noise is not None:
            noise = noise[some if len(noise) > 1 else slice(None), :, rows]
        return self._replace(scale=None if scale is None else scale[some], noise=noise)

    def arguments(self, channels: int) -> dict[str, Argument]:
        """Of the compiled code, where what is not there changes nothing."""
        zero = jit.filled(0, channels)
        scale, a_scale = per_picture(self.scale, jit.filled(1, channels))
        noise = self.noise
        strides = (0, 0, 0) if noise is None else noise.stride()[0:1] + noise.stride()[2:]
        return {
            "scale": scale,
            "a_scale": a_scale,
            "bias": zero if self.bias is None else self.bias.contiguous(),
            "noise": zero if noise is None else noise,
            "a_noise": strides[0] if noise is not None and len(noise) > 1 else 0,
            "noise_row": strides[1],
            "noise_pixel": strides[2],
            "clamp": float("inf") if self.clamp is None else float(self.clamp),
        }


NOTHING = After()


def per_picture(t: Tensor | None, otherwise: Tensor) -> tuple[Tensor, int]:
    """t [N|1,C], or what stands for it, and the numbers from one picture's to the next."""
    return (otherwise, 0) if t is None else (t.contiguous(), t.shape[1] if len(t) > 1 else 0)


def _toom_cook(points: Sequence[int], taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """before, kernel, after: of as many outputs as these points, and infinity, give.

    y[n] = sum of g[k] x[n + k]. It is the transpose of a product of polynomials that is found from
    its values at the points (Winograd 1980, Arithmetic Complexity of Computations, section IV).
    """
    outputs = len(points) + 2 - taps
    before, kernel = [], []
    for a in points:
        others = [b for b in points if b != a]
        before.append([*_with_roots(others), 0])
        kernel.append([Fraction(a**k, prod(a - b for b in others)) for k in range(taps)])
    before.append(_with_roots(points))
    kernel.append([Fraction(k == taps - 1) for k in range(taps)])
    after = [[a**n for a in points] + [int(n == outputs - 1)] for n in range(outputs)]
    return _matrix(before), _matrix(kernel), _matrix(after)


def _with_roots(roots: Sequence[int]) -> list[int]:
    """The polynomial's coefficients, from the lowest on."""
    found = [1]
    for root in roots:
        found = [a - root * b for a, b in zip([0, *found], [*found, 0], strict=True)]
    return found


def _matrix(rows: Sequence[Sequence[Fraction | int]]) -> Matrix:
    return tuple(tuple(float(x) for x in row) for row in rows)


def _plain() -> Kind:
    """F(4,3): y[j] = sum of w[k] x[j + k - 1]."""
    return Kind(*_toom_cook((0, 1, -1, 2, -2), 3), step=TILE, first=-1, made=TILE)


def _up(points: Sequence[int]) -> Kind:
    """Zeros inserted: y[2j] = w[0] x[j] + w[2] x[j - 1], which is F(.,2), y[2j + 1] = w[1] x[j].

    The result has a pixel more than twice those of x.
    """
    before, kernel, after = _toom_cook(points, 2)
    even = [(*row, *_unit(None, TILE)) for row in after]
    odd = [(*_unit(None, len(before)), *_unit(j, TILE)) for j in range(TILE)]
    rows = [even[k // 2] if k % 2 == 0 else odd[k // 2] for k in range(len(even) + TILE)]
    return Kind(
        before=(*before, *(_unit(j + 1, len(before)) for j in range(TILE))),
        kernel=(*((b, 0.0, a) for a, b in kernel), *[_unit(1, 3)] * TILE),
        after=tuple(rows),
        step=TILE,
        first=-1,
        made=2 * TILE,
    )


def _down() -> Kind:
    """The gradient of x in `_up`: y[j] = w[0] x[2j] + w[2] x[2j + 2] + w[1] x[2j + 1]."""
    before, kernel, after = _toom_cook((0, 1, -1, 2), 2)
    side = 2 * len(before) - 1
    spread = [tuple(row[k // 2] if k % 2 == 0 else 0.0 for k in range(side)) for row in before]
    return Kind(
        before=(*spread, *(_unit(2 * j + 1, side) for j in range(TILE))),
        kernel=(*((a, 0.0, b) for a, b in kernel), *[_unit(1, 3)] * TILE),
        after=tuple((*row, *_unit(j, TILE)) for j, row in enumerate(after)),
        step=2 * TILE,
        first=0,
        made=TILE,
    )


def _unit(place: int | None, size: int) -> tuple[float, ...]:
    return tuple(float(k == place) for k in range(size))


PLAIN, DOWN = _plain(), _down()
UPS = _up((0, 1, -1, 2)), _up((0, 1, -1, 2, -2))


def up(rows: int, width: int) -> Kind:
    """What makes so many pixels of them with the fewest products: the second has more in a tile,
    but no tiles for the last row and column alone."""
    return min(UPS, key=lambda kind: len(kind.before) ** 2 * kind.tiles(rows) * kind.tiles(width))


def convolve(
    kind: Kind,
    x: Tensor,
    weight: Tensor,
    rows: slice,
    width: int,
    styles: Tensor | None = None,
    after: After = NOTHING,
    out: Tensor | None = None,
    signs: Tensor | None = None,
    slope: float = 1.0,
    turned: bool = False,
) -> Tensor:
    """Rows of the convolution of styles * x, and what comes after it.

    x [N,I,H,W] in float32, of which each row is in channels_last; weight [O,I,3,3], which may be
    turned by 180 degrees; styles [N,I]. Where signs, which lie as x does, are not above 0, the
    slope multiplies x. -> [N,O,rows,width], in `out` if that is given, which is in channels_last
    likewise. A picture comes out the same in any batch, on any number of threads.
    """
    n, inputs, height, _ = x.shape
    outputs, count = len(weight), rows.stop - rows.start
    out = jit.new_map(n, outputs, count, width) if out is None else out
    if n == 0:
        return out
    for given, shape in (
        (weight, (outputs, inputs, 3, 3)),
        (styles, (n, inputs)),
        (after.scale, (n, outputs)),
        (after.bias, (outputs,)),
        (out, (n, outputs, count, width)),
        (signs, x.shape),
    ):
        if given is not None and given.shape != shape:
            raise ValueError(f"it is {list(given.shape)} where {list(shape)} is needed")
    if signs is not None and _strides(signs) != _strides(x):
        raise ValueError("signs do not lie as x does")
    points, made = len(kind.before), kind.made
    assert rows.start * kind.step % made == 0
    across = kind.tiles(width)
    tiles = kind.tiles(count) * across
    # Each thread for itself, or, where there are few tiles, all of them at the same ones.
    threads = cores.torch_threads()
    alone = n * tiles >= threads * LEAST_TILES
    chunks = -(-n * tiles // max(NUMBERS // (inputs + outputs), LEAST_TILES))
    chunks = -(-chunks // threads) * threads if alone else chunks
    most = -(-n * tiles // chunks)
    full = -(-most // BLOCK) * BLOCK
    v_room, m_room = (points * points * full * channels for channels in (inputs, outputs))
    users = threads if alone else 1
    taps = weight.stride()[2:]
    own_styles, a_style = per_picture(styles, jit.filled(1, inputs))
    jit.compiled("winograd_code", "convolution", kind, slope, after.slope)(
        alone=int(alone),
        pictures=n,
        tiles=tiles,
        across=across,
        chunks=chunks,
        most=most,
        **jit.map_of("x", x),
        inputs=inputs,
        height=height,
        width=x.shape[3],
        top=rows.start * kind.step // made + kind.first,
        outside=jit.filled(0, inputs),
        styles=own_styles,
        a_style=a_style,
        signs=signs,
        kernel=_tensor(kind.kernel),
        weight=weight.data_ptr() + 4 * sum(2 * step for step in taps if turned),
        w_output=weight.stride(0),
        w_input=weight.stride(1),
        w_row=-taps[0] if turned else taps[0],
        w_column=-taps[1] if turned else taps[1],
        w=jit.scratch("w", weight.numel()),
        v=jit.scratch("v", users * v_room),
        v_room=v_room,
        u=jit.scratch("u", threads * points * inputs * LANES),
        m=jit.scratch("m", users * m_room),
        m_room=m_room,
        **jit.map_of("y", out),
        outputs=outputs,
        y_height=count,
        y_width=width,
        beyond=jit.scratch("beyond", outputs * threads),
        **after.arguments(outputs),
    )
    return out


def _strides(t: Tensor) -> list[int]:
    """Of those dimensions that have more than one place."""
    return [step for step, size in zip(t.stride(), t.shape, strict=True) if size > 1]


@lru_cache
def _tensor(matrix: Matrix) -> Tensor:
    return constant(matrix)
