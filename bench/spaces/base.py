"""What a search space is: groups of decisions, a supernet, and the identity of a discretised cell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from bench.supernet.common import NetworkSize
from searchers.base import Choices, Group, Scores, Supernet, SupernetOptions


@dataclass(frozen=True)
class Genotype:
    """A discretised cell: for every group, the kept options of each decision in ascending order."""

    picks: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...]

    def __getitem__(self, group: str) -> tuple[tuple[int, ...], ...]:
        return dict(self.picks)[group]


@runtime_checkable
class Space(Protocol):
    """A tabular search space."""

    @property
    def name(self) -> str: ...

    @property
    def groups(self) -> tuple[Group, ...]: ...

    @property
    def published(self) -> NetworkSize: ...

    def supernet(self, size: NetworkSize, replicas: int, options: SupernetOptions) -> Supernet:
        """Return a network with undrawn weights."""
        ...

    def key(self, genotype: Genotype) -> str:
        """Return the key of a cell into the benchmark table."""
        ...

    def structure(self, genotype: Genotype) -> str:
        """Return a name that cells share only if they are one network; the key, or coarser."""
        ...

    def describe(self, genotype: Genotype) -> str:
        """Return the cell in the notation of the space's authors."""
        ...

    def cells(self) -> Iterator[Genotype]:
        """Enumerate every encoding; several may have one key."""
        ...

    def size(self) -> int:
        """Return the number of encodings."""
        ...

    def multiplicities(self) -> dict[str, int]:
        """Return the number of encodings of every key."""
        ...


def discretise(groups: Sequence[Group], scores: Scores) -> Genotype:
    """Keep the highest-scoring options of every decision; ties go to the lowest index.

    Raises:
        ValueError: a score is not finite.
    """
    picks = []
    for group in groups:
        values = np.asarray(scores[group.name], dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"expected finite scores for group {group.name!r}, got {values.tolist()}")
        order = np.argsort(-values, axis=1, kind="stable")[:, : group.keep]
        picks.append((group.name, tuple(tuple(int(i) for i in sorted(row)) for row in order)))
    return Genotype(tuple(picks))


def k_hot(groups: Sequence[Group], genotype: Genotype) -> dict[str, np.ndarray]:
    """Return the cell as 0/1 scores; `discretise` gives it back."""
    scores = {}
    for group in groups:
        values = np.zeros(group.shape)
        for decision, kept in enumerate(genotype[group.name]):
            values[decision, list(kept)] = 1.0
        scores[group.name] = values
    return scores


def discrete_choices(groups: Sequence[Group], genotypes: Sequence[Genotype], like: torch.Tensor) -> Choices:
    """Return choices that compute one discrete cell a replica and nothing else, in the type and place of `like`."""
    hot = [k_hot(groups, genotype) for genotype in genotypes]
    stacked: Mapping[str, np.ndarray] = {g.name: np.stack([h[g.name] for h in hot])[None] for g in groups}
    weights = {name: torch.as_tensor(v, dtype=like.dtype, device=like.device) for name, v in stacked.items()}
    return Choices(weights, {name: values > 0 for name, values in stacked.items()})
