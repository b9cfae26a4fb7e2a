"""What is done about skip connections: they drop out while a network trains, and a cell may have only so many.

Source: Chen et al. (2019), P-DARTS, https://arxiv.org/abs/1904.12760, section 3.3.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from searchers._exclude import below
from searchers._hosted import Streams, hosted
from searchers.base import Choices, Group, Logits


def places(groups: Sequence[Group], options: Sequence[str]) -> dict[str, list[int]]:
    """Return the columns of these options in the groups of operations that have any."""
    found = {g.name: [i for i, option in enumerate(g.options) if option in options] for g in groups if g.kind == "op"}
    return {name: columns for name, columns in found.items() if columns}


def drop(choices: Choices, columns: Mapping[str, Sequence[int]], cells: int, streams: Streams, p: float) -> Choices:
    """Multiply the weights of the columns by 0 with probability p and by 1/(1 − p) otherwise, in every cell and row.

    An operation that drops out is computed all the same: its weight is zero.
    """
    if p == 0 or not columns:
        return choices
    weights = {name: value.expand(cells, *value.shape[1:]) for name, value in choices.weights.items()}
    shapes, first = {name: weights[name].shape for name in columns}, next(iter(weights.values()))
    dtype = first.dtype

    def draw() -> list[Tensor]:
        generators = streams()
        return [_factors(shapes[name], columns[name], generators, p).to(dtype) for name in columns]

    for name, factor in zip(columns, hosted(draw, first.device), strict=True):
        weights[name] = weights[name] * factor
    active = choices.active
    if active is None:
        return Choices(weights)
    return Choices(weights, {n: np.broadcast_to(mask, weights[n].shape).copy() for n, mask in active.items()})


def _factors(
    shape: torch.Size, columns: Sequence[int], streams: Sequence[torch.Generator], p: float
) -> Float[Tensor, "cells replicas decisions options"]:
    """Return 1, and in the columns what was drawn."""
    drawn = [torch.rand((shape[0], shape[2], len(columns)), generator=one, dtype=torch.float64) for one in streams]
    factors = torch.ones(shape, dtype=torch.float64)
    factors[..., list(columns)] = (torch.stack(drawn, 1) >= p).double() / (1 - p)
    return factors


def capped(scores: Logits, columns: Mapping[str, Sequence[int]], most: int, shares: Logits) -> Logits:
    """Return the scores with an option of the columns below its row, where more than so many rows have one on top.

    The strongest stay: those whose share, the weight that the search mixed them with, is the largest.
    """
    lowered = dict(scores)
    for name, skips in columns.items():
        out = _weakest(scores[name], list(skips), most, shares[name])
        mask = torch.zeros_like(scores[name], dtype=torch.bool)
        mask[..., list(skips)] = out[..., None]
        lowered[name] = below(scores[name], mask)
    return lowered


def _weakest(
    scores: Float[Tensor, "replicas decisions options"],
    skips: list[int],
    most: int,
    shares: Float[Tensor, "replicas decisions options"],
) -> Bool[Tensor, "replicas decisions"]:
    """Return the rows with a skip on top that are not among the `most` strongest of their replica."""
    top = scores.argmax(-1, keepdim=True)
    chosen = (top == torch.tensor(skips, device=scores.device)).any(-1)
    strength = shares.gather(-1, top)[..., 0].masked_fill(~chosen, -1.0)
    rank = torch.argsort(strength, dim=-1, descending=True, stable=True).argsort(-1)
    return chosen & (rank >= most)
