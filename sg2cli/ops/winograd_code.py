"""What `sg2cli.ops.winograd` computes, as code for LLVM.

A thread takes its share of the tiles, some at a time, through three steps: apart, times the
weights, and together. x and the result are touched but once. Channels are computed in vectors.

What lies between the steps is kept in blocks of tiles, [blocks, channels / 16, points, ROWS, 16]:
so what a step reads or writes is never far apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from sg2cli.ops import jit
from sg2cli.ops.jit import LANES, Compilable
from sg2cli.ops.jit_code import F32, I32, I64, VECTOR, Code, Value
from sg2cli.ops.winograd import BLOCK, Kind

# Tiles that are multiplied together: as many as the processor's registers hold sums for, or, of the
# last ones, fewer.
ROWS = BLOCK if jit.processor()[1].get("avx512f") else BLOCK // 2
FEWER = ROWS // 3


def convolution(kind: Kind, slope: float, slope_after: float) -> Compilable:
    """Arguments, beside those of `winograd.convolve`:

    alone: whether each thread takes chunks of tiles of its own, or all together take one by one;
    tiles of a picture, and across it; chunks, the most tiles in one;
    x_picture and the like: numbers from one to the next; inputs, height and width of x; top, the
    first row of it that the first tile sees; outside, zeros for what lies beyond its edges, and
    beyond, numbers of each thread's to be lost beyond those of y; v, u, m: room for tiles, weights
    of 16 outputs and a row of points, and for products.
    """
    c = Code()
    alone = c.icmp_signed("!=", c.alone, I64(0))
    zero, one = I64(0), I64(1)
    own, part = c.select(alone, c.thread, zero), c.select(alone, zero, c.thread)
    by, parts = c.select(alone, c.threads, one), c.select(alone, one, c.threads)
    points = len(kind.before)
    v, m = (
        c.floats(start, c.sum((own, room))) for start, room in ((c.v, c.v_room), (c.m, c.m_room))
    )
    u = c.floats(c.u, c.sum((c.thread, points * LANES, c.inputs)))
    total = c.mul(c.pictures, c.tiles)
    _pack(c)
    c.barrier()
    with c.loop(own, c.chunks, by) as (chunk, _):
        first = c.mul(chunk, c.most)
        count = c.least(c.most, c.sub(total, first))
        mine = c.share(count, part, parts)
        _take_apart(c, kind, slope, v, first, mine)
        with c.if_then(c.not_(alone)):
            c.barrier()
        _multiply(c, kind, v, u, m, count, part, parts)
        with c.if_then(c.not_(alone)):
            c.barrier()
        _put_together(c, kind, slope_after, m, first, mine)
    return c.done()


def _pack(c: Code) -> None:
    """The weights as they are read: [O/16,I,9,16]."""
    total = c.mul(c.sdiv(c.outputs, I64(LANES)), c.inputs)
    with c.loop(*c.share(total, c.thread, c.threads)) as (item, _):
        panel, channel = c.divided(item, c.inputs)
        here = c.floats(c.weight, c.sum((panel, LANES, c.w_output), (channel, c.w_input)))
        there = c.floats(c.w, c.sum((item, 9 * LANES)))
        with c.loop(0, 3) as (row, _), c.loop(0, 3) as (column, _):
            tap = c.gep(here, [c.sum((row, c.w_row), (column, c.w_column))])
            lanes = ir.Constant(VECTOR, ir.Undefined)
            for k in range(LANES):
                lanes = c.insert_element(
                    lanes, c.load(c.gep(tap, [c.sum((c.w_output, k))])), I32(k)
                )
            c.store_vector(lanes, there, c.sum((row, 3 * LANES), (column, LANES)))


def _take_apart(
    c: Code, kind: Kind, slope: float, v: Value, first: Value, mine: tuple[Value, Value]
) -> None:
    points, side = len(kind.before), len(kind.before[0])
    pixels, signs = (c.array(side * side, F32.as_pointer()) for _ in range(2))
    tile = c.array(points * side, VECTOR)
    with _tiles(c, first, mine) as (picture, row, column, block, place):
        top, left = c.sum(c.top, (row, kind.step)), c.sum((column, kind.step), kind.first)
        with c.loop(0, side) as (i, _), c.loop(0, side) as (j, _):
            y, x = c.sum(top, i), c.sum(left, j)
            inside = c.and_(c.within(y, c.height), c.within(x, c.width))
            at = c.sum((picture, c.x_picture), (y, c.x_row), (x, c.inputs))
            for places, start in ((pixels, c.x), (signs, c.signs))[: 1 + (slope != 1)]:
                there = c.select(inside, c.floats(start, at), c.floats(c.outside))
                c.store(there, places(c.sum((i, side), j)))
        styles = c.floats(c.styles, c.mul(picture, c.a_style))
        target = c.gep(v, [c.sum((block, points * points * ROWS, c.inputs), place)])
        with c.loop(0, c.inputs, LANES) as (channel, _):
            style = c.vector(styles, channel)
            with c.loop(0, side) as (j, _):
                line = []
                for i in range(side):
                    k = c.sum(j, i * side)
                    x = c.vector(c.load(pixels(k)), channel)
                    if slope != 1:
                        x = c.leaky(x, slope, c.vector(c.load(signs(k)), channel))
                    line.append(c.times(x, style))
                for i, factors in enumerate(kind.before):
                    c.store(c.combined(factors, line), tile(c.sum(j, i * side)))
            here = c.gep(target, [c.sum((channel, points * points * ROWS))])
            with c.loop(0, points) as (i, _):
                line = [c.load(tile(c.sum((i, side), j))) for j in range(side)]
                for j, factors in enumerate(kind.before):
                    at = c.sum((c.sum((i, points), j), ROWS * LANES))
                    c.store_vector(c.combined(factors, line), here, at)


def _multiply(
    c: Code, kind: Kind, v: Value, u: Value, m: Value, count: Value, part: Value, parts: Value
) -> None:
    """Rows of points, and of each 16 outputs."""
    points = len(kind.before)
    panels = c.sdiv(c.outputs, I64(LANES))
    a_panel = c.mul(c.inputs, I64(LANES))
    with c.loop(*c.share(c.mul(I64(points), panels), part, parts)) as (item, _):
        row, panel = c.divided(item, panels)
        _weights(c, kind, row, c.floats(c.w, c.sum((panel, 9, a_panel))), u)
        with c.loop(0, points) as (column, _):
            point = c.sum((row, points), column)
            left = c.gep(v, [c.mul(point, I64(ROWS * LANES))])
            right = c.gep(u, [c.mul(column, I64(LANES))])
            result = c.gep(m, [c.sum((c.sum((panel, points * points), point), ROWS * LANES))])
            for rows, tile in c.blocks(count, ROWS, FEWER):
                block, over = c.divided(tile, I64(ROWS))
                a, y = (
                    c.gep(start, [c.sum((block, points * points * ROWS, channels), (over, LANES))])
                    for start, channels in ((left, c.inputs), (result, c.outputs))
                )
                _product(c, kind, rows, a, right, y)


def _weights(c: Code, kind: Kind, row: Value, weights: Value, u: Value) -> None:
    """Of one row of points: [I,9,16] -> u [I,points,16]."""
    start = c.floats(c.kernel, c.sum((row, 3)))
    factors = [c.broadcast(c.load(c.gep(start, [I64(k)]))) for k in range(3)]
    with c.loop(0, c.inputs) as (i, _):
        here = c.gep(weights, [c.sum((i, 9 * LANES))])
        there = c.gep(u, [c.sum((i, len(kind.kernel) * LANES))])
        line = []
        for column in range(3):
            taps = [c.vector(here, (3 * k + column) * LANES) for k in range(3)]
            line.append(c.weighed(factors, taps))
        for j, one in enumerate(kind.kernel):
            c.store_vector(c.combined(one, line), there, j * LANES)


def _product(c: Code, kind: Kind, rows: int, a: Value, weights: Value, y: Value) -> None:
    """At a point: a [I/16,ROWS,16], of which so many rows, times weights [I,16] -> y [ROWS,16]."""
    points = len(kind.before)
    groups = c.sdiv(c.inputs, I64(LANES))
    state = [*[c.constant(0)] * rows, a, weights]
    with c.loop(0, groups, state=state) as (_, now):
        with c.loop(0, LANES, state=now) as (_, inner):
            *sums, here, w = inner
            weight = c.vector(w)
            for r in range(rows):
                x = c.broadcast(c.load(c.gep(here, [I64(r * LANES)])))
                inner[r] = c.times_plus(x, weight, sums[r])
            inner[rows:] = [c.gep(here, [I64(1)]), c.gep(w, [I64(points * LANES)])]
        now[:] = [*inner[:rows], c.gep(now[rows], [I64(points**2 * ROWS * LANES)]), inner[-1]]
    for r in range(rows):
        c.store_vector(now[r], y, r * LANES)


def _put_together(
    c: Code, kind: Kind, slope: float, m: Value, first: Value, mine: tuple[Value, Value]
) -> None:
    size, points, made = len(kind.after), len(kind.before), kind.made
    pixels = c.array(size * size, F32.as_pointer())
    noises, tile = c.array(size * size, F32), c.array(size * points, VECTOR)
    beyond = c.floats(c.beyond, c.mul(c.thread, c.outputs))
    most = c.number(c.clamp)
    with _tiles(c, first, mine) as (picture, row, column, block, place):
        with c.loop(0, size) as (i, _), c.loop(0, size) as (j, _):
            k, y, x = c.sum((i, size), j), c.sum((row, made), i), c.sum((column, made), j)
            inside = c.and_(_ours(c, y, i, made, c.y_height), _ours(c, x, j, made, c.y_width))
            at = c.sum((picture, c.y_picture), (y, c.y_row), (x, c.outputs))
            c.store(c.select(inside, c.floats(c.y, at), beyond), pixels(k))
            at = c.sum((picture, c.a_noise), (y, c.noise_row), (x, c.noise_pixel))
            at = c.select(inside, at, I64(0))
            c.store(c.load(c.floats(c.noise, at)), noises(k))
        scales = c.floats(c.scale, c.mul(picture, c.a_scale))
        source = c.gep(m, [c.sum((block, points * points * ROWS, c.outputs), place)])
        with c.loop(0, c.outputs, LANES) as (channel, _):
            here = c.gep(source, [c.sum((channel, points * points * ROWS))])
            with c.loop(0, points) as (j, _):
                places = (c.sum((c.sum(j, i * points), ROWS * LANES)) for i in range(points))
                line = [c.vector(here, place) for place in places]
                for i, factors in enumerate(kind.after):
                    c.store(c.combined(factors, line), tile(c.sum(j, i * points)))
            scale, bias = c.vector(scales, channel), c.vector(c.floats(c.bias), channel)
            with c.loop(0, size) as (i, _):
                line = [c.load(tile(c.sum((i, points), j))) for j in range(points)]
                for j, factors in enumerate(kind.after):
                    k = c.sum((i, size), j)
                    x, noise = c.combined(factors, line), c.load(noises(k))
                    x = c.finished(x, scale, bias, noise, slope, most)
                    c.store_vector(x, c.load(pixels(k)), channel)


def _ours(c: Code, pixel: Value, place: Value, made: int, size: Value) -> Value:
    """Whether a pixel is there, and no other tile's: one more than the tile makes is, if last."""
    last = c.icmp_signed("==", pixel, c.sub(size, I64(1)))
    return c.and_(c.within(pixel, size), c.or_(c.within(place, I64(made)), last))


@contextmanager
def _tiles(
    c: Code, first: Value, mine: tuple[Value, Value]
) -> Iterator[tuple[Value, Value, Value, Value, Value]]:
    """Of each tile the picture, the row and the column in it, its block, and its place in that."""
    with c.loop(*mine) as (item, _):
        tile = c.add(first, item)
        picture, rest = c.divided(tile, c.tiles)
        block, place = c.divided(item, I64(ROWS))
        yield picture, *c.divided(rest, c.across), block, c.mul(place, I64(LANES))
