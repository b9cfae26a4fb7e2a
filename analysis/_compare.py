"""Does a set of runs agree with a baseline? Permutation tests over seeds, and thresholds on the size of the change.

A quantity has changed where both hold: the change exceeds its threshold, and its permutation test is significant at
`Limits.alpha` after Holm's correction over everything that is tested together. So the probability of any false alarm
in a whole check is at most `alpha`, whatever the distribution over seeds.

Where all seeds of the new runs are in the baseline, seeds are paired (signs are flipped); else the two sets of seeds
are taken as independent (labels are permuted). Both are exact under the hypothesis that nothing changed; unchanged
code with the same seeds gives differences near zero, which makes the paired test sensitive to small changes. Changes
count in both directions: a result that improved is another result, and wants a new baseline.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from analysis._baseline import Entry, Name, Seed, differing
from analysis.intervals import FEWEST_SEEDS
from analysis.stats import holm, relabelled, sign_flip


@dataclass(frozen=True)
class Limits:
    """When a change counts.

    Attributes:
        alpha: probability of any false alarm in a check.
        factor: of the level and of the growth of |λ|, up or down.
        regret: of the mean regret, a fraction.
        share: of the seeds, for misses and lost λ.
        seeds: fewer seeds are not compared; the default detects a doubled λ with 95 % (docs/ci.md).
        permutations: drawn a test, where not all can be counted.
    """

    alpha: float = 0.01
    factor: float = 1.4
    regret: float = 0.01
    share: float = 0.1
    seeds: int = 24
    permutations: int = 99_999

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("alpha", 0 < self.alpha < 1, "a probability between 0 and 1"),
            ("factor", 1 < self.factor < math.inf, "a factor of more than 1"),
            ("regret", 0 <= self.regret < 1, "a fraction from 0 to 1"),
            ("share", 0 <= self.share < 1, "a fraction from 0 to 1"),
            ("seeds", self.seeds >= 1, "at least one seed"),
            ("permutations", self.permutations >= 1, "at least one permutation"),
        ):
            if not fits:
                raise ValueError(f"expected {expected} for {name}, got {getattr(self, name):g}")


@dataclass(frozen=True)
class Quantity:
    """One number a seed that is compared.

    Attributes:
        title: as printed; its changes are factors where `logarithmic`.
    """

    name: str
    title: str
    threshold: Callable[[Limits], float]
    logarithmic: bool = False


QUANTITIES = (
    Quantity("level", "final λ, magnitude", lambda limits: math.log(limits.factor), True),
    Quantity("growth", "growth of λ over the run, factor", lambda limits: math.log(limits.factor), True),
    Quantity("regret", "final test regret", lambda limits: limits.regret),
    Quantity("missed", "share of cells not in the table", lambda limits: limits.share),
    Quantity("lost", "share of seeds without a final λ", lambda limits: limits.share),
)


@dataclass(frozen=True)
class Finding:
    """One quantity of one label on one space.

    Attributes:
        before: mean over the baseline's seeds (those that are paired), natural logarithm where logarithmic.
        p: two-sided; NaN where too few seeds have a value.
        varies: not all values that the test permutes are equal (paired: differences, zero); else there is no test.
        changed: beyond the threshold, and significant after Holm's correction.
    """

    space: str
    label: str
    quantity: Quantity
    before: float
    after: float
    n_before: int
    n_after: int
    paired: bool
    p: float
    varies: bool
    p_holm: float = math.nan
    changed: bool = False

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Problem:
    """An entry that cannot be compared, and why."""

    space: str
    label: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check."""

    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    limits: Limits

    @property
    def code(self) -> int:
        """1: a regression; 2: something could not be compared; 0: all agree."""
        if any(finding.changed for finding in self.findings):
            return 1
        return 2 if self.problems or not self.findings else 0


def compare(
    before: Mapping[Name, Entry], after: Mapping[Name, Entry], limits: Limits, rng: np.random.Generator
) -> Verdict:
    """Compare every entry of a baseline with the runs."""
    findings, problems = [], []
    for name, entry in before.items():
        reason = _incomparable(entry, after.get(name), limits)
        if reason:
            problems.append(Problem(*name, reason))
        else:
            findings += [_test(entry, after[name], q, limits, rng) for q in QUANTITIES if _both(entry, after[name], q)]
    notes = [f"{label} on {space} is not in the baseline" for space, label in sorted(after.keys() - before.keys())]
    notes += [note for name, entry in before.items() if name in after and (note := _versions(entry, after[name]))]
    decided = _decided(findings, limits)
    return Verdict(tuple(decided), (*problems, *_powerless(decided, limits)), tuple(notes), limits)


