"""Table-only methods of a command, one after another: search, records, closing tables."""

import dataclasses
import logging
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench import place, setup, store, tabular, tabular_setup
from bench.lock import Held, locked
from bench.metrics.cell import Truth
from bench.tables.lookup import Lookup
from bench.tabular import Judge, TabularRecords, TabularSpec, TabularTiming
from bench.tabular_setup import TabularBench
from bench.tabular_summary import closing_tables, reference_rows
from searchers.entry import TableMethod

log = logging.getLogger(__name__)

FOLDER = "tabular"
OPTIONAL = ("optuna",)


def run(console: Console, bench: TabularBench) -> list[str]:
    """Search with every method that has not finished before; return the names of those that failed."""
    searches, left_out = tabular_setup.plan(bench)
    _announce(console, bench, left_out)
    if bench.request.dry_run:
        for _, spec in searches:
            console.print(f"{spec.name}  {len(spec.seeds)} repetitions", highlight=False, soft_wrap=True)
        return []
    results, lookup, failed = bench.request.results / FOLDER, tabular_setup.lookup(bench), []
    for method, spec in searches:
        if not bench.request.fresh and store.finished(results, spec):
            console.print(f"{spec.name}: finished before", highlight=False, soft_wrap=True)
            continue
        if not _search(console, bench, (method, spec), lookup, results):
            failed.append(spec.name)
    for rows in closing_tables(bench, results, [spec for _, spec in searches]):
        console.print(rows)
    return failed


def _search(
    console: Console, bench: TabularBench, search: tuple[TableMethod, TabularSpec], lookup: Lookup, results: Path
) -> bool:
    """Search and record; return whether it went well."""
    method, spec = search
    kept = store.Store(results, (spec,))
    start = time.perf_counter()
    try:
        with locked(results, [spec.name]):
            kept.create(_environment(spec), facts(bench))
            history = tabular.search(method, spec, lookup)
            found = tabular.records(spec, history, lookup, Judge(bench.reference, bench.elsewhere))
            _keep(kept, found, TabularTiming(time.perf_counter() - start, int(history.counted.sum())))
    except Held as held:
        log.error("refused: %s", held)
        return False
    except Exception as error:
        kept.fail(traceback.format_exc())
        log.error("failed: %s: %s: %s (see error.txt in its folder)", spec.name, type(error).__name__, error)
        return False
    label = f"{spec.space} {spec.dataset} {spec.method}: {len(spec.seeds)} repetitions"
    seconds = time.perf_counter() - start
    console.print(f"{label}, {history.counted.sum():,} queries, {seconds:.1f} s", highlight=False, soft_wrap=True)
    return True


def _keep(kept: store.Store, found: TabularRecords, timing: TabularTiming) -> None:
    kept.append([found], timing)
    kept.finish()


def _environment(spec: TabularSpec) -> dict[str, Any]:
    """Return what the records depend on beside the specification; optional libraries too."""
    found = place.environment(torch.device("cpu"), spec.seeds)
    installed = {name: _version(name) for name in OPTIONAL}
    return {**found, "versions": {**found["versions"], **installed}}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def facts(bench: TabularBench) -> dict[str, Any]:
    """Return what a search records of its table."""
    known = setup.table_facts(Truth(bench.report, bench.reference)) or {}
    rows = {name: {"val": val, "test": test} for name, (val, test) in reference_rows(bench).items()}
    return {**known, "typical": dataclasses.asdict(bench.report.typical()), "rows_of_reference": rows}


def _announce(console: Console, bench: TabularBench, left_out: dict[str, str]) -> None:
    facts_ = bench.reference
    covered = "unknown" if facts_.coverage is None else f"{facts_.coverage:.1%}"
    lines = [
        f"table search on {facts_.space}, {facts_.dataset}: {facts_.rows} cells ({covered} of all encodings), "
        f"{facts_.source}; fitness after {bench.fitness_budget} epochs, accuracies after {facts_.budget}",
        *(f"{name} is left out: {reason}" for name, reason in left_out.items()),
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
