"""From a request to searches of a table: methods, tables, budgets, specifications.

The published protocols of table-only search stand here. NAS-Bench-201: fitness after 12 epochs, result after 200,
simulated seconds of Dong et al. (2021), NATS-Bench. NAS-Bench-1Shot1: fitness at 108 epochs, 280 queries, settings of
its scripts. Any other table: fitness and result at its largest budget, 280 queries.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import spaces
from bench.choice import find_table, given_table
from bench.request import Request
from bench.spaces.base import Space
from bench.spec import replace_settings
from bench.tables.arrow import budgets, mapped
from bench.tables.lookup import Lookup
from bench.tables.table import Reference, Table
from bench.tabular import TabularSpec
from searchers.entry import TableMethod
from searchers.tabular.registry import TABLE_METHODS

ALL = "tabular"
QUERIES = 280
BUDGET_S = {"cifar10": 20_000.0, "cifar100": 40_000.0, "imagenet16": 120_000.0}
FITNESS_BUDGET_NB201 = 12

# Scripts of NAS-Bench-1Shot1.
_ONE_SHOT: Mapping[str, Mapping[str, Any]] = {
    "regularized_evolution": {"population": 100, "sample": 10, "identity": 1 / 3},
    "reinforce": {"optimiser": "sgd", "lr": 0.1},
}
# NATS-Bench; its budgets are about 180 queries.
_NB201: Mapping[str, Mapping[str, Any]] = {
    "bohb": {"samples": 4, "random_fraction": 0.0},
    "l2nas": {"exploration": 90},
}
SETTINGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "nb201": _NB201,
    "s1": _ONE_SHOT,
    "s2": _ONE_SHOT,
    "s3": _ONE_SHOT,
}


@dataclass(frozen=True)
class TabularBench:
    """A space with its table, ready to be searched.

    Attributes:
        reference: of the report budget.
        fitness_budget: training epochs of the fitness of methods that ask for one budget.
        timed: whether the table has training times.
        elsewhere: the tables of the other datasets of the same file at the report budget.
    """

    request: Request
    space: Space
    path: Path
    report: Table
    reference: Reference
    stored: tuple[int, ...]
    fitness_budget: int
    timed: bool
    elsewhere: Mapping[str, Table]


def split(request: Request) -> tuple[Request | None, Request | None]:
    """Return what is asked of supernet methods and of table-only methods, None where nothing is."""
    wanted = [name for name in request.methods if name == ALL or name in TABLE_METHODS]
    names = tuple(TABLE_METHODS) if ALL in wanted else tuple(wanted)
    rest = tuple(name for name in request.methods if name not in wanted)
    changes = {name: inner for name, inner in request.set.items() if name in TABLE_METHODS}
    others = {name: inner for name, inner in request.set.items() if name not in TABLE_METHODS}
    unused = sorted(set(changes) - set(names))
    if unused:
        raise ValueError(f"expected --set for one of {', '.join(request.methods)}, got {', '.join(unused)}")
    if names and not rest and others:
        raise ValueError(f"expected --set for one of {', '.join(names)}, got {', '.join(sorted(others))}")
    budgets = {"queries": request.queries, "budget-s": request.budget_s, "fitness-budget": request.fitness_budget}
    idle = [f"--{name}" for name, value in budgets.items() if value is not None]
    if idle and not names:
        raise ValueError(
            f"expected a table-only method ({', '.join(TABLE_METHODS)}) for {', '.join(idle)}, "
            f"got {', '.join(rest)}: leave {'them' if len(idle) > 1 else 'it'} out"
        )
    searches = dataclasses.replace(request, methods=rest, set=others) if rest else None
    return searches, dataclasses.replace(request, methods=names, set=changes) if names else None


def prepare(request: Request) -> TabularBench:
    """Find the table and decide the budgets.

    Raises:
        ValueError: what was asked for does not exist; the message says what to do.
    """
    space = spaces.get(request.space)
    path, dataset = _table(request, space)
    report = Table.open(path, dataset, request.budget)
    if report.space != space.name:
        raise ValueError(f"expected a table of the space {space.name}, got {path}, which is of {report.space}")
    every = budgets(mapped(path)[1])
    stored = tuple(sorted(budget for budget in every[dataset] if budget <= report.budget))
    fitness_budget = _fitness_budget(request, space, stored)
    others = [name for name in sorted(every) if name != dataset and report.budget in every[name]]
    elsewhere = {name: Table.open(path, name, report.budget) for name in others}
    reference = report.reference()
    timed = _timed(report, reference)
    if request.budget_s is not None and not timed:
        raise ValueError(f"expected --queries: {path.name} has no training times to spend --budget-s on")
    return TabularBench(request, space, path, report, reference, stored, fitness_budget, timed, elsewhere)


def _table(request: Request, space: Space) -> tuple[Path, str]:
    embedded = request.benchmark == "embedded" or space.name == "toy"
    names = [request.dataset] if request.dataset else ["digits"] if embedded else ["cifar10", "digits"]
    if request.benchmark == "paper":
        names = names[:1]
    if request.table == "none":
        raise ValueError("expected a table for table-only methods, got --table none")
    if request.table is not None:
        path = given_table(request.table, space)
        stored = budgets(mapped(path)[1])
        return path, next((name for name in names if name in stored), names[0])
    for name in names:
        if (found := find_table(space, name)) is not None:
            return found, name
    raise ValueError(
        f"expected a benchmark table of {space.name} on {' or '.join(names)}, found none; name one with --table FILE, "
        "or the folder that holds it with NAS_STABILITY_DATA"
    )


def _fitness_budget(request: Request, space: Space, stored: tuple[int, ...]) -> int:
    if request.fitness_budget is not None:
        if request.fitness_budget not in stored:
            raise ValueError(f"expected --fitness-budget out of {stored}, got {request.fitness_budget}")
        return request.fitness_budget
    return FITNESS_BUDGET_NB201 if space.name == "nb201" and FITNESS_BUDGET_NB201 in stored else stored[-1]


def _timed(report: Table, reference: Reference) -> bool:
    entry = report.query(reference.optimum_val_keys[0])
    return entry is not None and entry.train_time_s is not None


def plan(bench: TabularBench) -> tuple[list[tuple[TableMethod, TabularSpec]], dict[str, str]]:
    """Return the searches, and why a method of `--methods tabular` is left out.

    Raises:
        ValueError: a method asked for by name cannot search this table.
    """
    request = bench.request
    found, left_out = [], {}
    for name in request.methods:
        method = TABLE_METHODS[name]
        spec = _spec(bench, method)
        reason = method.unfit(spec.settings, spec.budgets)
        if reason is None:
            found.append((method, spec))
        elif len(request.methods) == len(TABLE_METHODS):
            left_out[name] = reason
        else:
            raise ValueError(f"{name} cannot search this table: {reason}")
    return found, left_out


def _spec(bench: TabularBench, method: TableMethod) -> TabularSpec:
    request = bench.request
    settings = replace_settings(method.settings(), SETTINGS.get(bench.space.name, {}).get(method.name, {}))
    settings = replace_settings(settings, request.set.get(method.name, {}))
    budget_s = request.budget_s
    published = bench.space.name == "nb201" and bench.timed and bench.fitness_budget == FITNESS_BUDGET_NB201
    if request.queries is None and budget_s is None and published:
        budget_s = BUDGET_S.get(bench.report.dataset)
    return TabularSpec(
        space=bench.space.name,
        dataset=bench.report.dataset,
        method=method.name,
        settings=settings,
        seeds=request.seeds or tuple(range(method.repetitions)),
        queries=QUERIES if request.queries is None and budget_s is None else request.queries,
        budget_s=budget_s,
        budgets=bench.stored if method.budgets else (bench.fitness_budget,),
        fitness="run",
        table=bench.reference.digest,
        budget=bench.report.budget,
    )


def lookup(bench: TabularBench) -> Lookup:
    """Return the table's columns at every budget a method may ask for."""
    tables = {budget: Table.open(bench.path, bench.report.dataset, budget) for budget in bench.stored}
    return Lookup(bench.space, tables, bench.report)
