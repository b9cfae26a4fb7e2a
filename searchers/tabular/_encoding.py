"""Cells as rows of small integers: one gene a decision, its value the kept subset of options.

The subsets of a decision are ordered as `itertools.combinations` orders them; where one option is kept, the gene is the
option. Two subsets are neighbours if they differ in one option.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from searchers.base import Group

Genes = Int[np.ndarray, "*batch genes"]


class Encoding:
    """The genes of a space, and what they mean.

    Attributes:
        sizes: values of each gene.
        kinds: "op" or "edge" of each gene.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)
        self._subsets = {group.name: subsets(group) for group in groups}
        spread = [group for group in groups for _ in range(group.decisions)]
        self.sizes = np.array([len(self._subsets[group.name]) for group in spread])
        self.kinds = np.array([group.kind for group in spread])
        self._neighbours = [_neighbours(self._subsets[group.name]) for group in spread]
        self.degrees = np.array([table.shape[1] for table in self._neighbours])

    @property
    def genes(self) -> int:
        return len(self.sizes)

    def decode(self, points: Float[np.ndarray, "*batch genes"]) -> Genes:
        """Return the cells of points in [0, 1): every value of a gene has an equal share of the interval."""
        return np.minimum((points * self.sizes).astype(np.int64), self.sizes - 1)

    def scores(self, cells: Int[np.ndarray, "replicas genes"]) -> dict[str, Float[np.ndarray, "replicas _ _"]]:
        """Return k-hot scores."""
        found, start = {}, 0
        for group in self.groups:
            found[group.name] = self._subsets[group.name][cells[:, start : start + group.decisions]]
            start += group.decisions
        return found

    def neighbour(
        self, cells: Int[np.ndarray, "batch genes"], gene: Int[np.ndarray, " batch"], which: Int[np.ndarray, " batch"]
    ) -> Int[np.ndarray, "batch genes"]:
        """Return the cells with one gene moved to its `which`-th neighbour."""
        moved = cells.copy()
        for position in np.unique(gene):
            rows = np.flatnonzero(gene == position)
            moved[rows, position] = self._neighbours[position][cells[rows, position], which[rows]]
        return moved


def subsets(group: Group) -> Float[np.ndarray, "subsets options"]:
    """Return the subsets of the options that a decision may keep, k-hot, in lexicographic order."""
    kept = list(itertools.combinations(range(group.shape[1]), group.keep))
    hot = np.zeros((len(kept), group.shape[1]))
    for row, columns in enumerate(kept):
        hot[row, list(columns)] = 1.0
    return hot


def _neighbours(hot: Float[np.ndarray, "subsets options"]) -> Int[np.ndarray, "subsets degree"]:
    """Return the subsets that swap one option, in ascending order; every subset has equally many."""
    distance = np.abs(hot[:, None] - hot[None]).sum(-1)
    return np.stack([np.flatnonzero(row == 2) for row in distance])
