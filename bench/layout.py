"""How the maps of several replicas lie in memory: a replica is a group of channels, "n (replicas c) h w".

On a CPU channels are innermost (torch's channels_last): pooling, normalisation and convolutions of few channels have
vectorised kernels only there. 16 replicas of 4 channels, 64 images of 8×8, one thread: 3×3 max-pool 380 µs against
6,200 with channels outermost, batch norm 120 against 490, grouped 3×3 convolution 600 against 1,440. What weighs or
moves channels is written over channels: a factor "replicas 1 1 1" of an unfolded map costs ten times as much as the
same factor repeated for every channel.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Folded = Float[Tensor, "n _rc _h _w"]
Rows = Int[Tensor, " rows"] | None


def channels_innermost(device: torch.device) -> bool:
    """Return whether maps have their channels innermost on a device; measured on a CPU, not on a GPU."""
    return device.type == "cpu"


def fold(images: Float[Tensor, "replicas n c h w"]) -> Folded:
    """Lay replicas out as groups of channels."""
    if not channels_innermost(images.device):
        return images.transpose(0, 1).flatten(1, 2)
    return images.permute(1, 3, 4, 0, 2).flatten(3).permute(0, 3, 1, 2)


def innermost(x: Folded) -> Folded:
    """Return the map as kernels want it on its device: channels innermost on a CPU."""
    return x.contiguous(memory_format=torch.channels_last) if channels_innermost(x.device) else x


def unset(shape: Sequence[int], like: Folded) -> Folded:
    """Return a map of a shape whose values mean nothing."""
    order = torch.channels_last if channels_innermost(like.device) else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order)


def unfold(x: Folded, replicas: int) -> Float[Tensor, "n replicas c h w"]:
    return x.unflatten(1, (replicas, -1))


def factored(x: Folded, factor: Float[Tensor, "..."]) -> Folded:
    """Multiply a map by a factor of a wider type, perhaps; the product is rounded to the type of the map."""
    return (x * factor).to(x.dtype)


def pick(x: Folded, replicas: int, rows: Rows) -> Folded:
    """Return the channels of some replicas only."""
    return x if rows is None else take(x, channels_of(rows, x.shape[1] // replicas))


def channels_of(rows: Int[Tensor, " rows"], channels: int) -> Int[Tensor, " rows_channels"]:
    """Return the numbers of the channels of some replicas, each of which has so many."""
    return (rows[:, None] * channels + torch.arange(channels, device=rows.device)).flatten()


def take(x: Folded, channels: Int[Tensor, " taken"]) -> Folded:
    """Return some channels, in their order."""
    if not channels_innermost(x.device):
        return x.index_select(1, channels)
    pixels = x.permute(0, 2, 3, 1)
    return pixels.flatten(0, 2).index_select(1, channels).unflatten(0, pixels.shape[:3]).permute(0, 3, 1, 2)


def place(parts: Folded, rows: Int[Tensor, " rows"], replicas: int) -> Folded:
    """Return maps of all replicas: the sum of the parts of each, whose replicas `rows` names; zero without one."""
    width = parts.shape[1] // len(rows)
    channels = channels_of(rows, width)
    if not channels_innermost(parts.device):
        shape = (parts.shape[0], replicas * width, *parts.shape[2:])
        return parts.new_zeros(shape).index_add(1, channels, parts)
    pixels = parts.permute(0, 2, 3, 1)
    total = parts.new_zeros(pixels.shape[:3].numel(), replicas * width).index_add(1, channels, pixels.flatten(0, 2))
    return total.unflatten(0, pixels.shape[:3]).permute(0, 3, 1, 2)


def per_channel(weights: Float[Tensor, " replicas"], channels: int) -> Float[Tensor, "rc 1 1"]:
    """Return a factor of every channel, given that of its replica and the channels of all replicas."""
    return weights[:, None].expand(-1, channels // len(weights)).reshape(-1, 1, 1)


def side_by_side(maps: Sequence[Folded], replicas: int) -> Folded:
    """Concatenate channels within each replica."""
    if len(maps) == 1:
        return maps[0]
    if replicas == 1:
        return torch.cat(list(maps), 1)
    if not channels_innermost(maps[0].device):
        return torch.cat([unfold(x, replicas) for x in maps], 2).flatten(1, 2)
    pixels = [x.permute(0, 2, 3, 1).unflatten(3, (replicas, -1)) for x in maps]
    return torch.cat(pixels, 4).flatten(3).permute(0, 3, 1, 2)


def first_part(x: Folded, replicas: int, parts: int) -> Folded:
    """Return the first of so many equal parts of each replica's channels."""
    if parts == 1:
        return x
    width = x.shape[1] // replicas // parts
    if replicas == 1:
        return x[:, :width]
    if not channels_innermost(x.device):
        return unfold(x, replicas)[:, :, :width].flatten(1, 2)
    return x.permute(0, 2, 3, 1).unflatten(3, (replicas, -1))[..., :width].flatten(3).permute(0, 3, 1, 2)


def split(x: Folded, replicas: int, widths: Sequence[int]) -> list[Folded]:
    """Return adjoining stretches of the channels of each replica; those of a single one are views."""
    if replicas == 1:
        return list(x.split(list(widths), 1))
    if not channels_innermost(x.device):
        return [part.flatten(1, 2) for part in unfold(x, replicas).split(list(widths), 2)]
    parts = x.permute(0, 2, 3, 1).unflatten(3, (replicas, -1)).split(list(widths), 4)
    return [part.flatten(3).permute(0, 3, 1, 2) for part in parts]


def with_bypass(mixed: Folded, x: Folded, replicas: int, parts: int) -> Folded:
    """Put the channels of x that were not mixed beside those that were, shuffled (PC-DARTS, Xu et al. 2020, eq. 2).

    Of so many equal parts of x the first was mixed. Shuffled, the first channels of all parts come first, then the
    second ones, and so on, within each replica.
    """
    if not channels_innermost(x.device):
        bypass = unfold(x, replicas).unflatten(2, (parts, -1))[:, :, 1:].transpose(2, 3)
        return torch.cat([unfold(mixed, replicas)[:, :, :, None], bypass], 3).flatten(1, 3)
    bypass = x.permute(0, 2, 3, 1).unflatten(3, (replicas, parts, -1))[..., 1:, :].mT
    own = mixed.permute(0, 2, 3, 1).unflatten(3, (replicas, -1, 1))
    return torch.cat([own, bypass], 5).flatten(3).permute(0, 3, 1, 2)
