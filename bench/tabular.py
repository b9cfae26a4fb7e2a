"""Searching a table: the loop that all repetitions of a table-only method share.

Repetitions are a stack: one query is one cell of each of them, looked up at once. A repetition ends with its last query
that fits its budget, of queries or of simulated seconds; what the method asks after that is not counted. The result of
a repetition is its incumbent: the best fitness at the largest budget it has seen, the first of equals. Test accuracies
are looked up when the search is over.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from bench.metrics.cell import ENTRY_FIELDS
from bench.record import plain
from bench.rng import numpy_stream
from bench.spec import Signed
from bench.tables.lookup import Lookup
from bench.tables.table import Reference, Table
from searchers.base import Group
from searchers.entry import TableMethod
from searchers.tabular.base import TableSearcher

BLOCK_STEPS, BLOCK_NUMBERS = 64, 4096
QUERY_LIMIT = 10_000


@dataclass(frozen=True)
class TabularSpec(Signed):
    """Everything that decides the records of one method's repetitions.

    Attributes:
        queries: cells a repetition may ask for; None: as many as fit `budget_s`.
        budget_s: simulated seconds of training a repetition may spend; None: no bound.
        budgets: training epochs of the fitness that the method may ask for.
        fitness: "run": one stored run, drawn for each query; "mean": the mean over the stored runs.
        table: content digest of the benchmark table.
        budget: training epochs of the accuracies that are reported.
    """

    space: str
    dataset: str
    method: str
    settings: Any
    seeds: tuple[int, ...]
    queries: int | None
    budget_s: float | None
    budgets: tuple[int, ...]
    fitness: Literal["run", "mean"]
    table: str
    budget: int

    @property
    def name(self) -> str:
        return f"{self.space}-{self.dataset}-{self.method}-{self.signature}"


@dataclass(frozen=True)
class Draws:
    """The resources of a table-only method: random numbers of many seeds, drawn in blocks of steps and read-only."""

    groups: tuple[Group, ...]
    seeds: tuple[int, ...]
    budgets: tuple[int, ...]
    _blocks: dict[tuple[str, int], tuple[int, np.ndarray]] = field(default_factory=dict)

    @property
    def replicas(self) -> int:
        return len(self.seeds)

    def uniform(self, name: str, step: int, size: int) -> Float[np.ndarray, "replicas size"]:
        steps = max(1, min(BLOCK_STEPS, BLOCK_NUMBERS // size))
        number, place = divmod(step, steps)
        held, block = self._blocks.get((name, size), (-1, np.empty(0)))
        if held != number:
            drawn = [numpy_stream(seed, f"{name}/{size}", number).random((steps, size)) for seed in self.seeds]
            block = np.stack(drawn, 1)
            block.setflags(write=False)
            self._blocks[name, size] = number, block
        return block[place]


@dataclass(frozen=True)
class History:
    """Every query of every repetition.

    Attributes:
        counted: whether the query fitted the repetition's budget.
        cost_s: simulated seconds; 0 for a miss, and where the table has no times.
    """

    codes: Int[np.ndarray, "queries replicas"]
    budget: Int[np.ndarray, " queries"]
    fitness: Float[np.ndarray, "queries replicas"]
    cost_s: Float[np.ndarray, "queries replicas"]
    counted: Bool[np.ndarray, "queries replicas"]

    def incumbents(self) -> Bool[np.ndarray, "queries replicas"]:
        """Return where a query became the incumbent of its repetition."""
        score = np.where(self.counted & ~np.isnan(self.fitness), self.fitness + 2.0 * self.budget[:, None], -np.inf)
        best = np.maximum.accumulate(score, 0)
        before = np.concatenate([np.full((1, score.shape[1]), -np.inf), best[:-1]])
        return score > before


@dataclass(frozen=True)
class TabularRecords:
    """One record a repetition; the schema is in results/README.md."""

    rows: tuple[dict[str, Any], ...]

    def line(self) -> str:
        """Return one line of JSON a repetition."""
        return "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in self.rows)


@dataclass(frozen=True)
class TabularTiming:
    """What a search cost in real time."""

    wall_s: float
    queries: int

    def line(self) -> str:
        return json.dumps(dataclasses.asdict(self), allow_nan=False) + "\n"


def search(method: TableMethod, spec: TabularSpec, lookup: Lookup) -> History:
    """Search all repetitions of a method until none has budget left."""
    resources = Draws(lookup.space.groups, spec.seeds, spec.budgets)
    searcher = method.build(spec.settings, resources)
    steps: list[tuple[np.ndarray, int, np.ndarray, np.ndarray]] = []
    spent = np.zeros(len(spec.seeds))
    limit = QUERY_LIMIT if spec.queries is None else spec.queries
    while len(steps) < limit and (spec.budget_s is None or (spent <= spec.budget_s).any()):
        steps.append(_query(searcher, resources, spec, lookup, len(steps)))
        spent += steps[-1][3]
    codes, budgets, fitness, cost_s = zip(*steps, strict=True)
    costs = np.stack(cost_s)
    counted = np.cumsum(costs, 0) <= (np.inf if spec.budget_s is None else spec.budget_s)
    return History(np.stack(codes), np.array(budgets), np.stack(fitness), costs, counted)


def _query(
    searcher: TableSearcher, resources: Draws, spec: TabularSpec, lookup: Lookup, step: int
) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    query = searcher.ask()
    if query.budget not in spec.budgets:
        raise ValueError(f"expected {spec.method} to ask for a budget out of {spec.budgets}, got {query.budget}")
    codes = lookup.numbering.codes(query.scores)
    if spec.fitness == "run":
        fitness = lookup.fitness(codes, query.budget, resources.uniform("stored run", step, 1)[:, 0])
    else:
        fitness = lookup.mean(codes, query.budget)
    cost_s = np.nan_to_num(lookup.cost_s(codes, query.budget))
    searcher.tell(fitness.copy(), cost_s.copy())
    return codes, query.budget, fitness, cost_s


@dataclass(frozen=True)
class Judge:
    """What the cells found are worth: known after a search, never to it.

    Attributes:
        elsewhere: tables of the other datasets at the report budget.
    """

    reference: Reference
    elsewhere: Mapping[str, Table]


def records(spec: TabularSpec, history: History, lookup: Lookup, judge: Judge) -> TabularRecords:
    """Return what every repetition found, with its incumbents against simulated time."""
    changes, elapsed = history.incumbents(), np.cumsum(history.cost_s, 0)
    rows = []
    for replica, seed in enumerate(spec.seeds):
        counted = history.counted[:, replica]
        at = np.flatnonzero(changes[:, replica])
        row = {
            "seed": seed,
            "queries": int(counted.sum()),
            "misses": int((counted & np.isnan(history.fitness[:, replica])).sum()),
            "simulated_s": float(history.cost_s[counted, replica].sum()) if lookup.timed else None,
            **_result(history.codes[at[-1:], replica].tolist(), lookup, judge),
            "curve": _curve(history, replica, at, elapsed if lookup.timed else None, lookup),
        }
        rows.append(row)
    return TabularRecords(tuple(rows))


def _result(last: Sequence[int], lookup: Lookup, judge: Judge) -> dict[str, Any]:
    """Return the cell of the last incumbent and its accuracies at the report budget."""
    if not last:
        empty = dict.fromkeys(("genotype", "key", "table", "miss", "regret_val", "regret_test", "elsewhere"))
        return {**empty, "no_genotype": "no cell that was asked for is in the table"}
    found = {"genotype": lookup.space.describe(lookup.numbering.genotype(last[0])), "key": lookup.key(last[0])}
    entry = lookup.entry(last[0])
    if entry is None:
        rest: dict[str, Any] = {"table": None, "miss": True, "regret_val": None, "regret_test": None}
    else:
        values = dataclasses.asdict(entry)
        rest = {
            "table": {name: values[name] for name in ENTRY_FIELDS},
            "miss": False,
            "regret_val": judge.reference.optimum_val - entry.val_mean,
            "regret_test": judge.reference.optimum_test - entry.test_mean,
        }
    others = {name: table.query(found["key"]) for name, table in judge.elsewhere.items()}
    rest["elsewhere"] = {n: e and {"val_mean": e.val_mean, "test_mean": e.test_mean} for n, e in others.items()}
    return {**found, "no_genotype": None, **rest}


def _curve(
    history: History, replica: int, at: np.ndarray, elapsed: np.ndarray | None, lookup: Lookup
) -> dict[str, Any]:
    """Return the incumbents: when each was found, and what it is worth at the report budget."""
    entries = [lookup.entry(code) for code in history.codes[at, replica].tolist()]
    return {
        "query": (at + 1).tolist(),
        "simulated_s": None if elapsed is None else elapsed[at, replica].tolist(),
        "budget": history.budget[at].tolist(),
        "fitness": history.fitness[at, replica].tolist(),
        "val_mean": [None if entry is None else entry.val_mean for entry in entries],
        "test_mean": [None if entry is None else entry.test_mean for entry in entries],
    }
