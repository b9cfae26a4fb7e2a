"""The closing tables of table-only search: a row a method, reference rows, published figures where there are any."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table as Rows

from bench.spaces.trivial import trivial_cells
from bench.tables.table import TableEntry
from bench.tabular import TabularSpec
from bench.tabular_setup import TabularBench


class Published(NamedTuple):
    """Test accuracy of a published table, mean and standard deviation over 500 repetitions, fractions."""

    mean: float
    std: float
    budget_s: float


# Dong and Yang (2020), NAS-Bench-201: 12,000 s on CIFAR-10, the cell found is then trained on the other datasets.
NB201: Mapping[tuple[str, str], Published] = {
    ("regularized_evolution", "cifar10"): Published(0.9392, 0.0030, 12_000),
    ("regularized_evolution", "cifar100"): Published(0.7184, 0.0099, 12_000),
    ("regularized_evolution", "imagenet16"): Published(0.4554, 0.0103, 12_000),
    ("random_search", "cifar10"): Published(0.9370, 0.0036, 12_000),
    ("random_search", "cifar100"): Published(0.7104, 0.0107, 12_000),
    ("random_search", "imagenet16"): Published(0.4457, 0.0125, 12_000),
    ("reinforce", "cifar10"): Published(0.9385, 0.0037, 12_000),
    ("reinforce", "cifar100"): Published(0.7171, 0.0109, 12_000),
    ("reinforce", "imagenet16"): Published(0.4524, 0.0118, 12_000),
    ("bohb", "cifar10"): Published(0.9361, 0.0052, 12_000),
    ("bohb", "cifar100"): Published(0.7085, 0.0128, 12_000),
    ("bohb", "imagenet16"): Published(0.4442, 0.0149, 12_000),
}
# Dong et al. (2021), NATS-Bench: 20,000 s on CIFAR-10.
NATS: Mapping[tuple[str, str], Published] = {
    ("regularized_evolution", "cifar10"): Published(0.9402, 0.0031, 20_000),
    ("reinforce", "cifar10"): Published(0.9390, 0.0026, 20_000),
    ("random_search", "cifar10"): Published(0.9386, 0.0023, 20_000),
    ("bohb", "cifar10"): Published(0.9394, 0.0028, 20_000),
}


Found = Sequence[tuple[TabularSpec, list[dict[str, Any]]]]


def closing_tables(bench: TabularBench, results: Path, specs: Sequence[TabularSpec]) -> list[Rows]:
    """Return mean ± std over repetitions of every finished search, and what else is known of the cells found."""
    found = [(spec, records) for spec in specs if (records := _records(results, spec))]
    published = any(_published(spec) for spec, _ in found)
    return [_found(bench, found), *([_beside(bench, found)] if published or bench.elsewhere else [])]


def _found(bench: TabularBench, found: Found) -> Rows:
    facts = bench.reference
    rows = _titled(
        f"Cells found by table search on {facts.space}, {facts.dataset}: mean ± std over repetitions; fitness after "
        f"{bench.fitness_budget} epochs (or several budgets, where a method asks for them), accuracies after "
        f"{facts.budget}",
        ("method", "n", "queries", "val acc", "test acc", "regret", "misses", "simulated s"),
    )
    for spec, records in found:
        rows.add_row(spec.method, *_row(records))
    rows.add_section()
    for name, (val, test) in reference_rows(bench).items():
        regret = None if test is None else bench.reference.optimum_test - test
        cells = ("–" if value is None else f"{value:.4f}" for value in (val, test, regret))
        rows.add_row(name, "", "", *cells, "", "")
    return rows


def _beside(bench: TabularBench, found: Found) -> Rows:
    """Return published test accuracies, and those of the cells found on the file's other datasets."""
    title = "Published test accuracies (500 repetitions; simulated seconds), and the cells found on other datasets"
    rows = _titled(title, ("method", "test acc", "published", *(f"{name} test" for name in bench.elsewhere)))
    for spec, records in found:
        others = [
            [record["elsewhere"][name]["test_mean"] for record in records if (record["elsewhere"] or {}).get(name)]
            for name in bench.elsewhere
        ]
        tests = [record["table"]["test_mean"] for record in records if record["table"]]
        rows.add_row(spec.method, _spread(tests), _published(spec), *map(_spread, others))
    return rows


def _titled(title: str, names: Sequence[str]) -> Rows:
    rows = Rows(title=title, title_justify="left")
    for name in names:
        rows.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    return rows


def _row(found: Sequence[Mapping[str, Any]]) -> list[str]:
    tables = [record["table"] for record in found if record["table"] is not None]
    regrets = [record["regret_test"] for record in found if record["regret_test"] is not None]
    seconds = [record["simulated_s"] for record in found if record["simulated_s"] is not None]
    return [
        str(len(found)),
        f"{statistics.fmean(record['queries'] for record in found):.0f}",
        _spread([table["val_mean"] for table in tables]),
        _spread([table["test_mean"] for table in tables]),
        _spread(regrets),
        f"{statistics.fmean(record['misses'] for record in found):.1f}",
        f"{statistics.fmean(seconds):.0f}" if seconds else "–",
    ]


def _published(spec: TabularSpec) -> str:
    """Return the published figure whose simulated seconds are nearest to those of this search."""
    found = [table[spec.method, spec.dataset] for table in (NB201, NATS) if (spec.method, spec.dataset) in table]
    if not found or spec.space != "nb201":
        return ""
    near = min(found, key=lambda row: abs(row.budget_s - (spec.budget_s or 0)))
    return f"{near.mean:.4f} ± {near.std:.4f} ({near.budget_s:.0f} s)"


def reference_rows(bench: TabularBench) -> dict[str, tuple[float | None, float | None]]:
    """Return validation and test accuracy of the table's landmarks; None where a cell is a miss."""
    facts, typical = bench.reference, bench.report.typical()
    trivial = {
        name: _accuracies(bench.report.query(bench.space.key(cell)))
        for name, cell in trivial_cells(bench.space).items()
    }
    return {
        "random cell (expectation)": (facts.random_cell_val, facts.random_cell_test),
        "mean cell": (typical.mean_val, typical.mean_test),
        "median cell": (typical.median_val, typical.median_test),
        **trivial,
        "optimum": (facts.optimum_val, facts.optimum_test),
    }


def _accuracies(entry: TableEntry | None) -> tuple[float | None, float | None]:
    return (None, None) if entry is None else (entry.val_mean, entry.test_mean)


def _records(results: Path, spec: TabularSpec) -> list[dict[str, Any]]:
    folder = results / "runs" / spec.name
    if not (folder / "finished.json").exists():
        return []
    return [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.4f}"
