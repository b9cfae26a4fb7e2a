"""Sampling discrete cells, and ranking them by their accuracy with shared weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from searchers.base import Choices, Group, Logits, Resources, Supernet
from searchers.entry import DISCRETE, FORWARD, Extent, Passes

KHot = dict[str, Float[np.ndarray, "cells replicas decisions options"]]


@dataclass(frozen=True)
class RankingSettings:
    """Defaults: the protocol of NAS-Bench-1Shot1's random search with weight sharing, after every epoch.

    Attributes:
        candidates: cells sampled.
        batches: validation batches each candidate is scored on.
        finalists: best candidates that are scored again on the whole validation half.
        every_epoch: true ranks after every epoch, false after the last one only.
    """

    candidates: int = 1000
    batches: int = 10
    finalists: int = 5
    every_epoch: bool = True


def evaluated(settings: RankingSettings, extent: Extent) -> tuple[Passes, ...]:
    """Return the cost of all rankings of a search (`entry.Method`)."""
    batches = settings.candidates * settings.batches + settings.finalists * extent.batches
    return (Passes((extent.epochs if settings.every_epoch else 1) * batches * FORWARD, extent.evaluation, DISCRETE),)


def sample_cells(groups: Sequence[Group], streams: Sequence[torch.Generator], cells: int = 1) -> KHot:
    """Return uniform k-hot cells: every subset of `keep` options is equally likely in every decision."""
    drawn = [[_k_hot(group, cells, stream) for group in groups] for stream in streams]
    return {g.name: np.stack(values, 1) for g, values in zip(groups, zip(*drawn, strict=True), strict=True)}


def _k_hot(group: Group, cells: int, stream: torch.Generator) -> Float[np.ndarray, "cells decisions options"]:
    drawn = torch.rand((cells, *group.shape), generator=stream, dtype=torch.float64)
    return torch.zeros_like(drawn).scatter_(-1, drawn.argsort(-1)[..., : group.keep], 1.0).numpy()


def as_choices(hot: KHot, like: Tensor) -> Choices:
    """Return choices that compute the kept options and nothing else, with weight 1 each."""
    weights = {name: torch.as_tensor(v, dtype=like.dtype, device=like.device) for name, v in hot.items()}
    return Choices(weights, {name: values > 0 for name, values in hot.items()})


def as_scores(hot: KHot, like: Tensor) -> Logits:
    """Return a cell as scores whose discretisation it is."""
    return {name: torch.as_tensor(v[0], dtype=like.dtype, device=like.device) for name, v in hot.items()}


def accuracies(
    network: Supernet, resources: Resources, cells: Sequence[KHot], batches: int | None, first: int = 0
) -> Float[np.ndarray, "replicas candidates"]:
    """Return the accuracy of every cell on the validation half, un-augmented, as a discrete network.

    Cell i sees batches i·b to (i+1)·b of the sequential validation stream, counted from `first`; with None all see the
    whole half. The numbers are read from the device.
    """
    like = next(iter(network.named_parameters()))[1]
    found = []
    for i, cell in enumerate(cells, start=first):
        seen = None if batches is None else range(i * batches, (i + 1) * batches)
        found.append(resources.evaluate(network, as_choices(cell, like), "val", seen).accuracy)
    return torch.stack(found, 1).double().cpu().numpy()


def rank(
    network: Supernet, resources: Resources, sample: Callable[[int], KHot], settings: RankingSettings
) -> tuple[Logits, Float[np.ndarray, "replicas candidates"]]:
    """Return the best cell of each replica as scores, and the accuracies all candidates were ranked by.

    `sample(i)` gives the i-th candidate of every replica. Ties go to the candidate sampled first.
    """
    hot = [sample(i) for i in range(settings.candidates)]
    found = accuracies(network, resources, hot, settings.batches)
    order = np.argsort(-found, axis=1, kind="stable")[:, : settings.finalists]
    finals = [gather(hot, order[:, place]) for place in range(order.shape[1])]
    scores = accuracies(network, resources, finals, None)
    best = gather(finals, np.argmax(scores, axis=1))
    return as_scores(best, next(iter(network.named_parameters()))[1]), found


def rank_after(
    network: Supernet, resources: Resources, epoch: int, sample: Callable[[int], KHot], settings: RankingSettings
) -> Logits | None:
    """Rank after an epoch if it is due; no two epochs ask `sample` for the same numbers."""
    if not settings.every_epoch and epoch != resources.horizon.epochs - 1:
        return None
    return rank(network, resources, lambda i: sample(epoch * settings.candidates + i), settings)[0]


def gather(cells: Sequence[KHot], index: np.ndarray) -> KHot:
    """Return, for each replica, the cell at its own index."""
    return {
        name: np.stack([cells[place][name][:, replica] for replica, place in enumerate(index)], 1) for name in cells[0]
    }
