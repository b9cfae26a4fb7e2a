"""Which method has less regret, by how much and how surely: estimates over seeds, each with its interval.

The estimates are those of `stats`; every method is also compared with one reference, paired by seed, the p-values
corrected over the methods of a space (Holm). Nothing is stated below `FEWEST_SEEDS` seeds.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis import _caption, stats
from analysis.intervals import FEWEST_SEEDS
from analysis.series import generator
from analysis.stability import per_run
from analysis.stats import Estimate
from analysis.typeset import Cell, Sheet

REFERENCE = "darts"
"""What the others are compared with, where there are runs of it; else the first of the labels."""
OUTCOME = "final_regret_test"
Scores = Mapping[str, Mapping[int, float]]
"""Label to seed to final test regret, a fraction; those that have one."""
ENOUGH = 6
"""Seeds of which the clearest difference has a p below .05."""


def sheet(frame: pd.DataFrame, space: str) -> Sheet:
    """Return the table of selected runs (`selection.select`) on one space."""
    part = frame[frame["space"] == space]
    scores = _scores(part)
    labels = sorted(scores)
    reference = REFERENCE if scores.get(REFERENCE) else next((label for label in labels if scores[label]), labels[0])
    against = {one.first: one for one in stats.paired_differences(scores, generator(), reference)}
    header = ("method", "seeds", *(f"{name} %" for name in stats.AGGREGATES), f"P(less than {reference})",
              f"difference to {reference} %", "p (Holm)")  # fmt: skip
    rows = []
    for label in labels:
        values = np.array(list(scores[label].values()), dtype=np.float64)
        cells = [
            _cell(stats.estimate([values], statistic, generator()), 100.0) for statistic in stats.AGGREGATES.values()
        ]
        cells += [Cell("–")] * 3 if label == reference else _against(scores, against[label])
        rows.append((Cell(label), Cell(str(len(values)), (("", float(len(values))),)), *cells))
    return Sheet(f"Final test regret compared, {space}", header, tuple(rows), _text(part, reference))


def _scores(part: pd.DataFrame) -> Scores:
    found = per_run(part)
    known = found[np.isfinite(found[OUTCOME].to_numpy(np.float64))]
    nothing: dict[str, dict[int, float]] = {str(label): {} for label in found["label"].unique()}
    return nothing | {
        str(label): dict(zip(rows["seed"], rows[OUTCOME], strict=True)) for label, rows in known.groupby("label")
    }


def _against(scores: Scores, one: stats.Difference) -> list[Cell]:
    first, second = ([np.array(list(scores[label].values()), dtype=np.float64)] for label in (one.first, one.second))
    better = stats.probability_of_improvement(first, second, generator())
    p = Cell("–" if np.isnan(one.p_holm) else f"{one.p_holm:.3g}", (("", one.p_holm),))
    return [_cell(better, 1.0), _cell(one.difference, 100.0), p]


def _cell(one: Estimate, scale: float) -> Cell:
    """Return an estimate with its interval; without an interval nothing is stated."""
    numbers = (("value", one.value), ("low", one.low), ("high", one.high), ("n", float(one.n)))
    if np.isnan(one.low):
        return Cell("–", numbers)
    value, low, high = (f"{scale * number:.2f}".replace("-", "−") for number in (one.value, one.low, one.high))
    return Cell(f"{value} [{low}, {high}]", numbers)


def _text(part: pd.DataFrame, reference: str) -> str:
    return _caption.joined(
        "Test regret of the cell selected at the end, less is better; estimates over seeds [95 % bootstrap interval].",
        f"P: probability that a run has less regret than one of {reference}, ties half. Difference: mean over the "
        "seeds that both have, negative is better; p: two-sided sign-flip test over them, after Holm's correction over "
        f"the rows. A dash: fewer than {FEWEST_SEEDS} seeds, about which nothing is stated.",
        _few(int(part.groupby("label")["seed"].nunique().max())),
        _caption.protocol(part),
    )


def _few(seeds: int) -> str:
    """Return what so few seeds cannot say, if they cannot."""
    if not FEWEST_SEEDS <= seeds < ENOUGH:
        return ""
    return f"Of {seeds} seeds no p is below {2 / 2**seeds:.3g}, and an interval is little more than their range."
