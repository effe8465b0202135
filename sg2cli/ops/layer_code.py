"""What `sg2cli.ops.styled_conv_cpu` does beside its convolutions, as code for LLVM.

Everything is in channels_last, and computed in vectors of channels.
"""

from __future__ import annotations

from sg2cli.ops.jit import LANES, Compilable
from sg2cli.ops.jit_code import FLAGS, I64, VECTOR, Code, Value
from sg2cli.ops.unit_distance import LEAST_LENGTH, LEAST_SQUARE

STRIP = 64  # pixels of a row that are done together, for all channels: they stay in the cache
TAPS = 4  # of a filter


def filtered(slope: float) -> Compilable:
    """A filter in both directions, and what comes after a convolution.

    t [N,C,.,.] -> y [N,C,H,W] of y[i,j] = sum of taps[k] taps[l] t[i + k + top, j + l + left];
    outside: zeros for what lies beyond t; beyond: numbers of each thread's to be lost. Two rows
    are made at once, column by column.
    """
    c = Code()
    most = c.number(c.clamp)
    taps = [c.broadcast(c.load(c.floats(c.taps, I64(k)))) for k in range(TAPS)]
    lost = c.floats(c.beyond, c.mul(c.thread, c.channels))
    outside = c.floats(c.outside)
    pairs, strips = c.rounded_up(c.y_height, 2), c.rounded_up(c.y_width, STRIP)
    with c.loop(*c.share(c.sum((c.pictures, pairs, strips)), c.thread, c.threads)) as (item, _):
        picture, rest = c.divided(item, c.mul(pairs, strips))
        pair, strip = c.divided(rest, strips)
        start = c.mul(strip, I64(STRIP))
        stop = c.least(c.sum(start, STRIP), c.y_width)
        lines, results, noises = [], [], []
        for i in range(TAPS + 1):
            row = c.sum((pair, 2), c.top, i)
            inside = c.within(row, c.t_height)
            here = c.row("t", picture, row)
            lines.append((c.select(inside, here, outside), c.select(inside, c.channels, I64(0))))
        for i in range(2):
            row = c.sum((pair, 2), i)
            inside = c.within(row, c.y_height)
            here = c.row("y", picture, row)
            results.append((c.select(inside, here, lost), c.select(inside, c.channels, I64(0))))
            row = c.select(inside, row, I64(0))
            noises.append(c.floats(c.noise, c.sum((picture, c.a_noise), (row, c.noise_row))))
        scales = c.floats(c.scale, c.mul(picture, c.a_scale))
        with c.loop(0, c.channels, LANES) as (channel, _):
            scale, bias = c.vector(scales, channel), c.vector(c.floats(c.bias), channel)

            def columns(j: Value) -> list[Value]:
                """Of both rows the sums over a column of t."""
                j = c.add(j, c.left)
                inside = c.within(j, c.t_width)
                values = []
                for line, step in lines:  # noqa: B023
                    here = c.select(inside, c.gep(line, [c.mul(j, step)]), outside)
                    values.append(c.vector(here, channel))  # noqa: B023
                return [c.weighed(taps, values[i : i + TAPS]) for i in range(2)]

            before = [columns(c.sum(start, k)) for k in range(TAPS - 1)]
            state = [value for pair_of_them in before for value in pair_of_them]
            with c.loop(start, stop, state=state) as (j, now):
                now += columns(c.sum(j, TAPS - 1))
                for i, ((result, step), noise) in enumerate(zip(results, noises, strict=True)):
                    x = c.weighed(taps, now[i::2])
                    own = c.load(c.gep(noise, [c.mul(j, c.noise_pixel)]))
                    x = c.finished(x, scale, bias, own, slope, most)
                    c.store_vector(x, c.gep(result, [c.mul(j, step)]), channel)
                del now[:2]
    return c.done()


