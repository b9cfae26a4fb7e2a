"""Operations over the replicas axis: a replica is a group of channels.

Images fold to "n (replicas c) h w", convolutions use `groups=replicas`, batch statistics are per channel and so per
replica already. Every module's parameters start with the replicas axis. `rows` selects the replicas an operation is
computed for (None: all), so that what no replica uses costs nothing. This layout is private to `bench`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bench.batch_norm import batch_norm
from bench.mixture import mixture
from searchers.base import Observation

Folded = Float[Tensor, "n _rc _h _w"]
Rows = Int[Tensor, " rows"] | None
Term = Callable[[Rows], Folded]
"""Computes one option's output for the given replicas."""


def fold(images: Float[Tensor, "replicas n c h w"]) -> Folded:
    """Lay replicas out as groups of channels."""
    return images.transpose(0, 1).flatten(1, 2)


def unfold(x: Folded, replicas: int) -> Float[Tensor, "n replicas c h w"]:
    return x.unflatten(1, (replicas, -1))


def pick(x: Folded, replicas: int, rows: Rows) -> Folded:
    """Return the channels of some replicas only."""
    return x if rows is None else unfold(x, replicas).index_select(1, rows).flatten(1, 2)


@dataclass(frozen=True)
class Watch:
    """Shows maps to the observer of a forward pass over some replicas; without one, maps pass as they are."""

    observe: Callable[[Observation], None] | None
    replicas: int

    def show(self, kind: Literal["relu", "convolution"], x: Folded, rows: Rows = None) -> Folded:
        """Return the map; what the observer sees lies on the way from it to the loss."""
        if self.observe is None:
            return x
        maps = unfold(x, self.replicas if rows is None else len(rows)).transpose(0, 1)
        self.observe(Observation(kind, maps, rows))
        return fold(maps)

    def relu(self, x: Folded, rows: Rows = None) -> Folded:
        return F.relu(self.show("relu", x, rows))


UNWATCHED = Watch(None, 0)


def scale(x: Folded, weight: Float[Tensor, " replicas"]) -> Folded:
    """Multiply each replica by its own weight."""
    return (unfold(x, weight.shape[0]) * weight[:, None, None, None]).flatten(1, 2)


def mask(x: Folded, keep: Float[Tensor, "replicas n"]) -> Folded:
    """Multiply each image of each replica by its own factor (drop-path)."""
    return (unfold(x, keep.shape[0]) * keep.T[:, :, None, None, None]).flatten(1, 2)


def shifted(x: Folded, by: Float[Tensor, " replicas"]) -> Folded:
    """Add each replica's own number to all of its maps."""
    return (unfold(x, by.shape[0]) + by[:, None, None, None]).flatten(1, 2)


def once(term: Term, used: Bool[np.ndarray, " replicas"], device: torch.device) -> Term:
    """Return a term that computes its output a single time, for the replicas in `used`; who asks gets some of them."""
    rows = None if used.all() else torch.as_tensor(np.flatnonzero(used), device=device)
    place = torch.as_tensor(used.cumsum() - 1, device=device)
    found: list[Folded] = []

    def computed(asked: Rows) -> Folded:
        if not found:
            found.append(term(rows))
        return found[0] if asked is None else pick(found[0], int(used.sum()), place[asked])

    return computed


def mix(
    terms: Sequence[Term],
    weights: Float[Tensor, "replicas options"],
    active: Bool[np.ndarray, "replicas options"] | None,
) -> Folded | None:
    """Return the weighted sum of the options' outputs; None when no replica has an active option.

    An option that no replica uses is not computed; one that some use is computed for those.
    """
    used = [None if active is None else np.flatnonzero(active[:, option]) for option in range(len(terms))]
    everywhere = [option for option, rows in enumerate(used) if rows is None or len(rows) == len(weights)]
    total: Folded | None = None
    if everywhere:
        chosen = weights if len(everywhere) == len(terms) else weights[:, everywhere]
        total = mixture(chosen, [terms[option](None) for option in everywhere])
    for option, rows in enumerate(used):
        if rows is not None and 0 < len(rows) < len(weights):
            index = torch.as_tensor(rows, device=weights.device)
            total = _add_rows(total, scale(terms[option](index), weights[index, option]), index, len(weights))
    return total


def _add_rows(total: Folded | None, output: Folded, rows: Int[Tensor, " rows"], replicas: int) -> Folded:
    part = unfold(output, len(rows))
    if total is None:
        total = part.new_zeros(part.shape[0], replicas * part.shape[2], *part.shape[3:])
    return unfold(total, replicas).index_add(1, rows, part).flatten(1, 2)


