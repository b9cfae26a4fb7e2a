"""The closing table of a command: a row a method, with the random cell and the optimum beside them."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table as Rows

from bench.metrics.cell import Truth
from bench.spec import RunSpec


def closing_table(results: Path, runs: Sequence[tuple[str, Sequence[RunSpec]]], truth: Truth | None) -> Rows:
    """Return the rows of finished runs; each item of `runs` is a label and a method's seeds."""
    budget = "no table" if truth is None else f"{truth.reference.budget} epochs, table of {truth.reference.rows} cells"
    rows = Rows(title=f"{_space(runs)}, selected cells: mean ± std over seeds ({budget})", title_justify="left")
    ranked = any(spec.ranking is not None for _, specs in runs for spec in specs)
    names = ("method", "seeds", "val acc", "test acc", "regret", "final λ", "misses", "seconds")
    for name in (*names, *(["τ test"] if ranked else [])):
        rows.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for label, specs in runs:
        rows.add_row(label, *_row(results, specs))
    if truth is not None:
        best = truth.reference
        gap = best.optimum_test - best.random_cell_test
        rows.add_section()
        rows.add_row("random cell", "", f"{best.random_cell_val:.4f}", f"{best.random_cell_test:.4f}", f"{gap:.4f}")
        rows.add_row("optimum", "", f"{best.optimum_val:.4f}", f"{best.optimum_test:.4f}", f"{0:.4f}")
    return rows


def _space(runs: Sequence[tuple[str, Sequence[RunSpec]]]) -> str:
    return next((spec.space for _, specs in runs for spec in specs), "no run")


def _row(results: Path, specs: Sequence[RunSpec]) -> list[str]:
    folders = [results / "runs" / spec.name for spec in specs]
    folders = [folder for folder in folders if (folder / "finished.json").exists()]
    records = [(folder / "records.jsonl").read_bytes().splitlines() for folder in folders]
    seconds = [_seconds(folder / "timing.jsonl") for folder in folders]
    finals = [json.loads(lines[-1]) for lines in records]
    tables = [final["table"] for final in finals if final["table"] is not None]
    curves = [found["lambda_dominant"] for lines in records if (found := _last(lines, "curvature"))]
    return [
        f"{len(folders)}/{len(specs)}",
        _spread([table["val_mean"] for table in tables], ".4f"),
        _spread([table["test_mean"] for table in tables], ".4f"),
        _spread([final["regret_test"] for final in finals if final["regret_test"] is not None], ".4f"),
        _spread([value for value in curves if value is not None], ".3g"),
        _misses(finals),
        _spread(seconds, ".0f"),
        *([_spread(_taus(records), ".3f")] if any(spec.ranking is not None for spec in specs) else []),
    ]


def _misses(finals: Sequence[dict[str, Any]]) -> str:
    """Return how many of the selected cells are not in the table; a dash where no run has a table to look in."""
    looked_up = [final["miss"] for final in finals if final["miss"] is not None]
    return str(sum(looked_up)) if looked_up else "–"


def _taus(records: Sequence[Sequence[bytes]]) -> list[float]:
    """Return Kendall's τ of shared weights and test accuracies after the last epoch, of the runs that have it."""
    found = [_last(lines, "ranking") for lines in records]
    return [ranking["kendall_test"] for ranking in found if ranking and ranking["kendall_test"] is not None]


def _last(lines: Sequence[bytes], field: str) -> dict[str, Any] | None:
    """Return the last value of a field that there is; lines before it are not parsed, which would take most time."""
    return next((value for line in reversed(lines) if (value := json.loads(line)[field])), None)


def _seconds(path: Path) -> float:
    return sum(json.loads(line)["wall_s"] for line in path.read_bytes().splitlines())


def _spread(values: list[float], form: str) -> str:
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):{form}}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):{form}}"
