"""Tables of `_contents` filled in: rows of methods, references and published figures."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis import _caption, published
from analysis._ablation import varying
from analysis._contents import ACCURACY, KINDS, STABILITY, SUMMARY, Column, Kind, kind_of, percent
from analysis.intervals import FEWEST_SEEDS, bootstrap_interval
from analysis.load import SPLITS
from analysis.selection import space_order
from analysis.series import generator
from analysis.stability import per_label, per_run
from analysis.typeset import Cell, Sheet, spread, statement

COST = (
    "Steps: median seconds of an epoch's steps over those of darts in a stack as large. Stack: seconds of the whole "
    "run of all seeds searched together, with everything measured, by the clock of a machine that may have done other "
    "things."
)


def sheet(name: str, frame: pd.DataFrame, space: str) -> Sheet:
    """Return a table of selected runs (`selection.select`) on one space.

    Raises:
        ValueError: an ablation without runs of its method, or of one value of its setting only.
    """
    kind, part = kind_of(name), frame[frame["space"] == space]
    part = part if kind.ablated is None else _ablated(kind, part, name)
    found = per_run(part)
    found = found.assign(**{f"final_accuracy_{split}": 1 - found[f"final_error_{split}"] for split in ("val", "test")})
    found["steps_relative"] = _relative_cost(found)
    labels = _ordered(kind, part)
    columns = [_column(found, labels, column) for column in kind.columns]
    columns += [_together(found, labels, column) for column in kind.together]
    counts = [int(found[found["label"] == label]["seed"].nunique()) for label in labels]
    rows = [
        (Cell(label), Cell(str(n), (("", float(n)),)), *(column[row] for column in columns))
        for row, (label, n) in enumerate(zip(labels, counts, strict=True))
    ]
    beside = published.beside(part, labels) if kind.columns is ACCURACY else {}
    rows = [row for own in rows for row in (own, *map(_published, beside.get(own[0].text, [])))]
    header = ("method", "seeds", *(column.title for column in (*kind.columns, *kind.together)))
    text = _caption.joined(_text(kind, part, columns), published.origins(beside))
    return Sheet(f"{kind.title}, {space}", header, (*rows, *_references(kind, part)), text)


def _relative_cost(found: pd.DataFrame) -> pd.Series:
    """Return seconds of an epoch's steps over the mean of DARTS searched in stacks as large; NaN without such a one."""
    darts = found[found["label"] == "darts"].groupby("stack")["steps_s"].mean()
    return found["steps_s"] / found["stack"].map(darts)


def _ablated(kind: Kind, part: pd.DataFrame, name: str) -> pd.DataFrame:
    assert kind.ablated is not None
    method, setting = kind.ablated
    own, values = part[part["method"] == method], _values(kind, part)
    if values < 2:
        raise ValueError(
            f"expected runs of {method} with several values of {setting.removeprefix('settings.')} for the table "
            f"{name!r}, got {values}; python -m bench.run --set {method}.{setting.removeprefix('settings.')}=a,b,c "
            "makes them"
        )
    others = [control for control in kind.controls if control != method]
    return pd.concat([varying(own, setting), part[part["method"].isin(others)]])


def _values(kind: Kind, part: pd.DataFrame) -> int:
    """Return how many values an ablated setting takes while all others are alike."""
    assert kind.ablated is not None
    method, setting = kind.ablated
    own = part[part["method"] == method]
    return varying(own, setting)[setting].nunique() if setting in own and len(own) else 0


def spaces(name: str, frame: pd.DataFrame) -> list[str]:
    """Return the spaces of a table: those in which an ablated setting varies, all where it does in none."""
    kind, every = kind_of(name), space_order(frame)
    if kind.ablated is None:
        return every
    return [space for space in every if _values(kind, frame[frame["space"] == space]) > 1] or every


def _ordered(kind: Kind, part: pd.DataFrame) -> list[str]:
    """Return the labels: an ablation's by the value of its setting, then controls; else in order of appearance."""
    heads = part.drop_duplicates("label")
    if kind.ablated is None:
        return sorted(heads["label"])
    method, setting = kind.ablated
    own = heads[heads["method"] == method]
    own = own.assign(value=pd.to_numeric(own[setting])).sort_values("value")
    others = heads[heads["method"] != method]
    return [*own["label"], *sorted(others["label"], key=lambda label: (_place(kind, others, label), label))]


