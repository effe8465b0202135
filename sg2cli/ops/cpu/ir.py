"""A kernel as LLVM's intermediate representation: its builder, with vectors and loops.

Addresses are of float32 numbers, integers are int64, vectors have LANES numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any, NamedTuple, TypeAlias, TypeVar

from llvmlite import ir

from sg2cli.ops.cpu.runtime import LANES, OPENMP, Arguments, Source

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(F32, LANES)
FLAGS = ("contract",)  # a product may be added without being rounded first; NaN stays what it is
WORK, WORK_SIZE = len(OPENMP), len(OPENMP) + 1  # places of what `runtime` adds to the arguments

Value: TypeAlias = Any  # of LLVM's, which has no types for Python
A = TypeVar("A", bound=Arguments)


class MapValue(NamedTuple):
    """A Map argument: its address, and the steps between images and rows."""

    start: Value
    image_step: Value
    row_step: Value


class LoopBuilder(ir.IRBuilder):  # type: ignore[misc]
    """Builds the function `step`, called by every thread with the address of its arguments.

    This class has arguments, integers, addresses and loops.
    """

    def __init__(self) -> None:
        self._module = ir.Module()
        step = ir.Function(self._module, ir.FunctionType(ir.VoidType(), [I64.as_pointer()]), "step")
        super().__init__(step.append_basic_block())
        self._given = step.args[0]
        self._work = 0  # bytes for each thread
        kind = ir.FunctionType(I32, []).as_pointer()
        self.thread, self.threads = (
            self.sext(self.call(self.inttoptr(self._argument(i), kind), []), I64) for i in range(2)
        )

    def declare(self, kind: type[A]) -> A:
        """The arguments as LLVM values."""
        place, values = WORK_SIZE + 1, {}
        for name, what in kind.LAYOUT:
            if what == "Map":
                start, *steps = (self._argument(place + k) for k in range(3))
                values[name] = MapValue(self.inttoptr(start, F32.as_pointer()), *steps)
                place += 3
                continue
            value = self._argument(place)
            if what == "Float":
                value = self.bitcast(self.trunc(value, I32), F32)
            elif what != "Int":
                value = self.inttoptr(value, F32.as_pointer())
            values[name] = value
            place += 1
        return kind(**values)

    def _argument(self, place: int) -> Value:
        with self.goto_entry_block():
            return self.load(self.gep(self._given, [I64(place)]))

    def done(self, arguments: Arguments) -> Source:
        """The kernel, complete."""
        self.ret_void()
        return Source(str(self._module), type(arguments), self._work)

    def barrier(self) -> None:
        """Wait for all threads to come here."""
        kind = ir.FunctionType(ir.VoidType(), []).as_pointer()
        self.call(self.inttoptr(self._argument(OPENMP.index("GOMP_barrier")), kind), [])

    def share(self, total: Value, part: Value, parts: Value) -> tuple[Value, Value]:
        """Start and stop of one part of 0 to total, which is divided into so many parts."""
        start, stop = (self.sdiv(self.mul(total, k), parts) for k in (part, self.add(part, I64(1))))
        return start, stop

    @contextmanager
    def loop(
        self,
        start: Value | int,
        stop: Value | int,
        by: Value | int = 1,
        state: Sequence[Value] = (),
    ) -> Iterator[tuple[Value, list[Value]]]:
        """A loop; yields the index, and a list of values that each iteration may replace.

        After the loop, the list has the final values.
        """
        start, stop, by = (I64(x) if isinstance(x, int) else x for x in (start, stop, by))
        before = self.block
        head, body, end = (self.append_basic_block() for _ in range(3))
        self.branch(head)
        self.position_at_end(head)
        i = self.phi(I64)
        i.add_incoming(start, before)
        kept = [self.phi(value.type) for value in state]
        for place, value in zip(kept, state, strict=True):
            place.add_incoming(value, before)
        self.cbranch(self.icmp_signed("<", i, stop), body, end)
        self.position_at_end(body)
        now = list(kept)
        yield i, now
        i.add_incoming(self.add(i, by), self.block)
        for place, value in zip(kept, now, strict=True):
            place.add_incoming(value, self.block)
        self.branch(head)
        self.position_at_end(end)
        now[:] = kept

    def blocks(self, count: Value, several: int, fewer: int) -> Iterator[tuple[int, Value]]:
        """From 0 to count in steps of `several`, then of `fewer` for the rest: step and index."""
        whole = self.mul(self.sdiv(count, I64(several)), I64(several))
        for by, start, stop in ((several, I64(0), whole), (fewer, whole, count)):
            with self.loop(start, stop, by) as (first, _):
                yield by, first

    def sum(self, *terms: Value | int | tuple[Value | int, ...]) -> Value:
        """The sum of integers and of products of integers, which are tuples."""
        products = (term if isinstance(term, tuple) else (term,) for term in terms)
        values = ([I64(x) if isinstance(x, int) else x for x in product] for product in products)
        return reduce(self.add, (reduce(self.mul, product) for product in values))

    def rounded_up(self, a: Value, b: int) -> Value:
        """a / b, to the next integer above."""
        return self.sdiv(self.add(a, I64(b - 1)), I64(b))

    def divmod(self, a: Value, b: Value) -> tuple[Value, Value]:
        """Quotient and remainder."""
        return self.sdiv(a, b), self.srem(a, b)

    def minimum(self, a: Value, b: Value) -> Value:
        return self.select(self.icmp_signed("<", a, b), a, b)

    def within(self, i: Value, size: Value) -> Value:
        return self.icmp_unsigned("<", i, size)  # below 0 is far above

    def row(self, t: MapValue, image: Value, row: Value) -> Value:
        """The address of a row of a map."""
        return self.at(t.start, self.sum((image, t.image_step), (row, t.row_step)))

    def at(self, floats: Value, *terms: Value | int | tuple[Value | int, ...]) -> Value:
        """The address at an offset in numbers; `terms` as in `sum`."""
        return self.gep(floats, [self.sum(*terms)])


class Builder(LoopBuilder):
    """LoopBuilder with vectors of LANES numbers; no alignment is assumed."""

    def vector(self, floats: Value, index: Value | int | None = None) -> Value:
        return self.load(self._place(floats, index), align=4)

    def store_vector(self, value: Value, floats: Value, index: Value | int | None = None) -> None:
        self.store(value, self._place(floats, index), align=4)

    def _place(self, floats: Value, index: Value | int | None) -> Value:
        if index is not None:
            floats = self.gep(floats, [I64(index) if isinstance(index, int) else index])
        return self.bitcast(floats, VECTOR.as_pointer())

    def array(self, size: int, kind: ir.Type) -> Callable[[Value | int], Value]:
        """An array in the working memory of the thread, as its stack may be small.

        Arrays begin at multiples of 64 bytes, as required for vectors.
        """
        work, step = self._argument(WORK), self._argument(WORK_SIZE)
        with self.goto_entry_block():
            own = self.add(work, self.mul(self.thread, step))
            start = self.inttoptr(self.add(own, I64(self._work)), kind.as_pointer())
        bits = 32 * LANES if kind is VECTOR else 32 if kind is F32 else 64
        self._work += -(-size * bits // 512) * 64
        return lambda k: self.gep(start, [I64(k) if isinstance(k, int) else k])

    def constant(self, x: float) -> Value:
        return ir.Constant(VECTOR, [x] * LANES)

    def single(self, x: float) -> Value:
        return ir.Constant(F32, x)

    def root(self, x: Value) -> Value:
        """The square root of one float32."""
        return self.call(self._intrinsic("llvm.sqrt.f32", F32, F32), [x])

    def broadcast(self, x: Value) -> Value:
        one = self.insert_element(ir.Constant(VECTOR, ir.Undefined), x, I32(0))
        return self.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))

    def lane_sum(self, x: Value) -> Value:
        """The sum of a vector's numbers."""
        add = self._intrinsic(f"llvm.vector.reduce.fadd.v{LANES}f32", F32, F32, VECTOR)
        return self.call(add, [self.single(0), x], fastmath=("reassoc",))

    def _intrinsic(self, name: str, result: ir.Type, *given: ir.Type) -> Value:
        known = self._module.globals.get(name)
        return known or ir.Function(self._module, ir.FunctionType(result, given), name)

    def times(self, a: Value, b: Value) -> Value:
        return self.fmul(a, b, flags=FLAGS)

    def plus(self, a: Value, b: Value) -> Value:
        return self.fadd(a, b, flags=FLAGS)

    def times_plus(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once."""
        fma = self._intrinsic(f"llvm.fma.v{LANES}f32", VECTOR, *[VECTOR] * 3)
        return self.call(fma, [a, b, c])

    def dot(self, factors: Sequence[Value], values: Sequence[Value]) -> Value:
        """The sum of factors times values."""
        total = self.times(values[0], factors[0])
        for factor, value in zip(factors[1:], values[1:], strict=True):
            total = self.times_plus(value, factor, total)
        return total

    def combine(self, factors: Sequence[float], values: Sequence[Value]) -> Value:
        """The sum of constants times values.

        Terms of even and of odd places are added separately: the polynomials of two points that
        differ in sign have these sums in common, and LLVM computes them once.
        """
        found: list[tuple[bool, Value]] = []  # whether it is to be subtracted
        for parity in (0, 1):
            pairs = zip(factors[parity::2], values[parity::2], strict=True)
            terms = [(f, v) for f, v in pairs if f]
            if terms:
                terms.sort(key=lambda term: abs(term[0]) != 1)  # which saves a product
                negative = terms[0][0] < 0
                signed = [(-f if negative else f, v) for f, v in terms]
                found.append((negative, self._signed_sum(signed)))
        (negative, total), *others = sorted(found, key=lambda one: one[0])
        for subtracted, other in others:
            total = (self.fsub if subtracted != negative else self.fadd)(total, other, flags=FLAGS)
        return self.fsub(self.constant(0), total) if negative else total

    def _signed_sum(self, terms: Sequence[tuple[float, Value]]) -> Value:
        total: Value = None
        for factor, value in terms:
            if abs(factor) != 1:
                value = self.times(value, self.constant(abs(factor)))
            if total is not None:
                value = (self.fadd if factor > 0 else self.fsub)(total, value, flags=FLAGS)
            total = value
        return total

    def leaky(self, x: Value, slope: float, sign: Value | None = None) -> Value:
        """The leaky ReLU of x, which keeps NaN.

        With a sign given: x where that is above 0, else slope * x, as the gradient needs it.
        """
        if slope == 1:
            return x
        below = self.fmul(x, self.constant(slope)) if slope else self.constant(0)
        if sign is not None:
            return self.select(self.fcmp_ordered(">", sign, self.constant(0)), x, below)
        return self.select(self.fcmp_ordered("<", x, self.constant(0)), below, x)

    def epilogue(
        self, x: Value, scale: Value, bias: Value, noise: Value, slope: float, clamp: Value
    ) -> Value:
        """clamp(leaky_relu(x * scale + noise + bias)); the noise is one float32."""
        x = self.plus(self.times(x, scale), self.plus(self.broadcast(noise), bias))
        return self.clamped(self.leaky(x, slope), clamp)

    def clamped(self, x: Value, most: Value) -> Value:
        for sign, limit in ((">", most), ("<", self.fsub(self.constant(0), most))):
            x = self.select(self.fcmp_ordered(sign, x, limit), limit, x)
        return x
