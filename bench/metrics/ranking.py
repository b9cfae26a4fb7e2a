"""Do shared weights rank cells as the table does?

A fixed sample of the space's cells, the same for all methods and seeds of a dataset, is scored as discrete networks
with the searcher's weights: accuracy on the un-augmented validation half, batch statistics, kept inputs with weight 1.
The scores are compared with the table's mean accuracies, validation and test apart. A cell that is not in the table is
a miss: counted, and left out of the comparison. Nothing of the searcher changes, and none of its streams is drawn from.

Source of the measure: Sciuto et al. (2020), Evaluating the Search Phase of Neural Architecture Search,
https://arxiv.org/abs/1902.08142 (Kendall τ); Spearman ρ and the overlap of the best k stand beside it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from bench.lab import Lab
from bench.metrics.cell import Truth
from bench.rng import torch_stream
from bench.spaces.base import Genotype, Space, discretise, k_hot
from searchers._ranking import accuracies, sample_cells
from searchers.base import Searcher

DRAWS = 20
"""Draws for each cell wanted, before a space counts as too small to have more of them."""

Column = Float[np.ndarray, " cells"]


@dataclass(frozen=True)
class RankingProbe:
    """Size of the measurement.

    Attributes:
        cells: with different keys into the table; fewer where the space has no more.
        top: k of the overlap.
        every: epochs from one measurement to the next; None: after the last epoch only.
    """

    cells: int
    top: int
    every: int | None = None

    def due(self, epoch: int, epochs: int) -> bool:
        return epoch == epochs or (self.every is not None and epoch % self.every == 0)


def sample(space: Space, dataset: str, count: int) -> dict[str, Genotype]:
    """Return uniform cells by their key into the table, drawn from the dataset's stream."""
    found: dict[str, Genotype] = {}
    for step in range(DRAWS * count):
        hot = sample_cells(space.groups, (torch_stream(0, f"ranking/{dataset}", step),))
        genotype = discretise(space.groups, {name: values[0, 0] for name, values in hot.items()})
        found.setdefault(space.key(genotype), genotype)
        if len(found) == count:
            break
    return found


def undefined(searcher: Searcher, space: Space, truth: Truth | None) -> str | None:
    """Return why there is nothing to compare, None where there is."""
    if truth is None:
        return "there is no benchmark table to compare with"
    own = {group.name: group.shape for group in searcher.supernet.groups}
    if own != {group.name: group.shape for group in space.groups}:
        more = sorted(set(own) - {group.name for group in space.groups})
        what = f"further groups ({', '.join(more)})" if more else "groups of other shapes"
        return f"the network has {what}, which a discrete cell does not decide"
    return None


def measure(searcher: Searcher, lab: Lab, truth: Truth, cells: dict[str, Genotype], top: int) -> list[dict[str, Any]]:
    """Return one record a replica (results/README.md, `ranking`)."""
    entries = {key: truth.table.query(key) for key in cells}
    known = {key: entry for key, entry in entries.items() if entry is not None}
    hot = [k_hot(lab.groups, cells[key]) for key in known]
    stacked = [{name: np.stack([v] * lab.replicas)[None] for name, v in one.items()} for one in hot]
    scores = accuracies(searcher.supernet, lab, stacked, None) if stacked else np.zeros((lab.replicas, 0))
    val, test = (np.array([getattr(entry, name) for entry in known.values()]) for name in ("val_mean", "test_mean"))
    counts = {"top": top, "n": len(known), "misses": len(cells) - len(known)}
    return [
        _suffixed(compare(row, val, top), "val") | _suffixed(compare(row, test, top), "test") | counts for row in scores
    ]


def _suffixed(fields: dict[str, float | None], split: str) -> dict[str, Any]:
    return {f"{name}_{split}": value for name, value in fields.items()}


def compare(scores: Column, truth: Column, top: int) -> dict[str, float | None]:
    """Return Kendall's τ (b), Spearman's ρ and the share of the best `top` cells of one that are those of the other.

    A correlation is null where one side is the same for all cells, the overlap where there are no more cells than
    `top`; of equal cells the one sampled first counts as better.
    """
    from scipy import stats  # half a second, for runs with --metrics ranking alone

    varied = len(scores) > 1 and np.ptp(scores) > 0 and np.ptp(truth) > 0
    best = [set(np.argsort(-values, kind="stable")[:top].tolist()) for values in (scores, truth)]
    return {
        "kendall": float(stats.kendalltau(scores, truth).statistic) if varied else None,
        "spearman": float(stats.spearmanr(scores, truth).statistic) if varied else None,
        "overlap": len(best[0] & best[1]) / top if len(scores) > top else None,
    }
