"""3x3 convolutions of maps in channels_last, with styles before and the epilogue after them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from sg2cli import devices
from sg2cli.ops.cpu.epilogue import IDENTITY, Epilogue, EpilogueArguments, per_image
from sg2cli.ops.cpu.runtime import (
    LANES,
    Buffer,
    Int,
    Map,
    Strided,
    filled,
    kernel,
    new_map,
    scratch,
)
from sg2cli.ops.cpu.winograd import Algorithm, g_tensor

# Tiles that a thread multiplies together: as many as stay in the cache with all their channels, but
# not so few that it takes longer to transform the weights.
NUMBERS, LEAST_TILES = 1 << 13, 72
BLOCK = 12  # tiles: there is room for a multiple of them


@dataclass
class ConvolutionArguments(EpilogueArguments):
    each_alone: Int  # 1: threads take chunks of their own; 0: all of them take each together
    images: Int
    tiles: Int  # of an image
    tiles_across: Int
    chunks: Int
    chunk_size: Int  # tiles, at most
    x: Map
    inputs: Int
    height: Int
    width: Int
    top: Int  # the first row of x that the first tile sees
    outside: Buffer  # [I]: zeros, read for what lies beyond the edges of x
    styles: Buffer  # [N,I], or [I] with a step of 0
    styles_step: Int
    signs: Map  # as x; read if the slope before the convolution is not 1
    g: Buffer  # [points,3]
    weight: Strided  # [O,I,3,3]
    w_first: Int  # numbers from its address to its first tap
    w_output: Int  # numbers from one output, input, row and column to the next
    w_input: Int
    w_row: Int
    w_column: Int
    packed: Buffer  # [O,I,3,3]: room for the weights as they are read
    v: Buffer  # room for the transformed input
    v_room: Int
    u: Buffer  # room for the transformed weights of 16 outputs and a row of points
    m: Buffer  # room for the products
    m_room: Int
    y: Map
    outputs: Int
    y_height: Int
    y_width: Int
    discarded: Buffer  # [threads,O]: written for what lies beyond the edges of y
    points: Int
    threads: Int

    def sizes(self) -> dict[str, tuple[int, ...] | int]:
        n, i, o, points = self.images, self.inputs, self.outputs, self.points
        full = -(-self.chunk_size // BLOCK) * BLOCK  # tiles
        users = self.threads if self.each_alone else 1
        if self.v_room < points**2 * full * i or self.m_room < points**2 * full * o:
            raise ValueError("there is too little room for a chunk of tiles")
        return {
            "x": (n, i, self.height, self.width),
            "signs": (n, i, self.height, self.width),
            "outside": i,
            "styles": max(n - 1, 0) * self.styles_step + i,
            "g": (points, 3),
            "weight": (o, i, 3, 3),
            "packed": o * i * 9,
            "v": users * self.v_room,
            "u": self.threads * points * i * LANES,
            "m": users * self.m_room,
            "y": (n, o, self.y_height, self.y_width),
            "discarded": self.threads * o,
        } | self.epilogue_sizes(n, o, self.y_height, self.y_width)


class Plan(NamedTuple):
    """How the tiles are divided into chunks, and these among threads."""

    each_alone: int
    tiles: int
    tiles_across: int
    chunks: int
    chunk_size: int
    v_room: int
    m_room: int


@lru_cache(maxsize=1024)
def _plan(
    algorithm: Algorithm, n: int, inputs: int, outputs: int, rows: int, width: int, threads: int
) -> Plan:
    across = algorithm.tiles(width)
    tiles = algorithm.tiles(rows) * across
    # Each thread for itself, or, where there are few tiles, all of them at the same ones.
    alone = n * tiles >= threads * LEAST_TILES
    chunks = -(-n * tiles // max(NUMBERS // (inputs + outputs), LEAST_TILES))
    chunks = -(-chunks // threads) * threads if alone else chunks
    size = -(-n * tiles // chunks)
    room = algorithm.points**2 * -(-size // BLOCK) * BLOCK
    return Plan(int(alone), tiles, across, chunks, size, room * inputs, room * outputs)


def _weight_arguments(weight: Tensor, turned: bool) -> dict[str, Any]:
    """The weight as it lies; turned by 180 degrees its taps are read from the last to the first."""
    output, input, row, column = weight.stride()
    first, sign = (2 * (row + column), -1) if turned else (0, 1)
    steps = {"w_output": output, "w_input": input, "w_row": sign * row, "w_column": sign * column}
    return {"weight": weight, "w_first": first, **steps}


def convolve(
    algorithm: Algorithm,
    x: Tensor,
    weight: Tensor,
    rows: slice,
    width: int,
    styles: Tensor | None = None,
    epilogue: Epilogue = IDENTITY,
    out: Tensor | None = None,
    signs: Tensor | None = None,
    slope: float = 1.0,
    turned: bool = False,
) -> Tensor:
    """Rows of the convolution of styles * x, and its epilogue.

    x [N,I,H,W] in float32, of which each row is in channels_last; weight [O,I,3,3], turned by 180
    degrees if asked for; styles [N,I]. Where signs, of the shape of x, are not above 0, the slope
    multiplies x. -> [N,O,rows,width], in `out` if that is given. An image comes out the same in any
    batch, on any number of threads. ValueError if a shape does not fit.
    """
    n, inputs, height, x_width = x.shape
    outputs, count = weight.shape[0], rows.stop - rows.start
    out = new_map(n, outputs, count, width) if out is None else out
    if n == 0:
        return out
    assert rows.start * algorithm.x_step % algorithm.y_step == 0
    threads, points = devices.torch_threads(), algorithm.points
    plan = _plan(algorithm, n, inputs, outputs, count, width, threads)
    users = threads if plan.each_alone else 1
    own_styles, styles_step = per_image(styles, filled(1, inputs))
    arguments = ConvolutionArguments(
        **epilogue.arguments(outputs),
        **plan._asdict(),
        images=n,
        x=x,
        inputs=inputs,
        height=height,
        width=x_width,
        top=rows.start * algorithm.x_step // algorithm.y_step + algorithm.x_first,
        outside=filled(0, inputs),
        styles=own_styles,
        styles_step=styles_step,
        signs=x if signs is None else signs,
        g=g_tensor(algorithm),
        **_weight_arguments(weight, turned),
        packed=scratch("packed", weight.numel()),
        v=scratch("v", users * plan.v_room),
        u=scratch("u", threads * points * inputs * LANES),
        m=scratch("m", users * plan.m_room),
        y=out,
        outputs=outputs,
        y_height=count,
        y_width=width,
        discarded=scratch("discarded", outputs * threads),
        points=points,
        threads=threads,
    )
    kernel("kernels_winograd", "convolution", algorithm, slope, epilogue.slope)(arguments, threads)
    return out
