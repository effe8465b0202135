"""The distance of LPIPS between two feature maps, in two passes over memory, and its gradient."""

from __future__ import annotations

from dataclasses import dataclass

from sg2cli.ops.cpu.ir import FLAGS, I64, Builder, Value
from sg2cli.ops.cpu.runtime import LANES, Arguments, Buffer, Int, Map, Source
from sg2cli.ops.reference import LENGTH_EPSILON, SQUARE_EPSILON


@dataclass
class DistanceArguments(Arguments):
    images: Int
    channels: Int
    height: Int
    width: Int
    a: Map
    b: Map  # of one image, or as many as a
    b_shared: Int  # 1 if it is one image
    weight: Buffer  # [C]
    lengths: Buffer  # [N,H,W,2]
    sums: Buffer  # [N,H]

    def sizes(self) -> dict[str, tuple[int, ...] | int]:
        n, c, h, w = self.images, self.channels, self.height, self.width
        return {
            "a": (n, c, h, w),
            "b": (1 if self.b_shared else n, c, h, w),
            "weight": (c,),
            "lengths": (n, h, w, 2),
            "sums": (n, h),
        }


def distance() -> Source:
    """For each row the sum over pixels of weight * (a / |a| - b / |b|)^2, and the lengths."""
    b = Builder()
    a = b.declare(DistanceArguments)
    with b.loop(*b.share(b.mul(a.images, a.height), b.thread, b.threads)) as (item, _):
        lines = _lines(b, a, item)
        with b.loop(0, a.width, 1, [b.constant(0)]) as (j, total):
            here = [b.gep(line, [b.mul(j, a.channels)]) for line in lines]
            with b.loop(0, a.channels, LANES, [b.constant(0)] * 2) as (channel, squares):
                for k in range(2):
                    value = b.vector(here[k], channel)
                    squares[k] = b.times_plus(value, value, squares[k])
            factors = []
            for k in range(2):
                root = b.root(b.fadd(b.lane_sum(squares[k]), b.single(SQUARE_EPSILON)))
                b.store(root, b.at(a.lengths, (item, a.width, 2), (j, 2), k))
                factors.append(_inverse(b, root))
            with b.loop(0, a.channels, LANES, total) as (channel, now):
                difference = _difference(b, here, factors, channel)
                weighted = b.times(difference, b.vector(a.weight, channel))
                now[0] = b.times_plus(difference, weighted, now[0])
            total[:] = now
        b.store(b.lane_sum(total[0]), b.at(a.sums, item))
    return b.done(a)


@dataclass
class DistanceBackArguments(Arguments):
    images: Int
    channels: Int
    height: Int
    width: Int
    a: Map
    b: Map
    b_shared: Int
    weight: Buffer
    lengths: Buffer
    factor: Buffer  # [N]
    da: Map

    def sizes(self) -> dict[str, tuple[int, ...] | int]:
        n, c, h, w = self.images, self.channels, self.height, self.width
        return {
            "a": (n, c, h, w),
            "b": (1 if self.b_shared else n, c, h, w),
            "weight": (c,),
            "lengths": (n, h, w, 2),
            "factor": (n,),
            "da": (n, c, h, w),
        }


def distance_back() -> Source:
    """The gradient of `distance`, times factor [N], to a: da [N,C,H,W]."""
    b = Builder()
    a = b.declare(DistanceBackArguments)
    with b.loop(*b.share(b.mul(a.images, a.height), b.thread, b.threads)) as (item, _):
        image, row = b.divmod(item, a.height)
        lines, da = _lines(b, a, item), b.row(a.da, image, row)
        twice = b.times(b.broadcast(b.load(b.at(a.factor, image))), b.constant(2))
        with b.loop(0, a.width) as (j, _):
            pixel = b.mul(j, a.channels)
            here = [b.gep(line, [pixel]) for line in lines]
            places = (b.at(a.lengths, (item, a.width, 2), (j, 2), k) for k in range(2))
            roots = [b.load(place) for place in places]
            factors = [_inverse(b, root) for root in roots]

            def gradient(channel: Value) -> tuple[Value, Value]:
                """To the unit vector, and that itself."""
                difference = _difference(b, here, factors, channel)  # noqa: B023
                weighted = b.times(difference, b.vector(a.weight, channel))
                unit = b.times(b.vector(here[0], channel), factors[0])  # noqa: B023
                return b.times(weighted, twice), unit  # noqa: B023

            with b.loop(0, a.channels, LANES, [b.constant(0)]) as (channel, along):
                d, unit = gradient(channel)
                along[0] = b.times_plus(d, unit, along[0])
            # The part along the vector itself is removed; the root is less than the length.
            part = b.fdiv(b.fmul(b.lane_sum(along[0]), _length(b, roots[0])), roots[0])
            out = b.gep(da, [pixel])
            with b.loop(0, a.channels, LANES) as (channel, _):
                d, unit = gradient(channel)
                across = b.fsub(d, b.times(unit, b.broadcast(part)), flags=FLAGS)
                b.store_vector(b.times(across, factors[0]), out, channel)
    return b.done(a)


def _lines(b: Builder, a: DistanceArguments | DistanceBackArguments, item: Value) -> list[Value]:
    """The addresses of a row of a and of b."""
    image, row = b.divmod(item, a.height)
    shared = b.icmp_signed("!=", a.b_shared, I64(0))
    return [b.row(a.a, image, row), b.row(a.b, b.select(shared, I64(0), image), row)]


def _length(b: Builder, root: Value) -> Value:
    return b.fadd(root, b.single(LENGTH_EPSILON))


def _inverse(b: Builder, root: Value) -> Value:
    return b.broadcast(b.fdiv(b.single(1), _length(b, root)))


def _difference(b: Builder, here: list[Value], factors: list[Value], channel: Value) -> Value:
    first, second = (
        b.times(b.vector(start, channel), factor)
        for start, factor in zip(here, factors, strict=True)
    )
    return b.fsub(first, second)