def sums(slope: float, all_of_them: bool) -> Compilable:
    """The gradient dy [N,C,H,W] of y, the result of a leaky ReLU and a clamp, to that before them.

    With d the gradient behind the clamp, and e that behind both: out = e * factor, and of each row
    of each picture the sums over d * y and, if all are asked for, e and e * noise: sums [N,H,3,C];
    dnoise [N,H,W], e's sum over channels. What is not finite in y stays in its channel.
    """
    c = Code()
    most = c.number(c.clamp)
    least = c.fsub(c.constant(0), most)
    pixels = c.array(STRIP, VECTOR)
    count = 3 if all_of_them else 1
    with c.loop(*c.share(c.mul(c.pictures, c.height), c.thread, c.threads)) as (item, _):
        picture, row = c.divided(item, c.height)
        dy, y, out = (c.row(name, picture, row) for name in ("dy", "y", "out"))
        factors = c.floats(c.factor, c.mul(picture, c.a_factor))
        totals = c.floats(c.sums, c.sum((item, 3, c.channels)))
        noise = c.floats(c.noise, c.sum((picture, c.a_noise), (row, c.noise_row)))
        with c.loop(0, c.width, STRIP) as (start, _):
            stop = c.least(c.sum(start, STRIP), c.width)
            if all_of_them:
                for k in range(STRIP):
                    c.store(c.constant(0), pixels(k))
            with c.loop(0, c.channels, LANES) as (channel, _):
                factor = c.vector(factors, channel)
                places = [c.sum((k, c.channels), channel) for k in range(count)]
                so_far = [c.vector(totals, place) for place in places]
                with c.loop(start, stop, state=so_far) as (j, now):
                    here = c.sum((j, c.channels), channel)
                    d, value = c.vector(dy, here), c.vector(y, here)
                    for sign, limit in ((">=", most), ("<=", least)):
                        d = c.select(c.fcmp_ordered(sign, value, limit), c.constant(0), d)
                    now[0] = c.times_plus(d, value, now[0])
                    d = c.leaky(d, slope, value)
                    if all_of_them:
                        at = c.gep(noise, [c.mul(j, c.noise_pixel)])
                        now[1] = c.plus(now[1], d)
                        now[2] = c.times_plus(d, c.broadcast(c.load(at)), now[2])
                        pixel = pixels(c.sub(j, start))
                        c.store(c.plus(c.load(pixel), d), pixel)
                    c.store_vector(c.times(d, factor), out, here)
                for place, total in zip(places, now, strict=True):
                    c.store_vector(total, totals, place)
            if all_of_them:
                with c.loop(start, stop) as (j, _):
                    at = c.sum((item, c.width), j)
                    c.store(c.added(c.load(pixels(c.sub(j, start)))), c.floats(c.dnoise, at))
    return c.done()


def pixels(count: int) -> Compilable:
    """x [N,I,H,W] times weight [N,count,I] -> y [N,count,H,W], of which W lies together."""
    c = Code()
    with c.loop(*c.share(c.mul(c.pictures, c.height), c.thread, c.threads)) as (item, _):
        picture, row = c.divided(item, c.height)
        x = c.row("x", picture, row)
        y = c.floats(c.y, c.sum((picture, c.y_picture), (row, c.width)))
        weights = c.floats(c.weight, c.sum((picture, count, c.channels)))
        with c.loop(0, c.width) as (j, _):
            here = c.gep(x, [c.mul(j, c.channels)])
            with c.loop(0, c.channels, LANES, [c.constant(0)] * count) as (channel, now):
                value = c.vector(here, channel)
                for k in range(count):
                    weight = c.vector(weights, c.sum((c.channels, k), channel))
                    now[k] = c.times_plus(value, weight, now[k])
            for k, total in enumerate(now):
                c.store(c.added(total), c.gep(y, [c.sum((c.y_channel, k), j)]))
    return c.done()


def pixels_back(count: int) -> Compilable:
    """The gradient dy [N,count,H,W] of the same to dx [N,I,H,W] and, of each row, to the weights:
    sums [N,H,count,I]."""
    c = Code()
    with c.loop(*c.share(c.mul(c.pictures, c.height), c.thread, c.threads)) as (item, _):
        picture, row = c.divided(item, c.height)
        x, dx = (c.row(name, picture, row) for name in ("x", "dx"))
        dy = c.floats(c.dy, c.sum((picture, c.dy_picture), (row, c.width)))
        weights = c.floats(c.weight, c.sum((picture, count, c.channels)))
        totals = c.floats(c.sums, c.sum((item, count, c.channels)))
        with c.loop(0, c.channels, LANES) as (channel, _):
            own = [c.vector(weights, c.sum((c.channels, k), channel)) for k in range(count)]
            with c.loop(0, c.width, 1, [c.constant(0)] * count) as (j, now):
                here = c.sum((j, c.channels), channel)
                value = c.vector(x, here)
                places = (c.sum((c.dy_channel, k), j) for k in range(count))
                d = [c.broadcast(c.load(c.gep(dy, [place]))) for place in places]
                c.store_vector(c.weighed(d, own), dx, here)
                now[:] = [
                    c.times_plus(one, value, total) for one, total in zip(d, now, strict=True)
                ]
            for k, total in enumerate(now):
                c.store_vector(total, totals, c.sum((c.channels, k), channel))
    return c.done()


def distance() -> Compilable:
    """Of each row the sum over weight times (a / |a| - b / |b|) squared, by pixels, whose lengths
    are over channels: a and b [N,C,H,W] -> sums [N,H], and lengths [N,H,W,2]."""
    c = Code()
    with c.loop(*c.share(c.mul(c.pictures, c.height), c.thread, c.threads)) as (item, _):
        lines = [c.row(name, *c.divided(item, c.height)) for name in ("a", "b")]
        with c.loop(0, c.width, 1, [c.constant(0)]) as (j, total):
            here = [c.gep(line, [c.mul(j, c.channels)]) for line in lines]
            with c.loop(0, c.channels, LANES, [c.constant(0)] * 2) as (channel, squares):
                for k in range(2):
                    value = c.vector(here[k], channel)
                    squares[k] = c.times_plus(value, value, squares[k])
            factors = []
            for k in range(2):
                root = c.root(c.fadd(c.added(squares[k]), c.single(LEAST_SQUARE)))
                at = c.sum((item, c.width, 2), (j, 2), k)
                c.store(root, c.floats(c.lengths, at))
                factors.append(_inverse(c, root))
            with c.loop(0, c.channels, LANES, total) as (channel, now):
                apart = _apart(c, here, factors, channel)
                weighed = c.times(apart, c.vector(c.floats(c.weight), channel))
                now[0] = c.times_plus(apart, weighed, now[0])
            total[:] = now
        c.store(c.added(total[0]), c.floats(c.sums, item))
    return c.done()


