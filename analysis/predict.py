"""Does λ predict? Rank correlations of λ with the regret of the selected cell: python -m analysis.predict.

Positive: larger λ goes with larger regret. For every space, measure of λ (level, slope and window ratio, in logits and
in mixing weights; `analysis.stability`) and statistic:

    <label>     over the seeds of one method; seeds are resampled
    within      mean of the methods' correlations, where they have one, weighted by their number of seeds; seeds are
                resampled within methods
    between     over the methods' means; methods are resampled, and seeds within them
    all runs    over all runs together; seeds are resampled within methods

The partial correlations hold the entropy of the choices at the end of the search constant, because a saturated row
lowers λ in logits by itself: r_xy·z = (r_xy − r_xz r_yz) / √((1 − r_xz²)(1 − r_yz²)) of the rank correlations.
Those of three runs are ±1 whatever was measured. Intervals are percentile bootstrap intervals.
Nothing is stated below `FEWEST_SEEDS` runs (methods, for `between`), or below one more for a partial correlation, and
no interval over the seeds of one method below `FEWEST_FOR_INTERVAL`, whose resamples are mostly two or three seeds.

Sources: M. Kendall (1942), Partial rank correlation; F. Schmidt, J. Hunter (2015), Methods of Meta-Analysis, chapter 3
(the weighted mean).
"""

import argparse
import csv
import io
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis import _command, _files
from analysis._correlation import Correlation, Runs, kendall, partial, spearman
from analysis.intervals import FEWEST_SEEDS
from analysis.selection import space_order
from analysis.series import generator
from analysis.stability import WINDOW, per_run
from analysis.stats import percentiles

MEASURES = ("lambda_level", "lambda_slope", "lambda_ratio", "simplex_level", "simplex_slope", "simplex_ratio")
OUTCOME, GIVEN = "final_regret_test", "entropy_final"
RESAMPLES = 1000
FEWEST_FOR_INTERVAL = 5


@dataclass(frozen=True)
class Prediction:
    """One correlation with its interval.

    Attributes:
        scope: a label, `within`, `between` or `all runs`.
        n: runs that it rests on; methods, for `between`.
        note: why there is no value or no interval; empty where there are both.
    """

    space: str
    measure: str
    statistic: str
    scope: str
    value: float
    low: float
    high: float
    n: int
    note: str = ""


STATISTICS: dict[str, tuple[Correlation, tuple[str, ...]]] = {
    "Spearman": (spearman, ()),
    "Kendall": (kendall, ()),
    "partial Spearman": (lambda runs: partial(runs, spearman), (GIVEN,)),
    "partial Kendall": (lambda runs: partial(runs, kendall), (GIVEN,)),
}


def predictions(runs: pd.DataFrame, rng: np.random.Generator) -> list[Prediction]:
    """Return all correlations of `stability.per_run`'s rows; runs that have not finished are left out.

    Raises:
        ValueError: none has.
    """
    runs, found = runs[runs["finished"]], []
    if runs.empty:
        raise ValueError("expected runs that have finished, got none; the command that began them goes on with them")
    for space in space_order(runs):
        part = runs[runs["space"] == space]
        for measure in MEASURES:
            for name, (statistic, given) in STATISTICS.items():
                methods = _methods(part, [measure, OUTCOME, *given])
                least = FEWEST_SEEDS + len(given)
                found += [Prediction(space, measure, name, *row) for row in _scopes(methods, statistic, least, rng)]
    return found


def _methods(part: pd.DataFrame, columns: Sequence[str]) -> dict[str, Runs]:
    """Return the runs of each label that have a value in every column."""
    known = part[np.isfinite(part[list(columns)].to_numpy(np.float64)).all(axis=1)]
    return {str(label): group[list(columns)].to_numpy(np.float64) for label, group in known.groupby("label")}


Row = tuple[str, float, float, float, int, str]


def _scopes(methods: dict[str, Runs], statistic: Correlation, least: int, rng: np.random.Generator) -> list[Row]:
    enough = [runs for runs in methods.values() if len(runs) >= least and np.isfinite(statistic(runs))]
    every = list(methods.values())
    weights = np.array([len(runs) for runs in enough], np.float64)

    def within(groups: Sequence[Runs]) -> Float[np.ndarray, "..."]:
        return _weighted(np.array([statistic(runs) for runs in groups]), weights)

    def together(groups: Sequence[Runs]) -> Float[np.ndarray, "..."]:
        return statistic(np.concatenate(list(groups), axis=-2))

    rows = [_alone(_row(label, [runs], together, least, rng)) for label, runs in methods.items()]
    rows.append(_row("within", enough, within, least, rng))
    rows.append(_between(every, statistic, least, rng))
    whole = _row("all runs", every, together, least, rng)
    if any(len(runs) < FEWEST_SEEDS for runs in every):
        whole = _without_interval(whole, "seeds of a method that has one or two cannot be resampled")
    return [*rows, whole]


def _alone(row: Row) -> Row:
    """Return a method's correlation without an interval that its seeds are too few for."""
    n = row[4]
    few = n < FEWEST_FOR_INTERVAL and not np.isnan(row[2])
    return _without_interval(row, f"{n} seeds: no interval below {FEWEST_FOR_INTERVAL}") if few else row


def _without_interval(row: Row, why: str) -> Row:
    return (*row[:2], np.nan, np.nan, row[4], row[5] or why)


