"""Many cells at once: scores to encoding numbers, encoding numbers to columns of a table.

An encoding is numbered as `Space.cells` enumerates it: a digit a decision, the subset it keeps. What the table says
about an encoding is looked up once, when it is first asked for, and kept in arrays; after that a query of hundreds of
cells is an index operation.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from bench.spaces.base import Genotype, Space
from bench.tables.table import Table, TableEntry
from searchers.base import Group

Codes = Int[np.ndarray, " replicas"]


class Numbering:
    """Encodings of a space as whole numbers."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)
        self._kept = {g.name: list(itertools.combinations(range(g.shape[1]), g.keep)) for g in groups}
        self._rank = {g.name: _ranks(self._kept[g.name], g.shape[1]) for g in groups}

    def codes(self, scores: Mapping[str, Float[np.ndarray, "replicas _ _"]]) -> Codes:
        """Return the number of every cell: the highest scores are kept, ties go to the lowest index.

        Raises:
            ValueError: a score is not finite.
        """
        code: Codes = np.zeros(len(next(iter(scores.values()))), dtype=np.int64)
        for group in self.groups:
            values = scores[group.name]
            if not np.isfinite(values).all():
                raise ValueError(f"expected finite scores for group {group.name!r}, got others")
            order = np.argsort(-values, axis=-1, kind="stable")[..., : group.keep]
            digits = self._rank[group.name][(1 << order).sum(-1)]
            for digit in digits.T:
                code = code * len(self._kept[group.name]) + digit
        return code

    def genotype(self, code: int) -> Genotype:
        """Return the cell of a number."""
        picks: list[tuple[str, tuple[tuple[int, ...], ...]]] = []
        for group in reversed(self.groups):
            kept, rows = self._kept[group.name], []
            for _ in range(group.decisions):
                code, digit = divmod(code, len(kept))
                rows.append(kept[digit])
            picks.append((group.name, tuple(reversed(rows))))
        return Genotype(tuple(reversed(picks)))


class Lookup:
    """Validation accuracies and training times of encodings at some budgets; the report budget has its own entries.

    Attributes:
        budgets: training epochs whose accuracies are looked up, ascending.
    """

    def __init__(self, space: Space, tables: Mapping[int, Table], report: Table) -> None:
        self.space, self.numbering, self.report = space, Numbering(space.groups), report
        self.budgets = tuple(sorted(tables))
        self._tables = {**tables, report.budget: report}
        size = space.size()
        self._seen = np.zeros(size, dtype=bool)
        self._entries: dict[int, TableEntry | None] = {}
        self._runs = {budget: np.full((size, 1), np.nan) for budget in self._tables}
        self._cost = {budget: np.full(size, np.nan) for budget in self._tables}

    def fitness(self, codes: Codes, budget: int, draws: Float[np.ndarray, " replicas"]) -> Float[np.ndarray, " _"]:
        """Return the validation accuracy of one stored run of each cell, chosen by a number in [0, 1); NaN: a miss."""
        self._fill(codes)
        runs = self._runs[budget][codes]
        count = (~np.isnan(runs)).sum(1)
        return runs[np.arange(len(codes)), (draws * count).astype(np.int64)]

    def mean(self, codes: Codes, budget: int) -> Float[np.ndarray, " replicas"]:
        """Return the mean validation accuracy over the stored runs; NaN: a miss."""
        self._fill(codes)
        runs = self._runs[budget][codes]
        known = ~np.isnan(runs)
        with np.errstate(invalid="ignore"):
            return np.where(known, runs, 0.0).sum(1) / known.sum(1)

    def cost_s(self, codes: Codes, budget: int) -> Float[np.ndarray, " replicas"]:
        """Return the seconds of a training; NaN: a miss, or the table has no times."""
        self._fill(codes)
        return self._cost[budget][codes]

    def entry(self, code: int) -> TableEntry | None:
        """Return what the table says about a cell at the report budget."""
        if code not in self._entries:
            self._entries[code] = self.report.query(self.key(code))
        return self._entries[code]

    @property
    def timed(self) -> bool:
        """Return whether any cell looked up so far has a training time."""
        return any(bool(np.isfinite(values).any()) for values in self._cost.values())

    def key(self, code: int) -> str:
        return self.space.key(self.numbering.genotype(code))

    def _fill(self, codes: Codes) -> None:
        for code in np.unique(codes[~self._seen[codes]]).tolist():
            key = self.key(code)
            entries = {budget: table.query(key) for budget, table in self._tables.items()}
            for budget, entry in entries.items():
                if entry is not None:
                    self._store(code, budget, entry.val)
                    self._cost[budget][code] = _cost_s(entry, entries[self.report.budget])
            self._seen[code] = True

    def _store(self, code: int, budget: int, runs: tuple[float, ...]) -> None:
        missing = len(runs) - self._runs[budget].shape[1]
        if missing > 0:
            self._runs[budget] = np.pad(self._runs[budget], ((0, 0), (0, missing)), constant_values=np.nan)
        self._runs[budget][code, : len(runs)] = runs


def _cost_s(entry: TableEntry, whole: TableEntry | None) -> float:
    """Return the stored seconds of a training, else those of the whole training scaled by epochs."""
    if entry.train_time_s is not None:
        return entry.train_time_s
    if whole is None or whole.train_time_s is None:
        return np.nan
    return whole.train_time_s * entry.budget / whole.budget


def _ranks(kept: Sequence[tuple[int, ...]], options: int) -> Int[np.ndarray, " masks"]:
    """Return the position of a subset, given as a bit mask, in the list of subsets."""
    ranks = np.full(1 << options, -1)
    for rank, columns in enumerate(kept):
        ranks[sum(1 << column for column in columns)] = rank
    return ranks