def distance_back() -> Compilable:
    """The gradient of the same, times factor [N], to a: da [N,C,H,W]."""
    c = Code()
    with c.loop(*c.share(c.mul(c.pictures, c.height), c.thread, c.threads)) as (item, _):
        picture, row = c.divided(item, c.height)
        *lines, da = (c.row(name, picture, row) for name in ("a", "b", "da"))
        twice = c.times(c.broadcast(c.load(c.floats(c.factor, picture))), c.constant(2))
        with c.loop(0, c.width) as (j, _):
            at = c.mul(j, c.channels)
            here = [c.gep(line, [at]) for line in lines]
            roots = [
                c.load(c.floats(c.lengths, c.sum((item, c.width, 2), (j, 2), k))) for k in range(2)
            ]
            factors = [_inverse(c, root) for root in roots]

            def gradient(channel: Value) -> tuple[Value, Value]:
                """To the unit vector, and that itself."""
                apart = _apart(c, here, factors, channel)  # noqa: B023
                weighed = c.times(apart, c.vector(c.floats(c.weight), channel))
                unit = c.times(c.vector(here[0], channel), factors[0])  # noqa: B023
                return c.times(weighed, twice), unit  # noqa: B023

            with c.loop(0, c.channels, LANES, [c.constant(0)]) as (channel, along):
                d, unit = gradient(channel)
                along[0] = c.times_plus(d, unit, along[0])
            # What is along the vector itself goes; of the length the root is a part.
            part = c.fdiv(c.fmul(c.added(along[0]), _length(c, roots[0])), roots[0])
            out = c.gep(da, [at])
            with c.loop(0, c.channels, LANES) as (channel, _):
                d, unit = gradient(channel)
                across = c.fsub(d, c.times(unit, c.broadcast(part)), flags=FLAGS)
                c.store_vector(c.times(across, factors[0]), out, channel)
    return c.done()


def _length(c: Code, root: Value) -> Value:
    return c.fadd(root, c.single(LEAST_LENGTH))


def _inverse(c: Code, root: Value) -> Value:
    return c.broadcast(c.fdiv(c.single(1), _length(c, root)))


def _apart(c: Code, here: list[Value], factors: list[Value], channel: Value) -> Value:
    a, b = (
        c.times(c.vector(start, channel), factor)
        for start, factor in zip(here, factors, strict=True)
    )
    return c.fsub(a, b)


ROWS = 4  # of a product that are computed together


def linear() -> Compilable:
    """x [N,I] times weight [O,I] -> y [N,O]: a sum of vectors each, then over their lanes."""
    c = Code()
    with c.loop(*c.share(c.outputs, c.thread, c.threads)) as (output, _):
        weight = c.floats(c.weight, c.mul(output, c.inputs))
        for count, first in c.blocks(c.n, ROWS, 1):
            rows = [c.floats(c.x, c.mul(c.sum(first, r), c.inputs)) for r in range(count)]
            with c.loop(0, c.inputs, LANES, [c.constant(0)] * count) as (i, now):
                w = c.vector(weight, i)
                now[:] = [
                    c.times_plus(c.vector(row, i), w, total)
                    for row, total in zip(rows, now, strict=True)
                ]
            for r, total in enumerate(now):
                at = c.sum((c.sum(first, r), c.outputs), output)
                c.store(c.added(total), c.floats(c.y, at))
    return c.done()


def linear_back() -> Compilable:
    """x [N,O] times weight [O,I] -> y [N,I], in vectors of it."""
    c = Code()
    panels = c.sdiv(c.inputs, I64(LANES))
    with c.loop(*c.share(panels, c.thread, c.threads)) as (panel, _):
        weight = c.floats(c.weight, c.mul(panel, I64(LANES)))
        for count, first in c.blocks(c.n, ROWS, 1):
            rows = [c.floats(c.x, c.mul(c.sum(first, r), c.outputs)) for r in range(count)]
            with c.loop(0, c.outputs, 1, [c.constant(0)] * count) as (o, now):
                w = c.vector(weight, c.mul(o, c.inputs))
                now[:] = [
                    c.times_plus(c.broadcast(c.load(c.gep(row, [o]))), w, total)
                    for row, total in zip(rows, now, strict=True)
                ]
            for r, total in enumerate(now):
                at = c.sum((c.sum(first, r), c.inputs), (panel, LANES))
                c.store_vector(total, c.floats(c.y, at))
    return c.done()
