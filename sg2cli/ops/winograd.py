"""The 3x3 convolution by Winograd's F(4x4,3x3), with what goes before and after it, on a CPU.

It takes a quarter of the multiplications of a direct convolution (Lavin and Gray 2015,
arXiv:1509.09308, section 4.1), at a relative error of 2e-6. They are matrix products, which torch
does well. To take pictures apart into tiles and to put them together again would take it a dozen
passes over memory each, so these two steps are compiled by LLVM, when they are first used: in a
tenth of a second, and for the processor that is there. They run in the threads of torch's OpenMP,
as any others would compete with those.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Lock, local
from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE = 4  # pixels a side of the result, out of SIDE of x
SIDE = 6
POINTS = SIDE * SIDE  # of a tile, in which it is multiplied
LANES = 16  # channels that are computed together
# Tiles that are multiplied together: as many as stay in the cache with all their channels, but not
# so few that reading the weights takes longer.
NUMBERS, LEAST_TILES = 1 << 15, 128
LAST = torch.channels_last

Step = Callable[[Sequence[int | Tensor | None]], None]


class After(NamedTuple):
    """What becomes of a convolution: clamp(leaky_relu(scale * it + noise + bias))."""

    scale: Tensor | None = None  # [N,O]
    bias: Tensor | None = None  # [O]
    noise: Tensor | None = None  # [N|1,1,H,W]
    slope: float = 1.0  # of the leaky ReLU
    clamp: float | None = None


NOTHING = After()


def serves(inputs: int, outputs: int) -> bool:
    """Whether so many channels can be computed here, on this machine."""
    return inputs % LANES == 0 == outputs % LANES and _openmp() is not None


def convolve(
    x: Tensor,
    weights: Tensor,
    rows: slice,
    styles: Tensor | None = None,
    after: After = NOTHING,
    out: Tensor | None = None,
    signs: Tensor | None = None,
    slope: float = 1.0,
) -> Tensor:
    """Rows of the convolution of styles * x, padded by 1, and what comes after.

    x [N,I,H,W] in float32, of which each row is in channels_last; weights [36,I,O] by
    `transformed`; styles [N,I]. Where signs, which lie as x does, are not above 0, the slope
    multiplies x. -> [N,O,rows,W], in `out` if that is given, which is in channels_last likewise. A
    picture comes out the same in any batch.
    """
    n, inputs, height, width = x.shape
    outputs, count = weights.shape[2], rows.stop - rows.start
    if out is None:
        out = torch.empty((n, outputs, count, width), memory_format=LAST)
    for t in (x, out):
        assert t.stride()[1::2] == (1, t.shape[1]), "not in channels_last"
    assert signs is None or signs.stride() == x.stride()
    across = -(-width // TILE)
    tiles = -(-count // TILE) * across
    most = max(NUMBERS // (inputs + outputs), LEAST_TILES)
    together, pictures = min(most, tiles), max(1, min(most // tiles, n))
    # Were the tiles of a point even, the points of a tile would compete for places in the cache.
    most_odd = together | 1
    v = _scratch("v", POINTS * pictures * most_odd * inputs)
    m = _scratch("m", POINTS * pictures * most_odd * outputs)
    outside, beyond = x.new_zeros(inputs), x.new_empty(outputs)
    scale, bias, noise = (t if t is None else t.contiguous() for t in after[:3])
    styles = styles if styles is None else styles.contiguous()
    take_apart = _step("take_apart", styles is not None, slope)
    given = (scale is not None, bias is not None, noise is not None)
    put_together = _step("put_together", *given, after.slope, after.clamp)
    per_noise = noise[0].numel() if noise is not None and len(noise) > 1 else 0
    for first in range(0, n, pictures):
        some = slice(first, first + pictures)
        part, result = x[some], out[some]
        for tile in range(0, tiles, together):
            now = min(together, tiles - tile)
            pitch = now | 1
            what = (len(part), now, tile, across, pitch)
            take_apart(
                [*what, *_layout(part), inputs, height, width, rows.start]
                + [part, v, outside, of_pictures(styles, some), of_pictures(signs, some)]
            )
            left, product = (
                z[: len(part) * POINTS * pitch * c].view(-1, POINTS, pitch, c)
                for z, c in ((v, inputs), (m, outputs))
            )
            for a, b in zip(left, product, strict=True):
                torch.bmm(a, weights, out=b)
            put_together(
                [*what, *_layout(result), outputs, count, width, per_noise]
                + [result, m, beyond, of_pictures(scale, some), bias, of_pictures(noise, some)]
            )
    return out


_SCRATCH = local()


def _scratch(name: str, numbers: int) -> Tensor:
    """Memory of this thread's: the same each time, so that it stays in the cache."""
    known: Tensor | None = getattr(_SCRATCH, name, None)
    if known is None or known.numel() < numbers:
        with torch.inference_mode(False):  # to do for gradients, too
            known = torch.zeros(numbers)
        setattr(_SCRATCH, name, known)
    return known


