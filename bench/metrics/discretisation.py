"""What discretising costs: the supernet's accuracy before and after, with the same weights, nothing trained again.

Before: the mixing weights that the searcher's relaxation makes of its logits. After: the selected cell alone, every
kept option with weight 1, as `metrics.ranking` scores cells. Groups that a cell does not decide (edge weights of
PC-DARTS on NAS-Bench-201, thresholds) keep their mixing weights. Both are measured at one instant on the whole
un-augmented validation half with batch statistics: the images on which the supernet's accuracy is recorded anyway, so
that only the second pass costs anything, and as many as there are, because a difference of two accuracies on a small
probe would be lost in its own error. Nothing of the searcher changes, and none of its streams is drawn from.

Source of the measure: the discretisation gap of Chen et al. (2019), Progressive DARTS, and Wang et al. (2021),
Rethinking Architecture Selection in Differentiable NAS, who compare supernets before and after.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from bench.lab import Lab
from bench.metrics import cell
from bench.spaces.base import Space, discrete_choices, discretise
from searchers.base import Choices, Logits, Searcher

EVERY = 10
"""Epochs from one measurement to the next: a pass takes a tenth of an epoch's steps, so all take 1 % of the search."""


def due(epoch: int, epochs: int) -> bool:
    """Return whether it is measured after this epoch: at epoch 0, every tenth and the last."""
    return epoch % EVERY == 0 or epoch == epochs


def undefined(searcher: Searcher, space: Space) -> str | None:
    """Return why there is no gap, None where there is one."""
    if not searcher.logits():
        return searcher.no_curvature or "the method has no mixing weights to discretise"
    if searcher.selected() is None:
        return "the method has not selected a cell yet"
    own = {group.name: group.shape for group in searcher.supernet.groups}
    if any(own.get(group.name) != group.shape for group in space.groups):
        return "the network has groups of other shapes than the space"
    return None


def measure(searcher: Searcher, lab: Lab, before: list[dict[str, float] | None] | None) -> list[dict[str, Any] | None]:
    """Return one record a replica (results/README.md, `discretisation`); None where its scores are not finite.

    Args:
        searcher: one whose gap is defined, at its present logits and weights.
        lab: lends the images.
        before: what `cell.supernet` has found at this instant, None where it has not been asked.
    """
    selected = searcher.selected()
    assert selected is not None
    relaxed = cell.supernet(searcher, lab) if before is None else before
    with torch.no_grad():
        found = lab.evaluate(searcher.supernet, _discrete(searcher, lab, selected), "val", None)
    rows = zip(relaxed, found.accuracy.tolist(), _finite(selected), strict=True)
    images = lab.feed.images("val")
    return [
        {"relaxed_accuracy": own["val_accuracy"], "discrete_accuracy": after, "images": images}
        if finite and own is not None
        else None
        for own, after, finite in rows
    ]


def _discrete(searcher: Searcher, lab: Lab, selected: Logits) -> Choices:
    """Return the choices of the selected cells; of scores that are not finite, whose result is dropped, any cell."""
    relaxed = searcher.relax(searcher.logits())
    host = {name: np.nan_to_num(values.detach().double().cpu().numpy()) for name, values in selected.items()}
    genotypes = [
        discretise(lab.groups, {name: values[replica] for name, values in host.items()})
        for replica in range(lab.replicas)
    ]
    cells = discrete_choices(lab.groups, genotypes, next(iter(relaxed.weights.values())))
    assert cells.active is not None
    further = {name: values for name, values in relaxed.weights.items() if name not in cells.weights}
    active = {name: _active(relaxed, name) for name in further}
    return Choices({**cells.weights, **further}, {**cells.active, **active})


def _active(choices: Choices, name: str) -> Bool[np.ndarray, "cells replicas decisions options"]:
    if choices.active is not None and name in choices.active:
        return choices.active[name]
    return np.ones(tuple(choices.weights[name].shape), dtype=bool)


def _finite(selected: Mapping[str, torch.Tensor]) -> list[bool]:
    """Return for every replica whether its scores say what to keep."""
    rows = [values.isfinite().flatten(1).all(1) for values in selected.values()]
    return torch.stack(rows).all(0).tolist()
