"""What runs on the GPU. Triton compiles it, or interprets it on a CPU where `TRITON_INTERPRET=1` was set before.

Maps are "n channels pixels", contiguous, one program a channel and a stretch of its images and pixels. E mixtures, the
edges that leave a node, have K branches each: a wide branch has maps of its own for every edge, "n (replicas edges c)
pixels", others share theirs, "n (replicas c) pixels". Numbers of a channel stand in tables "edges branches kinds
channels", whose type is the one that is computed in: one with a, μ, b, w, s, one with p, q, r (`bench.fused.mixed`).
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _channel_of(channel, edge, WIDTH: tl.constexpr, EDGES: tl.constexpr):
    """Return where a channel of one edge stands among those of all edges, side by side within each replica."""
    return ((channel // WIDTH) * EDGES + edge) * WIDTH + channel % WIDTH


@triton.jit
@no_type_check
def _places(item, channel, channels, PIXELS: tl.constexpr):
    """Return the addresses of a channel's numbers, images and pixels counted as one."""
    return ((item // PIXELS).to(tl.int64) * channels + channel) * PIXELS + item % PIXELS


@triton.jit
@no_type_check
def sums(maps, found, channels, count, PIXELS: tl.constexpr, LENGTH: tl.constexpr, BLOCK: tl.constexpr):
    """Write Σ(x−s) and Σ(x−s)² of a channel's stretch, s its first number: "2 stretches channels"."""
    channel, stretch = tl.program_id(0), tl.program_id(1)
    shift = tl.load(maps + channel * PIXELS).to(found.dtype.element_ty)
    first = tl.zeros([BLOCK], found.dtype.element_ty)
    second = tl.zeros([BLOCK], found.dtype.element_ty)
    for start in range(stretch * LENGTH, (stretch + 1) * LENGTH, BLOCK):
        item = start + tl.arange(0, BLOCK)
        inside = item < count
        x = tl.load(maps + _places(item, channel, channels, PIXELS), mask=inside, other=0.0).to(shift.dtype)
        away = tl.where(inside, x - shift, 0.0)
        first += away
        second += away * away
    at = found + stretch * channels + channel
    tl.store(at, tl.sum(first))
    tl.store(at + tl.num_programs(1) * channels, tl.sum(second))


@triton.jit
@no_type_check
def prepare(
    table, factors, maps, sums, scales, shifts, channels, count, stretches, EPS,
    EDGES: tl.constexpr, WIDTH: tl.constexpr, PIXELS: tl.constexpr, WIDE: tl.constexpr, NORMAL: tl.constexpr,
    SCALED: tl.constexpr, SHIFTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write a, μ, b, w and s of every branch of an edge, s = 0 where nothing is normalised."""
    channel, edge = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    inside = channel < channels
    for k in tl.static_range(len(maps)):
        at = (edge * len(maps) + k) * channels + channel
        w = tl.load(factors + at, mask=inside, other=0.0)
        nothing = tl.zeros([BLOCK], w.dtype)
        a, mean, b, inverse = nothing + 1, nothing, nothing, nothing
        if (NORMAL >> k) & 1:
            own, every = channel, channels
            if (WIDE >> k) & 1:
                own, every = _channel_of(channel, edge, WIDTH, EDGES), channels * EDGES
            for stretch in range(stretches):
                mean += tl.load(sums[k] + stretch * every + own, mask=inside, other=0.0)
                inverse += tl.load(sums[k] + (stretches + stretch) * every + own, mask=inside, other=0.0)
            mean, variance = mean / count, inverse / count
            variance = tl.maximum(variance - mean * mean, 0.0, propagate_nan=tl.PropagateNan.ALL)
            inverse = 1 / tl.sqrt(variance + EPS)
            mean += tl.load(maps[k] + own * PIXELS, mask=inside, other=0.0).to(w.dtype)
            a = inverse
            if (SCALED >> k) & 1:
                a = inverse * tl.load(scales[k] + own, mask=inside, other=0.0)
            if (SHIFTED >> k) & 1:
                b = tl.load(shifts[k] + own, mask=inside, other=0.0)
        to = table + (edge * len(maps) + k) * 5 * channels + channel
        tl.store(to, a, mask=inside)
        tl.store(to + channels, mean, mask=inside)
        tl.store(to + 2 * channels, b, mask=inside)
        tl.store(to + 3 * channels, w, mask=inside)
        tl.store(to + 4 * channels, inverse, mask=inside)


@triton.jit
@no_type_check
def mix(
    outputs, maps, table, channels, count,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, WIDE: tl.constexpr, RELU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write Σₖ wₖ·φₖ(aₖ(xₖ−μₖ)+bₖ) of every edge; φ is ReLU where its bit is set."""
    channel = tl.program_id(0)
    item = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = item < count
    totals = ()  # nothing is stored before all is read: maps that edges share are read once
    for edge in tl.static_range(len(outputs)):
        total = tl.zeros([BLOCK], table.dtype.element_ty)
        for k in tl.static_range(len(maps)):
            at = table + (edge * len(maps) + k) * 5 * channels + channel
            a, mean, b, w = tl.load(at), tl.load(at + channels), tl.load(at + 2 * channels), tl.load(at + 3 * channels)
            if (WIDE >> k) & 1:
                own = _channel_of(channel, edge, WIDTH, len(outputs))
                place = _places(item, own, channels * len(outputs), PIXELS)
            else:
                place = _places(item, channel, channels, PIXELS)
            z = a * (tl.load(maps[k] + place, mask=inside, other=0.0).to(a.dtype) - mean) + b
            if (RELU >> k) & 1:
                z = tl.where(z <= 0, 0.0, z)  # NaN stays
            total += w * z
        totals = totals + (total,)  # noqa: RUF005 (Triton's tuples)
    for edge in tl.static_range(len(outputs)):
        tl.store(outputs[edge] + _places(item, channel, channels, PIXELS), totals[edge], mask=inside)


@triton.jit
@no_type_check
def dots(
    gradients, maps, table, found, channels, count,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, WIDE: tl.constexpr, RELU: tl.constexpr, NORMAL: tl.constexpr,
    WANTED: tl.constexpr, LENGTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write Σ gm and Σ gm(x−μ) of a channel's stretch, m = φ': "stretches edges branches 2 channels".

    Only of branches whose bit in WANTED is set, the former only where that in NORMAL is.
    """
    channel, stretch = tl.program_id(0), tl.program_id(1)
    firsts, seconds = (), ()
    for _ in tl.static_range(len(gradients) * len(maps)):
        firsts = firsts + (tl.zeros([BLOCK], found.dtype.element_ty),)  # noqa: RUF005 (Triton's tuples)
        seconds = seconds + (tl.zeros([BLOCK], found.dtype.element_ty),)  # noqa: RUF005
    for start in range(stretch * LENGTH, (stretch + 1) * LENGTH, BLOCK):
        item = start + tl.arange(0, BLOCK)
        inside = item < count
        narrow = _places(item, channel, channels, PIXELS)
        more_firsts, more_seconds = (), ()
        for edge in tl.static_range(len(gradients)):
            whole = tl.load(gradients[edge] + narrow, mask=inside, other=0.0).to(table.dtype.element_ty)
            for k in tl.static_range(len(maps)):
                first, second = firsts[edge * len(maps) + k], seconds[edge * len(maps) + k]
                if (WANTED >> k) & 1:
                    at = table + (edge * len(maps) + k) * 5 * channels + channel
                    a, mean, b = tl.load(at), tl.load(at + channels), tl.load(at + 2 * channels)
                    place = narrow
                    if (WIDE >> k) & 1:
                        own = _channel_of(channel, edge, WIDTH, len(gradients))
                        place = _places(item, own, channels * len(gradients), PIXELS)
                    away = tl.load(maps[k] + place, mask=inside, other=0.0).to(a.dtype) - mean
                    g = whole
                    if (RELU >> k) & 1:
                        g = tl.where(a * away + b <= 0, 0.0, g)
                    first += g
                    second += g * away
                more_firsts = more_firsts + (first,)  # noqa: RUF005
                more_seconds = more_seconds + (second,)  # noqa: RUF005
        firsts, seconds = more_firsts, more_seconds
    for edge in tl.static_range(len(gradients)):
        for k in tl.static_range(len(maps)):
            if (WANTED >> k) & 1:
                to = found + ((stretch * len(gradients) + edge) * len(maps) + k) * 2 * channels + channel
                if (NORMAL >> k) & 1:
                    tl.store(to, tl.sum(firsts[edge * len(maps) + k]))
                tl.store(to + channels, tl.sum(seconds[edge * len(maps) + k]))


@triton.jit
@no_type_check
def conclude(
    slopes, of_factors, of_scales, of_shifts, table, dots, channels, count, stretches,
    EDGES: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr, NORMAL: tl.constexpr, WANTED: tl.constexpr,
    SCALED: tl.constexpr, SHIFTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write p, q, r of one branch of every edge, and the gradients of its factors, scale and shift.

    S and T are 0 where they were not asked for; scales and shifts get a gradient where their bit is set.
    """
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    for k in tl.static_range(len(of_scales)):
        if tl.program_id(1) == k:
            to_scale = tl.zeros([BLOCK], table.dtype.element_ty)
            to_shift = tl.zeros([BLOCK], table.dtype.element_ty)
            for edge in tl.static_range(EDGES):
                row = edge * len(of_scales) + k
                at = table + row * 5 * channels + channel
                a = tl.load(at, mask=inside, other=0.0)
                b = tl.load(at + 2 * channels, mask=inside, other=0.0)
                w = tl.load(at + 3 * channels, mask=inside, other=0.0)
                inverse = tl.load(at + 4 * channels, mask=inside, other=0.0)
                s, t = tl.zeros([BLOCK], w.dtype), tl.zeros([BLOCK], w.dtype)
                if (WANTED >> k) & 1:
                    for stretch in range(stretches):
                        of = dots + (stretch * EDGES * len(of_scales) + row) * 2 * channels + channel
                        if (NORMAL >> k) & 1:
                            s += tl.load(of, mask=inside, other=0.0)
                        t += tl.load(of + channels, mask=inside, other=0.0)
                p, to = w * a, slopes + row * 3 * channels + channel
                tl.store(to, p, mask=inside)
                tl.store(to + channels, -p * inverse * inverse * t / count, mask=inside)
                tl.store(to + 2 * channels, -p * s / count, mask=inside)
                tl.store(of_factors + row * channels + channel, a * t + b * s, mask=inside)
                to_scale += w * inverse * t
                to_shift += w * s
                if (WIDE >> k) & 1:
                    own = _channel_of(channel, edge, WIDTH, EDGES)
                    if (SCALED >> k) & 1:
                        tl.store(of_scales[k] + own, w * inverse * t, mask=inside)
                    if (SHIFTED >> k) & 1:
                        tl.store(of_shifts[k] + own, w * s, mask=inside)
            if ((WIDE >> k) & 1) == 0:
                if (SCALED >> k) & 1:
                    tl.store(of_scales[k] + channel, to_scale, mask=inside)
                if (SHIFTED >> k) & 1:
                    tl.store(of_shifts[k] + channel, to_shift, mask=inside)


@triton.jit
@no_type_check
def backward(
    found, gradients, maps, table, slopes, channels, count,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, WIDE: tl.constexpr, RELU: tl.constexpr, WANTED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the maps, p·gm + q(x−μ) + r, summed over the edges that share them.

    Only of branches whose bit in WANTED is set.
    """
    channel = tl.program_id(0)
    item = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = item < count
    narrow = _places(item, channel, channels, PIXELS)
    for k in tl.static_range(len(maps)):
        if (WANTED >> k) & 1:
            total = tl.zeros([BLOCK], table.dtype.element_ty)
            for edge in tl.static_range(len(gradients)):
                at = table + (edge * len(maps) + k) * 5 * channels + channel
                a, mean, b = tl.load(at), tl.load(at + channels), tl.load(at + 2 * channels)
                at = slopes + (edge * len(maps) + k) * 3 * channels + channel
                p, q, r = tl.load(at), tl.load(at + channels), tl.load(at + 2 * channels)
                g = tl.load(gradients[edge] + narrow, mask=inside, other=0.0).to(a.dtype)
                place = narrow
                if (WIDE >> k) & 1:
                    own = _channel_of(channel, edge, WIDTH, len(gradients))
                    place = _places(item, own, channels * len(gradients), PIXELS)
                away = tl.load(maps[k] + place, mask=inside, other=0.0).to(a.dtype) - mean
                if (RELU >> k) & 1:
                    g = tl.where(a * away + b <= 0, 0.0, g)
                part = p * g + q * away + r
                if (WIDE >> k) & 1:
                    tl.store(found[k] + place, part, mask=inside)
                else:
                    total += part
            if ((WIDE >> k) & 1) == 0:
                tl.store(found[k] + narrow, total, mask=inside)
