"""Small tables for the tests of table-only search, and methods started on them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import spaces
from bench.tables.arrow import load, write
from bench.tables.lookup import Lookup
from bench.tables.synthetic import write_synthetic
from bench.tables.table import Table
from bench.tabular import Draws, History, TabularSpec, search
from searchers.entry import TableMethod
from searchers.tabular.base import Query, TableSearcher
from searchers.tabular.registry import TABLE_METHODS

BUDGETS = (4, 12, 36, 108)

Fitness = Callable[[Query], np.ndarray]


def synthetic(folder: Path, space: str = "toy", without: Sequence[str] = ()) -> Path:
    """A synthetic table; the keys in `without` are left out."""
    path = write_synthetic(folder / f"{space}.arrow", spaces.get(space), BUDGETS)
    if without:
        data = load(path)
        rows = [row for row, key in enumerate(data.keys) if key not in without]
        measurements = {s: dataclasses.replace(m, values=m.values[rows]) for s, m in data.measurements.items()}
        write(
            path,
            dataclasses.replace(
                data,
                keys=tuple(data.keys[row] for row in rows),
                cells=tuple(data.cells[row] for row in rows),
                multiplicities=data.multiplicities[rows],
                measurements=measurements,
                scalars={name: values[rows] for name, values in data.scalars.items()},
            ),
        )
    return path


def lookup(path: Path, space: str = "toy", budgets: Sequence[int] = BUDGETS) -> Lookup:
    tables = {budget: Table.open(path, "synthetic", budget) for budget in budgets}
    return Lookup(spaces.get(space), tables, tables[max(budgets)])


def spec(method: TableMethod, seeds: Sequence[int], **changes: Any) -> TabularSpec:
    """A search of 60 queries on the synthetic table of toy."""
    given: Mapping[str, Any] = {
        "space": "toy",
        "dataset": "synthetic",
        "method": method.name,
        "settings": method.settings(),
        "seeds": tuple(seeds),
        "queries": 60,
        "budget_s": None,
        "budgets": BUDGETS if method.budgets else BUDGETS[-1:],
        "fitness": "run",
        "table": "digest",
        "budget": BUDGETS[-1],
    }
    return TabularSpec(**{**given, **changes})


def searched(name: str, found: Lookup, seeds: Sequence[int] = (0, 1, 2), **changes: Any) -> History:
    method = TABLE_METHODS[name]
    return search(method, spec(method, seeds, **changes), found)


def start(name: str, space: str, seeds: Sequence[int], settings: Any = None) -> TableSearcher:
    method = TABLE_METHODS[name]
    budgets = BUDGETS if method.budgets else BUDGETS[-1:]
    draws = Draws(spaces.get(space).groups, tuple(seeds), budgets)
    return method.build(method.settings() if settings is None else settings, draws)


def drive(searcher: TableSearcher, fitness: Fitness, queries: int) -> list[Query]:
    """Ask and tell; the queries, copied."""
    asked = []
    for _ in range(queries):
        query = searcher.ask()
        asked.append(Query({name: values.copy() for name, values in query.scores.items()}, query.budget))
        value = fitness(query)
        searcher.tell(value, np.ones_like(value))
    return asked


def picks(query: Query) -> np.ndarray:
    """The option of every decision of nb201 that is kept, `replicas decisions`."""
    return query.scores["op"].argmax(-1)


def additive(query: Query) -> np.ndarray:
    """A fitness in [0, 1] of nb201 with one optimum and no plateau."""
    return (picks(query) * np.arange(1, 7)).sum(1) / 84
