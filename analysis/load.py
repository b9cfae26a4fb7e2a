"""Read what runs wrote (results/README.md) into one tidy table, one row a record.

Lines that cannot be read are named (file and line number) in the log and in `Run.warnings`, and left out.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from analysis._endings import damage, ended

log = logging.getLogger(__name__)

ENDS = ("finished.json", "diverged.json")
IDENTITY = ("seed", "signature", "space", "method", "settings")
"""Fields of a specification that are no part of the protocol."""
UNSAID: dict[str, Any] = {"precision": "fp32"}
"""What the specification of a search with steps means that does not say it."""

PREFIXES = {"table": "table_", "supernet": "supernet_", "curvature": "curvature_", "entropy": "entropy_",
            "ranking": "ranking_", "diagnostics": "diagnostic_", "discretisation": "discretisation_"}  # fmt: skip
NUMBERS = (
    "table_val_mean", "table_test_mean", "error_val", "error_test", "regret_val", "regret_test", "train_loss",
    "val_loss", "supernet_val_accuracy", "supernet_val_loss", "lambda_dominant", "lambda_max", "lambda_min",
    "lambda_simplex", "lambda_legacy", "curvature_residual", "curvature_trace", "optimum_val", "optimum_test",
    "random_val", "random_test", "steps_s", "wall_s", "stack", "ranking_kendall_val", "ranking_kendall_test",
    "ranking_spearman_val", "ranking_spearman_test", "ranking_overlap_val", "ranking_overlap_test", "ranking_n",
    "ranking_misses",
    "discretisation_relaxed_accuracy", "discretisation_discrete_accuracy", "discretisation_images",
)  # fmt: skip
TEXTS = ("run", "space", "dataset", "benchmark", "method", "signature", "budget", "table_digest", "stage",
         "no_curvature", "no_genotype", "no_ranking", "no_landscape",
         "no_discretisation")  # fmt: skip
SPLITS = ("val", "test")
ELSEWHERE = "elsewhere_"
"""Begins the names of accuracies on other datasets: `elsewhere_<dataset>_<split>` of a record's cell, and of the
references `elsewhere_<dataset>_optimum_<split>` and `elsewhere_<dataset>_random_<split>`."""
ARRAYS = ("logits", "mixing", "landscape_t", "landscape_loss")


@dataclass(frozen=True)
class Run:
    """One folder under results/runs/: one seed of one method on one space.

    Attributes:
        finished: the run wrote finished.json, and the records that it counts are there.
        diverged: as finished, but the run ended because its numbers did.
        warnings: what could not be read, each with its file and line number.
    """

    folder: Path
    spec: Mapping[str, Any]
    environment: Mapping[str, Any]
    table: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]
    timing: tuple[Mapping[str, Any], ...]
    finished: bool
    warnings: tuple[str, ...] = ()
    diverged: bool = False


def runs(results: Path) -> list[Run]:
    """Return every run under `results`/runs, by folder name; folders that are no run are named in the log."""
    return read_runs(run_folders(results))


def run_folders(results: Path) -> list[Path]:
    """Return the folders under `results`/runs by name."""
    return sorted(path for path in (results / "runs").glob("*") if path.is_dir())


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs of some folders; those that are no run are named in the log."""
    return [run for run in map(_run, folders) if run is not None]


def _run(folder: Path) -> Run | None:
    warnings = [found for found in (damage(folder, name) for name in ENDS) if found]
    spec = _json(folder / "spec.json", warnings)
    absent = [field for field in ("space", "method", "seed") if field not in spec]
    if absent:
        log.warning("skipped %s: its spec.json has no %s", folder, ", ".join(absent))
        return None
    run = Run(
        folder=folder,
        spec=spec,
        environment=_json(folder / "environment.json", warnings),
        table=_json(folder / "table.json", warnings),
        records=_records(folder / "records.jsonl", warnings),
        timing=tuple(line for _, line in _lines(folder / "timing.jsonl", warnings)),
        finished=ended(folder, "finished.json"),
        warnings=tuple(warnings),
        diverged=ended(folder, "diverged.json"),
    )
    for warning in warnings:
        log.warning(warning)
    return run