def _place(kind: Kind, heads: pd.DataFrame, label: str) -> int:
    return kind.controls.index(str(heads.loc[heads["label"] == label, "method"].iloc[0]))


def _column(found: pd.DataFrame, labels: Sequence[str], column: Column) -> list[Cell]:
    values = [found.loc[found["label"] == label, column.source].to_numpy(np.float64) for label in labels]
    leader = best(values, column.better)
    cells = [column.show(list(part), column.digits) for part in values]
    return [replace(cell, bold=row == leader) for row, cell in enumerate(cells)]


def _together(found: pd.DataFrame, labels: Sequence[str], column: Column) -> list[Cell]:
    values = per_label(found).set_index("label")[column.source]
    return [statement([float(values[label])], column.digits) for label in labels]


def best(values: Sequence[np.ndarray], better: int) -> int | None:
    """Return the row whose interval lies beyond all others; None where there is none, or a row has too few seeds."""
    if not better or len(values) < 2:
        return None
    intervals = [bootstrap_interval(part, generator()) for part in values]
    if any(interval.n < FEWEST_SEEDS for interval in intervals):
        return None
    means = [float(better * interval.mean) for interval in intervals]
    best = int(np.argmax(means))
    near = [float(better * (one.high if better < 0 else one.low)) for one in intervals]
    far = [float(better * (one.low if better < 0 else one.high)) for one in intervals]
    return best if all(near[best] > far[row] for row in range(len(values)) if row != best) else None


def _references(kind: Kind, part: pd.DataFrame) -> list[tuple[Cell, ...]]:
    """Return the table's own rows below accuracies: the mean of all encodings, and the best cells."""
    if kind not in (KINDS["accuracy"], KINDS["summary"]):
        return []
    rows = []
    for name, column in (("random cell (mean)", "random"), ("best cell of the table", "optimum")):
        values: dict[str, float] = {}
        for split in SPLITS:
            accuracy, best = _first(part, f"{column}_{split}"), _first(part, f"optimum_{split}")
            values |= {f"final_accuracy_{split}": accuracy, f"final_regret_{split}": best - accuracy}
        if np.isfinite(list(values.values())).any():
            columns = (*kind.columns, *kind.together)
            known = [values.get(one.source) if one.show is not spread else None for one in columns]
            rows.append(
                (Cell(name), Cell("–"), *(Cell("–") if one is None else statement([one], percent) for one in known))
            )
    return rows


def _published(one: published.Published) -> tuple[Cell, ...]:
    name = Cell(f"{one.method}, published" + ("" if one.checked else " †"))
    dash = Cell("–")
    return (name, dash, quoted(one.val), dash, quoted(one.test), dash, dash, dash)


def quoted(figure: published.Figure) -> Cell:
    """Return a published figure, a dash where its source has none."""
    if np.isnan(figure.mean):
        return Cell("–")
    deviation = "" if np.isnan(figure.std) else f" ± {percent(figure.std)}"
    return Cell(percent(figure.mean) + deviation, (("mean", figure.mean), ("std", figure.std)))


def _first(part: pd.DataFrame, column: str) -> float:
    known = part[column].dropna()
    return float(known.iloc[0]) if len(known) else np.nan


def _text(kind: Kind, part: pd.DataFrame, columns: Sequence[Sequence[Cell]]) -> str:
    bold = any(cell.bold for column in columns for cell in column)
    few = part.groupby("label")["seed"].nunique().min() < FEWEST_SEEDS
    return _caption.joined(
        "Mean ± standard deviation over seeds.",
        "Bold: its 95 % bootstrap interval lies beyond every other." if bold else "",
        f"Fewer than {FEWEST_SEEDS} seeds in some rows: no row is marked best." if few else "",
        "" if kind.columns is ACCURACY else _caption.lambda_definition(part),
        *(column.note for column in kind.columns),
        _caption.discretisation(part) if kind.columns is STABILITY else "",
        COST if kind.columns is SUMMARY else "",
        _caption.protocol(part),
    )
