"""Derivatives of RobustDARTS: `derivatives_<task>.json`, JSON objects one after another, with or without line breaks.

Each has `epoch`, the Hessian `H` of one validation batch's loss with architecture weight decay on its diagonal, and the
gradient `g`, all after that epoch's steps. Space and seed are in no file; S1 to S4 of its paper are other spaces than
ours of the same names, so the space is `robustdarts`.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from analysis.load import Run

PATTERN = "derivatives_*.json"


def read(path: Path) -> Run:
    """Return a file's run: |largest eigenvalue| of every Hessian as `lambda_legacy`, and its spectrum.

    Raises:
        ValueError: the file holds something else.
    """
    task = re.findall(r"\d+", path.stem)
    seed = int(task[-1]) if task else 0
    records = tuple(_record(entry, path) for entry in _objects(path))
    spec = {"space": "robustdarts", "dataset": None, "benchmark": "RobustDARTS", "method": "darts", "seed": seed,
            "signature": str(path), "settings": {}, "epochs": max(record["epoch"] for record in records)}  # fmt: skip
    warning = f"{path}: space, method and seed are not recorded; taken as robustdarts, darts and the task number {seed}"
    return Run(path, spec, {}, {}, records, (), finished=True, warnings=(warning,))


def _objects(path: Path) -> list[dict[str, Any]]:
    text, decoder, place = path.read_text(encoding="utf-8").strip(), json.JSONDecoder(), 0
    found: list[dict[str, Any]] = []
    while place < len(text):
        try:
            value, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: expected JSON objects, got {text[place : place + 20]!r}: {error.msg}") from error
        if not isinstance(value, dict) or not {"epoch", "H", "g"} <= set(value):
            raise ValueError(f"{path}: expected objects with epoch, H and g, got {str(value)[:40]!r}")
        found.append(value)
        place = end + len(text[end:]) - len(text[end:].lstrip())
    if not found:
        raise ValueError(f"{path}: expected JSON objects with epoch, H and g, got an empty file")
    return found


def _record(entry: dict[str, Any], path: Path) -> dict[str, Any]:
    hessian = np.asarray(entry["H"], dtype=np.float64)
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1] or not np.isfinite(hessian).all():
        raise ValueError(f"{path}: expected a finite square Hessian at epoch {entry['epoch']}, got {hessian.shape}")
    spectrum = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    curvature = {"lambda_legacy": abs(float(spectrum[-1])), "spectrum": spectrum.tolist(), "gradient_norm":
                 float(np.linalg.norm(np.asarray(entry["g"], dtype=np.float64)))}  # fmt: skip
    return {"epoch": int(entry["epoch"]) + 1, "stage": "search", "curvature": curvature,
            "no_genotype": "not in this file"}  # fmt: skip
