"""One row a run: what its records say about how stable the search was.

Columns, each NaN where a run has no such value:

    final_regret_test, final_regret_val   of the selected cell: stage "final", else the last search epoch
    final_error_val, final_error_test     one minus the table's mean accuracy of that cell
    best_regret_test, best_epoch          least test regret of any epoch, and the first epoch that has it
    regret_gap                            final minus best test regret: what searching on has cost
    lambda_final, lambda_peak             signed λ of the last epoch that has one; the λ of largest magnitude
    lambda_slope                          least-squares slope of λ over the epochs, per epoch
    lambda_ratio                          mean of |λ| over the last `WINDOW` epochs over that of the first ones after 0
    lambda_collapse                       1 where some window mean of |λ| exceeds `COLLAPSE_RATIO` times an earlier one
    parameter_free                        1 where the selected cell has no convolution
    degenerate                            1 where the loss stopped depending on the logits at some epoch

Source of the window rule: Zela et al. (2020), Understanding and Robustifying Differentiable Architecture Search, §4.3
(windows of five epochs; the ratio 1.3 is that of the authors' code).
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

WINDOW = 5
COLLAPSE_RATIO = 1.3

HEAD = ("run", "space", "method", "label", "seed", "epochs", "finished")


def per_run(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run of selected rows (`selection.select`)."""
    rows = [_run(run) for _, run in frame.groupby("run", sort=False)]
    return pd.DataFrame(rows, columns=[*HEAD, *COLUMNS])


COLUMNS = (
    "final_regret_test", "final_regret_val", "final_error_val", "final_error_test", "best_regret_test", "best_epoch",
    "regret_gap", "lambda_final", "lambda_peak", "lambda_slope", "lambda_ratio", "lambda_collapse", "parameter_free",
    "degenerate",
)  # fmt: skip


def _run(run: pd.DataFrame) -> dict[str, object]:
    search = run[run["stage"] == "search"].sort_values("epoch")
    chosen = run[run["stage"] == "final"]
    final = (chosen if len(chosen) else search).iloc[-1]
    head = {name: run[name].iloc[0] for name in HEAD}
    return head | _outcome(search, final) | _curvature(search)


def _outcome(search: pd.DataFrame, final: pd.Series) -> dict[str, float]:
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
    }


def _curvature(search: pd.DataFrame) -> dict[str, float]:
    values, epochs = (search[name].to_numpy(np.float64) for name in ("lambda_dominant", "epoch"))
    seen = np.isfinite(values)
    degenerate = search["curvature_degenerate"] if "curvature_degenerate" in search else pd.Series(dtype=object)
    flag = float((degenerate == True).any()) if degenerate.notna().any() else np.nan  # noqa: E712 - an object column
    values, epochs = values[seen], epochs[seen]
    if not len(values):
        return dict.fromkeys(COLUMNS[7:12], np.nan) | {"degenerate": flag}
    after = np.abs(values[epochs > 0])
    slope = np.polyfit(epochs, values, 1)[0] if len(values) > 1 else np.nan
    return {
        "lambda_final": values[-1],
        "lambda_peak": values[np.abs(values).argmax()],
        "lambda_slope": slope,
        "lambda_ratio": after[-WINDOW:].mean() / after[:WINDOW].mean() if len(after) >= 2 * WINDOW else np.nan,
        "lambda_collapse": collapse(after),
        "degenerate": flag,
    }


def collapse(magnitudes: Float[np.ndarray, " epochs"]) -> float:
    """Return 1 where a window mean exceeds `COLLAPSE_RATIO` times the one `WINDOW` epochs earlier; NaN if too short."""
    if len(magnitudes) < 2 * WINDOW:
        return np.nan
    means = np.convolve(magnitudes, np.full(WINDOW, 1 / WINDOW), mode="valid")
    return float((means[WINDOW:] > COLLAPSE_RATIO * means[:-WINDOW]).any())
