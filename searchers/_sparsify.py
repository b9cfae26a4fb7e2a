"""Differentiable sparsification: options below a learned threshold of their node get the weight zero.

Source: Yang et al. (2021), EnTranNAS-DST, https://arxiv.org/abs/2101.11342, section 3.3.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from searchers import _engine, _relax
from searchers.base import Choices, Group, Logits

THRESHOLD = "threshold"
Host = dict[str, Bool[np.ndarray, "replicas decisions options"]]
Rows = Float[Tensor, "replicas decisions options"]
Thresholds = Float[Tensor, "replicas nodes 1"]
Nodes = Mapping[str, tuple[tuple[int, ...], ...]]
"""Per group the decisions of each node that has a threshold; no nodes where a group is not sparsified."""


class Sparse(NamedTuple):
    """Mixing weights, and which options survive, by group."""

    mixed: dict[str, Rows]
    survivors: dict[str, Bool[Tensor, "replicas decisions options"]]


def nodes(groups: Sequence[Group]) -> Nodes:
    """Return the nodes of every group: where decisions are edges, their targets; where they choose inputs, each row."""
    found: dict[str, tuple[tuple[int, ...], ...]] = {}
    for group in groups:
        own = range(group.decisions) if group.kind == "edge" else group.targets
        found[group.name] = tuple(
            tuple(i for i, target in enumerate(own) if target == node) for node in sorted(set(own))
        )
    return found


def threshold_group(parts: Nodes) -> Group:
    """Return the group of thresholds: a row of one for each node."""
    return Group(THRESHOLD, sum(len(part) for part in parts.values()), (THRESHOLD,), "edge")


def initial(threshold: float) -> Callable[[Sequence[Group], Sequence[torch.Generator], Tensor], Logits]:
    """Return what draws small normal logits and sets all thresholds to one value, before the sigmoid."""

    def init(groups: Sequence[Group], streams: Sequence[torch.Generator], like: Tensor) -> Logits:
        drawn = _relax.normal_logits([g for g in groups if g.name != THRESHOLD], streams, like)
        rows = next(g for g in groups if g.name == THRESHOLD).shape
        return {**drawn, THRESHOLD: torch.full((len(streams), *rows), threshold, device=like.device, dtype=like.dtype)}

    return init


def level(thresholds: Thresholds) -> Thresholds:
    """Return t = σ(b), below 1 in any precision, so that the maximum of a node survives."""
    return thresholds.sigmoid().clamp(max=1 - torch.finfo(thresholds.dtype).eps)


def sparsify(shares: Mapping[str, Rows], thresholds: Thresholds, parts: Nodes) -> Sparse:
    """Return q̂ = q/Σq on every decision, q = ReLU(p/max p − t) with the maximum and the threshold of its node."""
    mixed, survivors, first = {}, {}, 0
    levels = level(thresholds)
    for name, p in shares.items():
        mixed[name], survivors[name] = p, torch.ones_like(p, dtype=torch.bool)
        if parts[name]:
            own = levels[:, first : first + len(parts[name])]
            mixed[name], survivors[name] = _sparse_rows(p, own, parts[name])
            first += len(parts[name])
    return Sparse(mixed, survivors)


def _sparse_rows(
    p: Rows, levels: Thresholds, parts: tuple[tuple[int, ...], ...]
) -> tuple[Rows, Bool[Tensor, "replicas decisions options"]]:
    owner = [node for decision in range(p.shape[1]) for node, part in enumerate(parts) if decision in part]
    largest = torch.stack([p[:, list(part)].amax((1, 2)) for part in parts], 1)[:, owner, None]
    q = (p / largest - levels[:, owner]).relu()
    total = q.sum(-1, keepdim=True)
    return q / torch.where(total > 0, total, 1.0), q > 0


def on_host(groups: Sequence[Group], parts: Nodes, sparse: Sparse, logits: Logits) -> tuple[Host, Host]:
    """Return what engine cells compute and what transit cells run: survivors, the best where nothing is sparsified."""
    best = _engine.k_hot(groups, logits)
    computed = dict(zip(best, _engine.read(groups, sparse.survivors), strict=True))
    return computed, {name: computed[name] if parts[name] else best[name] for name in computed}


def carrying(choices: Choices, logits: Logits) -> Choices:
    """Return the choices with the thresholds beside them, which the network carries but does not read."""
    found = level(logits[THRESHOLD])[None]
    active = None if choices.active is None else {**choices.active, THRESHOLD: np.ones(found.shape, bool)}
    return Choices({**choices.weights, THRESHOLD: found}, active)


def absent_to_none(groups: Sequence[Group], sparse: Sparse, logits: Logits) -> Logits:
    """Return the logits as scores, with `none` on top where nothing of an edge survives."""
    found = dict(logits)
    for group in groups:
        none = group.index("none")
        if none is not None and group.targets:
            value = logits[group.name]
            column = torch.arange(len(group.options), device=value.device) == none
            absent = ~sparse.survivors[group.name].any(-1, keepdim=True)
            found[group.name] = torch.where(absent & column, value.amax(-1, keepdim=True) + 1, value)
    return found
