"""Dropping options out, each group of like options on its own: draws, the mixture of what is kept, and its adjustment.

Source: Hong et al. (2020), DropNAS, https://arxiv.org/abs/2201.11679, sections 3.2 and 3.3.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from searchers import _exclude
from searchers._hosted import constant
from searchers._optim import Touched
from searchers.base import Active, Choices, Group, Logits

Class = tuple[tuple[int, ...], float]
"""Options that drop out as one group, and the probability of each of them."""
Mask = Bool[Tensor, "replicas decisions options"]
Classes = Mapping[str, tuple[Class, ...]]


def classes(groups: Sequence[Group], probability: Callable[[int], float]) -> Classes:
    """Return the options with weights and those without of every group of operations.

    `probability` is that of a group of so many; alone, an option never drops. Rows that choose inputs have no classes.
    """
    found = {}
    for group in groups:
        parametric = group.parametric or (False,) * len(group.options)
        sides = [tuple(i for i, own in enumerate(parametric) if own is side) for side in (True, False)]
        dropping = [side for side in sides if len(side) > 1 and group.kind == "op"]
        found[group.name] = tuple((side, probability(len(side))) for side in dropping)
    return found


def draw(groups: Sequence[Group], drops: Classes, streams: Sequence[torch.Generator]) -> Active:
    """Return what each replica keeps: one mask for all cells, at least one option of every class."""
    drawn = [{group.name: _kept(group, drops[group.name], stream) for group in groups} for stream in streams]
    return {group.name: np.stack([each[group.name] for each in drawn])[None] for group in groups}


def _kept(group: Group, drops: Sequence[Class], stream: torch.Generator) -> Bool[np.ndarray, "decisions options"]:
    kept = np.ones(group.shape, bool)
    for options, probability in drops:
        rows = np.arange(group.decisions)
        while len(rows):
            drawn = torch.rand((len(rows), len(options)), generator=stream, dtype=torch.float64).numpy()
            kept[rows[:, None], options] = drawn >= probability
            rows = np.flatnonzero(~kept[:, options].any(1))
    return kept


def mixture(logits: Logits, kept: Active) -> Choices:
    """Return exp(α)/Σ_kept exp(α) for what is kept; the rest is inactive."""
    return _exclude.mixture(logits, {name: mask[0] for name, mask in kept.items()})


def kept_options(logits: Logits, choices: Choices) -> dict[str, Mask]:
    """Return what the choices compute, for choices shared by all cells."""
    if choices.active is None:
        return {name: torch.ones_like(value, dtype=torch.bool) for name, value in logits.items()}
    return {name: _mask(choices.active[name], value.device) for name, value in logits.items()}


def kept_entries(logits: Logits, choices: Choices) -> Touched:
    """Return `kept_options` side by side, None where all are kept."""
    if choices.active is None:
        return None
    return torch.cat([mask.flatten(1) for mask in kept_options(logits, choices).values()], 1)


def adjusted(before: Logits, after: Logits, choices: Choices) -> Logits:
    """Return `after` with a constant added to the kept logits of rows in which some dropped.

    With ρ the softmax mass of the kept options in `before`, it is log(ρ/(1−ρ)·Σ_dropped exp(α)/Σ_kept exp(α)), after
    which they have the mass ρ again.
    """
    kept = kept_options(before, choices)
    return {name: _adjusted(before[name], value, kept[name]) for name, value in after.items()}


def _adjusted(
    before: Float[Tensor, "replicas decisions options"],
    after: Float[Tensor, "replicas decisions options"],
    kept: Mask,
) -> Float[Tensor, "replicas decisions options"]:
    shift = _log_odds(before, kept) - _log_odds(after, kept)
    return torch.where(kept & ~kept.all(-1, keepdim=True), after + shift, after)


def _log_odds(logits: Float[Tensor, "replicas decisions options"], kept: Mask) -> Float[Tensor, "replicas decisions 1"]:
    """Return log Σ_kept exp(α) − log Σ_dropped exp(α)."""
    mass = [logits.masked_fill(~side, -torch.inf).logsumexp(-1, keepdim=True) for side in (kept, ~kept)]
    return mass[0] - mass[1]


def _mask(kept: Bool[np.ndarray, "1 replicas decisions options"], device: torch.device) -> Mask:
    return constant(kept[0], device)
