"""Statements about scores over seeds and tasks: estimates with intervals, comparisons, profiles.

A *task* is whatever is drawn apart from the seeds (a space); the scores of one method are one array a task, and tasks
may have different numbers of seeds. Intervals are percentile bootstrap intervals, stratified: seeds are drawn with
replacement within each task. No estimate comes without its interval; where some task has fewer than `FEWEST_SEEDS`
seeds, the interval is missing and `note` says so. Values that are not finite are left out. Statistics are of the last
axis, so that all resamples are computed at once.

Source: R. Agarwal et al. (2021), Deep Reinforcement Learning at the Edge of the Statistical Precipice, section 4
(interquartile mean, stratified bootstrap, probability of improvement, performance profiles).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy.stats
from jaxtyping import Float

from analysis.intervals import FEWEST_SEEDS, Interval

Tasks = Sequence[np.ndarray]
"""Scores of one method, one array a task, of shape "... seeds"."""
Statistic = Callable[[Tasks], np.ndarray]
RESAMPLES = 2000
PERMUTATIONS = 9999
"""Drawn where there are more; else all are counted."""


@dataclass(frozen=True)
class Estimate:
    """A number over seeds with its interval.

    Attributes:
        low: NaN where no interval can be stated, as is `high`; `note` then says why.
        n: number of finite values, over all tasks.
    """

    value: float
    low: float
    high: float
    n: int
    note: str = ""

    def __str__(self) -> str:
        stated = f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}], n = {self.n}"
        return f"{self.value:.3g}, n = {self.n} ({self.note})" if self.note else stated


def mean(tasks: Tasks) -> Float[np.ndarray, "..."]:
    """Return the mean over tasks of the mean over seeds."""
    return np.asarray(np.mean([np.mean(scores, axis=-1) for scores in tasks], axis=0))


def median(tasks: Tasks) -> Float[np.ndarray, "..."]:
    """Return the median over tasks of the mean over seeds; with one task, the median over seeds."""
    if len(tasks) == 1:
        return np.asarray(np.median(tasks[0], axis=-1))
    return np.asarray(np.median([np.mean(scores, axis=-1) for scores in tasks], axis=0))


def interquartile_mean(tasks: Tasks) -> Float[np.ndarray, "..."]:
    """Return the mean of the middle half of all scores of all tasks."""
    return np.asarray(scipy.stats.trim_mean(np.concatenate(list(tasks), axis=-1), 0.25, axis=-1))


AGGREGATES: dict[str, Statistic] = {
    "mean": mean,
    "median": median,
    "interquartile mean": interquartile_mean,
}


def estimate(tasks: Tasks, statistic: Statistic, rng: np.random.Generator) -> Estimate:
    """Return a statistic of the scores, one axis each, with its stratified 95 % bootstrap interval."""
    kept = finite(tasks)
    n, note = sum(map(len, kept)), few(kept)
    if not kept or not all(map(len, kept)):
        return Estimate(np.nan, np.nan, np.nan, n, note)
    value = float(statistic(kept))
    if note:
        return Estimate(value, np.nan, np.nan, n, note)
    return Estimate(value, *percentiles(statistic(resampled(kept, rng)), value), n)


def probability_of_improvement(first: Tasks, second: Tasks, rng: np.random.Generator) -> Estimate:
    """Return the probability that a run of `first` scores less than one of `second`, ties half; mean over tasks.

    Scores are regrets or errors: less is better. The interval resamples both methods' seeds within each task.

    Raises:
        ValueError: the methods have different numbers of tasks.
    """
    if len(first) != len(second):
        raise ValueError(f"expected the same tasks for both methods, got {len(first)} and {len(second)}")
    kept = finite([*first, *second])
    return estimate(kept, _improvement, rng)


def _improvement(both: Tasks) -> Float[np.ndarray, "..."]:
    half = len(both) // 2
    return mean([_less(one, other) for one, other in zip(both[:half], both[half:], strict=True)])


def _less(
    one: Float[np.ndarray, "... first"], other: Float[np.ndarray, "... second"]
) -> Float[np.ndarray, "... first"]:
    """Return for every score of one the share of the other's scores above it, equal ones half."""
    pairs = one[..., :, None], other[..., None, :]
    return (np.less(*pairs) + np.equal(*pairs) / 2).mean(axis=-1)


def performance_profile(
    tasks: Tasks, thresholds: Float[np.ndarray, " thresholds"], rng: np.random.Generator
) -> Interval:
    """Return the share of runs whose score is at most each threshold, mean over tasks, with a pointwise 95 % band."""
    kept = finite(tasks)
    n = np.full(len(thresholds), sum(map(len, kept)), dtype=np.int64)
    nothing = np.full(len(thresholds), np.nan)
    if not kept or not all(map(len, kept)):
        return Interval(nothing, nothing, nothing, n)
    value = _profile(kept, thresholds)
    if few(kept):
        return Interval(value, nothing, nothing, n)
    low, high = np.percentile(_profile(resampled(kept, rng), thresholds), [2.5, 97.5], axis=0)
    return Interval(value, np.minimum(low, value), np.maximum(high, value), n)


