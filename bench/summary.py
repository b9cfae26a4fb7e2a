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
    rows = Rows(title=f"Selected cells: mean ± std over seeds ({budget})", title_justify="left")
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


def _row(results: Path, specs: Sequence[RunSpec]) -> list[str]:
    folders = [results / "runs" / spec.name for spec in specs]
    folders = [folder for folder in folders if (folder / "finished.json").exists()]
    records = [_lines(folder / "records.jsonl") for folder in folders]
    seconds = [sum(line["wall_s"] for line in _lines(folder / "timing.jsonl")) for folder in folders]
    finals = [lines[-1] for lines in records]
    tables = [final["table"] for final in finals if final["table"] is not None]
    curves = [line["curvature"]["lambda_dominant"] for lines in records if (line := _last_curvature(lines))]
    return [
        f"{len(folders)}/{len(specs)}",
        _spread([table["val_mean"] for table in tables], ".4f"),
        _spread([table["test_mean"] for table in tables], ".4f"),
        _spread([final["regret_test"] for final in finals if final["regret_test"] is not None], ".4f"),
        _spread([value for value in curves if value is not None], ".3g"),
        str(sum(bool(final["miss"]) for final in finals)),
        _spread(seconds, ".0f"),
        *([_spread(_taus(records), ".3f")] if any(spec.ranking is not None for spec in specs) else []),
    ]


def _taus(records: Sequence[list[dict[str, Any]]]) -> list[float]:
    """Return Kendall's τ of shared weights and test accuracies after the last epoch, of the runs that have it."""
    found = [next((line["ranking"] for line in reversed(lines) if line["ranking"]), None) for lines in records]
    return [ranking["kendall_test"] for ranking in found if ranking and ranking["kendall_test"] is not None]


def _last_curvature(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((line for line in reversed(lines) if line["curvature"] is not None), None)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _spread(values: list[float], form: str) -> str:
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):{form}}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):{form}}"
