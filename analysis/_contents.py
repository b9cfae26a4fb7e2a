"""What each table is made of: columns of quantities of runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis._ablation import CONTROLS
from analysis.typeset import Cell, spread, statement


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


def once(values: Sequence[float], digits: Callable[[float], str]) -> Cell:
    """Return the mean alone, of what all seeds of a stack have together."""
    return statement([float(np.mean(values))] if len(values) else [], digits)


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
