"""What each table is made of: columns of quantities of runs, rows of methods, references and published figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import _caption, published
from analysis._ablation import CONTROLS
from analysis.intervals import FEWEST_SEEDS, bootstrap_interval
from analysis.series import generator
from analysis.stability import per_label, per_run
from analysis.typeset import Cell, Sheet, spread, statement


@dataclass(frozen=True)
class Column:
    """One quantity of `stability.per_run`.

    Attributes:
        better: -1 where less is better, 1 where more is, 0 where no value is best.
        show: `statement` (mean and standard deviation) or `spread` (least and greatest).
    """

    title: str
    source: str
    digits: Callable[[float], str]
    better: int = 0
    show: Callable[[Sequence[float], Callable[[float], str]], Cell] = statement


def percent(value: float) -> str:
    """Return a fraction in percent with two digits."""
    return f"{100 * value:.2f}".replace("-", "−")


def significant(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:.3g}".replace("-", "−")


def whole(value: float) -> str:
    """Return a number with one digit after the point."""
    return f"{value:.1f}"


@dataclass(frozen=True)
class Kind:
    """What one table is made of.

    Attributes:
        together: quantities of all seeds of a method together (`stability.per_label`).
        ablated: a setting whose values are the rows, of the method named; the other methods are control rows.
    """

    title: str
    columns: tuple[Column, ...]
    together: tuple[Column, ...] = ()
    ablated: tuple[str, str] | None = None
    controls: tuple[str, ...] = ()


ACCURACY = (
    Column("validation accuracy %", "final_accuracy_val", percent, 1),
    Column("validation range", "final_accuracy_val", percent, show=spread),
    Column("test accuracy %", "final_accuracy_test", percent, 1),
    Column("test range", "final_accuracy_test", percent, show=spread),
    Column("validation regret %", "final_regret_val", percent, -1),
    Column("test regret %", "final_regret_test", percent, -1),
)
STABILITY = (
    Column("final λ", "lambda_final", significant),
    Column("λ of largest magnitude", "lambda_peak", significant),
    Column("slope of λ per epoch", "lambda_slope", significant),
    Column("λ last / first window", "lambda_ratio", significant),
    Column("final − best regret %", "regret_gap", percent, -1),
    Column("best epoch", "best_epoch", whole),
    Column("entropy of choices (nats)", "entropy_final", significant),
    Column("supernet accuracy − discretised %", "discretisation_gap", percent),
)
TOGETHER = (
    Column("share with λ rising 1.3× %", "lambda_collapse", percent),
    Column("share without convolution %", "parameter_free", percent),
    Column("share degenerate %", "degenerate", percent),
    Column("different cells", "cells", "{:.0f}".format),
    Column("P(two seeds have one cell)", "agreement", significant),
    Column("decisions two seeds share %", "same_decisions", percent),
    Column("by chance %", "same_by_chance", percent),
)
ABLATION = (*STABILITY[:2], ACCURACY[-1], Column("effective samples", "effective_samples", significant))


def _ablation(method: str, setting: str, words: str = "") -> Kind:
    ablated = (method, f"settings.{setting}")
    return Kind(f"{method}: {words or setting}", ABLATION, ablated=ablated, controls=CONTROLS)


KINDS = {
    "accuracy": Kind("Cell selected at the end", ACCURACY),
    "stability": Kind("Stability", STABILITY, TOGETHER),
    "bandwidth": _ablation("ms_darts", "bandwidth", "bandwidth h"),
    "radius": _ablation("ms_darts", "radius.end", "radius ε at the end of the ramp"),
    "samples": _ablation("ms_darts", "samples", "samples N"),
    "rounds": _ablation("ms_darts", "rounds", "rounds T"),
}


def kind_of(name: str) -> Kind:
    """Return a table's kind; `method.setting` is the ablation of any setting.

    Raises:
        ValueError: there is no such table.
    """
    method, dot, setting = name.partition(".")
    if name not in KINDS and not (method and dot and setting):
        raise ValueError(f"no table {name!r}; there are {', '.join(KINDS)} and METHOD.SETTING for an ablation")
    return KINDS[name] if name in KINDS else _ablation(method, setting)


def sheet(name: str, frame: pd.DataFrame, space: str) -> Sheet:
    """Return a table of selected runs (`selection.select`) on one space.

    Raises:
        ValueError: an ablation without runs of its method, or of one value of its setting only.
    """
    kind, part = kind_of(name), frame[frame["space"] == space]
    part = part if kind.ablated is None else _ablated(kind, part, name)
    found = per_run(part)
    found = found.assign(**{f"final_accuracy_{split}": 1 - found[f"final_error_{split}"] for split in ("val", "test")})
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


def _ablated(kind: Kind, part: pd.DataFrame, name: str) -> pd.DataFrame:
    assert kind.ablated is not None
    method, setting = kind.ablated
    own = part[part["method"] == method]
    values = own[setting].dropna().nunique() if setting in own else 0
    if values < 2:
        raise ValueError(
            f"expected runs of {method} with several values of {setting.removeprefix('settings.')} for the table "
            f"{name!r}, got {values}; python -m bench.run --set {method}.{setting.removeprefix('settings.')}=a,b,c "
            "makes them"
        )
    return part[part["method"].isin([method, *kind.controls])]


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
    if kind.columns is not ACCURACY:
        return []
    rows = []
    for name, column in (("random cell (mean)", "random"), ("best cell of the table", "optimum")):
        accuracy = {split: _first(part, f"{column}_{split}") for split in ("val", "test")}
        best = {split: _first(part, f"optimum_{split}") for split in ("val", "test")}
        if any(np.isfinite(list(accuracy.values()))):
            val, test = (statement([accuracy[split]], percent) for split in ("val", "test"))
            regrets = (statement([best[split] - accuracy[split]], percent) for split in ("val", "test"))
            rows.append((Cell(name), Cell("–"), val, Cell("–"), test, Cell("–"), *regrets))
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
        _caption.discretisation(part) if kind.columns is STABILITY else "",
        _caption.protocol(part),
    )