def _json(path: Path, warnings: list[str]) -> dict[str, Any]:
    """Return a file's object; an absent file, or null (no table), is an empty one."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else "null"
    if text.strip() == "null":
        return {}
    content = _object(text)
    if content is None:
        warnings.append(f"{path}: not a JSON object, left out")
    return content or {}


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _lines(path: Path, warnings: list[str]) -> list[tuple[int, dict[str, Any]]]:
    """Return (line number, object) of every line that is a JSON object."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    parsed = [(number, _object(line)) for number, line in enumerate(text.splitlines(), start=1)]
    warnings += [f"{path}:{number}: not a JSON object, left out" for number, value in parsed if value is None]
    return [(number, value) for number, value in parsed if value is not None]


def _records(path: Path, warnings: list[str]) -> tuple[dict[str, Any], ...]:
    """Return one record an instant: of two for the same epoch and stage, the later line."""
    instants: dict[tuple[int, str], dict[str, Any]] = {}
    for number, record in _lines(path, warnings):
        instant = (record.get("epoch"), record.get("stage", "search"))
        if not isinstance(instant[0], int):
            warnings.append(f"{path}:{number}: a record without an epoch, left out")
            continue
        if instant in instants:
            warnings.append(f"{path}:{number}: a second record of epoch {instant[0]} ({instant[1]}) replaces the first")
        instants[instant[0], instant[1]] = record
    return tuple(instants.values())