def _profile(tasks: Tasks, thresholds: Float[np.ndarray, " thresholds"]) -> Float[np.ndarray, "... thresholds"]:
    shares = [np.stack([(scores <= t).mean(axis=-1) for t in thresholds], axis=-1) for scores in tasks]
    return np.asarray(np.mean(shares, axis=0))


@dataclass(frozen=True)
class Difference:
    """Two methods compared on the seeds that both have.

    Attributes:
        difference: mean of first minus second over the shared seeds.
        p: two-sided, of the sign-flip permutation test; NaN below `FEWEST_SEEDS` shared seeds.
        p_holm: corrected over all comparisons made together.
    """

    first: str
    second: str
    difference: Estimate
    p: float
    p_holm: float


def paired_differences(
    scores: Mapping[str, Mapping[int, float]], rng: np.random.Generator, reference: str | None = None
) -> list[Difference]:
    """Compare methods in pairs by seed: all pairs, or all against `reference`.

    The test flips the signs of the differences by seed (all ways where there are at most `PERMUTATIONS`).

    Args:
        scores: method to seed to score.
        rng: draws resamples and sign flips.
        reference: method that every other is compared with.

    Raises:
        ValueError: there is no such reference.
    """
    if reference is not None and reference not in scores:
        raise ValueError(f"no method {reference!r} to compare with; there are {', '.join(scores)}")
    pairs = list(combinations(scores, 2)) if reference is None else [(m, reference) for m in scores if m != reference]
    found = []
    for one, other in pairs:
        shared = sorted(scores[one].keys() & scores[other].keys())
        values = np.array([scores[one][seed] - scores[other][seed] for seed in shared], dtype=np.float64)
        values = values[np.isfinite(values)]
        found.append((one, other, estimate([values], mean, rng), sign_flip(values, rng)))
    corrected = holm(np.array([p for *_, p in found]))
    return [Difference(*entry, float(p)) for entry, p in zip(found, corrected, strict=True)]


def sign_flip(
    differences: Float[np.ndarray, " seeds"], rng: np.random.Generator, permutations: int = PERMUTATIONS
) -> float:
    """Return the two-sided p-value of a mean of zero under flipped signs; NaN below `FEWEST_SEEDS` values."""
    n = len(differences)
    if n < FEWEST_SEEDS:
        return np.nan
    if not differences.any():
        return 1.0
    if 2**n <= permutations:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return _share(signs @ differences, differences.sum(), drawn=0)
    signs = 1 - 2 * rng.integers(0, 2, size=(permutations, n), dtype=np.int8)
    return _share(signs @ differences, differences.sum(), drawn=1)


def relabelled(
    first: Float[np.ndarray, " first"],
    second: Float[np.ndarray, " second"],
    rng: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> float:
    """Return the two-sided p-value of equal means of independent seeds; NaN where one has fewer than `FEWEST_SEEDS`.

    scipy's permutation test draws one permutation at a time, which is too slow for the many tests of a check.
    """
    n = len(first)
    if min(n, len(second)) < FEWEST_SEEDS:
        return np.nan
    both = np.concatenate([first, second])
    if np.ptp(both) == 0:
        return 1.0
    both = both - both.mean()
    if math.comb(len(both), n) <= permutations:
        sums = np.array([both[list(chosen)].sum() for chosen in combinations(range(len(both)), n)])
        return _share(sums, both[:n].sum(), drawn=0)
    drawn = rng.permuted(np.broadcast_to(both, (permutations, len(both))), axis=1)[:, :n]
    return _share(drawn.sum(axis=1), both[:n].sum(), drawn=1)


def _share(sums: Float[np.ndarray, " permutations"], observed: float, drawn: int) -> float:
    """Return the share of sums at least as far from zero as the observed one, which counts as `drawn` further sums.

    Sums of the same numbers in another order differ in the last bits; such a difference is a tie.
    """
    beyond = np.abs(sums) >= abs(observed) * (1 - 1e-9) - 1e-12
    return float((beyond.sum() + drawn) / (len(sums) + drawn))


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Return p-values corrected by Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure.

    A NaN is no test: it stays and does not count.
    """
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def finite(tasks: Tasks) -> list[np.ndarray]:
    """Return the scores without those that are not finite."""
    return [np.asarray(scores, np.float64)[np.isfinite(scores)] for scores in tasks]


def few(tasks: Tasks) -> str:
    """Return why no interval can be stated; empty where one can."""
    least = min(map(len, tasks), default=0)
    return f"{least} seeds: no interval below {FEWEST_SEEDS}" if least < FEWEST_SEEDS else ""


def resampled(tasks: Tasks, rng: np.random.Generator) -> list[np.ndarray]:
    """Return `RESAMPLES` draws of as many scores of each task, with replacement: "resamples seeds" each."""
    return [scores[rng.integers(len(scores), size=(RESAMPLES, len(scores)))] for scores in tasks]


def percentiles(draws: Float[np.ndarray, " resamples"], value: float) -> tuple[float, float]:
    """Return the 95 % percentile interval, widened to hold the estimate; resamples without a value are left out."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(min(low, value)), float(max(high, value))
