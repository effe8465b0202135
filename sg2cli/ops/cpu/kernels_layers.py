"""What surrounds the convolutions of a layer: the filter after upsampling, and sums of gradients.

Maps are in channels_last, and computed in vectors of channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from sg2cli.ops.cpu.epilogue import TAPS, EpilogueArguments
from sg2cli.ops.cpu.ir import I64, VECTOR, Builder, Value
from sg2cli.ops.cpu.runtime import LANES, Buffer, Int, Map, Source

STRIP = 64  # pixels of a row that are done together, for all channels: they stay in the cache


@dataclass
class FilterArguments(EpilogueArguments):
    images: Int
    channels: Int
    taps: Buffer  # [4]
    t: Map
    t_height: Int
    t_width: Int
    top: Int
    left: Int
    outside: Buffer  # [C]: zeros, read for what lies beyond the edges of t
    y: Map
    y_height: Int
    y_width: Int
    discarded: Buffer  # [threads,C]: written for the row beyond the last one of y
    threads: Int

    def sizes(self) -> dict[str, tuple[int, ...] | int]:
        n, c = self.images, self.channels
        return {
            "taps": TAPS,
            "t": (n, c, self.t_height, self.t_width),
            "outside": c,
            "y": (n, c, self.y_height, self.y_width),
            "discarded": self.threads * c,
        } | self.epilogue_sizes(n, c, self.y_height, self.y_width)


def filtered(slope: float) -> Source:
    """A separable filter, and the epilogue of the convolution before it.

    t [N,C,.,.] -> y [N,C,H,W]; y[i,j] is the sum of taps[k] taps[l] t[i + k + top, j + l + left].
    Two rows are made at once, column by column.
    """
    b = Builder()
    a = b.declare(FilterArguments)
    limit = b.broadcast(a.clamp)
    taps = [b.broadcast(b.load(b.gep(a.taps, [I64(k)]))) for k in range(TAPS)]
    discarded = b.at(a.discarded, (b.thread, a.channels))
    pairs, strips = b.rounded_up(a.y_height, 2), b.rounded_up(a.y_width, STRIP)
    with b.loop(*b.share(b.sum((a.images, pairs, strips)), b.thread, b.threads)) as (item, _):
        image, rest = b.divmod(item, b.mul(pairs, strips))
        pair, strip = b.divmod(rest, strips)
        start = b.mul(strip, I64(STRIP))
        stop = b.minimum(b.sum(start, STRIP), a.y_width)
        lines, results, noises = [], [], []  # addresses, and the numbers from one pixel to the next
        for i in range(TAPS + 1):
            row = b.sum((pair, 2), a.top, i)
            inside = b.within(row, a.t_height)
            line = b.select(inside, b.row(a.t, image, row), a.outside)
            lines.append((line, b.select(inside, a.channels, I64(0))))
        for i in range(2):
            row = b.sum((pair, 2), i)
            inside = b.within(row, a.y_height)
            line = b.select(inside, b.row(a.y, image, row), discarded)
            results.append((line, b.select(inside, a.channels, I64(0))))
            row = b.select(inside, row, I64(0))
            noises.append(b.at(a.noise, (image, a.noise_image), (row, a.noise_row)))
        scales = b.at(a.scale, (image, a.scale_step))
        with b.loop(0, a.channels, LANES) as (channel, _):
            scale, bias = b.vector(scales, channel), b.vector(a.bias, channel)

            def columns(j: Value) -> list[Value]:
                """The sums over a column of t, for both rows."""
                j = b.add(j, a.left)
                inside = b.within(j, a.t_width)
                values = []
                for line, step in lines:  # noqa: B023
                    here = b.select(inside, b.gep(line, [b.mul(j, step)]), a.outside)
                    values.append(b.vector(here, channel))  # noqa: B023
                return [b.dot(taps, values[i : i + TAPS]) for i in range(2)]

            before = [columns(b.sum(start, k)) for k in range(TAPS - 1)]
            state = [value for both_rows in before for value in both_rows]
            with b.loop(start, stop, state=state) as (j, now):
                now += columns(b.sum(j, TAPS - 1))
                for i, ((line, step), noise) in enumerate(zip(results, noises, strict=True)):
                    x = b.dot(taps, now[i::2])
                    pixel_noise = b.load(b.gep(noise, [b.mul(j, a.noise_pixel)]))
                    x = b.epilogue(x, scale, bias, pixel_noise, slope, limit)
                    b.store_vector(x, b.gep(line, [b.mul(j, step)]), channel)
                del now[:2]
    return b.done(a)


@dataclass
class SumsArguments(EpilogueArguments):
    images: Int
    channels: Int
    height: Int
    width: Int
    dy: Map
    y: Map
    out: Map
    factor: Buffer  # [N,C], or [C] with a step of 0
    factor_step: Int
    sums: Buffer  # [N,H,3,C]: zeros
    dnoise: Buffer  # [N,H,W]

    def sizes(self) -> dict[str, tuple[int, ...] | int]:
        n, c, h, w = self.images, self.channels, self.height, self.width
        return {
            **dict.fromkeys(("dy", "y", "out"), (n, c, h, w)),
            "factor": max(n - 1, 0) * self.factor_step + c,
            "sums": n * h * 3 * c,
            "dnoise": n * h * w,
        } | self.epilogue_sizes(n, c, h, w)


def sums(slope: float, all_sums: bool) -> Source:
    """The gradient dy [N,C,H,W] of y, the result of a leaky ReLU and a clamp, to that before them.

    With d the gradient before the clamp, and e that before the leaky ReLU: out = e * factor, and
    for each row of each image the sums of d * y and, if all are asked for, of e and e * noise; and
    dnoise [N,H,W], the sum of e over channels. What is not finite in y stays in its channel.
    """
    b = Builder()
    a = b.declare(SumsArguments)
    high = b.broadcast(a.clamp)
    low = b.fsub(b.constant(0), high)
    pixels = b.array(STRIP, VECTOR)
    count = 3 if all_sums else 1
    with b.loop(*b.share(b.mul(a.images, a.height), b.thread, b.threads)) as (item, _):
        image, row = b.divmod(item, a.height)
        dy, y, out = (b.row(t, image, row) for t in (a.dy, a.y, a.out))
        factors = b.at(a.factor, (image, a.factor_step))
        totals = b.at(a.sums, (item, 3, a.channels))
        noise = b.at(a.noise, (image, a.noise_image), (row, a.noise_row))
        with b.loop(0, a.width, STRIP) as (start, _):
            stop = b.minimum(b.sum(start, STRIP), a.width)
            if all_sums:
                for k in range(STRIP):
                    b.store(b.constant(0), pixels(k))
            with b.loop(0, a.channels, LANES) as (channel, _):
                factor = b.vector(factors, channel)
                places = [b.sum((k, a.channels), channel) for k in range(count)]
                so_far = [b.vector(totals, place) for place in places]
                with b.loop(start, stop, state=so_far) as (j, now):
                    here = b.sum((j, a.channels), channel)
                    d, value = b.vector(dy, here), b.vector(y, here)
                    for sign, limit in ((">=", high), ("<=", low)):
                        d = b.select(b.fcmp_ordered(sign, value, limit), b.constant(0), d)
                    now[0] = b.times_plus(d, value, now[0])
                    d = b.leaky(d, slope, value)
                    if all_sums:
                        pixel_noise = b.load(b.gep(noise, [b.mul(j, a.noise_pixel)]))
                        now[1] = b.plus(now[1], d)
                        now[2] = b.times_plus(d, b.broadcast(pixel_noise), now[2])
                        pixel = pixels(b.sub(j, start))
                        b.store(b.plus(b.load(pixel), d), pixel)
                    b.store_vector(b.times(d, factor), out, here)
                for place, total in zip(places, now, strict=True):
                    b.store_vector(total, totals, place)
            if all_sums:
                with b.loop(start, stop) as (j, _):
                    total = b.lane_sum(b.load(pixels(b.sub(j, start))))
                    b.store(total, b.at(a.dnoise, (item, a.width), j))
    return b.done(a)
