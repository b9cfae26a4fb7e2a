"""Measure the regression check's error rates at the spread of real runs: python -m analysis.calibrate --results DIR.

DIR holds runs of many seeds under one protocol. For every space and label with a λ the command measures

- false alarms on re-seeded real runs: disjoint random sets of seeds as baseline and as new runs, as independent seeds
  and as pairs;
- false alarms on simulated trajectories: ln|λ| over the epochs is drawn from the normal distribution with the pool's
  mean and covariance, regrets with replacement;
- the detection curve: share of simulated checks in which multiplying λ is found, by factor and number of seeds a side;
  by the factor throughout, and by a factor that grows from one to the stated one over the run.

Every check is whole: all quantities, thresholds and Holm's correction (`analysis/_compare.py`). Exit code 2 with one
sentence where there are too few seeds.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Float

from analysis import _baseline, _command, _files
from analysis._baseline import LOWEST, Entry, Seed, of_trajectory
from analysis._compare import Limits, compare
from analysis.selection import space_order
from analysis.series import generator, trajectory

FACTORS = (1.25, 1.5, 2.0, 3.0, 4.0)
SEEDS = (6, 8, 10, 12, 16, 20, 24, 32)
ALARM_SEEDS = (12, 24)
WANTED = 0.95
FEWEST_POOLED = 12

Side = Sequence[Seed]


@dataclass(frozen=True)
class Pool:
    """Real runs of one label on one space.

    Attributes:
        logarithms: ln|λ|, "runs epochs"; runs and epochs without a λ are left out.
        seeds: what is compared, of every run.
        span: epochs of a run.
    """

    space: str
    label: str
    epochs: Float[np.ndarray, " epochs"]
    logarithms: Float[np.ndarray, "runs epochs"]
    seeds: tuple[Seed, ...]
    span: float

    def simulated(self, n: int, rng: np.random.Generator, added: Float[np.ndarray, " epochs"]) -> list[Seed]:
        """Return seeds of simulated runs; `added` is added to ln|λ| at each epoch."""
        mean, covariance = self.logarithms.mean(axis=0), np.cov(self.logarithms, rowvar=False)
        paths = rng.multivariate_normal(mean, covariance, size=n, method="eigh") + added
        regrets = [self.seeds[place].regret for place in rng.integers(len(self.seeds), size=n)]
        values = [of_trajectory(self.epochs, path, self.span) for path in paths]
        return [Seed(*value, regret, 0.0, 0.0) for value, regret in zip(values, regrets, strict=True)]


def pools(frame: pd.DataFrame) -> list[Pool]:
    """Return the labels of selected rows (`selection.select`) that have a λ.

    Raises:
        ValueError: one has fewer than `FEWEST_POOLED` finished runs with it, or none has any.
    """
    frame, found = frame[frame["finished"]], []
    for space in space_order(frame):
        for label, rows in frame[frame["space"] == space].groupby("label"):
            path = trajectory(rows, "lambda_dominant").measured()
            if not path.epochs.size:
                continue
            whole = np.isfinite(path.values).all(axis=1)
            if whole.sum() < FEWEST_POOLED:
                raise ValueError(
                    f"expected at least {FEWEST_POOLED} finished seeds of {label} on {space}, got {int(whole.sum())}; "
                    "run more, or choose others with --methods"
                )
            seeds = tuple(_baseline.of_run(run) for _, run in rows.groupby("run"))
            magnitudes = np.log(np.maximum(np.abs(path.values[whole]), LOWEST))
            span = float(rows["epochs"].iloc[0])
            found.append(Pool(space, str(label), path.epochs.astype(np.float64), magnitudes, seeds, span))
    if not found:
        raise ValueError("no finished run has a λ; there is nothing to measure error rates on")
    return found


def alarmed(before: Side, after: Side, limits: Limits, rng: np.random.Generator, first: int = 0) -> bool:
    """Return whether a check of two sets of seeds finds a change; the new ones are numbered from `first` on."""
    sides = [
        {first_number + i: seed for i, seed in enumerate(side)} for first_number, side in ((0, before), (first, after))
    ]
    entries = [{("pool", "pool"): Entry("pool", "pool", {}, {}, side)} for side in sides]
    return compare(entries[0], entries[1], limits, rng).code == 1


PAIRED, INDEPENDENT = 0, 10**6
"""Number of the first new seed."""


def reseeded(pool: Pool, n: int, limits: Limits, rng: np.random.Generator, first: int) -> bool:
    """Return whether a check alarms on two disjoint random sets of `n` real runs."""
    order = rng.permutation(len(pool.seeds))[: 2 * n]
    chosen = [pool.seeds[place] for place in order]
    return alarmed(chosen[:n], chosen[n:], limits, rng, first)


def simulated(
    pool: Pool, n: int, limits: Limits, rng: np.random.Generator, added: Float[np.ndarray, " epochs"]
) -> bool:
    """Return whether a check alarms on two simulated sets of `n` runs; `added` changes ln|λ| of the second."""
    before = pool.simulated(n, rng, np.zeros_like(added))
    return alarmed(before, pool.simulated(n, rng, added), limits, rng, INDEPENDENT)


def rate(check: Callable[[], bool], repeats: int) -> tuple[int, int]:
    """Return how many of `repeats` checks alarm, and how many there were."""
    return sum(check() for _ in range(repeats)), repeats


def shares(counts: tuple[int, int]) -> str:
    """Return a share in percent with its exact 95 % interval (Clopper, Pearson, 1934)."""
    interval = scipy.stats.binomtest(*counts).proportion_ci()
    return f"{100 * counts[0] / counts[1]:.1f} % ({100 * interval.low:.1f}–{100 * interval.high:.1f})"


def report(pool: Pool, repeats: int, limits: Limits, rng: np.random.Generator) -> str:
    """Return false alarms and detection curves of one pool as Markdown."""
    spread = [np.std(values, ddof=1) for values in zip(*((s.level, s.growth) for s in pool.seeds), strict=True)]
    lines = [
        f"### {pool.label} on {pool.space}, {len(pool.seeds)} seeds, {pool.span:g} epochs",
        f"Standard deviation over seeds: {spread[0]:.2f} of ln(level of |λ|), {spread[1]:.2f} of ln(growth of |λ|).",
        _alarms(pool, repeats, limits, rng),
    ]
    constant, ramp = np.ones_like(pool.epochs), pool.epochs / pool.span
    for words, shape in (("λ times a factor throughout", constant), ("λ times a factor that grows to the end", ramp)):
        lines.append(_curve(pool, max(repeats // 10, 1), limits, rng, (words, shape)))
    return "\n\n".join(lines) + "\n"


def _alarms(pool: Pool, repeats: int, limits: Limits, rng: np.random.Generator) -> str:
    rows = []
    for n in (seeds for seeds in ALARM_SEEDS if 2 * seeds <= len(pool.seeds)):
        few, none = replace(limits, seeds=n), np.zeros_like(pool.epochs)
        checks: list[Callable[[], bool]] = [
            partial(reseeded, pool, n, few, rng, INDEPENDENT),
            partial(reseeded, pool, n, few, rng, PAIRED),
            partial(simulated, pool, n, few, rng, none),
        ]
        rows.append(f"| {n} | {' | '.join(shares(rate(check, repeats)) for check in checks)} |")
    head = ["| seeds a side | real runs, independent | real runs, paired | simulated |", "| --- | --- | --- | --- |"]
    return f"False alarms of {repeats} checks (95 % interval):\n\n" + "\n".join([*head, *rows])


def _curve(
    pool: Pool, repeats: int, limits: Limits, rng: np.random.Generator, change: tuple[str, Float[np.ndarray, " epochs"]]
) -> str:
    words, shape = change
    found = {}
    for factor in FACTORS:
        for n in SEEDS:
            few = replace(limits, seeds=n)
            found[factor, n] = rate(partial(simulated, pool, n, few, rng, np.log(factor) * shape), repeats)
    head = [f"| factor | {' | '.join(f'{n} seeds' for n in SEEDS)} |", "| --- " * (len(SEEDS) + 1) + "|"]
    rows = [
        f"| {factor:g} | {' | '.join(f'{100 * found[factor, n][0] / repeats:.0f} %' for n in SEEDS)} |"
        for factor in FACTORS
    ]
    enough = [n for n in SEEDS if found[2.0, n][0] >= WANTED * repeats]
    said = f"Fewest seeds that find a factor of 2 in {100 * WANTED:g} %: {min(enough, default='more than measured')}."
    return f"Detected of {repeats} simulated checks, {words}:\n\n" + "\n".join([*head, *rows]) + f"\n\n{said}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        limits = replace(Limits(), permutations=options.permutations)
        if options.repeats < 1:
            raise ValueError(f"expected at least one check for --repeats, got {options.repeats}")
        measured = pools(_command.selected(options))
    except ValueError as error:
        sys.stderr.write(f"analysis.calibrate: {error}\n")
        return 2
    text = "\n".join(report(pool, options.repeats, limits, generator()) for pool in measured)
    path = _files.put(options.out / "calibration.md", text)
    sys.stdout.write(f"{text}\n{path}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser("calibrate", "Measure the regression check's error rates.", "regression")
    parser.add_argument("--repeats", type=int, default=2000, help="checks a false alarm rate; a tenth a detection rate")
    parser.add_argument("--permutations", type=int, default=1999, help="drawn a test")
    return parser


if __name__ == "__main__":
    sys.exit(main())
