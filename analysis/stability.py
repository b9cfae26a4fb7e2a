"""One row a run: what its records say about how stable the search was.

Columns, each NaN where a run has no such value:

    final_regret_test, final_regret_val   of the selected cell: stage "final", else the last search epoch
    final_error_val, final_error_test     one minus the table's mean accuracy of that cell
    best_regret_test, best_epoch          least test regret of any epoch, and the first epoch that has it
    regret_gap                            final minus best test regret: what searching on has cost
    lambda_final, lambda_peak             signed λ of the last epoch that has one; the λ of largest magnitude
    lambda_level                          mean of |λ| over the last `WINDOW` epochs that have one
    lambda_slope                          least-squares slope of λ over the epochs, per epoch
    lambda_ratio                          mean of |λ| over the last `WINDOW` epochs over that of the first ones after 0;
                                          infinite where these are 0
    simplex_level, simplex_slope, simplex_ratio
                                          the same of λ in mixing-weight coordinates, which is measured at fewer epochs:
                                          the last value, the slope, the last over the first after epoch 0
    effective_samples                     the method's own diagnostic of that name, mean over the epochs
    entropy_final                         mean over the groups of the entropy of the choices at the last epoch, nats
    parameter_free                        1 where the selected cell has no convolution
    discretisation_gap                    accuracy of the supernet minus that of the same weights with the selected cell
                                          alone, nothing trained again, at the last instant that has both
    degenerate                            1 where the loss stopped depending on the logits at some epoch
    steps_s, wall_s                       seconds of an epoch's steps (median) and of the whole run; all seeds that were
                                          searched together have those of their stack, of `stack` seeds
    beats_random                          1 where the selected cell's test accuracy is above the mean of all encodings
    strongest, options                    of every decision, the option with the largest logit at the last instant that
                                          has logits, and how many options there are (arrays; None without)

A run that diverged has no end: its last records are of a network that was lost, or of epoch 0. It has the columns of
`THROUGHOUT` only.

`per_label` sums the runs of a label up: shares, and how far its seeds agree on a cell.

Source of the window: Zela et al. (2020), Understanding and Robustifying Differentiable Architecture Search, §4.3. Their
rule, some window 1.3 times an earlier one, is no column: over a hundred epochs noise alone meets it, in every method.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.agreement import AGREEMENT, agreement, same_decisions, strongest

WINDOW = 5

HEAD = ("run", "space", "method", "label", "seed", "epochs", "finished", "diverged")


def per_run(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run of selected rows (`selection.select`)."""
    rows = [_run(run) for _, run in frame.groupby("run", sort=False)]
    return pd.DataFrame(rows, columns=[*HEAD, *COLUMNS])


OUTCOME = (
    "final_regret_test", "final_regret_val", "final_error_val", "final_error_test", "best_regret_test", "best_epoch",
    "regret_gap", "parameter_free", "beats_random", "key",
)  # fmt: skip
CURVATURE = (
    "lambda_final", "lambda_peak", "lambda_level", "lambda_slope", "lambda_ratio", "simplex_level", "simplex_slope",
    "simplex_ratio", "degenerate",
)  # fmt: skip
COLUMNS = (
    *OUTCOME, *CURVATURE, "effective_samples", "entropy_final", "discretisation_gap", "steps_s", "wall_s", "stack",
    "strongest", "options",
)  # fmt: skip


THROUGHOUT = ("best_regret_test", "best_epoch", "degenerate", "effective_samples", "steps_s", "wall_s", "stack")
"""Columns that are of all epochs there are."""


def _run(run: pd.DataFrame) -> dict[str, object]:
    search = run[run["stage"] == "search"].sort_values("epoch")
    chosen = run[run["stage"] == "final"]
    final = (chosen if len(chosen) else search).iloc[-1]
    head = {name: run[name].iloc[0] for name in HEAD}
    own = {
        "effective_samples": _mean(search, "diagnostic_effective_samples"),
        "entropy_final": _entropy(search),
        "discretisation_gap": _gap(pd.concat([search, chosen])),
    }
    found = _outcome(search, final) | _curvature(search) | own | _cost(run) | strongest(run)
    return head | ({name: found[name] for name in THROUGHOUT} if head["diverged"] else found)


def _mean(search: pd.DataFrame, column: str) -> float:
    found = search[column].dropna() if column in search else pd.Series(dtype="float64")
    return float(found.astype(float).mean()) if len(found) else np.nan


