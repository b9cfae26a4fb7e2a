"""Published accuracies (published.csv), with where each figure comes from.

Percent, after 200 epochs of training the found cell; search on CIFAR-10 unless the paper says otherwise. `checked` is
"yes" where the figure was seen in the paper or in tables of other papers, "no" where it is quoted from memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Figure:
    """An accuracy with its standard deviation over seeds, fractions; NaN where the source has none."""

    mean: float
    std: float


@dataclass(frozen=True)
class Published:
    """One method's figures of one source."""

    method: str
    val: Figure
    test: Figure
    source: str
    checked: bool


def published(space: str, dataset: str) -> list[Published]:
    """Return the figures published for a space and dataset, in the file's order; none for other benchmarks."""
    with resources.files("analysis").joinpath("published.csv").open(encoding="utf-8") as file:
        rows = pd.read_csv(file)
    chosen = rows[(rows["space"] == space) & (rows["dataset"] == dataset)]
    return [
        Published(row["method"], _figure(row, "val"), _figure(row, "test"), row["source"], row["checked"] == "yes")
        for _, row in chosen.iterrows()
    ]


def _figure(row: pd.Series, split: str) -> Figure:
    mean, std = (np.float64(row[f"{split}_{name}"]) / 100 for name in ("mean", "std"))
    return Figure(float(mean), float(std))


def beside(part: pd.DataFrame, labels: Sequence[str]) -> dict[str, list[Published]]:
    """Return what is published for the methods of one space's runs, by the last of each method's labels.

    Nothing where the runs are not of the paper's benchmark, or of several datasets.
    """
    datasets, benchmarks = part["dataset"].unique(), part["benchmark"].unique()
    if len(datasets) != 1 or list(benchmarks) != ["paper"]:
        return {}
    methods = part.drop_duplicates("label").set_index("label")["method"]
    last = {str(methods[label]): label for label in labels}
    found: dict[str, list[Published]] = {}
    for one in published(str(part["space"].iloc[0]), str(datasets[0])):
        if one.method in last:
            found.setdefault(last[one.method], []).append(one)
    return found


def origins(shown: Mapping[str, Sequence[Published]]) -> str:
    """Return where published figures come from as a sentence, methods of one source together."""
    figures = [one for several in shown.values() for one in several]
    by_source: dict[str, list[str]] = {}
    for one in figures:
        by_source.setdefault(one.source, []).append(one.method)
    if not figures:
        return ""
    sources = "; ".join(f"{', '.join(dict.fromkeys(methods))}: {source}" for source, methods in by_source.items())
    memory = "" if all(one.checked for one in figures) else " †: quoted from memory, not checked."
    return f"Published rows: means over their own seeds, at their own protocols: {sources}.{memory}"
