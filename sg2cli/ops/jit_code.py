"""What the code of `sg2cli.ops.jit` is made of: LLVM's builder, with vectors and loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any, TypeAlias

from llvmlite import ir

from sg2cli.ops.jit import CALLED, LANES, Compilable

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(F32, LANES)
FLAGS = ("contract",)  # a product may be added without being rounded first; NaN stays what it is

WORK, WORK_SIZE = len(CALLED), len(CALLED) + 1  # places of arguments

Value: TypeAlias = Any  # of LLVM's, which has no types for Python


class Code(ir.IRBuilder):  # type: ignore[misc]
    """A function `step` that every thread calls with the address of its arguments, all int64.

    Attributes that a builder has not are arguments, by their names. Addresses are of float32.
    """

    def __init__(self) -> None:
        self._module = ir.Module()
        step = ir.Function(self._module, ir.FunctionType(ir.VoidType(), [I64.as_pointer()]), "step")
        super().__init__(step.append_basic_block())
        self._given = step.args[0]
        self.work = 0
        self.names: list[str] = []
        kind = ir.FunctionType(I32, []).as_pointer()
        self.thread, self.threads = (
            self.sext(self.call(self.inttoptr(self._argument(i), kind), []), I64) for i in range(2)
        )

    def __getattr__(self, name: str) -> Value:
        if name.startswith("_"):
            raise AttributeError(name)
        self.names.append(name)
        value = self._argument(WORK_SIZE + len(self.names))
        setattr(self, name, value)
        return value

    def _argument(self, place: int) -> Value:
        with self.goto_entry_block():
            return self.load(self.gep(self._given, [I64(place)]))

    def done(self) -> Compilable:
        """The code, bytes of working memory a thread, and its arguments' names, in their order."""
        self.ret_void()
        return str(self._module), self.work, self.names

    def barrier(self) -> None:
        """Wait for all threads to come here."""
        kind = ir.FunctionType(ir.VoidType(), []).as_pointer()
        self.call(self.inttoptr(self._argument(CALLED.index("GOMP_barrier")), kind), [])

    def share(self, total: Value, part: Value, parts: Value) -> tuple[Value, Value]:
        """Of so many the first of a part's and the one after its last."""
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
        """The index, and values that each round may change, in that list.

        After it, the list has what the last round left.
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
        """The index, by several at once, and by fewer for those that are left."""
        whole = self.mul(self.sdiv(count, I64(several)), I64(several))
        for by, start, stop in ((several, I64(0), whole), (fewer, whole, count)):
            with self.loop(start, stop, by) as (first, _):
                yield by, first

    def sum(self, *terms: Value | int | tuple[Value | int, ...]) -> Value:
        """Of integers and of products of integers."""
        products = (term if isinstance(term, tuple) else (term,) for term in terms)
        values = ([I64(x) if isinstance(x, int) else x for x in product] for product in products)
        return reduce(self.add, (reduce(self.mul, product) for product in values))

    def rounded_up(self, a: Value, b: int) -> Value:
        """a / b."""
        return self.sdiv(self.add(a, I64(b - 1)), I64(b))

    def divided(self, a: Value, b: Value) -> tuple[Value, Value]:
        """a / b and what is left."""
        return self.sdiv(a, b), self.srem(a, b)

    def least(self, a: Value, b: Value) -> Value:
        return self.select(self.icmp_signed("<", a, b), a, b)

    def within(self, i: Value, size: Value) -> Value:
        return self.icmp_unsigned("<", i, size)  # below 0 is far above

    def row(self, name: str, picture: Value, row: Value) -> Value:
        """Of a map, by the arguments of `jit.map_of`."""
        steps = (getattr(self, f"{name}_{step}") for step in ("picture", "row"))
        at = self.sum(*zip((picture, row), steps, strict=True))
        return self.floats(getattr(self, name), at)

    def floats(self, address: Value, index: Value | None = None) -> Value:
        """A pointer to float32."""
        start = self.inttoptr(address, F32.as_pointer())
        return self.gep(start, [index]) if index else start

    def vector(self, floats: Value, index: Value | int | None = None) -> Value:
        return self.load(self._place(floats, index), align=4)

    def store_vector(self, value: Value, floats: Value, index: Value | int | None = None) -> None:
        self.store(value, self._place(floats, index), align=4)

    def _place(self, floats: Value, index: Value | int | None) -> Value:
        if index is not None:
            floats = self.gep(floats, [I64(index) if isinstance(index, int) else index])
        return self.bitcast(floats, VECTOR.as_pointer())

    def array(self, size: int, kind: ir.Type) -> Callable[[Value | int], Value]:
        """In the thread's working memory, as its stack may be small: what gives the place of each.

        Arrays begin at multiples of 64 bytes, as vectors have to.
        """
        work, a_thread = self._argument(WORK), self._argument(WORK_SIZE)
        with self.goto_entry_block():
            own = self.add(work, self.mul(self.thread, a_thread))
            start = self.inttoptr(self.add(own, I64(self.work)), kind.as_pointer())
        bits = 32 * LANES if kind is VECTOR else 32 if kind is F32 else 64
        self.work += -(-size * bits // 512) * 64
        return lambda k: self.gep(start, [I64(k) if isinstance(k, int) else k])

    def constant(self, x: float) -> Value:
        return ir.Constant(VECTOR, [x] * LANES)

    def single(self, x: float) -> Value:
        return ir.Constant(F32, x)

    def root(self, x: Value) -> Value:
        """Of one float32."""
        return self.call(self._intrinsic("llvm.sqrt.f32", F32, F32), [x])

    def number(self, x: Value) -> Value:
        """An argument that is a float32, in all lanes."""
        return self.broadcast(self.bitcast(self.trunc(x, I32), F32))

    def broadcast(self, x: Value) -> Value:
        one = self.insert_element(ir.Constant(VECTOR, ir.Undefined), x, I32(0))
        return self.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))

    def added(self, x: Value) -> Value:
        """The sum over the lanes."""
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

    def weighed(self, factors: Sequence[Value], values: Sequence[Value]) -> Value:
        """The sum of products."""
        total = self.times(values[0], factors[0])
        for factor, value in zip(factors[1:], values[1:], strict=True):
            total = self.times_plus(value, factor, total)
        return total

    def combined(self, factors: Sequence[float], values: Sequence[Value]) -> Value:
        """Their sum, weighed. Terms of even and of odd places are added apart: the polynomials of
        two points that differ in sign have these sums in common, and LLVM computes them once."""
        found: list[tuple[bool, Value]] = []  # whether it is to be subtracted
        for parity in (0, 1):
            pairs = zip(factors[parity::2], values[parity::2], strict=True)
            terms = [(f, v) for f, v in pairs if f]
            if terms:
                terms.sort(key=lambda term: abs(term[0]) != 1)  # which saves a product
                negative = terms[0][0] < 0
                signed = [(-f if negative else f, v) for f, v in terms]
                found.append((negative, self._added(signed)))
        (negative, total), *others = sorted(found, key=lambda one: one[0])
        for subtracted, other in others:
            total = (self.fsub if subtracted != negative else self.fadd)(total, other, flags=FLAGS)
        return self.fsub(self.constant(0), total) if negative else total

    def _added(self, terms: Sequence[tuple[float, Value]]) -> Value:
        total: Value = None
        for factor, value in terms:
            if abs(factor) != 1:
                value = self.times(value, self.constant(abs(factor)))
            if total is not None:
                value = (self.fadd if factor > 0 else self.fsub)(total, value, flags=FLAGS)
            total = value
        return total

    def leaky(self, x: Value, slope: float, sign: Value | None = None) -> Value:
        """By the sign of x itself, NaN staying NaN, or by another's, 0 counting as below it."""
        if slope == 1:
            return x
        below = self.fmul(x, self.constant(slope)) if slope else self.constant(0)
        if sign is not None:
            return self.select(self.fcmp_ordered(">", sign, self.constant(0)), x, below)
        return self.select(self.fcmp_ordered("<", x, self.constant(0)), below, x)

    def finished(
        self, x: Value, scale: Value, bias: Value, noise: Value, slope: float, clamp: Value
    ) -> Value:
        """What comes after a convolution; noise: one float32."""
        x = self.plus(self.times(x, scale), self.plus(self.broadcast(noise), bias))
        return self.clamped(self.leaky(x, slope), clamp)

    def clamped(self, x: Value, most: Value) -> Value:
        for sign, limit in ((">", most), ("<", self.fsub(self.constant(0), most))):
            x = self.select(self.fcmp_ordered(sign, x, limit), limit, x)
        return x
