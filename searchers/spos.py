"""Single path one-shot: uniform paths train the weights, evolution finds the cell.

Source: Guo, Zhang, Mu, Heng, Liu, Wei, Sun (2020), Single Path One-Shot Neural Architecture Search with Uniform
Sampling, https://arxiv.org/abs/1904.00420, section 3 and algorithm 1.

One step: a uniform discrete cell, and SGD on the weights through it (`_paths`).
After the last epoch, per replica, a population of uniform cells and then one generation after the other:
  1. every member's accuracy with the shared weights on the validation half.
  2. parents: the best distinct cells seen so far; ties go to the one seen first.
  3. half of the next population by crossover: of two parents, every decision from either with probability 1/2; the
     other half by mutation: every decision of a parent drawn anew with probability 0.1.
The best cell ever seen is selected. Accuracies are read from the device, since they decide what is evaluated next.

Sure: uniform paths, population 50, 20 generations, 10 parents, halves, mutation 0.1. Our reading: SGD as random search
with weight sharing has it (the paper trains on ImageNet), so both have the same weights unless `random_ws.per_cell` is
set, as NATS-Bench has it, and differ in the selection; where fewer distinct cells than parents have been seen, these
repeat; no constraint on cost; the paper recomputes the statistics of batch normalisation for every cell, here they are
those of the batch anyway. There are no logits, so λ does not exist.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float

from searchers._optim import WeightSettings
from searchers._paths import PathRecipe, Paths, weights_only
from searchers._ranking import KHot, accuracies, as_scores, gather, sample_cells
from searchers.base import DataPolicy, Logits, Resources
from searchers.entry import DISCRETE, FORWARD, Extent, Method, Passes


@dataclass(frozen=True)
class Evolution:
    """Sizes of the paper.

    Attributes:
        batches: validation batches a cell is scored on; None is the whole half.
    """

    population: int = 50
    generations: int = 20
    parents: int = 10
    mutation: float = 0.1
    batches: int | None = None

    def __post_init__(self) -> None:
        if min(self.population, self.generations, self.parents) < 1 or not 0 <= self.mutation <= 1:
            raise ValueError(f"expected sizes of at least 1 and a mutation in [0, 1], got {self}")


@dataclass(frozen=True)
class Settings:
    """Evolution of the paper, weights of random search with weight sharing.

    Attributes:
        batch_size: None uses the benchmark's.
    """

    weights: WeightSettings = field(default_factory=lambda: WeightSettings(clip=0.25))
    evolution: Evolution = field(default_factory=Evolution)
    batch_size: int | None = 64


def policy(settings: Settings) -> DataPolicy:
    return weights_only(settings.batch_size)


def build(settings: Settings, resources: Resources) -> Paths:
    """Return the searcher."""

    def end_epoch(searcher: Paths, epoch: int) -> Logits | None:
        return evolve(searcher, settings.evolution) if epoch == resources.horizon.epochs - 1 else None

    recipe = PathRecipe("single path one-shot has no architecture logits", policy(settings), end_epoch)
    return Paths(recipe, settings.weights, resources)


def evolve(searcher: Paths, settings: Evolution) -> Logits:
    """Return the best cell that evolution finds for each replica, as scores."""
    network, resources = searcher.supernet, searcher.resources
    members = [searcher.uniform("population", i) for i in range(settings.population)]
    seen, fitness = members[:0], np.zeros((resources.replicas, 0))
    for generation in range(settings.generations):
        fitness = np.concatenate([fitness, accuracies(network, resources, members, settings.batches)], 1)
        seen = [*seen, *members]
        parents, fitness = best(seen, fitness, settings.parents)
        members = children(searcher, parents, settings, generation) if generation + 1 < settings.generations else []
        seen = parents
    return as_scores(seen[0], next(iter(searcher.parameters.values())))


def best(
    cells: list[KHot], fitness: Float[np.ndarray, "replicas candidates"], count: int
) -> tuple[list[KHot], Float[np.ndarray, "replicas kept"]]:
    """Return the best distinct cells of each replica, best first, and their fitness; too few of them repeat."""
    order = np.argsort(-fitness, axis=1, kind="stable")
    chosen = np.stack([_distinct(cells, replica, places, count) for replica, places in enumerate(order)])
    return [gather(cells, places) for places in chosen.T], np.take_along_axis(fitness, chosen, 1)


def _distinct(cells: list[KHot], replica: int, places: np.ndarray, count: int) -> np.ndarray:
    found: dict[bytes, int] = {}
    for place in places:
        found.setdefault(b"".join(values[:, replica].tobytes() for values in cells[place].values()), int(place))
    return np.resize(list(found.values())[:count], count)


def children(searcher: Paths, parents: list[KHot], settings: Evolution, generation: int) -> list[KHot]:
    """Return the next population: the first half by crossover, the rest by mutation."""
    streams = searcher.resources.stream("children", generation)
    groups, size, crossed = searcher.supernet.groups, settings.population, settings.population // 2
    pairs = np.stack([torch.randint(len(parents), (size, 2), generator=s).numpy() for s in streams], 1)
    rows = sum(group.decisions for group in groups)
    coins = np.stack([torch.rand((size, rows), generator=s, dtype=torch.float64).numpy() for s in streams], 1)
    fresh = sample_cells(groups, streams, size)
    cut = np.cumsum([group.decisions for group in groups])[:-1]
    made = []
    for i, (pair, coin) in enumerate(zip(pairs, coins, strict=True)):
        one, other = (gather(parents, places) for places in pair.T)
        other = other if i < crossed else {name: values[[i]] for name, values in fresh.items()}
        taken = dict(zip(fresh, np.split(coin < (0.5 if i < crossed else settings.mutation), cut, 1), strict=True))
        made.append({name: np.where(taken[name][None, :, :, None], other[name], one[name]) for name in fresh})
    return made


def evaluated(settings: Settings, extent: Extent) -> tuple[Passes, ...]:
    """Return the cost of all populations."""
    sizes = settings.evolution
    batches = extent.batches if sizes.batches is None else sizes.batches
    return (Passes(sizes.population * sizes.generations * batches * FORWARD, extent.evaluation, DISCRETE),)


METHOD = Method(
    "spos",
    Settings,
    build,
    "Guo et al. (2020), Single Path One-Shot Neural Architecture Search with Uniform Sampling",
    passes_per_step=0.5,
    policy=policy,
    evaluated=evaluated,
)
