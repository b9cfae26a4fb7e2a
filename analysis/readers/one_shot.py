"""Run folders of nasbench-1shot1, SmoothDARTS and MS-DARTS: config.json, log.txt, one_shot_architecture_<e>.obj.

MS-DARTS also writes `<folder><settings>.csv` beside the folder, one row an epoch, with more digits than the log.
Objects are pickled lists of arrays: operations, output, then the inputs of every node with a choice. They are unpickled
with the few names allowed that arrays need in the protocols of Python 3.
"""

import csv
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from analysis.load import Run

METHODS = {"none": "darts", "random": "sdarts_rs", "pgd_linf": "sdarts_adv", "mean_shift": "ms_darts"}
"""Method by the option perturb_alpha."""
NUMBER = r"([-+0-9.eEinfa]+)"
EPOCH = re.compile(r" epoch (\d+) lr ")
FIELDS = {
    "train_loss": re.compile(rf" train \d+ {NUMBER} "),
    "eigenvalue": re.compile(rf" eigenvalue {NUMBER}$"),
    "valid_acc": re.compile(rf" valid_acc {NUMBER}$"),
    "test_error": re.compile(rf"TEST ERROR: {NUMBER} "),
    "valid_error": re.compile(rf"VALID ERROR: {NUMBER} "),
    "params": re.compile(rf"PARAMS: {NUMBER}$"),
}
COLUMNS = {"eigenvalue": "eigenvalue", "test error": "test_error", "valid error": "valid_error", "params": "params",
           "train_obj": "train_loss", "valid_obj": "valid_loss"}  # fmt: skip
ARRAY = {
    (module, name)
    for name, modules in {
        "_reconstruct": ("numpy.core.multiarray", "numpy._core.multiarray"),
        "scalar": ("numpy.core.multiarray", "numpy._core.multiarray"),
        "_frombuffer": ("numpy.core.numeric", "numpy._core.numeric"),
        "ndarray": ("numpy",),
        "dtype": ("numpy",),
    }.items()
    for module in modules
}


def folders(root: Path) -> list[Path]:
    """Return the run folders at or below a folder."""
    return sorted(path.parent for path in root.rglob("config.json") if (path.parent / "log.txt").exists())


def read(folder: Path) -> Run:
    """Return a folder's run.

    Raises:
        ValueError: its configuration or an object is not what these programs write.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict) or str(config.get("search_space")) not in {"1", "2", "3"}:
        raise ValueError(f"{folder / 'config.json'}: expected a search_space of 1, 2 or 3, got {str(config)[:60]}")
    after = _log(folder / "log.txt")
    for row, values in enumerate(_table(folder)):
        after[row] = after.get(row, {}) | values
    logits = {int(path.stem.rsplit("_", 1)[1]): unpickled(path)
              for path in folder.glob("one_shot_architecture_[0-9]*.obj")}  # fmt: skip
    last = max([*after, *logits, 0]) + 1
    records = tuple(_record(epoch, after, logits) for epoch in range(last + 1))
    epochs = int(config.get("epochs", last))
    once = sum("test_error" in values for values in after.values()) == 1 < len(after)
    warnings = (f"{folder}: the one error it reports is of one of three trainings, at random",) if once else ()
    spec = _spec(folder, config) | {"epochs": epochs}
    return Run(folder, spec, {}, {"budget": 108}, records, (), last >= epochs, warnings)


def _spec(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a specification that the configuration has."""
    method = METHODS.get(str(config.get("perturb_alpha", "none")), str(config.get("perturb_alpha")))
    program = folder.resolve().parents[1].name if len(folder.resolve().parents) > 1 else ""
    method = program if method == "darts" and program in {"gdas", "pc_darts", "random_ws"} else method
    method = "darts_2nd" if method == "darts" and config.get("unrolled") else method
    settings = {
        name: config[name] for name in ("bandwidth", "samplingN", "iteration", "epsilon_alpha") if name in config
    }
    return {"space": f"s{config['search_space']}", "dataset": "cifar10", "benchmark": "others", "method": method,
            "seed": int(config.get("seed", 0)), "signature": folder.name, "settings": settings,
            "batch_size": config.get("batch_size")}  # fmt: skip


def _log(path: Path) -> dict[int, dict[str, float]]:
    """Return what a log says of every epoch, as it counts them; of a repeated number the last."""
    found: dict[int, dict[str, float]] = {}
    epoch = None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        began = EPOCH.search(line)
        epoch = int(began[1]) if began else epoch
        if epoch is None:
            continue
        matches = {name: pattern.search(line) for name, pattern in FIELDS.items()}
        values = {name: float(match[1]) for name, match in matches.items() if match}
        found[epoch] = found.get(epoch, {}) | values
    return found


def _table(folder: Path) -> list[dict[str, float]]:
    """Return the rows of the CSV beside a folder; none where there is no such file."""
    files = [path for path in folder.parent.glob("*.csv") if path.name.startswith(folder.name)]
    if not files:
        return []
    if len(files) > 1:
        raise ValueError(f"expected one CSV file that begins with {folder.name}, found {len(files)} beside it")
    rows = csv.DictReader(io.StringIO(files[0].read_text(encoding="utf-8")))
    if not set(COLUMNS) <= set(rows.fieldnames or ()):
        raise ValueError(f"{files[0]}: expected the columns {', '.join(COLUMNS)}, got {rows.fieldnames}")
    return [{name: float(row[column]) for column, name in COLUMNS.items() if row[column]} for row in rows]


class _Arrays(pickle.Unpickler):
    """Unpickles lists of numpy arrays and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAY:
            raise ValueError(f"expected an object of numpy arrays only, found {module}.{name}: not read")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def unpickled(path: Path) -> dict[str, list[list[float]]]:
    """Return the logits by group: `op`, `out`, and `in_1` and so on in the file's order.

    Raises:
        ValueError: the file is damaged, or holds anything but a list of arrays.
    """
    try:
        arrays = _Arrays(io.BytesIO(path.read_bytes())).load()
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(arrays, list) or not all(isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in arrays):
        raise ValueError(f"{path}: expected a list of arrays of floats, got {type(arrays).__name__}")
    names = ["op", "out", *(f"in_{place}" for place in range(1, len(arrays)))]
    return {name: np.atleast_2d(array).astype(float).tolist() for name, array in zip(names, arrays, strict=False)}


def _record(epoch: int, after: dict[int, dict[str, float]], logits: dict[int, Any]) -> dict[str, Any]:
    """Return our record of an epoch: what the log says after the epoch before it, and of the cell saved before it."""
    done, cell = after.get(epoch - 1, {}), after.get(epoch, {})
    means = {f"{ours}_mean": 1 - cell[theirs] for ours, theirs in (("val", "valid_error"), ("test", "test_error"))
             if theirs in cell}  # fmt: skip
    supernet = {"val_accuracy": done["valid_acc"] / 100} if "valid_acc" in done else {}
    supernet |= {"val_loss": done["valid_loss"]} if "valid_loss" in done else {}
    return {
        "epoch": epoch, "stage": "search", "train_loss": done.get("train_loss"), "logits": logits.get(epoch),
        "table": means | {"params": cell.get("params")} if means else None, "supernet": supernet or None,
        "curvature": {"lambda_legacy": done["eigenvalue"]} if "eigenvalue" in done else None,
        "no_genotype": "not in these logs",
    }  # fmt: skip