def _incomparable(before: Entry, after: Entry | None, limits: Limits) -> str:
    """Return why two entries cannot be compared; empty where they can."""
    if after is None:
        return "no finished runs"
    difference = differing(before, after)
    if difference:
        return f"another protocol: {difference}"
    wanted = max(limits.seeds, FEWEST_SEEDS)
    if min(len(before.seeds), len(after.seeds)) < wanted:
        return (
            f"expected at least {wanted} finished seeds, got {len(after.seeds)} against {len(before.seeds)} in "
            "the baseline; run more, or lower --seeds and detect less"
        )
    if not any(_values(after, q.name).size for q in QUANTITIES[:3]):
        return "neither λ nor regret was measured"
    return ""


def _values(entry: Entry, name: str) -> np.ndarray:
    return np.array([value for one in entry.seeds.values() if (value := getattr(one, name)) is not None], np.float64)


def _both(before: Entry, after: Entry, quantity: Quantity) -> bool:
    return all(len(_values(entry, quantity.name)) for entry in (before, after))


def _test(before: Entry, after: Entry, quantity: Quantity, limits: Limits, rng: np.random.Generator) -> Finding:
    paired = set(after.seeds) <= set(before.seeds)
    if paired:
        first, second = _paired(before, after, quantity.name)
        p, varies = sign_flip(second - first, rng, limits.permutations), bool((first != second).any())
    else:
        first, second = _values(before, quantity.name), _values(after, quantity.name)
        p = relabelled(second, first, rng, limits.permutations)
        varies = bool(np.ptp(np.concatenate([first, second])) > 0)
    means = tuple(float(values.mean()) if len(values) else math.nan for values in (first, second))
    sizes = len(first), len(second)
    return Finding(before.space, before.label, quantity, means[0], means[1], sizes[0], sizes[1], paired, p, varies)


def _paired(before: Entry, after: Entry, name: str) -> tuple[np.ndarray, np.ndarray]:
    def pair(number: int) -> tuple[float | None, float | None]:
        sides: tuple[Seed, Seed] = before.seeds[number], after.seeds[number]
        return getattr(sides[0], name), getattr(sides[1], name)

    pairs = [pair(number) for number in sorted(after.seeds)]
    known = np.array([p for p in pairs if None not in p], np.float64).reshape(-1, 2)
    return known[:, 0], known[:, 1]


def _decided(findings: list[Finding], limits: Limits) -> list[Finding]:
    """Return the findings with corrected p-values; quantities whose values are all equal are not counted as tests."""
    corrected = holm(np.array([finding.p if finding.varies else np.nan for finding in findings]))
    corrected = np.where([finding.p == 1 and not finding.varies for finding in findings], 1.0, corrected)
    return [
        replace(
            finding,
            p_holm=float(p),
            changed=bool(p <= limits.alpha and abs(finding.change) > finding.quantity.threshold(limits)),
        )
        for finding, p in zip(findings, corrected, strict=True)
    ]


def _powerless(findings: list[Finding], limits: Limits) -> list[Problem]:
    """Return the entries with so few seeds that not even the clearest change would be significant."""
    tests = sum(finding.varies for finding in findings)
    found = {}
    for finding in findings:
        ways = 2**finding.n_before if finding.paired else math.comb(finding.n_before + finding.n_after, finding.n_after)
        least = 2 / min(ways, limits.permutations + 1)
        if finding.varies and not finding.changed and max(tests, 1) * least > limits.alpha:
            reason = f"{finding.n_after} seeds cannot show any change at {limits.alpha:g} among {tests} tests; run more"
            found[finding.space, finding.label] = Problem(finding.space, finding.label, reason)
    return list(found.values())


def _versions(before: Entry, after: Entry) -> str:
    names = sorted({*before.versions, *after.versions})
    changed = [f"{n} {before.versions.get(n)} → {after.versions.get(n)}" for n in names
               if before.versions.get(n) != after.versions.get(n)]  # fmt: skip
    return (
        f"{before.label} on {before.space}: other versions than the baseline's: {', '.join(changed)}" if changed else ""
    )
