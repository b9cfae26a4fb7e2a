"""The discretised cell of each replica, its table entry, and the state of its choices; all of one instant."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bench.lab import Lab
from bench.spaces.base import Space, discretise
from bench.tables.table import Reference, Table
from searchers.base import Logits, Searcher

ENTRY_FIELDS = ("val_mean", "test_mean", "val", "test", "n_runs", "budget", "params", "train_time_s")


@dataclass(frozen=True)
class Truth:
    """A benchmark table and what regret is measured against.

    Attributes:
        elsewhere: the same of the other datasets of the table's file, at the same budget.
    """

    table: Table
    reference: Reference
    elsewhere: "Mapping[str, Truth]" = field(default_factory=dict)


def cells(space: Space, selected: Logits | None, replicas: int, truth: Truth | None) -> list[dict[str, Any]]:
    """Return the genotype of every replica and what the table says about it."""
    if selected is None:
        return [_no_cell("the method has not selected a cell yet")] * replicas
    host = {name: values.detach().double().cpu().numpy() for name, values in selected.items()}
    return [_cell(space, {name: values[r] for name, values in host.items()}, truth) for r in range(replicas)]


def _no_cell(reason: str) -> dict[str, Any]:
    names = ("genotype", "key", "table", "miss", "regret_val", "regret_test", "elsewhere")
    return {**dict.fromkeys(names), "no_genotype": reason}


def _cell(space: Space, scores: dict[str, np.ndarray], truth: Truth | None) -> dict[str, Any]:
    if not all(np.isfinite(values).all() for values in scores.values()):
        return _no_cell("the scores are not finite: the search has diverged")
    genotype = discretise(space.groups, scores)
    key = space.key(genotype)
    return {"genotype": space.describe(genotype), "key": key, "no_genotype": None, **looked_up(key, truth)}


def looked_up(key: str, truth: Truth | None) -> dict[str, Any]:
    """Return what a table says about a cell: all that a run's records take from it."""
    entry = None if truth is None else truth.table.query(key)
    if truth is None or entry is None:
        miss = None if truth is None else True
        nothing = dict.fromkeys(("table", "regret_val", "regret_test"))
        return {**nothing, "miss": miss, "elsewhere": _elsewhere(key, truth)}
    values = dataclasses.asdict(entry)
    return {
        "table": {name: values[name] for name in ENTRY_FIELDS},
        "miss": False,
        "regret_val": truth.reference.optimum_val - entry.val_mean,
        "regret_test": truth.reference.optimum_test - entry.test_mean,
        "elsewhere": _elsewhere(key, truth),
    }


def _elsewhere(key: str, truth: Truth | None) -> dict[str, dict[str, float] | None]:
    """Return the mean accuracies of a cell on the other datasets of the table's file; None: not in the table."""
    entries = {name: one.table.query(key) for name, one in (truth.elsewhere if truth else {}).items()}
    return {
        name: None if entry is None else {"val_mean": entry.val_mean, "test_mean": entry.test_mean}
        for name, entry in entries.items()
    }


def choices(searcher: Searcher, replicas: int) -> list[dict[str, Any]]:
    """Return logits, mixing weights and mean row entropies (nats) of every replica; nulls without logits."""
    logits = searcher.logits()
    if not logits:
        return [{"logits": None, "weights": None, "entropy": None}] * replicas
    with torch.no_grad():
        relaxed = searcher.relax(logits).weights
    shared = all(values.shape[0] == 1 for values in relaxed.values())
    rows = {name: values[0].double().cpu() for name, values in relaxed.items()}
    return [
        {
            "logits": {name: values[r].double().cpu().tolist() for name, values in logits.items()},
            "weights": {name: values[r].tolist() for name, values in rows.items()} if shared else None,
            "entropy": {name: _entropy(values[r]) for name, values in rows.items()} if shared else None,
        }
        for r in range(replicas)
    ]


def _entropy(rows: torch.Tensor) -> float:
    """Return the mean entropy of the rows; of their absolute values divided by the sum, for rows off the simplex."""
    share = rows.abs() / rows.abs().sum(-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    return float(torch.special.entr(share).sum(-1).mean())


def supernet(searcher: Searcher, lab: Lab) -> list[dict[str, float] | None]:
    """Return accuracy and loss of the supernet with its own choices on the un-augmented validation half."""
    logits = searcher.logits()
    if not logits:
        return [None] * lab.replicas
    with torch.no_grad():
        found = lab.evaluate(searcher.supernet, searcher.relax(logits), "val", None)
    pairs = zip(found.accuracy.tolist(), found.loss.tolist(), strict=True)
    return [{"val_accuracy": accuracy, "val_loss": loss} for accuracy, loss in pairs]