def of_pictures(t: Tensor | None, some: slice) -> Tensor | None:
    """What belongs to some pictures, of what there is for each, or once for all."""
    return t if t is None or len(t) == 1 else t[some]


def _layout(t: Tensor) -> tuple[int, int]:
    """Numbers from picture to picture, and from row to row."""
    return t.stride(0), t.stride(2)


def transformed(weight: Tensor) -> Tensor:
    """[O,I,3,3] -> [36,I,O]."""
    o, i, _, _ = weight.shape
    kernels = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (torch.kron(_points(), _points()) @ kernels).view(POINTS, i, o)


def transformed_back(weight: Tensor) -> Tensor:
    """Of the weight of the gradient, turned by 180 degrees: [O,I,3,3] -> [36,O,I]."""
    return transformed(weight.transpose(0, 1).flip(2, 3))


@lru_cache
def _points() -> Tensor:
    """A column of the kernel as a polynomial, at the points 0, 1, -1, 2, -2 and infinity: [6,3]."""
    rows = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.float32) / 24


# The compiled steps. Every thread calls them with the address of their arguments: numbers and
# addresses as int64, the first two of which are the functions that tell threads apart.


@lru_cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP of torch's threads, if it can be called, and there is LLVM to make use of it."""
    try:
        import llvmlite.binding  # noqa: F401
    except (ImportError, OSError):
        return None
    library = ctypes.CDLL(torch._C.__file__)
    needed = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    if not all(hasattr(library, name) for name in needed):
        return None
    library.GOMP_parallel.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_uint,
        ctypes.c_uint,
    ]
    library.GOMP_parallel.restype = None
    return library


_COMPILING = Lock()


@lru_cache
def _step(name: str, *how: Any) -> Step:
    """That of `winograd_code`, compiled for this processor."""
    import llvmlite.binding as llvm

    from sg2cli.ops import winograd_code

    openmp = _openmp()
    assert openmp
    code = getattr(winograd_code, name)(*how)
    with _COMPILING:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features().flatten()
        target = llvm.Target.from_default_triple()
        machine = target.create_target_machine(llvm.get_host_cpu_name(), features, opt=2)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(code), machine)
        engine.finalize_object()
    address = engine.get_function_address("step")
    threads = [
        ctypes.cast(getattr(openmp, f"omp_get_{name}"), ctypes.c_void_p).value or 0
        for name in ("thread_num", "num_threads")
    ]

    def run(arguments: Sequence[int | Tensor | None], engine: Any = engine) -> None:
        """Tensors that are not there are not read. The engine has the code: it stays as long."""
        told = [t.data_ptr() if isinstance(t, Tensor) else t or 0 for t in arguments]
        data = array("q", [*threads, *told])
        openmp.GOMP_parallel(address, data.buffer_info()[0], torch.get_num_threads(), 0)

    return run
