"""Accuracies on several datasets side by side, as papers on NAS-Bench-201 report what they found on CIFAR-10.

A run's own dataset comes from its table; the others from what the run looked up in the tables of the same file
(`elsewhere` in its records). The lookup belongs to the run: it has the table open, states its budget and digest, and
these statements need neither torch nor any table. Regret is not shown: it is of the dataset that was searched on.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis import _caption, published
from analysis._contents import percent
from analysis._sheets import best, quoted
from analysis.intervals import FEWEST_SEEDS
from analysis.load import ELSEWHERE, SPLITS
from analysis.published import Published
from analysis.selection import one_per_run, space_order
from analysis.typeset import Cell, Sheet, statement

NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16": "ImageNet16-120"}
"""The official datasets, in the order of NAS-Bench-201's tables."""
WORDS = {"val": "validation", "test": "test"}
Row = tuple[str, str]
"""A label and the dataset searched on."""


def sheets(frame: pd.DataFrame) -> dict[str, Sheet]:
    """Return one table by file name for every space whose runs have accuracies on several datasets.

    Rows are selected apart for each dataset (`selection.select`).
    """
    parts = {space: frame[frame["space"] == space] for space in space_order(frame)}
    return {f"datasets-{space}": _sheet(part, space) for space, part in parts.items() if len(_datasets(part)) > 1}


def _datasets(part: pd.DataFrame) -> list[str]:
    """Return the datasets on which some run has an accuracy, the official ones first."""
    own = set(part.loc[part["table_test_mean"].notna(), "dataset"])
    others = {
        name for name in NAMES if f"{ELSEWHERE}{name}_test" in part and part[f"{ELSEWHERE}{name}_test"].notna().any()
    }
    return sorted(own | others, key=lambda name: (list(NAMES).index(name) if name in NAMES else len(NAMES), name))


def _sheet(part: pd.DataFrame, space: str) -> Sheet:
    datasets = _datasets(part)
    places = [(dataset, split) for dataset in datasets for split in SPLITS]
    final = _final(part)
    heads = final[["dataset", "label"]].drop_duplicates().sort_values(["dataset", "label"])
    heads = heads.sort_values("dataset", key=lambda names: names.map(datasets.index), kind="stable")
    rows: list[Row] = [(label, dataset) for dataset, label in heads.itertuples(index=False)]
    columns = [_column(final, rows, *place) for place in places]
    beside = _published(part, rows, datasets)
    body: list[tuple[Cell, ...]] = []
    for index, (label, dataset) in enumerate(rows):
        n = int(_of(final, (label, dataset))["seed"].nunique())
        count = Cell(str(n), (("", float(n)),))
        body.append((Cell(label), Cell(_name(dataset)), count, *(column[index] for column in columns)))
        body += [_quoted(name, figures, places) for name, figures in beside.get((label, dataset), {}).items()]
    header = ("method", "searched on", "seeds", *(f"{_name(dataset)} {WORDS[split]} %" for dataset, split in places))
    shown = {str(row): [one for found in figures.values() for one in found.values()] for row, figures in beside.items()}
    text = _text(part, final, columns, published.origins(shown))
    return Sheet(f"Accuracy on every dataset, {space}", header, (*body, *_references(part, places)), text)


def _name(dataset: str) -> str:
    return NAMES.get(dataset, dataset)


def _final(part: pd.DataFrame) -> pd.DataFrame:
    """Return the row of the selected cell of every run: stage "final", else the last search epoch."""
    ordered = part.assign(last=part["stage"] == "final").sort_values(["epoch", "last"], kind="stable")
    return ordered.groupby("run").tail(1)


def _of(rows: pd.DataFrame, row: Row) -> pd.DataFrame:
    return rows[(rows["label"] == row[0]) & (rows["dataset"] == row[1])]


def _values(rows: pd.DataFrame, searched: str, dataset: str, split: str) -> Float[np.ndarray, " seeds"]:
    column = f"table_{split}_mean" if dataset == searched else f"{ELSEWHERE}{dataset}_{split}"
    known = rows[column].to_numpy(np.float64) if column in rows else np.full(len(rows), np.nan)
    return np.where(rows["diverged"], np.nan, known)


def _column(final: pd.DataFrame, rows: list[Row], dataset: str, split: str) -> list[Cell]:
    values = [_values(_of(final, row), row[1], dataset, split) for row in rows]
    leader = best(values, 1)
    return [replace(statement(list(part), percent), bold=row == leader) for row, part in enumerate(values)]


def _published(part: pd.DataFrame, rows: list[Row], datasets: list[str]) -> dict[Row, dict[str, dict[str, Published]]]:
    """Return published figures by the row that they stand below, method and dataset; search on CIFAR-10 is meant.

    Nothing where some run is not of the papers' benchmark.
    """
    if set(part["benchmark"]) != {"paper"}:
        return {}
    methods = part.drop_duplicates("label").set_index("label")["method"]
    last = {
        str(methods[label]): (label, dataset) for label, dataset in sorted(rows, key=lambda row: row[1] == "cifar10")
    }
    found: dict[Row, dict[str, dict[str, Published]]] = {}
    for dataset in datasets:
        for one in published.published(str(part["space"].iloc[0]), dataset):
            if one.method in last:
                found.setdefault(last[one.method], {}).setdefault(one.method, {})[dataset] = one
    return found


def _quoted(method: str, figures: dict[str, Published], places: list[tuple[str, str]]) -> tuple[Cell, ...]:
    checked = all(one.checked for one in figures.values())
    cells = [quoted(getattr(figures[dataset], split)) if dataset in figures else Cell("–") for dataset, split in places]
    return (Cell(f"{method}, published" + ("" if checked else " †")), Cell(_name("cifar10")), Cell("–"), *cells)


def _references(part: pd.DataFrame, places: list[tuple[str, str]]) -> list[tuple[Cell, ...]]:
    """Return the mean of all encodings and the best means of each dataset's table."""
    heads, rows = one_per_run(part), []
    for name, column in (("random cell (mean)", "random"), ("best cell of the table", "optimum")):
        values = [_reference(heads, dataset, f"{column}_{split}") for dataset, split in places]
        if np.isfinite(values).any():
            rows.append((Cell(name), Cell("–"), Cell("–"), *(statement([value], percent) for value in values)))
    return rows


def _reference(heads: pd.DataFrame, dataset: str, name: str) -> float:
    own = heads.loc[heads["dataset"] == dataset, name].dropna()
    column = f"{ELSEWHERE}{dataset}_{name}"
    known = pd.concat([own, heads[column].dropna()]) if column in heads else own
    return float(known.iloc[0]) if len(known) else np.nan


def _text(part: pd.DataFrame, final: pd.DataFrame, columns: list[list[Cell]], origins: str) -> str:
    bold = any(cell.bold for column in columns for cell in column)
    gaps = any(cell.text == "–" for column in columns for cell in column)
    few = final.groupby(["label", "dataset"])["seed"].nunique().min() < FEWEST_SEEDS
    return _caption.joined(
        "Mean ± standard deviation over seeds of the selected cell's accuracy in the table of each dataset.",
        "A dash: the table of these runs' file has no such dataset or cell." if gaps else "",
        "Best cell: the best mean of each column, not one cell.",
        "Bold: its 95 % bootstrap interval lies beyond every other." if bold else "",
        f"Fewer than {FEWEST_SEEDS} seeds in some rows: no row is marked best." if few else "",
        _caption.protocol(part),
        origins,
    )