def _outcome(search: pd.DataFrame, final: pd.Series) -> dict[str, object]:
    regrets = search["regret_test"].to_numpy(np.float64)
    known = np.isfinite(regrets)
    best = int(np.nanargmin(regrets)) if known.any() else -1
    least = regrets[best] if known.any() else np.nan
    genotype = final.get("genotype")
    return {
        "final_regret_test": final["regret_test"],
        "final_regret_val": final["regret_val"],
        "final_error_val": final["error_val"],
        "final_error_test": final["error_test"],
        "best_regret_test": least,
        "best_epoch": search["epoch"].iloc[best] if known.any() else np.nan,
        "regret_gap": final["regret_test"] - least,
        "parameter_free": float("conv" not in genotype) if isinstance(genotype, str) else np.nan,
        "beats_random": _beats_random(final),
        "key": final.get("key"),
    }


def _beats_random(final: pd.Series) -> float:
    error, random = final["error_test"], final["random_test"]
    return float(1 - error > random) if np.isfinite([error, random]).all() else np.nan


def _cost(run: pd.DataFrame) -> dict[str, float]:
    return {name: float(run[name].iloc[0]) for name in ("steps_s", "wall_s", "stack")}


def _curvature(search: pd.DataFrame) -> dict[str, float]:
    degenerate = search["curvature_degenerate"] if "curvature_degenerate" in search else pd.Series(dtype=object)
    flag = float((degenerate == True).any()) if degenerate.notna().any() else np.nan  # noqa: E712 - an object column
    found = dict.fromkeys(CURVATURE, np.nan) | {"degenerate": flag} | _simplex(search)
    epochs, values = measured(search, "lambda_dominant")
    if not len(values):
        return found
    after = np.abs(values[epochs > 0])
    return found | {
        "lambda_final": values[-1],
        "lambda_peak": values[np.abs(values).argmax()],
        "lambda_level": np.abs(values[-WINDOW:]).mean(),
        "lambda_slope": _slope(epochs, values),
        "lambda_ratio": _ratio(after),
    }


def _ratio(magnitudes: Float[np.ndarray, " epochs"]) -> float:
    """Return the mean of the last window over that of the first; NaN where they overlap, or both are 0."""
    if len(magnitudes) < 2 * WINDOW:
        return np.nan
    first, last = float(magnitudes[:WINDOW].mean()), float(magnitudes[-WINDOW:].mean())
    return last / first if first else np.inf if last else np.nan


def _simplex(search: pd.DataFrame) -> dict[str, float]:
    epochs, values = measured(search, "lambda_simplex")
    if not len(values):
        return {}
    after = np.abs(values[epochs > 0])
    return {
        "simplex_level": abs(values[-1]),
        "simplex_slope": _slope(epochs, values),
        "simplex_ratio": after[-1] / after[0] if len(after) > 1 and after[0] > 0 else np.nan,
    }


def measured(search: pd.DataFrame, column: str) -> tuple[Float[np.ndarray, " epochs"], Float[np.ndarray, " epochs"]]:
    """Return the epochs at which a column of a run is finite, and its values there."""
    epochs, values = (search[name].to_numpy(np.float64) for name in ("epoch", column))
    seen = np.isfinite(values)
    return epochs[seen], values[seen]


def _slope(epochs: Float[np.ndarray, " epochs"], values: Float[np.ndarray, " epochs"]) -> float:
    return float(np.polyfit(epochs, values, 1)[0]) if len(values) > 1 else np.nan


def _gap(run: pd.DataFrame) -> float:
    """Return the accuracy lost by discretising at the last of a run's instants that has it."""
    names = [f"discretisation_{state}_accuracy" for state in ("relaxed", "discrete")]
    if not set(names) <= set(run.columns):
        return np.nan
    known = run[names].dropna().to_numpy(np.float64)
    return float(known[-1, 0] - known[-1, 1]) if len(known) else np.nan


def _entropy(search: pd.DataFrame) -> float:
    names = [name for name in search.columns if name.startswith("entropy_")]
    known = search[names].dropna(how="all")
    return float(known.iloc[-1].astype(float).mean()) if len(known) else np.nan


def per_label(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row a space and label of `per_run`'s rows.

    Columns: `seeds`; `parameter_free`, `degenerate` and `beats_random`, shares of the seeds that have the value;
    `cells`, the number of different selected cells; `agreement`, the probability that two of the seeds selected the
    same cell, NaN below two seeds; `modal`, the share of the most frequent cell; `same_decisions`, the share of
    decisions of which two seeds have the same strongest option, and `same_by_chance`, what it would be if every seed
    drew its options uniformly; NaN below two seeds with logits.
    """
    shares = ("parameter_free", "degenerate", "beats_random")
    rows = []
    for (space, label), group in runs.groupby(["space", "label"], sort=False):
        head: dict[str, object] = {"space": space, "label": label, "seeds": group["seed"].nunique()}
        means = {name: group[name].astype(float).mean() for name in shares}
        rows.append(head | means | agreement(group["key"].dropna().to_list()) | same_decisions(group))
    return pd.DataFrame(rows, columns=["space", "label", "seeds", *shares, *AGREEMENT])
