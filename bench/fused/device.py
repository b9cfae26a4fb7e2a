"""What runs on the GPU. Triton compiles it, or interprets it on a CPU where `TRITON_INTERPRET=1` was set before.

Maps are "n channels pixels", contiguous, one program a channel and a stretch of its images and pixels. E mixtures, the
edges that leave a node, have K branches each: a wide branch has maps of its own for every edge, "n (replicas edges c)
pixels", others share theirs, "n (replicas c) pixels". Numbers of a channel stand in tables "edges branches kinds
channels" whose type is the one that is computed in.
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
def sums(maps, shifts, found, channels, count, PIXELS: tl.constexpr, LENGTH: tl.constexpr, BLOCK: tl.constexpr):
    """Write Σ(x−s) and Σ(x−s)² of a channel's stretch, s a number near its mean: "2 stretches channels"."""
    stretch, channel = tl.program_id(0), tl.program_id(1)
    shift = tl.load(shifts + channel)
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
def mix(
    outputs, maps, table, channels, count,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, WIDE: tl.constexpr, RELU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write Σₖ wₖ·φₖ(aₖ(xₖ−μₖ)+bₖ) of every edge; the table has a, μ, b, w, and φ is ReLU where its bit is set."""
    channel = tl.program_id(1)
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = item < count
    for edge in tl.static_range(len(outputs)):
        total = tl.zeros([BLOCK], table.dtype.element_ty)
        for k in tl.static_range(len(maps)):
            at = table + (edge * len(maps) + k) * 4 * channels + channel
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

    Only of branches whose bit in WANTED is set, the former only where that in NORMAL is; the table has a, μ, b.
    """
    stretch, channel = tl.program_id(0), tl.program_id(1)
    for edge in tl.static_range(len(gradients)):
        for k in tl.static_range(len(maps)):
            if (WANTED >> k) & 1:
                at = table + (edge * len(maps) + k) * 3 * channels + channel
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
def backward(
    found, gradients, maps, table, channels, count,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, WIDE: tl.constexpr, RELU: tl.constexpr, WANTED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the maps, p·gm + q(x−μ) + r, summed over the edges that share them.

    Only of branches whose bit in WANTED is set; the table has a, μ, b, p, q, r.
    """
    channel = tl.program_id(1)
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = item < count
    narrow = _places(item, channel, channels, PIXELS)
    for k in tl.static_range(len(maps)):
        if (WANTED >> k) & 1:
            total = tl.zeros([BLOCK], table.dtype.element_ty)
            for edge in tl.static_range(len(gradients)):
                at = table + (edge * len(maps) + k) * 6 * channels + channel
                a, mean, b = tl.load(at), tl.load(at + channels), tl.load(at + 2 * channels)
                p, q, r = tl.load(at + 3 * channels), tl.load(at + 4 * channels), tl.load(at + 5 * channels)
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
