"""Winograd's convolution in one kernel, with the styles before it and the epilogue behind it.

A thread takes its share of the tiles, some at a time, through three steps: input transform,
products with the weights, output transform. Input and output are touched but once.

What lies between the steps is kept in blocks of tiles, [blocks, channels / 16, points, ROWS, 16],
so that what a step reads or writes is never far apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from sg2cli.ops.cpu import runtime
from sg2cli.ops.cpu.convolution import BLOCK, ConvolutionArguments
from sg2cli.ops.cpu.ir import F32, I32, I64, VECTOR, Builder, Value
from sg2cli.ops.cpu.runtime import LANES, Source
from sg2cli.ops.cpu.winograd import Algorithm

# Tiles that are multiplied together: as many as the processor's registers hold sums for, or, of the
# last ones, fewer.
ROWS = BLOCK if runtime.processor()[1].get("avx512f") else BLOCK // 2
FEWER = ROWS // 3


def convolution(algorithm: Algorithm, slope: float, slope_after: float) -> Source:
    """x times styles, or times the slope where signs are not above 0; convolution; epilogue."""
    b = Builder()
    a = b.declare(ConvolutionArguments)
    alone = b.icmp_signed("!=", a.each_alone, I64(0))
    zero, one = I64(0), I64(1)
    own, part = b.select(alone, b.thread, zero), b.select(alone, zero, b.thread)
    by, parts = b.select(alone, b.threads, one), b.select(alone, one, b.threads)
    v, m = b.at(a.v, (own, a.v_room)), b.at(a.m, (own, a.m_room))
    u = b.at(a.u, (b.thread, algorithm.points * LANES, a.inputs))
    total = b.mul(a.images, a.tiles)
    _pack_weights(b, a)
    b.barrier()
    with b.loop(own, a.chunks, by) as (chunk, _):
        first = b.mul(chunk, a.chunk_size)
        count = b.minimum(a.chunk_size, b.sub(total, first))
        share = b.share(count, part, parts)
        _input_transform(b, a, algorithm, slope, v, first, share)
        with b.if_then(b.not_(alone)):
            b.barrier()
        _multiply(b, a, algorithm, v, u, m, count, part, parts)
        with b.if_then(b.not_(alone)):
            b.barrier()
        _output_transform(b, a, algorithm, slope_after, m, first, share)
    return b.done(a)


def _pack_weights(b: Builder, a: ConvolutionArguments) -> None:
    """The weights as they are read: [O/16,I,9,16]."""
    weight = b.at(a.weight, a.w_first)
    total = b.mul(b.sdiv(a.outputs, I64(LANES)), a.inputs)
    with b.loop(*b.share(total, b.thread, b.threads)) as (item, _):
        panel, channel = b.divmod(item, a.inputs)
        here = b.at(weight, (panel, LANES, a.w_output), (channel, a.w_input))
        there = b.at(a.packed, (item, 9 * LANES))
        with b.loop(0, 3) as (row, _), b.loop(0, 3) as (column, _):
            tap = b.at(here, (row, a.w_row), (column, a.w_column))
            lanes = ir.Constant(VECTOR, ir.Undefined)
            for k in range(LANES):
                lanes = b.insert_element(lanes, b.load(b.at(tap, (a.w_output, k))), I32(k))
            b.store_vector(lanes, there, b.sum((row, 3 * LANES), (column, LANES)))


def _input_transform(
    b: Builder,
    a: ConvolutionArguments,
    algorithm: Algorithm,
    slope: float,
    v: Value,
    first: Value,
    share: tuple[Value, Value],
) -> None:
    """BT x BT^T of each tile: rows, then columns."""
    points, side = algorithm.points, len(algorithm.BT[0])
    pixels, signs = (b.array(side * side, F32.as_pointer()) for _ in range(2))
    tile = b.array(points * side, VECTOR)
    with _tiles(b, a, first, share) as (image, row, column, block, place):
        top = b.sum(a.top, (row, algorithm.x_step))
        left = b.sum((column, algorithm.x_step), algorithm.x_first)
        with b.loop(0, side) as (i, _), b.loop(0, side) as (j, _):
            y, x = b.sum(top, i), b.sum(left, j)
            inside = b.and_(b.within(y, a.height), b.within(x, a.width))
            for places, t in ((pixels, a.x), (signs, a.signs))[: 1 + (slope != 1)]:
                there = b.at(b.row(t, image, y), (x, a.inputs))
                b.store(b.select(inside, there, a.outside), places(b.sum((i, side), j)))
        styles = b.at(a.styles, (image, a.styles_step))
        target = b.at(v, (block, points * points * ROWS, a.inputs), place)
        with b.loop(0, a.inputs, LANES) as (channel, _):
            style = b.vector(styles, channel)
            with b.loop(0, side) as (j, _):
                line = []
                for i in range(side):
                    k = b.sum(j, i * side)
                    x = b.vector(b.load(pixels(k)), channel)
                    if slope != 1:
                        x = b.leaky(x, slope, b.vector(b.load(signs(k)), channel))
                    line.append(b.times(x, style))
                for i, factors in enumerate(algorithm.BT):
                    b.store(b.combine(factors, line), tile(b.sum(j, i * side)))
            here = b.at(target, (channel, points * points * ROWS))
            with b.loop(0, points) as (i, _):
                line = [b.load(tile(b.sum((i, side), j))) for j in range(side)]
                for j, factors in enumerate(algorithm.BT):
                    at = b.sum((b.sum((i, points), j), ROWS * LANES))
                    b.store_vector(b.combine(factors, line), here, at)


def _multiply(
    b: Builder,
    a: ConvolutionArguments,
    algorithm: Algorithm,
    v: Value,
    u: Value,
    m: Value,
    count: Value,
    part: Value,
    parts: Value,
) -> None:
    """The products at all points, a row of points and 16 outputs at a time."""
    points = algorithm.points
    panels = b.sdiv(a.outputs, I64(LANES))
    panel_size = b.mul(a.inputs, I64(LANES))
    with b.loop(*b.share(b.mul(I64(points), panels), part, parts)) as (item, _):
        row, panel = b.divmod(item, panels)
        _weight_transform(b, a, algorithm, row, b.at(a.packed, (panel, 9, panel_size)), u)
        with b.loop(0, points) as (column, _):
            point = b.sum((row, points), column)
            left = b.at(v, (point, ROWS * LANES))
            right = b.at(u, (column, LANES))
            result = b.at(m, (b.sum((panel, points * points), point), ROWS * LANES))
            for rows, tile in b.blocks(count, ROWS, FEWER):
                block, over = b.divmod(tile, I64(ROWS))
                x, y = (
                    b.at(start, (block, points * points * ROWS, channels), (over, LANES))
                    for start, channels in ((left, a.inputs), (result, a.outputs))
                )
                _product(b, a, points, rows, x, right, y)


def _weight_transform(
    b: Builder,
    a: ConvolutionArguments,
    algorithm: Algorithm,
    row: Value,
    weights: Value,
    u: Value,
) -> None:
    """A row of G w G^T for 16 outputs: [I,9,16] -> u [I,points,16]."""
    start = b.at(a.g, (row, 3))
    factors = [b.broadcast(b.load(b.gep(start, [I64(k)]))) for k in range(3)]
    with b.loop(0, a.inputs) as (i, _):
        here = b.at(weights, (i, 9 * LANES))
        there = b.at(u, (i, algorithm.points * LANES))
        line = []
        for column in range(3):
            taps = [b.vector(here, (3 * k + column) * LANES) for k in range(3)]
            line.append(b.dot(factors, taps))
        for j, constants in enumerate(algorithm.G):
            b.store_vector(b.combine(constants, line), there, j * LANES)


def _product(
    b: Builder,
    a: ConvolutionArguments,
    points: int,
    rows: int,
    x: Value,
    weights: Value,
    y: Value,
) -> None:
    """At a point: x [I/16,ROWS,16], of which so many rows, times weights [I,16] -> y [ROWS,16]."""
    groups = b.sdiv(a.inputs, I64(LANES))
    state = [*[b.constant(0)] * rows, x, weights]
    with b.loop(0, groups, state=state) as (_, now):
        with b.loop(0, LANES, state=now) as (_, inner):
            *sums, here, w = inner
            weight = b.vector(w)
            for r in range(rows):
                value = b.broadcast(b.load(b.gep(here, [I64(r * LANES)])))
                inner[r] = b.times_plus(value, weight, sums[r])
            inner[rows:] = [b.gep(here, [I64(1)]), b.gep(w, [I64(points * LANES)])]
        now[:] = [*inner[:rows], b.gep(now[rows], [I64(points**2 * ROWS * LANES)]), inner[-1]]
    for r in range(rows):
        b.store_vector(now[r], y, r * LANES)


def _output_transform(
    b: Builder,
    a: ConvolutionArguments,
    algorithm: Algorithm,
    slope: float,
    m: Value,
    first: Value,
    share: tuple[Value, Value],
) -> None:
    """AT m AT^T of each tile, and the epilogue."""
    size, points, step = len(algorithm.AT), algorithm.points, algorithm.y_step
    pixels = b.array(size * size, F32.as_pointer())
    noises, tile = b.array(size * size, F32), b.array(size * points, VECTOR)
    discarded = b.at(a.discarded, (b.thread, a.outputs))
    limit = b.broadcast(a.clamp)
    with _tiles(b, a, first, share) as (image, row, column, block, place):
        with b.loop(0, size) as (i, _), b.loop(0, size) as (j, _):
            k, y, x = b.sum((i, size), j), b.sum((row, step), i), b.sum((column, step), j)
            inside = b.and_(_is_own(b, y, i, step, a.y_height), _is_own(b, x, j, step, a.y_width))
            there = b.at(b.row(a.y, image, y), (x, a.outputs))
            b.store(b.select(inside, there, discarded), pixels(k))
            at = b.sum((image, a.noise_image), (y, a.noise_row), (x, a.noise_pixel))
            b.store(b.load(b.at(a.noise, b.select(inside, at, I64(0)))), noises(k))
        scales = b.at(a.scale, (image, a.scale_step))
        source = b.at(m, (block, points * points * ROWS, a.outputs), place)
        with b.loop(0, a.outputs, LANES) as (channel, _):
            here = b.at(source, (channel, points * points * ROWS))
            with b.loop(0, points) as (j, _):
                places = (b.sum((b.sum(j, i * points), ROWS * LANES)) for i in range(points))
                line = [b.vector(here, at) for at in places]
                for i, factors in enumerate(algorithm.AT):
                    b.store(b.combine(factors, line), tile(b.sum(j, i * points)))
            scale, bias = b.vector(scales, channel), b.vector(a.bias, channel)
            with b.loop(0, size) as (i, _):
                line = [b.load(tile(b.sum((i, points), j))) for j in range(points)]
                for j, factors in enumerate(algorithm.AT):
                    k = b.sum((i, size), j)
                    x, noise = b.combine(factors, line), b.load(noises(k))
                    x = b.epilogue(x, scale, bias, noise, slope, limit)
                    b.store_vector(x, b.load(pixels(k)), channel)


def _is_own(b: Builder, pixel: Value, place: Value, step: int, size: Value) -> Value:
    """Whether a pixel exists, and is not another tile's: one beyond the step is the last's only."""
    last = b.icmp_signed("==", pixel, b.sub(size, I64(1)))
    return b.and_(b.within(pixel, size), b.or_(b.within(place, I64(step)), last))


@contextmanager
def _tiles(
    b: Builder, a: ConvolutionArguments, first: Value, share: tuple[Value, Value]
) -> Iterator[tuple[Value, Value, Value, Value, Value]]:
    """For each tile its image, its row and column in it, its block, and its place in the block."""
    with b.loop(*share) as (item, _):
        tile = b.add(first, item)
        image, rest = b.divmod(tile, a.tiles)
        block, place = b.divmod(item, I64(ROWS))
        yield image, *b.divmod(rest, a.tiles_across), block, b.mul(place, I64(LANES))
