"""`relate`: how well a table's runs agree, and how its accuracies go together with another table's."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from bench.tables.arrow import budgets, load, mapped
from bench.tables.commands import FOUND, Command
from bench.tables.commands.finding import named
from bench.tables.data import MEAN, Slot

TOP_SHARES = (0.01, 0.1)
"""Of the shared cells, for the overlap of the best."""


class Accuracies(NamedTuple):
    """Of one dataset at its largest budget; not a number where a run does not exist.

    Attributes:
        single: whether the columns are single runs and not their mean.
    """

    keys: tuple[str, ...]
    val: Float64[np.ndarray, "rows runs"]
    test: Float64[np.ndarray, "rows runs"]
    single: bool
    words: str


def _relate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", help="a file, or a space, whose table a run would find")
    parser.add_argument("b", nargs="?", help="another table of the same space")
    parser.add_argument("--dataset", help="of the first table; default: its only one, else cifar10")
    parser.add_argument("--other-dataset", help="of the second table; default: as for the first")


def _relate(chosen: argparse.Namespace) -> int:
    one = _accuracies(named(chosen.a, chosen.dataset), chosen.dataset)
    lines = _alone(one)
    if chosen.b is not None:
        other = _accuracies(named(chosen.b, chosen.other_dataset), chosen.other_dataset)
        lines += [*_alone(other), *_together(one, other)]
    sys.stdout.write("\n".join(lines) + "\n")
    return FOUND


def _accuracies(path: Path, dataset: str | None) -> Accuracies:
    stored = budgets(mapped(path)[1])
    name = dataset or (next(iter(stored)) if len(stored) == 1 else "cifar10")
    if name not in stored:
        raise ValueError(f"{path} has no dataset {name!r}; it has {', '.join(sorted(stored))}")
    data, budget = load(path), max(stored[name])
    val, test = (data.measurements[Slot(name, what, budget)] for what in ("val", "test"))
    words = f"{data.space} on {name}, {budget} epochs"
    present = np.flatnonzero(test.present())
    keys = tuple(data.keys[row] for row in present)
    return Accuracies(keys, val.values[present], test.values[present], test.runs != (MEAN,), words)


def _alone(table: Accuracies) -> list[str]:
    """Return the spread of a table's test accuracies and the agreement of its first two runs."""
    from bench.metrics.ranking import compare  # imports torch, which reading does not need

    means = _means(table.test)
    low, high = np.percentile(means, (10, 90))
    lines = [
        f"{table.words}: {len(means)} cells, test {low:.4f} to {high:.4f} (10th–90th percentile), best {max(means):.4f}"
    ]
    if table.single and table.test.shape[1] > 1:
        both = table.test[~np.isnan(table.test[:, :2]).any(1), :2]
        found = compare(both[:, 0], both[:, 1], 1)
        lines.append(f"  between two runs of {len(both)} cells: Spearman {_number(found['spearman'])}")
    return lines


def _together(one: Accuracies, other: Accuracies) -> list[str]:
    """Return the rank correlations over the cells that both tables have, and the overlap of the best."""
    from bench.metrics.ranking import compare

    places = {key: row for row, key in enumerate(other.keys)}
    pairs = np.array([(row, places[key]) for row, key in enumerate(one.keys) if key in places], dtype=np.int64)
    if not len(pairs):
        raise ValueError(f"expected two tables with cells in common, got none of {one.words} in {other.words}")
    lines = [f"{len(pairs)} cells in common"]
    for split in ("val", "test"):
        a, b = _means(getattr(one, split)[pairs[:, 0]]), _means(getattr(other, split)[pairs[:, 1]])
        tops = [max(1, round(share * len(pairs))) for share in TOP_SHARES]
        found = [compare(a, b, top) for top in tops]
        lines.append(
            f"  {split:<5} Spearman {_number(found[0]['spearman'])}, Kendall {_number(found[0]['kendall'])}, "
            + ", ".join(f"best {top}: {_number(one['overlap'])} shared" for top, one in zip(tops, found, strict=True))
        )
    return lines


def _means(values: Float64[np.ndarray, "rows runs"]) -> Float64[np.ndarray, " rows"]:
    found: Float64[np.ndarray, " rows"] = np.nanmean(values, axis=1)
    return found


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


RELATE = Command(
    "Say how well a table's runs agree, and how its ranks go together with another's.", _relate_arguments, _relate
)
