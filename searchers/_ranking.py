"""Sampling discrete cells, and ranking them by their accuracy with shared weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from searchers.base import Choices, Group, Logits, Resources, Supernet

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


def sample_cells(groups: Sequence[Group], streams: Sequence[torch.Generator], cells: int = 1) -> KHot:
    """Return uniform k-hot cells: every subset of `keep` options is equally likely in every decision."""
    drawn = [[_k_hot(group, cells, stream) for group in groups] for stream in streams]
    return {g.name: np.stack(values, 1) for g, values in zip(groups, zip(*drawn, strict=True), strict=True)}


def _k_hot(group: Group, cells: int, stream: torch.Generator) -> Float[np.ndarray, "cells decisions options"]:
    order = torch.rand((cells, *group.shape), generator=stream, dtype=torch.float64).argsort(-1).numpy()
    hot = np.zeros(order.shape)
    np.put_along_axis(hot, order[..., : group.keep], 1.0, -1)
    return hot


def as_choices(hot: KHot, like: Tensor) -> Choices:
    """Return choices that compute the kept options and nothing else, with weight 1 each."""
    weights = {name: torch.as_tensor(v, dtype=like.dtype, device=like.device) for name, v in hot.items()}
    return Choices(weights, {name: values > 0 for name, values in hot.items()})


def rank(
    network: Supernet, resources: Resources, sample: Callable[[int], KHot], settings: RankingSettings
) -> tuple[Logits, Float[np.ndarray, "replicas candidates"]]:
    """Return the best cell of each replica as scores, and the accuracies all candidates were ranked by.

    `sample(i)` gives the i-th candidate of every replica. Candidate i sees batches i·b to (i+1)·b of the sequential
    validation stream; ties go to the candidate sampled first.
    """
    like = next(iter(network.named_parameters()))[1]
    hot = [sample(i) for i in range(settings.candidates)]
    accuracies = np.stack(
        [
            _accuracy(
                network, resources, as_choices(cell, like), range(i * settings.batches, (i + 1) * settings.batches)
            )
            for i, cell in enumerate(hot)
        ],
        1,
    )
    order = np.argsort(-accuracies, axis=1, kind="stable")[:, : settings.finalists]
    finals = [_gather(hot, order[:, place]) for place in range(order.shape[1])]
    scores = np.stack([_accuracy(network, resources, as_choices(cell, like), None) for cell in finals], 1)
    best = _gather(finals, np.argmax(scores, axis=1))
    return {name: torch.as_tensor(v[0], dtype=like.dtype, device=like.device) for name, v in best.items()}, accuracies


def _accuracy(
    network: Supernet, resources: Resources, choices: Choices, batches: range | None
) -> Float[np.ndarray, " replicas"]:
    return resources.evaluate(network, choices, "val", batches).accuracy.double().cpu().numpy()


def _gather(cells: Sequence[KHot], index: np.ndarray) -> KHot:
    """Return, for each replica, the cell at its own index."""
    return {
        name: np.stack([cells[place][name][:, replica] for replica, place in enumerate(index)], 1) for name in cells[0]
    }
