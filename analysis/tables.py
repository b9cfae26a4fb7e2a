"""Write tables from results: python -m analysis.tables [accuracy stability bandwidth …] [--results results].

Every table is written as Markdown, LaTeX (booktabs) and CSV, one a space. A cell is the mean ± standard deviation over
seeds. The best of a column is bold only where the bootstrap interval of its mean over seeds lies beyond that of every
other method. Exit code 2 with one sentence when there is nothing to state.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import _caption, _command, typeset
from analysis.intervals import FEWEST_SEEDS, bootstrap_interval
from analysis.selection import space_order
from analysis.series import generator
from analysis.stability import per_run
from analysis.typeset import FORMATS, Cell, Sheet, statement


@dataclass(frozen=True)
class Column:
    """One quantity of `stability.per_run`.

    Attributes:
        better: -1 where less is better, 1 where more is, 0 where no value is best.
    """

    title: str
    source: str
    digits: Callable[[float], str]
    better: int = 0


def percent(value: float) -> str:
    """Return a fraction in percent with two digits."""
    return f"{100 * value:.2f}"


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
        ablated: a setting whose values are the rows, of the method named; the other methods are control rows.
    """

    title: str
    columns: tuple[Column, ...]
    ablated: tuple[str, str] | None = None
    controls: tuple[str, ...] = ()


ACCURACY = (
    Column("validation error %", "final_error_val", percent, -1),
    Column("test error %", "final_error_test", percent, -1),
    Column("validation regret %", "final_regret_val", percent, -1),
    Column("test regret %", "final_regret_test", percent, -1),
)
STABILITY = (
    Column("final λ", "lambda_final", significant),
    Column("λ of largest magnitude", "lambda_peak", significant),
    Column("slope of λ per epoch", "lambda_slope", significant),
    Column("λ last / first window", "lambda_ratio", significant),
    Column("share with λ rising 1.3× %", "lambda_collapse", percent),
    Column("final − best regret %", "regret_gap", percent, -1),
    Column("best epoch", "best_epoch", whole),
    Column("share without convolution %", "parameter_free", percent),
)
ABLATION = (*STABILITY[:2], ACCURACY[3])
CONTROLS = ("ms_null", "sdarts_rs_matched", "sdarts_rs", "darts")


def _ablation(setting: str, words: str) -> Kind:
    return Kind(f"MS-DARTS: {words}", ABLATION, ("ms_darts", f"settings.{setting}"), CONTROLS)


KINDS = {
    "accuracy": Kind("Cell selected at the end", ACCURACY),
    "stability": Kind("Stability", STABILITY),
    "bandwidth": _ablation("bandwidth", "bandwidth h"),
    "radius": _ablation("radius.end", "radius ε at the end of the ramp"),
    "samples": _ablation("samples", "samples N"),
    "rounds": _ablation("rounds", "rounds T"),
}


def sheet(name: str, frame: pd.DataFrame, space: str) -> Sheet:
    """Return a table of selected runs (`selection.select`) on one space.

    Raises:
        ValueError: an ablation without runs of its method, or of one value of its setting only.
    """
    kind, part = KINDS[name], frame[frame["space"] == space]
    part = part if kind.ablated is None else _ablated(kind, part, name)
    found = per_run(part)
    labels = _ordered(kind, part)
    columns = [_column(found, labels, column) for column in kind.columns]
    counts = [int(found[found["label"] == label]["seed"].nunique()) for label in labels]
    rows = [
        (Cell(label), Cell(str(n), (("", float(n)),)), *(column[row] for column in columns))
        for row, (label, n) in enumerate(zip(labels, counts, strict=True))
    ]
    header = ("method", "seeds", *(column.title for column in kind.columns))
    return Sheet(f"{kind.title}, {space}", header, (*rows, *_references(kind, part)), _text(part, columns))


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
    best = _best(values, column.better)
    return [statement(list(part), column.digits, bold=row == best) for row, part in enumerate(values)]


def _best(values: Sequence[np.ndarray], better: int) -> int | None:
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
            errors = [1 - accuracy["val"], 1 - accuracy["test"]]
            regrets = [best["val"] - accuracy["val"], best["test"] - accuracy["test"]]
            rows.append((Cell(name), Cell("–"), *(statement([value], percent) for value in errors + regrets)))
    return rows


def _first(part: pd.DataFrame, column: str) -> float:
    known = part[column].dropna()
    return float(known.iloc[0]) if len(known) else np.nan


def _text(part: pd.DataFrame, columns: Sequence[Sequence[Cell]]) -> str:
    bold = any(cell.bold for column in columns for cell in column)
    few = part.groupby("label")["seed"].nunique().min() < FEWEST_SEEDS
    return _caption.joined(
        "Mean ± standard deviation over seeds.",
        "Bold: its 95 % bootstrap interval lies beyond every other." if bold else "",
        f"Fewer than {FEWEST_SEEDS} seeds in some rows: no row is marked best." if few else "",
        _caption.lambda_definition(part),
        _caption.protocol(part),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        for path in _write(options):
            sys.stdout.write(f"{path}\n")
    except ValueError as error:
        sys.stderr.write(f"analysis.tables: {error}\n")
        return 2
    return 0


def _write(options: argparse.Namespace) -> list[Path]:
    names = options.table or ["accuracy", "stability"]
    for name in names:
        if name not in KINDS:
            raise ValueError(f"no table {name!r}; there are {', '.join(KINDS)}")
    frame = _command.selected(options)
    sheets = {f"{name}-{space}": sheet(name, frame, space) for name in names for space in space_order(frame)}
    return [typeset.save(made, options.out / stem, name) for stem, made in sheets.items() for name in options.format]


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser("tables", "Write tables from results.", "tables")
    parser.add_argument("table", nargs="*", metavar="TABLE", help=f"of {', '.join(KINDS)}; default: accuracy stability")
    parser.add_argument("--format", nargs="+", default=list(FORMATS), choices=FORMATS, help="default: all")
    return parser


if __name__ == "__main__":
    sys.exit(main())
