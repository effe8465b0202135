"""What `sg2cli.ops.winograd` does before and after its matrix products, as code for LLVM.

Each function builds one step. A thread takes its share of the tiles, one after the other, and of
each some channels at once, in a vector for every pixel: x and the result are touched but once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any, TypeAlias

from llvmlite import ir

from sg2cli.ops.winograd import LANES, POINTS, SIDE, TILE

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(F32, LANES)
FLAGS = ("contract",)  # a product may be added without being rounded first; NaN stays what it is

Value: TypeAlias = Any  # of LLVM's, which has no types for Python


def take_apart(styles: bool, slope: float) -> str:
    """Tiles of 6x6 pixels, at 36 points: x [N,I,H,W] -> v [pictures,36,tiles,I].

    Arguments: those of `_Step`; I, H, W, the first row; x, v, I zeros for what lies outside, styles
    [pictures,I], by which x is multiplied, and signs, as x: where they are not above 0, the slope
    multiplies it, too.
    """
    step = _Step(9)
    channels, height, width, top, x, v, outside, factors, signs = step.more
    tile = step.array(POINTS, VECTOR)
    pixels, signs_there = (step.array(POINTS, F32.as_pointer()) for _ in range(2))
    with step.tiles() as (picture, at, row, column):
        for k in range(POINTS):
            i = step.sum(top, (row, TILE), k // SIDE - 1)
            j = step.sum((column, TILE), k % SIDE - 1)
            inside = step.and_(step.within(i, height), step.within(j, width))
            place = step.sum((picture, step.a_picture), (i, step.a_row), (j, channels))
            for places, start in ((pixels, x), (signs_there, signs))[: 1 + (slope != 1)]:
                there = step.select(inside, step.floats(start, place), step.floats(outside))
                step.put(places, k, there)
        target = step.sum((picture, POINTS, step.pitch, channels), (at, channels))
        factors = step.floats(factors, step.sum((picture, channels)))
        with step.loop(I64(0), channels, LANES) as channel:
            scale = step.vector(factors, channel) if styles else None
            for j in range(SIDE):
                d = [step.vector(step.get(pixels, i * SIDE + j), channel) for i in range(SIDE)]
                if slope != 1:
                    for i in range(SIDE):
                        sign = step.vector(step.get(signs_there, i * SIDE + j), channel)
                        d[i] = _leaky(step, d[i], slope, sign)
                if scale:
                    d = [step.fmul(value, scale, flags=FLAGS) for value in d]
                for i, value in enumerate(_at_points(step, d)):
                    step.put(tile, i * SIDE + j, value)
            for i in range(SIDE):
                row_of_it = _at_points(step, [step.get(tile, i * SIDE + j) for j in range(SIDE)])
                for j, value in enumerate(row_of_it):
                    k = step.sum(target, ((i * SIDE + j), step.pitch, channels), channel)
                    step.store_vector(value, step.floats(v, k))
    return step.code()


def put_together(scale: bool, bias: bool, noise: bool, slope: float, clamp: float | None) -> str:
    """Tiles of 4x4 pixels, of their values at 36 points, and what comes after the convolution.

    m [pictures,36,tiles,O] -> y [N,O,rows,W]. Arguments: those of `_Step`; O, rows, W, numbers from
    the noise of a picture to the next's; y, m, O numbers to be lost beyond the edges of y; scale
    [pictures,O], bias [O], noise [pictures|1,rows,W].
    """
    step = _Step(10)
    channels, height, width, a_noise, y, m, beyond, scales, biases, noises = step.more
    size = TILE * TILE
    pixels, tile = step.array(size, F32.as_pointer()), step.array(TILE * SIDE, VECTOR)
    noise_there = step.array(size, VECTOR)
    with step.tiles() as (picture, at, row, column):
        for k in range(size):
            i, j = step.sum((row, TILE), k // TILE), step.sum((column, TILE), k % TILE)
            inside = step.and_(step.within(i, height), step.within(j, width))
            place = step.sum((picture, step.a_picture), (i, step.a_row), (j, channels))
            step.put(pixels, k, step.select(inside, step.floats(y, place), step.floats(beyond)))
            if noise:
                place = step.sum((picture, a_noise), (i, width), j)
                place = step.select(inside, place, I64(0))
                step.put(noise_there, k, step.broadcast(step.load(step.floats(noises, place))))
        source = step.sum((picture, POINTS, step.pitch, channels), (at, channels))
        scales = step.floats(scales, step.sum((picture, channels)))
        with step.loop(I64(0), channels, LANES) as channel:
            for j in range(SIDE):
                places = (
                    step.sum(source, (i * SIDE + j, step.pitch, channels), channel)
                    for i in range(SIDE)
                )
                values = [step.vector(step.floats(m, place)) for place in places]
                for i, value in enumerate(_of_points(step, values)):
                    step.put(tile, i * SIDE + j, value)
            factor = step.vector(scales, channel) if scale else None
            plus = step.vector(step.floats(biases), channel) if bias else None
            for i in range(TILE):
                values = [step.get(tile, i * SIDE + j) for j in range(SIDE)]
                for j, value in enumerate(_of_points(step, values)):
                    k = i * TILE + j
                    if factor:
                        value = step.fmul(value, factor, flags=FLAGS)
                    for term in (plus, step.get(noise_there, k) if noise else None):
                        value = step.fadd(value, term, flags=FLAGS) if term else value
                    value = _clamped(step, _leaky(step, value, slope), clamp)
                    step.store_vector(value, step.gep(step.get(pixels, k), [channel]))
    return step.code()


def _at_points(step: _Step, d: Sequence[Value]) -> list[Value]:
    """Of a line of 6 pixels the values at 0, 1, -1, 2, -2 and infinity."""
    a, b = step.plus(d[4], -4, d[2]), step.plus(d[3], -4, d[1])
    e, f = step.plus(d[4], -1, d[2]), step.plus(d[3], -1, d[1])
    return [
        step.plus(step.plus(d[4], -5, d[2]), 4, d[0]),
        *(step.plus(a, sign, b) for sign in (1, -1)),
        *(step.plus(e, sign, f) for sign in (2, -2)),
        step.plus(step.plus(d[5], -5, d[3]), 4, d[1]),
    ]


def _of_points(step: _Step, m: Sequence[Value]) -> list[Value]:
    """The line of 4 pixels that has these 6 values at those points."""
    p, q = step.plus(m[1], 1, m[2]), step.plus(m[1], -1, m[2])
    r, s = step.plus(m[3], 1, m[4]), step.plus(m[3], -1, m[4])
    return [
        step.plus(step.plus(m[0], 1, p), 1, r),
        step.plus(q, 2, s),
        step.plus(p, 4, r),
        step.plus(step.plus(m[5], 1, q), 8, s),
    ]


def _leaky(step: _Step, x: Value, slope: float, sign: Value | None = None) -> Value:
    """By the sign of x itself, NaN staying NaN, or by another's, 0 counting as below it."""
    if slope == 1:
        return x
    below = step.fmul(x, step.constant(slope)) if slope else step.constant(0)
    if sign is not None:
        return step.select(step.fcmp_ordered(">", sign, step.constant(0)), x, below)
    return step.select(step.fcmp_ordered("<", x, step.constant(0)), below, x)