def max_pool(x: Folded, side: int = 3, stride: int = 1) -> Folded:
    """Maximum over windows of `side`², padded by 1; ties go to the first pixel, as in torch.

    On a CPU the places of the maxima are found without gradients and gathered: a tenth of the time of torch's kernel,
    and both derivatives are single operations.
    """
    if x.device.type != "cpu":
        return F.max_pool2d(x, side, stride, padding=1)
    if not torch.is_grad_enabled():
        return _largest(_largest(F.pad(x, (1, 1, 1, 1), value=-math.inf), side, stride).mT, side, stride).mT
    with torch.no_grad():
        places, shape = _places(x, side, stride)
    return x.flatten(2).gather(2, places.flatten(2)).unflatten(2, shape)


def _largest(values: Float[Tensor, "n rc _h _w"], side: int, stride: int) -> Float[Tensor, "n rc _h _out"]:
    """Slide along the last axis; return each window's largest value."""
    last = values.shape[-1] - side + 1
    best = values[..., :last:stride]
    for offset in range(1, side):
        best = torch.maximum(best, values[..., offset : last + offset : stride])
    return best


def _places(x: Folded, side: int, stride: int) -> tuple[Int[Tensor, "n rc _h _w"], tuple[int, int]]:
    """Return the flat position of each window's maximum, columns before rows, and the size of the output."""
    height, width = x.shape[-2:]
    columns = torch.arange(width, device=x.device)
    best, column = _first_largest(F.pad(x, (1, 1), value=-math.inf), F.pad(columns, (1, 1)), side, stride)
    rows = F.pad(torch.arange(height, device=x.device) * width, (1, 1))[:, None]
    padded = [F.pad(part.mT, (1, 1), value=fill) for part, fill in ((best, -math.inf), (column, 0))]
    flat = padded[1] + rows.mT
    _, places = _first_largest(padded[0], flat, side, stride)
    places = places.mT
    return places, (places.shape[2], places.shape[3])


def _first_largest(
    values: Float[Tensor, "n rc _h _w"], labels: Int[Tensor, "..."], side: int, stride: int
) -> tuple[Float[Tensor, "n rc _h _out"], Int[Tensor, "n rc _h _out"]]:
    """Slide along the last axis; return each window's largest value and the label of the first position that has it."""
    stops = [values.shape[-1] - side + offset + 1 for offset in range(side)]
    best, label = (
        values[..., : stops[0] : stride],
        labels[..., : stops[0] : stride].expand_as(values[..., : stops[0] : stride]),
    )
    for offset in range(1, side):
        other = values[..., offset : stops[offset] : stride]
        larger = other > best
        label = torch.where(larger, labels[..., offset : stops[offset] : stride], label)
        best = torch.maximum(best, other)
    return best, label


def average_pool(x: Folded) -> Folded:
    """3×3 average over the pixels inside the image, stride 1: one axis after the other."""
    padded = F.pad(x, (1, 1, 1, 1))
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    height, width = (_window_sizes(side, x) for side in x.shape[-2:])
    return total / (height[:, None] * width)


def _window_sizes(side: int, like: Tensor) -> Float[Tensor, " side"]:
    """Return how many of the three neighbours of each position lie inside."""
    places = torch.arange(side, device=like.device)
    return ((places + 1).clamp(max=side - 1) - (places - 1).clamp(min=0) + 1).to(like.dtype)


def shuffle(x: Folded, replicas: int, groups: int) -> Folded:
    """Interleave the channels of `groups` groups, within each replica."""
    return unfold(x, replicas).unflatten(2, (groups, -1)).transpose(2, 3).flatten(1, 3)


def with_bypass(mixed: Folded, x: Folded, replicas: int, parts: int) -> Folded:
    """Put the channels of x that were not mixed beside those that were, shuffled (PC-DARTS, Xu et al. 2020, eq. 2)."""
    part = unfold(mixed, replicas)
    bypass = unfold(x, replicas)[:, :, part.shape[2] :]
    return shuffle(torch.cat([part, bypass], 2).flatten(1, 2), replicas, parts)


class Conv(nn.Module):
    """Convolution of every replica with its own weights, padded to keep the size at stride 1."""

    def __init__(self, replicas: int, shape: tuple[int, int, int], stride: int = 1, bias: bool = False) -> None:
        """Take `shape` (out channels, in channels, kernel side)."""
        super().__init__()
        out, into, side = shape
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(replicas, out, into, side, side))
        self.bias = nn.Parameter(torch.empty(replicas, out)) if bias else None

    def forward(self, x: Folded, rows: Rows = None) -> Folded:
        weight = self.weight if rows is None else self.weight[rows]
        bias = None if self.bias is None else (self.bias if rows is None else self.bias[rows]).flatten()
        return convolve(x, weight, bias, self.stride)


