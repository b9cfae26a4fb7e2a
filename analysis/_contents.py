"""What each table is made of: columns of quantities of runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis._ablation import CONTROLS
from analysis.intervals import FEWEST_SEEDS, bootstrap_interval
from analysis.series import generator
from analysis.stability import WINDOW
from analysis.typeset import Cell, spread, statement


@dataclass(frozen=True)
class Column:
    """One quantity of `stability.per_run`.

    Attributes:
        better: -1 where less is better, 1 where more is, 0 where no value is best.
        show: `statement` (mean and standard deviation), `spread` (least and greatest) or another summary over seeds.
        note: what stands below a table with this column.
    """

    title: str
    source: str
    digits: Callable[[float], str]
    better: int = 0
    show: Callable[[Sequence[float], Callable[[float], str]], Cell] = statement
    note: str = ""


def percent(value: float) -> str:
    """Return a fraction in percent with two digits."""
    return f"{100 * value:.2f}".replace("-", "−")


def significant(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:.3g}".replace("-", "−")


def once(values: Sequence[float], digits: Callable[[float], str]) -> Cell:
    """Return the mean alone, of what all seeds of a stack have together."""
    return statement([float(np.mean(values))] if len(values) else [], digits)


def magnitude(values: Sequence[float], digits: Callable[[float], str]) -> Cell:
    """Return mean ± standard deviation without signs, which would cancel."""
    return statement([abs(value) for value in values], digits)


FARTHEST = 1000.0


def factor(values: Sequence[float], digits: Callable[[float], str]) -> Cell:
    """Return the geometric mean of ratios [95 % bootstrap interval], or the ratios where they are too few.

    None counts as farther from 1 than `FARTHEST`.
    """
    known = np.clip([value for value in values if not np.isnan(value)], 1 / FARTHEST, FARTHEST)
    found = bootstrap_interval(np.log(known) if len(known) else np.array([np.nan]), generator())
    mean, low, high = (float(np.exp(value)) for value in (found.mean, found.low, found.high))
    numbers = (("geometric mean", mean), ("low", low), ("high", high), ("n", float(found.n)))
    if np.isnan(low):
        return Cell(", ".join(map(digits, sorted(known))) or "–", numbers)
    return Cell(f"{digits(mean)} [{digits(low)}, {digits(high)}]", numbers)


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
PEAK = "Peak: the largest magnitude of λ in a run, mean over seeds, whatever its sign."
GROWTH = (
    f"λ end / start: mean magnitude of λ over the last {WINDOW} epochs that have it, divided by that over the first "
    f"{WINDOW} after epoch 0; 10: λ grew tenfold. Geometric mean over seeds [95 % bootstrap interval]; of fewer than "
    f"{FEWEST_SEEDS} seeds each one. A run counts as at least 1/{FARTHEST:g} and at most {FARTHEST:g}, also where λ is "
    f"0 at one end; a dash: fewer than {2 * WINDOW} epochs with λ."
)
STABILITY = (
    Column("final λ", "lambda_final", significant),
    Column("peak magnitude of λ", "lambda_peak", significant, show=magnitude, note=PEAK),
    Column("slope of λ per epoch", "lambda_slope", significant),
    Column("λ end / start", "lambda_ratio", significant, show=factor, note=GROWTH),
    Column("final − best regret %", "regret_gap", percent, -1),
    Column("best epoch", "best_epoch", whole),
    Column("entropy of choices (nats)", "entropy_final", significant),
    Column("supernet accuracy − discretised %", "discretisation_gap", percent),
)
TOGETHER = (
    Column("share without convolution %", "parameter_free", percent),
    Column("share degenerate %", "degenerate", percent),
    Column("different cells", "cells", "{:.0f}".format),
    Column("P(two seeds have one cell)", "agreement", significant),
    Column("decisions two seeds share %", "same_decisions", percent),
    Column("by chance %", "same_by_chance", percent),
)
SUMMARY = (
    Column("steps of an epoch / darts", "steps_relative", significant, show=once),
    Column("stack, s", "wall_s", whole, show=once),
    ACCURACY[2],
    ACCURACY[-1],
    Column("final λ", "lambda_final", significant),
)
SUMMARY_TOGETHER = (Column("seeds above a random cell %", "beats_random", percent), *TOGETHER[3:])
ABLATION = (*STABILITY[:2], ACCURACY[-1], Column("effective samples", "effective_samples", significant))


def _ablation(method: str, setting: str, words: str = "") -> Kind:
    ablated = (method, f"settings.{setting}")
    return Kind(f"{method}: {words or setting}", ABLATION, ablated=ablated, controls=CONTROLS)


KINDS = {
    "accuracy": Kind("Cell selected at the end", ACCURACY),
    "summary": Kind("Every method", SUMMARY, SUMMARY_TOGETHER),
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
