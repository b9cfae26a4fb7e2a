"""The kernels as calls of torch's library: what counts calls, or records them, sees them as it sees torch's own.

Each writes into tensors that it is given. What is not read or written is given as any tensor.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from bench.fused import device, device_convolution

BLOCK = 1024
"""Numbers of a channel that one program of a mixed operation computes."""
DOTS = 512
"""The same where all sums of a node are held at once."""
PIXELS = 128
"""Pixels that one program of a convolution computes at once."""
LENGTH, PIXELS_ADDED = 8192, 2048
"""Numbers of a channel, and pixels of a convolution, that one program adds up."""
LEAST, MOST_IN, MOST_OUT = 16, 32, 64
"""Channels of a convolution's product: no fewer than matrix units take, no more than registers hold."""

CHANNELS = 64
"""That one program computes the numbers of."""

SCHEMAS = (
    "sums(Tensor maps, Tensor(a!) found) -> ()",
    "prepare(Tensor(a!) table, Tensor factors, Tensor[] maps, Tensor[] sums, Tensor?[] scales, Tensor?[] shifts, "
    "int count, float eps, int[] flags) -> ()",
    "mix(Tensor(a!)[] outputs, Tensor[] maps, Tensor table, int[] flags) -> ()",
    "dots(Tensor[] gradients, Tensor[] maps, Tensor table, Tensor(a!) found, int[] flags) -> ()",
    "conclude(Tensor(a!) slopes, Tensor(b!) of_factors, Tensor(c!)[] of_scales, Tensor(d!)[] of_shifts, Tensor table, "
    "Tensor dots, int count, int[] flags) -> ()",
    "backward(Tensor(a!)[] found, Tensor[] gradients, Tensor[] maps, Tensor table, Tensor slopes, int[] flags) -> ()",
    "convolve(Tensor(a!) outputs, Tensor maps, Tensor taps, Tensor? bias, int groups) -> ()",
    "of_kernels(Tensor(a!) found, Tensor gradients, Tensor maps, int groups) -> ()",
)
"""Flags of mixed operations: channels of a replica, edges, then bits of the branches: wide, with a ReLU, normalised."""


def stretches(count: int, length: int = LENGTH) -> int:
    """Return how many programs add up so many numbers."""
    return int(triton.cdiv(count, length))


def sums(maps: Tensor, found: Tensor) -> None:
    """Write "2 stretches channels": Σ(x−s) and Σ(x−s)²."""
    (n, channels), pixels = maps.shape[:2], maps.shape[2:].numel()
    constants = {"PIXELS": pixels, "LENGTH": LENGTH, "BLOCK": BLOCK}
    with torch.cuda.device_of(maps):
        device.sums[channels, found.shape[1]](maps, found, channels, n * pixels, **constants)


def prepare(
    table: Tensor,
    factors: Tensor,
    maps: Sequence[Tensor],
    sums: Sequence[Tensor],
    scales: Sequence[Tensor | None],
    shifts: Sequence[Tensor | None],
    count: int,
    eps: float,
    flags: Sequence[int],
) -> None:
    """Write "edges branches 5 channels", given the first image's maps and the sums over all."""
    width, edges, wide, _, normal = flags
    stretches = max((part.shape[1] for part, own in zip(sums, _branches(normal, maps), strict=True) if own), default=0)
    given = [[factors if part is None else part for part in parts] for parts in (scales, shifts)]
    there = [sum(1 << k for k, part in enumerate(parts) if part is not None) for parts in (scales, shifts)]
    constants = {"EDGES": edges, "WIDTH": width, "WIDE": wide, "NORMAL": normal, "PIXELS": maps[0].shape[2:].numel()}
    constants |= {"SCALED": there[0], "SHIFTED": there[1], "BLOCK": CHANNELS, "num_warps": 2}
    with torch.cuda.device_of(table):
        device.prepare[triton.cdiv(table.shape[-1], CHANNELS), edges](
            table, factors, tuple(maps), tuple(sums), *map(tuple, given), table.shape[-1], count,
            stretches, eps, **constants,
        )  # fmt: skip


def _branches(flags: int, of: Sequence[Any]) -> list[bool]:
    return [bool(flags >> k & 1) for k in range(len(of))]


def mix(outputs: Sequence[Tensor], maps: Sequence[Tensor], table: Tensor, flags: Sequence[int]) -> None:
    """Write the mixtures."""
    count, channels, constants = _mixed(outputs[0], table, flags)
    with torch.cuda.device_of(table):
        device.mix[channels, triton.cdiv(count, BLOCK)](
            tuple(outputs), tuple(maps), table, channels, count, **constants
        )


def dots(
    gradients: Sequence[Tensor], maps: Sequence[Tensor], table: Tensor, found: Tensor, flags: Sequence[int]
) -> None:
    """Write "stretches edges branches 2 channels" of the branches that the last of the flags names."""
    count, channels, constants = _mixed(gradients[0], table, flags)
    constants |= {"WANTED": flags[5], "NORMAL": flags[4], "LENGTH": LENGTH, "BLOCK": DOTS}
    with torch.cuda.device_of(table):
        device.dots[channels, found.shape[0]](tuple(gradients), tuple(maps), table, found, channels, count, **constants)