def _row(
    scope: str,
    groups: list[Runs],
    value: Callable[[Sequence[Runs]], Float[np.ndarray, "..."]],
    least: int,
    rng: np.random.Generator,
) -> Row:
    """Return a correlation whose interval resamples seeds within methods."""
    n = sum(map(len, groups))
    if n < least:
        return _nothing(scope, n, least)
    return _stated(scope, float(value(groups)), value([_seeds(runs, RESAMPLES, rng) for runs in groups]), n)


def _between(groups: list[Runs], statistic: Correlation, least: int, rng: np.random.Generator) -> Row:
    """Return the correlation of the methods' means, whose interval resamples methods, and seeds within them."""
    n = len(groups)
    if n < least:
        return _nothing("between", n, least)
    chosen = rng.integers(n, size=(RESAMPLES, n))
    means = np.stack([_seeds(runs, RESAMPLES * n, rng).mean(axis=-2) for runs in groups])
    draws = means[chosen, np.arange(RESAMPLES * n).reshape(RESAMPLES, n)]
    value = float(statistic(np.array([runs.mean(axis=0) for runs in groups])))
    return _stated("between", value, statistic(draws), n)


def _seeds(runs: Runs, draws: int, rng: np.random.Generator) -> Runs:
    return runs[rng.integers(len(runs), size=(draws, len(runs)))]


def _nothing(scope: str, n: int, least: int) -> Row:
    return scope, np.nan, np.nan, np.nan, n, f"{n}: nothing is stated below {least}"


def _stated(scope: str, value: float, draws: Float[np.ndarray, " draws"], n: int) -> Row:
    """Return one correlation with its interval; draws in which it does not exist are left out."""
    if np.isnan(value):
        return scope, np.nan, np.nan, np.nan, n, "a quantity does not vary, or has the ranks of another"
    if np.isfinite(draws).mean() < 0.5:
        return scope, value, np.nan, np.nan, n, "no interval: in most resamples a quantity does not vary"
    return scope, value, *percentiles(draws, value), n, ""


def _weighted(values: np.ndarray, weights: Float[np.ndarray, " methods"]) -> Float[np.ndarray, "..."]:
    """Return the weighted mean over the methods that have a value; NaN where none has."""
    known = np.isfinite(values)
    total = np.asarray(np.tensordot(weights, np.where(known, values, 0.0), axes=1))
    count = np.asarray(np.tensordot(weights, known.astype(np.float64), axes=1))
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def comma_separated(found: Sequence[Prediction]) -> str:
    """Return one line a correlation, missing numbers empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(field.name for field in fields(Prediction))
    writer.writerows(["" if value != value else value for value in astuple(one)] for one in found)  # noqa: PLR0124
    return out.getvalue()


def markdown(found: Sequence[Prediction]) -> str:
    """Return two tables a space: every statistic over methods and runs, and Spearman's correlation of each method."""
    return "\n".join(_space(space, [one for one in found if one.space == space]) for space in _spaces(found))


def _spaces(found: Sequence[Prediction]) -> list[str]:
    return list(dict.fromkeys(one.space for one in found))


def _space(space: str, found: Sequence[Prediction]) -> str:
    cells = {(one.measure, one.statistic, one.scope): _cell(one) for one in found}
    rows = list(dict.fromkeys((one.measure, one.statistic) for one in found))
    over_all = [[*row, *(cells.get((*row, scope), "–") for scope in SUMMARIES)] for row in rows]
    measures = list(dict.fromkeys(one.measure for one in found))
    methods = [scope for scope in dict.fromkeys(one.scope for one in found) if scope not in SUMMARIES]
    each = [[method, *(cells.get((name, EACH, method), "–") for name in measures)] for method in methods]
    more = "The other statistics of each method: predict.csv."
    return (
        f"### λ and final test regret, {space}\n\n{_table(['λ', 'statistic', *SUMMARIES], over_all)}\n\n{CAPTION}\n\n"
        f"{_table([f'{EACH}, over the seeds of', *measures], each)}\n\n{more}\n"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


SUMMARIES = ("within", "between", "all runs")
EACH = "Spearman"
CAPTION = (
    "Rank correlation [95 % bootstrap interval] (n runs; methods for `between`); positive: larger λ, larger regret. "
    "Partial: given the entropy of the choices at the end. lambda_level: mean |λ| of the last "
    f"{WINDOW} epochs that have it; lambda_slope: least-squares slope of λ over the epochs; lambda_ratio: mean |λ| of "
    f"the last {WINDOW} over the first {WINDOW} after epoch 0. simplex_…: the same in mixing weights, of the last "
    "value, the slope, and the last over the first. A dash: not enough runs or epochs, or a quantity that does not "
    f"vary; no interval over all runs where a method has fewer than {FEWEST_SEEDS} seeds, nor over the seeds of a "
    f"method that has fewer than {FEWEST_FOR_INTERVAL}. Of "
    f"{len(MEASURES) * len(STATISTICS)} numbers a space some intervals leave out 0 by chance."
)


def _cell(one: Prediction) -> str:
    if np.isnan(one.value):
        return "–"
    interval = "no interval" if np.isnan(one.low) else f"{one.low:.2f}, {one.high:.2f}"
    return f"{one.value:.2f} [{interval}] ({one.n})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        found = predictions(per_run(_command.selected(options)), generator())
        _files.put(options.out / "predict.md", markdown(found))
        _files.put(options.out / "predict.csv", comma_separated(found))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"analysis.predict: {error}\n")
        return 2
    sys.stdout.write(markdown(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    return _command.parser("predict", "Say whether λ predicts the final regret.", "tables")


if __name__ == "__main__":
    sys.exit(main())
