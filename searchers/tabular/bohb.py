"""BOHB: Hyperband whose cells are proposed by a Parzen model.

Source: Falkner, Klein, Hutter (2018), BOHB: Robust and Efficient Hyperparameter Optimization at Scale,
https://arxiv.org/abs/1807.01774, algorithm 2, with the kernel for categories of Aitchison and Aitken (1976).

One query on a lowest rung:
  1. with probability `random_fraction`, or before any budget has genes + 3 observations: a uniform cell.
  2. else take the largest budget that has them; its best max(genes + 1, `share` of all) cells are the good ones, its
     worst max(genes + 1, the rest) the bad ones. l and g are products over genes of kernels
     k(x, y) = 1 - h if x = y else h / (size - 1), averaged over the good or bad cells.
  3. draw `samples` cells from l with bandwidths widened by `factor`; the one with the largest l / g is asked for.
On the other rungs Hyperband promotes. Sure: the above, defaults. Our reading: h is the normal-reference rule
1.06 · std · n^(-1/(4 + genes)) on the option numbers, at least `min_bandwidth`, at most (size - 1) / size, where the
kernel is uniform; the widened bandwidth too; a cell that is not in the table counts as a worst one. No kept library
implements BOHB (HpBandSter is archived), so it is ours.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from searchers.entry import TableMethod
from searchers.tabular._encoding import Encoding, Genes
from searchers.tabular._halving import Halving, too_few
from searchers.tabular.base import TableResources

Cells = Int[np.ndarray, "replicas _ genes"]


@dataclass(frozen=True)
class Settings:
    """Defaults of the paper, bandwidth floor of the NAS benchmarks.

    Attributes:
        share: of the observations that is good.
        factor: widens the bandwidths that cells are drawn with.
    """

    eta: int = 3
    share: float = 0.15
    samples: int = 64
    random_fraction: float = 1 / 3
    factor: float = 3.0
    min_bandwidth: float = 0.3

    def __post_init__(self) -> None:
        shares = 0 < self.share < 1 and 0 <= self.random_fraction <= 1 and 0 < self.min_bandwidth <= 1
        if self.eta < 2 or self.samples < 1 or self.factor <= 0 or not shares:
            raise ValueError(f"expected eta of at least 2, samples of at least 1 and shares in (0, 1), got {self}")


class Model:
    """The observations of every budget, and cells drawn where good ones are dense."""

    def __init__(self, settings: Settings, resources: TableResources, encoding: Encoding) -> None:
        self.settings, self.resources, self.encoding = settings, resources, encoding
        self.cells: dict[int, list[Genes]] = {}
        self.fitness: dict[int, list[np.ndarray]] = {}

    def observe(self, cells: Genes, fitness: np.ndarray, budget: int) -> None:
        self.cells.setdefault(budget, []).append(cells)
        self.fitness.setdefault(budget, []).append(fitness)

    def propose(self, number: int) -> Genes:
        uniform = self.encoding.decode(self.resources.uniform("cell", number, self.encoding.genes))
        ready = [budget for budget, seen in self.cells.items() if len(seen) >= self.encoding.genes + 3]
        if not ready:
            return uniform
        modelled = self._best_of_drawn(number, *self._good_and_bad(max(ready)))
        random = self.resources.uniform("random", number, 1) < self.settings.random_fraction
        return np.where(random, uniform, modelled)

    def _good_and_bad(self, budget: int) -> tuple[Cells, Cells]:
        order = np.argsort(-np.stack(self.fitness[budget], 1), axis=1, kind="stable")
        ranked = np.take_along_axis(np.stack(self.cells[budget], 1), order[..., None], 1)
        count, least = ranked.shape[1], self.encoding.genes + 1
        good = max(least, int(self.settings.share * count))
        return ranked[:, :good], ranked[:, -max(least, count - good) :]

    def _best_of_drawn(self, number: int, good: Cells, bad: Cells) -> Genes:
        drawn = self._draw(number, good)
        ratio = self._log_density(drawn, good) - self._log_density(drawn, bad)
        return drawn[np.arange(len(drawn)), ratio.argmax(1)]

    def _draw(self, number: int, good: Cells) -> Cells:
        """Return cells near good ones: every gene is kept with probability 1 - h, else any of the other values."""
        samples, genes = self.settings.samples, self.encoding.genes
        draws = self.resources.uniform("samples", number, samples * (1 + 2 * genes)).reshape(-1, samples, 1 + 2 * genes)
        near = np.take_along_axis(good, (draws[..., :1] * good.shape[1]).astype(np.int64), 1)
        widened = np.minimum(self.settings.factor * self._bandwidths(good), self._uniform())[:, None]
        others = 1 + (draws[..., 1 + genes :] * (self.encoding.sizes - 1)).astype(np.int64)
        return np.where(draws[..., 1 : 1 + genes] < widened, (near + others) % self.encoding.sizes, near)

    def _bandwidths(self, cells: Cells) -> Float[np.ndarray, "replicas genes"]:
        reference = 1.06 * cells.std(1) * cells.shape[1] ** (-1 / (4 + self.encoding.genes))
        return np.minimum(np.maximum(reference, self.settings.min_bandwidth), self._uniform())

    def _uniform(self) -> Float[np.ndarray, " genes"]:
        """Return the bandwidths at which the kernel does not depend on the cell."""
        return (self.encoding.sizes - 1) / self.encoding.sizes

    def _log_density(self, at: Cells, cells: Cells) -> Float[np.ndarray, "replicas _"]:
        """Return the log of the mean kernel, by one product of one-hot cells: log k is linear in where genes agree."""
        width = self._bandwidths(cells)
        apart = np.log(width / (self.encoding.sizes - 1))
        gain = np.log(1 - width) - apart
        agree = _one_hot(at, self.encoding.sizes, gain) @ _one_hot(cells, self.encoding.sizes, None).swapaxes(1, 2)
        top = agree.max(-1, keepdims=True)
        return np.log(np.exp(agree - top).mean(-1)) + top[..., 0] + apart.sum(-1, keepdims=True)


def _one_hot(cells: Cells, sizes: np.ndarray, gain: np.ndarray | None) -> Float[np.ndarray, "replicas _ columns"]:
    """Return the genes side by side as one-hot columns, each with its gain."""
    hot = cells[..., None] == np.arange(sizes.max())
    values = hot.astype(np.float64) if gain is None else hot * gain[:, None, :, None]
    return values.reshape(*cells.shape[:2], -1)


def build(settings: Settings, resources: TableResources) -> Halving:
    encoding = Encoding(resources.groups)
    model = Model(settings, resources, encoding)
    return Halving(encoding, resources.budgets, settings.eta, model.propose, model.observe)


METHOD = TableMethod(
    "bohb",
    Settings,
    build,
    "Falkner et al. (2018), BOHB",
    budgets=True,
    unfit=lambda settings, budgets: too_few(budgets, settings.eta),
)