def convolve(
    x: Folded,
    weight: Float[Tensor, "rows out into side side"],
    bias: Float[Tensor, " rows_out"] | None = None,
    stride: int = 1,
) -> Folded:
    """Convolve every replica with its own kernels, padded to keep the size at stride 1."""
    side = weight.shape[-1]
    if side == 1 and stride == 1 and x.device.type == "cpu":
        return _pointwise(x, weight.flatten(2), bias)
    return F.conv2d(x, weight.flatten(0, 1), bias, stride, side // 2, groups=len(weight))


def _pointwise(x: Folded, weight: Float[Tensor, "rows out into"], bias: Float[Tensor, " rows_out"] | None) -> Folded:
    """1×1 convolution as a batched product: twice as fast as a grouped convolution on a CPU."""
    product = torch.matmul(weight, unfold(x, len(weight)).flatten(3)).flatten(1, 2)
    return (product if bias is None else product + bias[:, None]).unflatten(2, x.shape[2:])


class Norm(nn.Module):
    """Batch normalisation with batch statistics, always; no running statistics exist.

    A network without normalisation has it as the identity.
    """

    def __init__(self, replicas: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(replicas, channels)) if affine else None
        self.bias = nn.Parameter(torch.empty(replicas, channels)) if affine else None
        self.normalise = True

    def forward(self, x: Folded, rows: Rows = None) -> Folded:
        if not self.normalise:
            return x
        if self.weight is None or self.bias is None:
            return batch_norm(x)
        weight = self.weight if rows is None else self.weight[rows]
        bias = self.bias if rows is None else self.bias[rows]
        return batch_norm(x, weight.flatten(), bias.flatten())


class ConvNorm(nn.Module):
    """Convolution followed by batch normalisation."""

    def __init__(self, conv: Conv, affine: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = Norm(conv.weight.shape[0], conv.weight.shape[1], affine)

    def forward(self, x: Folded, rows: Rows = None, watch: Watch = UNWATCHED) -> Folded:
        return self.norm(watch.show("convolution", self.conv(x, rows), rows), rows)


def side_by_side(modules: Sequence[ConvNorm], x: Folded, replicas: int, watch: Watch = UNWATCHED) -> list[Folded]:
    """Return the ReLUs of affine convolutions of one input, computed as one convolution of all their channels."""
    joined = watch.show("convolution", convolve(x, torch.cat([module.conv.weight for module in modules], 1)))
    if modules[0].norm.normalise:
        affine = (torch.cat([getattr(m.norm, name) for m in modules], 1).flatten() for name in ("weight", "bias"))
        joined = batch_norm(joined, *affine)
    widths = [module.conv.weight.shape[1] for module in modules]
    return [part.flatten(1, 2) for part in unfold(watch.relu(joined), replicas).split(widths, 2)]


def without_normalisation(network: nn.Module) -> None:
    """Make every normalisation of a network under construction the identity."""
    for module in network.modules():
        if isinstance(module, Norm):
            module.normalise = False


class Linear(nn.Module):
    """The classifier: a batched product over replicas."""

    def __init__(self, replicas: int, channels: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(replicas, classes, channels))
        self.bias = nn.Parameter(torch.empty(replicas, classes))

    def forward(self, x: Float[Tensor, "replicas n c"]) -> Float[Tensor, "replicas n classes"]:
        return torch.baddbmm(self.bias[:, None], x, self.weight.mT)


def pooled(x: Folded, replicas: int) -> Float[Tensor, "replicas n c"]:
    """Global average pooling."""
    return unfold(x, replicas).mean((3, 4)).transpose(0, 1)


def initialise(network: nn.Module, streams: Sequence[torch.Generator]) -> None:
    """Draw every replica's weights from its own generator, in the order of the parameters.

    Kernels and biases are uniform in ±1/√fan_in (the default of torch's layers), normalisation starts at (1, 0).
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Norm) and module.weight is not None and module.bias is not None:
                module.weight.fill_(1.0)
                module.bias.zero_()
            elif isinstance(module, Conv | Linear):
                bound = 1.0 / math.sqrt(module.weight[0, 0].numel())
                for parameter in module.parameters(recurse=False):
                    _fill(parameter, bound, streams)


def _fill(parameter: nn.Parameter, bound: float, streams: Sequence[torch.Generator]) -> None:
    for replica, stream in enumerate(streams):
        # Drawn in float32 whatever the parameter's type, so that every precision starts from the same weights.
        values = torch.rand(parameter.shape[1:], generator=stream, dtype=torch.float32) * (2 * bound) - bound
        parameter[replica].copy_(values)
