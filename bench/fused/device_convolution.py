"""Grouped convolutions of few channels on the GPU, stride 1: products of a group's kernels with its shifted maps.

Maps are "n (groups channels) height width", contiguous; kernels "taps (groups out) into". A program has a stretch of
pixels, of all images one after the other, and some output channels of one group; what lies outside of the image is 0.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _shifted(maps, item, channels, channel, tap, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SIDE: tl.constexpr):
    """Return the addresses of the pixels that a tap of the kernel meets, "channels pixels", and which there are."""
    down, right = tap // SIDE - SIDE // 2, tap % SIDE - SIDE // 2
    image, row, column = item // (HEIGHT * WIDTH), item // WIDTH % HEIGHT + down, item % WIDTH + right
    there = (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
    pixel = row * WIDTH + column
    return maps + (image.to(tl.int64)[None, :] * channels + channel[:, None]) * (HEIGHT * WIDTH) + pixel[None, :], there


@triton.jit
@no_type_check
def convolve(
    outputs, maps, kernels, bias, groups, count,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SIDE: tl.constexpr, INTO: tl.constexpr, OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK: tl.constexpr, BIASED: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write the convolution; sums are of the type WIDE."""
    parts = tl.cdiv(OUT, BLOCK_OUT)
    group = tl.program_id(1) // parts
    out = (tl.program_id(1) % parts) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, written = item < count, out < OUT
    total = tl.zeros([BLOCK_OUT, BLOCK], WIDE)
    for step in range(tl.cdiv(INTO, BLOCK_IN) * SIDE * SIDE):  # one loop: taps unrolled would not fit on chip
        tap, into = step % (SIDE * SIDE), step // (SIDE * SIDE) * BLOCK_IN + tl.arange(0, BLOCK_IN)
        read = into < INTO
        at, there = _shifted(maps, item, groups * INTO, group * INTO + into, tap, HEIGHT, WIDTH, SIDE)
        x = tl.load(at, mask=(there & inside)[None, :] & read[:, None], other=0.0)
        own = kernels + (tap * groups * OUT + group * OUT + out[:, None]) * INTO + into[None, :]
        w = tl.load(own, mask=written[:, None] & read[None, :], other=0.0)
        total += tl.dot(w, x, input_precision=PRECISION, out_dtype=WIDE)
    if BIASED:
        total += tl.load(bias + group * OUT + out, mask=written, other=0.0).to(WIDE)[:, None]
    at, _ = _shifted(outputs, item, groups * OUT, group * OUT + out, 0, HEIGHT, WIDTH, 1)
    tl.store(at, total, mask=inside[None, :] & written[:, None])


@triton.jit
@no_type_check
def of_kernels(
    found, gradients, maps, groups, count,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SIDE: tl.constexpr, INTO: tl.constexpr, OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK: tl.constexpr, LENGTH: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write the gradients of one tap of the kernels that a stretch gives: "stretches taps (groups out) into"."""
    stretch, tap = tl.program_id(0), tl.program_id(1)
    parts_in, parts_out = tl.cdiv(INTO, BLOCK_IN), tl.cdiv(OUT, BLOCK_OUT)
    into = (tl.program_id(2) % parts_in) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    out = (tl.program_id(2) // parts_in % parts_out) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    group = tl.program_id(2) // (parts_in * parts_out)
    total = tl.zeros([BLOCK_OUT, BLOCK_IN], WIDE)
    for start in range(stretch * LENGTH, (stretch + 1) * LENGTH, BLOCK):
        item = start + tl.arange(0, BLOCK)
        inside = item < count
        at, there = _shifted(maps, item, groups * INTO, group * INTO + into, tap, HEIGHT, WIDTH, SIDE)
        x = tl.load(at, mask=(there & inside)[None, :] & (into < INTO)[:, None], other=0.0)
        at, _ = _shifted(gradients, item, groups * OUT, group * OUT + out, 0, HEIGHT, WIDTH, 1)
        g = tl.load(at, mask=inside[None, :] & (out < OUT)[:, None], other=0.0)
        total += tl.dot(g, tl.trans(x), input_precision=PRECISION, out_dtype=WIDE)
    place = ((stretch * SIDE * SIDE + tap) * groups * OUT + group * OUT + out[:, None]) * INTO + into[None, :]
    tl.store(found + place, total, mask=(out < OUT)[:, None] & (into < INTO)[None, :])
