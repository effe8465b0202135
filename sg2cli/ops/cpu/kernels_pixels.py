"""Products that read the larger operand once: ToRGB, and fully connected layers of a few rows."""

from __future__ import annotations

from dataclasses import dataclass

from sg2cli.ops.cpu.ir import I64, Builder
from sg2cli.ops.cpu.runtime import LANES, Arguments, Buffer, Int, Map, Source, Strided

ROWS = 4  # of a product that are computed together


@dataclass
class PixelsArguments(Arguments):
    images: Int
    channels: Int
    height: Int
    width: Int
    outputs: Int
    x: Map
    weight: Buffer  # [N,outputs,C]
    y: Strided  # [N,outputs,H,W], of which rows and images are contiguous
    y_image: Int
    y_channel: Int

    def sizes(self) -> dict[str, tuple[int, ...] | int]:
        n, c, h, w = self.images, self.channels, self.height, self.width
        return {
            "x": (n, c, h, w),
            "weight": (n, self.outputs, c),
            "y": (n, self.outputs, h, w),
        }


def pixels(outputs: int) -> Source:
    """x [N,I,H,W] times weight [N,outputs,I] -> y [N,outputs,H,W], all outputs at once."""
    b = Builder()
    a = b.declare(PixelsArguments)
    with b.loop(*b.share(b.mul(a.images, a.height), b.thread, b.threads)) as (item, _):
        image, row = b.divmod(item, a.height)
        x = b.row(a.x, image, row)
        y = b.at(a.y, (image, a.y_image), (row, a.width))
        weights = b.at(a.weight, (image, outputs, a.channels))
        with b.loop(0, a.width) as (j, _):
            here = b.gep(x, [b.mul(j, a.channels)])
            with b.loop(0, a.channels, LANES, [b.constant(0)] * outputs) as (channel, now):
                value = b.vector(here, channel)
                for k in range(outputs):
                    weight = b.vector(weights, b.sum((a.channels, k), channel))
                    now[k] = b.times_plus(value, weight, now[k])
            for k, total in enumerate(now):
                b.store(b.lane_sum(total), b.at(y, (a.y_channel, k), j))
    return b.done(a)


@dataclass
class PixelsBackArguments(Arguments):
    images: Int
    channels: Int
    height: Int
    width: Int
    outputs: Int
    x: Map
    weight: Buffer  # [N,outputs,C]
    dy: Buffer  # [N,outputs,H,W]
    dx: Map
    sums: Buffer  # [N,H,outputs,C]

    def sizes(self) -> dict[str, tuple[int, ...] | int]:
        n, c, h, w = self.images, self.channels, self.height, self.width
        return {
            "x": (n, c, h, w),
            "dx": (n, c, h, w),
            "weight": (n, self.outputs, c),
            "dy": (n, self.outputs, h, w),
            "sums": (n, h, self.outputs, c),
        }


def pixels_back(outputs: int) -> Source:
    """The gradient dy of `pixels` to dx and, summed over each row, to the weights."""
    b = Builder()
    a = b.declare(PixelsBackArguments)
    size = b.mul(a.height, a.width)
    with b.loop(*b.share(b.mul(a.images, a.height), b.thread, b.threads)) as (item, _):
        image, row = b.divmod(item, a.height)
        x, dx = (b.row(t, image, row) for t in (a.x, a.dx))
        dy = b.at(a.dy, (image, outputs, size), (row, a.width))
        weights = b.at(a.weight, (image, outputs, a.channels))
        totals = b.at(a.sums, (item, outputs, a.channels))
        with b.loop(0, a.channels, LANES) as (channel, _):
            own = [b.vector(weights, b.sum((a.channels, k), channel)) for k in range(outputs)]
            with b.loop(0, a.width, 1, [b.constant(0)] * outputs) as (j, now):
                here = b.sum((j, a.channels), channel)
                value = b.vector(x, here)
                d = [b.broadcast(b.load(b.at(dy, (size, k), j))) for k in range(outputs)]
                b.store_vector(b.dot(d, own), dx, here)
                now[:] = [
                    b.times_plus(one, value, total) for one, total in zip(d, now, strict=True)
                ]
            for k, total in enumerate(now):
                b.store_vector(total, totals, b.sum((a.channels, k), channel))
    return b.done(a)


@dataclass
class LinearArguments(Arguments):
    n: Int
    inputs: Int
    outputs: Int
    x: Buffer
    weight: Buffer  # [O,I]
    y: Buffer

    def sizes(self) -> dict[str, tuple[int, ...] | int]:
        n, i, o = self.n, self.inputs, self.outputs
        return {"x": (n, i), "weight": (o, i), "y": (n, o)}


@dataclass
class LinearBackArguments(LinearArguments):
    def sizes(self) -> dict[str, tuple[int, ...] | int]:
        n, i, o = self.n, self.inputs, self.outputs
        return {"x": (n, o), "weight": (o, i), "y": (n, i)}


def linear() -> Source:
    """x [N,I] times weight [O,I] -> y [N,O]: each a sum of vectors, then over their lanes."""
    b = Builder()
    a = b.declare(LinearArguments)
    with b.loop(*b.share(a.outputs, b.thread, b.threads)) as (output, _):
        weight = b.at(a.weight, (output, a.inputs))
        for count, first in b.blocks(a.n, ROWS, 1):
            rows = [b.at(a.x, (b.sum(first, r), a.inputs)) for r in range(count)]
            with b.loop(0, a.inputs, LANES, [b.constant(0)] * count) as (i, now):
                w = b.vector(weight, i)
                now[:] = [
                    b.times_plus(b.vector(row, i), w, total)
                    for row, total in zip(rows, now, strict=True)
                ]
            for r, total in enumerate(now):
                place = b.at(a.y, (b.sum(first, r), a.outputs), output)
                b.store(b.lane_sum(total), place)
    return b.done(a)


def linear_back() -> Source:
    """x [N,O] times weight [O,I] -> y [N,I], in vectors of y."""
    b = Builder()
    a = b.declare(LinearBackArguments)
    panels = b.sdiv(a.inputs, I64(LANES))
    with b.loop(*b.share(panels, b.thread, b.threads)) as (panel, _):
        weight = b.at(a.weight, (panel, LANES))
        for count, first in b.blocks(a.n, ROWS, 1):
            rows = [b.at(a.x, (b.sum(first, r), a.outputs)) for r in range(count)]
            with b.loop(0, a.outputs, 1, [b.constant(0)] * count) as (o, now):
                w = b.vector(weight, b.mul(o, a.inputs))
                now[:] = [
                    b.times_plus(b.broadcast(b.load(b.gep(row, [o]))), w, total)
                    for row, total in zip(rows, now, strict=True)
                ]
            for r, total in enumerate(now):
                place = b.at(a.y, (b.sum(first, r), a.inputs), (panel, LANES))
                b.store_vector(total, place)
    return b.done(a)