def tidy(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row a record: the run's columns and the record's scalars.

    Specification fields stand as text in `spec.<field>` and `settings.<field>` (missing where a run has no such field).
    A curvature field keeps its name where it begins with `lambda`; other nested fields are prefixed (`table_val_mean`,
    `supernet_val_accuracy`, `curvature_residual`, `entropy_op`). `error_val` and `error_test` are one minus the table's
    mean accuracy. Float arrays or None (`ARRAYS`): `logits` and `mixing` (the mixing weights), the groups packed in the
    record's order (`options`, text: how many each decision has); `landscape_t`; `landscape_loss`, one direction after
    the other.
    """
    records = [record_columns(record) for run in runs for record in run.records]
    heads = [run_columns(run) for run in runs]
    of_run = np.repeat(np.arange(len(runs)), [len(run.records) for run in runs])
    columns: dict[str, Any] = {name: _spread(heads, name, of_run) for name in _names(heads)}
    columns |= {name: [record.get(name) for record in records] for name in _names(records)}
    return arranged(pd.DataFrame({name: pd.Series(values, dtype=dtype(name)) for name, values in columns.items()}))


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _spread(heads: Sequence[Mapping[str, Any]], name: str, of_run: Int[np.ndarray, " records"]) -> np.ndarray:
    """Return a column of the runs, repeated for each of their records."""
    values = np.empty(len(heads), dtype=object)
    values[:] = [head.get(name) for head in heads]
    return values[of_run]


def arranged(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a tidy table with every column that is always there, in the usual order, and with the errors."""
    usual = dict.fromkeys([*TEXTS, "seed", "epochs", "finished", "diverged", "epoch", "miss", *NUMBERS, *ARRAYS])
    names = list(usual | dict.fromkeys(frame.columns))
    empty = np.full(len(frame), None, dtype=object)
    columns = {
        name: frame[name] if name in frame else pd.Series(empty, frame.index, dtype=dtype(name)) for name in names
    }
    columns["error_val"] = 1 - columns["table_val_mean"]
    columns["error_test"] = 1 - columns["table_test_mean"]
    return pd.DataFrame(columns)


def dtype(name: str) -> str:
    """Return the type of a column of the tidy table."""
    kinds = dict.fromkeys(("seed", "epochs", "epoch"), "int64") | dict.fromkeys(
        ("finished", "diverged", "miss"), "bool"
    )
    return kinds.get(name, "float64" if name in NUMBERS or name.startswith(ELSEWHERE) else "object")


def run_columns(run: Run) -> dict[str, Any]:
    """Return what is the same in all rows of a run."""
    spec = run.spec
    last = max((record["epoch"] for record in run.records), default=0)
    names = {name: spec.get(name) for name in ("space", "dataset", "benchmark", "method", "seed", "signature")}
    columns = {"run": run.folder.name, **names, "epochs": spec.get("epochs", last)}
    columns |= {"finished": run.finished, "diverged": run.diverged, "options": _options(run)} | _costs(run)
    said = {**UNSAID, **spec} if "batch_size" in spec else spec
    columns |= {f"spec.{name}": text(value) for name, value in said.items() if name not in IDENTITY}
    columns |= {f"settings.{name}": text(value) for name, value in flat(spec.get("settings") or {}).items()}
    return columns | _table_columns(run.table) | {"budget": _budget(run)}


def _costs(run: Run) -> dict[str, float]:
    """Return seconds of an epoch's steps (median), seconds of the run, and the number of seeds searched together."""
    steps = [line["search_s"] for line in run.timing if line.get("epoch") and line.get("stage") == "search"]
    return {
        "steps_s": float(np.median(steps)) if steps else np.nan,
        "wall_s": float(sum(line.get("wall_s", np.nan) for line in run.timing)) if run.timing else np.nan,
        "stack": float(len(run.environment.get("seeds") or [])) or np.nan,
    }


def _options(run: Run) -> str | None:
    """Return how many options each decision of the packed logits has, joined by commas; None without logits."""
    logits = next((record["logits"] for record in run.records if record.get("logits")), None)
    return None if logits is None else ",".join(str(len(row)) for rows in logits.values() for row in rows)


def _table_columns(table: Mapping[str, Any]) -> dict[str, Any]:
    columns = _references(table) | {"table_digest": table.get("digest")}
    for dataset, other in (table.get("elsewhere") or {}).items():
        columns |= {f"{ELSEWHERE}{dataset}_{name}": value for name, value in _references(other).items()}
    return columns


def _references(table: Mapping[str, Any]) -> dict[str, Any]:
    optimum, random = table.get("optimum") or {}, table.get("random_cell") or {}
    means = {f"optimum_{split}": optimum.get(split) for split in SPLITS}
    return means | {f"random_{split}": random.get(split) for split in SPLITS}


def _budget(run: Run) -> str | None:
    """Return the table's training budget as text: what the table says, else what was asked for."""
    value = run.table.get("budget", run.spec.get("budget"))
    return None if value is None else text(value)


def record_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scalars of a record under flat names, and its logits as one array."""
    columns: dict[str, Any] = {"stage": "search"}
    for name, value in record.items():
        if isinstance(value, dict):  # not Mapping: its check costs more than all the rest of a million records
            columns |= _nested(name, value)
        elif not isinstance(value, list) and name not in PREFIXES:
            columns[name] = value
    columns["miss"] = bool(record.get("miss"))
    slices = record.get("landscape") or {}
    columns["logits"], columns["mixing"] = pack(record.get("logits")), pack(record.get("weights"))
    columns["landscape_t"] = pack({"t": [slices["t"]]} if slices else None)
    for dataset, means in (record.get("elsewhere") or {}).items():
        columns |= {f"{ELSEWHERE}{dataset}_{split}": (means or {}).get(f"{split}_mean") for split in SPLITS}
    columns["landscape_loss"] = pack({"loss": slices["loss"]} if slices else None)
    return columns


def _nested(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scalars of a record's nested object, prefixed; none where it is not known to hold scalars."""
    if name not in PREFIXES:
        return {}
    scalars = {inner: value for inner, value in fields.items() if not isinstance(value, list | dict)}
    prefix = PREFIXES[name]
    return {inner if inner.startswith("lambda") else prefix + inner: value for inner, value in scalars.items()}


def pack(logits: Mapping[str, Any] | None) -> np.ndarray | None:
    """Return all logits as one array, groups in their order, row after row; a null entry becomes NaN."""
    if not logits:
        return None
    entries = [entry for rows in logits.values() for row in rows for entry in row]
    return np.array([np.nan if entry is None else entry for entry in entries], dtype=np.float64)


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested objects as one level, names joined by dots."""
    result: dict[str, Any] = {}
    for name, value in fields.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return result


def text(value: object) -> str:
    """Return a specification value as users write it: strings bare, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