def conclude(
    slopes: Tensor,
    of_factors: Tensor,
    of_scales: Sequence[Tensor],
    of_shifts: Sequence[Tensor],
    table: Tensor,
    dots: Tensor,
    count: int,
    flags: Sequence[int],
) -> None:
    """Write "edges branches 3 channels", and gradients; of whose scales and shifts the last of the flags say."""
    width, edges, wide, _, normal, wanted, scaled, shifted = flags
    constants = {"EDGES": edges, "WIDTH": width, "WIDE": wide, "NORMAL": normal, "WANTED": wanted}
    constants |= {"SCALED": scaled, "SHIFTED": shifted, "BLOCK": CHANNELS, "num_warps": 2}
    with torch.cuda.device_of(table):
        device.conclude[triton.cdiv(table.shape[-1], CHANNELS), len(of_scales)](
            slopes, of_factors, tuple(of_scales), tuple(of_shifts), table, dots, table.shape[-1], count, dots.shape[0],
            **constants,
        )  # fmt: skip


def backward(
    found: Sequence[Tensor],
    gradients: Sequence[Tensor],
    maps: Sequence[Tensor],
    table: Tensor,
    slopes: Tensor,
    flags: Sequence[int],
) -> None:
    """Write the gradients of the maps that the last of the flags names."""
    count, channels, constants = _mixed(gradients[0], table, flags)
    with torch.cuda.device_of(table):
        device.backward[channels, triton.cdiv(count, BLOCK)](
            tuple(found), tuple(gradients), tuple(maps), table, slopes, channels, count, WANTED=flags[5], **constants
        )


def _mixed(like: Tensor, table: Tensor, flags: Sequence[int]) -> tuple[int, int, dict[str, int]]:
    pixels = like.shape[2:].numel()
    constants = {"WIDTH": flags[0], "WIDE": flags[2], "RELU": flags[3], "PIXELS": pixels, "BLOCK": BLOCK}
    return like.shape[0] * pixels, table.shape[-1], constants


def convolve(outputs: Tensor, maps: Tensor, taps: Tensor, bias: Tensor | None, groups: int) -> None:
    """Write a convolution of stride 1 whose kernels are "taps out into"."""
    number, outs, into = taps.shape
    constants = _convolution(maps, outs // groups, into, number)
    parts, pixels = groups * triton.cdiv(outs // groups, constants["BLOCK_OUT"]), maps[:, 0].numel()
    with torch.cuda.device_of(maps):
        device_convolution.convolve[triton.cdiv(pixels, PIXELS), parts](
            outputs, maps, taps, bias, groups, pixels, BIASED=bias is not None, **constants
        )


def of_kernels(found: Tensor, gradients: Tensor, maps: Tensor, groups: int) -> None:
    """Write the gradient of the kernels, "stretches taps out into"."""
    count, number, outs, into = found.shape
    constants = _convolution(maps, outs // groups, into, number)
    blocks = triton.cdiv(outs // groups, constants["BLOCK_OUT"]) * triton.cdiv(into, constants["BLOCK_IN"])
    with torch.cuda.device_of(maps):
        device_convolution.of_kernels[count, number, groups * blocks](
            found, gradients, maps, groups, maps[:, 0].numel(), LENGTH=PIXELS_ADDED, **constants
        )


def _convolution(maps: Tensor, out: int, into: int, taps: int) -> dict[str, Any]:
    height, width = maps.shape[2:]
    return {
        **{"HEIGHT": height, "WIDTH": width, "SIDE": round(taps**0.5), "INTO": into, "OUT": out, "BLOCK": PIXELS},
        **{"BLOCK_IN": block(into, MOST_IN), "BLOCK_OUT": block(out, MOST_OUT)},
        "PRECISION": "tf32" if torch.backends.cudnn.allow_tf32 else "ieee",
        "WIDE": device.tl.float64 if maps.dtype == torch.float64 else device.tl.float32,
    }


def block(channels: int, most: int) -> int:
    """Return how many channels a program computes at once."""
    return int(min(max(triton.next_power_of_2(channels), LEAST), most))


LIBRARY = torch.library.Library("nas_stability", "DEF")
KERNELS: tuple[Callable[..., None], ...] = (sums, prepare, mix, dots, conclude, backward, convolve, of_kernels)
for _schema, _kernel in zip(SCHEMAS, KERNELS, strict=True):
    LIBRARY.define(_schema)
    LIBRARY.impl(_kernel.__name__, _kernel, "CompositeExplicitAutograd")
OPS: Any = torch.ops.nas_stability


@register_flop_formula([OPS.convolve])
def _of_convolve(outputs: torch.Size, _maps: torch.Size, taps: torch.Size, *_: Any, **_more: Any) -> int:
    """Return two operations for every output, input channel and tap."""
    return 2 * outputs.numel() * taps[0] * taps[2]


@register_flop_formula([OPS.of_kernels])
def _of_kernels_of_it(found: torch.Size, gradients: torch.Size, *_: Any, **_more: Any) -> int:
    """Return as many."""
    return 2 * gradients.numel() * found[1] * found[3]
