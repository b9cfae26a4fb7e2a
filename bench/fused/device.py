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
    stretch, channel = tl.program_id(0), tl.program_id(1)
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
    tl.store(at + tl.num_programs(0) * channels, tl.sum(second))


@triton.jit
@no_type_check
def prepare(
    table, factors, maps, sums, scales, shifts, channels, count, stretches, EPS,
    EDGES: tl.constexpr, WIDTH: tl.constexpr, PIXELS: tl.constexpr, WIDE: tl.constexpr, NORMAL: tl.constexpr,
    SCALED: tl.constexpr, SHIFTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write a, μ, b, w and s of every branch of every edge, s = 0 where nothing is normalised."""
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    for edge in tl.static_range(EDGES):
        for k in tl.static_range(len(maps)):
            at = (edge * len(maps) + k) * channels + channel
            w = tl.load(factors + at, mask=inside, other=0.0)
            a, mean, b, inverse = w * 0 + 1, w * 0, w * 0, w * 0
            if (NORMAL >> k) & 1:
                own, every = channel, channels
                if (WIDE >> k) & 1:
                    own, every = _channel_of(channel, edge, WIDTH, EDGES), channels * EDGES
                for stretch in range(stretches):
                    mean += tl.load(sums[k] + stretch * every + own, mask=inside, other=0.0)
                    inverse += tl.load(sums[k] + (stretches + stretch) * every + own, mask=inside, other=0.0)
                mean, variance = mean / count, inverse / count
                inverse = 1 / tl.sqrt(tl.maximum(variance - mean * mean, 0.0) + EPS)
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
    channel = tl.program_id(1)
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = item < count
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
            x = tl.load(maps[k] + place, mask=inside, other=0.0).to(a.dtype)
            z = a * (x - mean) + b
            if (RELU >> k) & 1:
                z = tl.where(z > 0, z, 0.0)
            total += w * z
        tl.store(outputs[edge] + _places(item, channel, channels, PIXELS), total, mask=inside)


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
    stretch, channel = tl.program_id(0), tl.program_id(1)
    for edge in tl.static_range(len(gradients)):
        for k in tl.static_range(len(maps)):
            if (WANTED >> k) & 1:
                at = table + (edge * len(maps) + k) * 5 * channels + channel
                a, mean, b = tl.load(at), tl.load(at + channels), tl.load(at + 2 * channels)
                first = tl.zeros([BLOCK], found.dtype.element_ty)
                second = tl.zeros([BLOCK], found.dtype.element_ty)
                for start in range(stretch * LENGTH, (stretch + 1) * LENGTH, BLOCK):
                    item = start + tl.arange(0, BLOCK)
                    inside = item < count
                    place = _places(item, channel, channels, PIXELS)
                    g = tl.load(gradients[edge] + place, mask=inside, other=0.0).to(a.dtype)
                    if (WIDE >> k) & 1:
                        own = _channel_of(channel, edge, WIDTH, len(gradients))
                        place = _places(item, own, channels * len(gradients), PIXELS)
                    away = tl.load(maps[k] + place, mask=inside, other=0.0).to(a.dtype) - mean
                    if (RELU >> k) & 1:
                        g = tl.where(a * away + b > 0, g, 0.0)
                    first += g
                    second += g * away
                to = found + ((stretch * len(gradients) + edge) * len(maps) + k) * 2 * channels + channel
                if (NORMAL >> k) & 1:
                    tl.store(to, tl.sum(first))
                tl.store(to + channels, tl.sum(second))


@triton.jit
@no_type_check
def conclude(
    slopes, of_factors, of_scales, of_shifts, table, dots, channels, count, stretches,
    EDGES: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr, NORMAL: tl.constexpr, WANTED: tl.constexpr,
    SCALED: tl.constexpr, SHIFTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write p, q, r of every branch of every edge, and the gradients of factors, scales and shifts.

    S and T are 0 where they were not asked for; scales and shifts get a gradient where their bit is set.
    """
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    for k in tl.static_range(len(of_scales)):
        to_scale = tl.zeros([BLOCK], table.dtype.element_ty)
        to_shift = tl.zeros([BLOCK], table.dtype.element_ty)
        for edge in tl.static_range(EDGES):
            row = edge * len(of_scales) + k
            at = table + row * 5 * channels + channel
            a = tl.load(at, mask=inside, other=0.0)
            b = tl.load(at + 2 * channels, mask=inside, other=0.0)
            w = tl.load(at + 3 * channels, mask=inside, other=0.0)
            inverse = tl.load(at + 4 * channels, mask=inside, other=0.0)
            s, t = w * 0, w * 0
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
    channel = tl.program_id(1)
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
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
                    g = tl.where(a * away + b > 0, g, 0.0)
                part = p * g + q * away + r
                if (WIDE >> k) & 1:
                    tl.store(found[k] + place, part, mask=inside)
                else:
                    total += part
            if ((WIDE >> k) & 1) == 0:
                tl.store(found[k] + narrow, total, mask=inside)