def _clamped(step: _Step, x: Value, most: float | None) -> Value:
    if most is None:
        return x
    for sign, beyond in ((">", most), ("<", -most)):
        limit = step.constant(beyond)
        x = step.select(step.fcmp_ordered(sign, x, limit), limit, x)
    return x


class _Step(ir.IRBuilder):  # type: ignore[misc]
    """A function `step` of the address of its arguments, all int64, and what its code is made of.

    The first arguments are: the address of the functions that tell which of how many threads this
    is, and how many; the number of pictures; of tiles in each that are to be done, and the first of
    them; tiles in a row; tiles that there is room for between two points; numbers from a picture to
    the next and from row to row.
    """

    def __init__(self, more: int) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64.as_pointer()])
        self._module = ir.Module()
        step = ir.Function(self._module, kind, "step")
        super().__init__(step.append_basic_block())
        given = [self.load(self.gep(step.args[0], [I64(i)])) for i in range(9 + more)]
        self._threads = given[:2]
        self._pictures, self._count, self._first, self._across = given[2:6]
        self.pitch, self.a_picture, self.a_row, *self.more = given[6:]

    def code(self) -> str:
        self.ret_void()
        return str(self._module)

    @contextmanager
    def tiles(self) -> Iterator[tuple[Value, Value, Value, Value]]:
        """This thread's: the picture, which of the tiles to be done, and its row and column."""
        kind = ir.FunctionType(I32, []).as_pointer()
        thread, threads = (
            self.sext(self.call(self.inttoptr(address, kind), []), I64) for address in self._threads
        )
        total = self.sum((self._pictures, self._count))
        start, stop = (
            self.sdiv(self.mul(total, k), threads) for k in (thread, self.sum(thread, 1))
        )
        with self.loop(start, stop, 1) as item:
            at = self.srem(item, self._count)
            tile = self.sum(at, self._first)
            yield (
                self.sdiv(item, self._count),
                at,
                self.sdiv(tile, self._across),
                self.srem(tile, self._across),
            )

    @contextmanager
    def loop(self, start: Value, stop: Value, by: int) -> Iterator[Value]:
        before = self.block
        head, body, end = (self.append_basic_block() for _ in range(3))
        self.branch(head)
        self.position_at_end(head)
        i = self.phi(I64)
        i.add_incoming(start, before)
        self.cbranch(self.icmp_signed("<", i, stop), body, end)
        self.position_at_end(body)
        yield i
        i.add_incoming(self.add(i, I64(by)), self.block)
        self.branch(head)
        self.position_at_end(end)

    def sum(self, *terms: Value | int | tuple[Value | int, ...]) -> Value:
        """Of integers and of products of integers."""
        products = (term if isinstance(term, tuple) else (term,) for term in terms)
        values = ([I64(x) if isinstance(x, int) else x for x in product] for product in products)
        return reduce(self.add, (reduce(self.mul, product) for product in values))

    def within(self, i: Value, size: Value) -> Value:
        return self.icmp_unsigned("<", i, size)  # below 0 is far above

    def floats(self, address: Value, index: Value | None = None) -> Value:
        """A pointer to float32."""
        start = self.inttoptr(address, F32.as_pointer())
        return self.gep(start, [index]) if index else start

    def vector(self, floats: Value, index: Value | None = None) -> Value:
        place = self.gep(floats, [index]) if index else floats
        return self.load(self.bitcast(place, VECTOR.as_pointer()), align=4)

    def store_vector(self, value: Value, floats: Value) -> None:
        self.store(value, self.bitcast(floats, VECTOR.as_pointer()), align=4)

    def array(self, size: int, kind: ir.Type) -> Callable[[int], Value]:
        """On the thread's own stack: what gives the place of each."""
        start = self.alloca(kind, size)
        return lambda k: self.gep(start, [I64(k)])

    def put(self, places: Callable[[int], Value], k: int, value: Value) -> None:
        self.store(value, places(k))

    def get(self, places: Callable[[int], Value], k: int) -> Value:
        return self.load(places(k))

    def constant(self, x: float) -> Value:
        return ir.Constant(VECTOR, [x] * LANES)

    def broadcast(self, x: Value) -> Value:
        one = self.insert_element(ir.Constant(VECTOR, ir.Undefined), x, I32(0))
        mask = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
        return self.shuffle_vector(one, one, mask)

    def plus(self, a: Value, factor: float, b: Value) -> Value:
        """a + factor * b."""
        if abs(factor) == 1:
            return (self.fadd if factor > 0 else self.fsub)(a, b, flags=FLAGS)
        return self.fadd(a, self.fmul(b, self.constant(factor), flags=FLAGS), flags=FLAGS)
