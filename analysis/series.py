"""The numbers that figures draw: trajectories, intervals, distances, all apart from the drawing."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.intervals import FEWEST_SEEDS, Interval, bootstrap_interval

BOOTSTRAP_SEED = 20
"""Every interval starts from this seed, so that no method's band depends on which others are drawn."""


def generator() -> np.random.Generator:
    """Return the generator that every interval starts from."""
    return np.random.default_rng(BOOTSTRAP_SEED)


@dataclass(frozen=True)
class Trajectory:
    """One quantity of one method over epochs; NaN where a seed has no value."""

    seeds: Int[np.ndarray, " seeds"]
    epochs: Int[np.ndarray, " epochs"]
    values: Float[np.ndarray, "seeds epochs"]

    def interval(self) -> Interval:
        return bootstrap_interval(self.values, generator())

    def measured(self) -> "Trajectory":
        """Return the epochs at which at least one seed has a value."""
        some = np.isfinite(self.values).any(axis=0)
        return Trajectory(self.seeds, self.epochs[some], self.values[:, some])


def trajectory(frame: pd.DataFrame, column: str) -> Trajectory:
    """Return a column over the search epochs; `frame` holds the runs of one label in one space."""
    search = frame[frame["stage"] == "search"]
    wide = search.pivot(index="seed", columns="epoch", values=column).sort_index().sort_index(axis="columns")
    seeds, epochs = wide.index.to_numpy(np.int64), wide.columns.to_numpy(np.int64)
    return Trajectory(seeds, epochs, wide.to_numpy(np.float64))


def final_values(frame: pd.DataFrame, column: str) -> Float[np.ndarray, " seeds"]:
    """Return a column of the selected architectures, by seed; `frame` holds one label in one space."""
    return frame[frame["stage"] == "final"].sort_values("seed")[column].to_numpy(np.float64)


def selection_changed(frame: pd.DataFrame, column: str) -> bool:
    """Tell whether the selected architecture's value is another than the last search epoch's, in any seed."""
    search, final = (frame[frame["stage"] == stage].set_index("seed") for stage in ("search", "final"))
    last = search.sort_values("epoch").groupby("seed")[column].last().reindex(final.index)
    chosen = final[column]
    return bool((chosen.notna() & (chosen != last)).any())


DISTANCES = ("distance", "distance_relative", "distance_simplex")


def with_distances(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with `distance`, `distance_relative` and `distance_simplex`, per row.

    `distance` is ‖α_t − α_final‖₂ over all logits, α_final being those of the run's last search epoch;
    `distance_relative` divides it by ‖α_0 − α_final‖₂; `distance_simplex` is the first of the mixing weights, which
    stop moving where rows saturate though the logits go on. All are NaN for runs that have not finished, methods
    without logits and final records; the second also where the logits never moved, the third where cells have mixing
    weights of their own.
    """
    parts = [_distances(run) for _, run in frame.groupby("run", sort=False)]
    empty = pd.DataFrame({name: [] for name in DISTANCES}, dtype="float64")
    return frame.join(pd.concat(parts) if parts else empty)


def _distances(run: pd.DataFrame) -> pd.DataFrame:
    search = run[(run["stage"] == "search") & run["logits"].notna()].sort_values("epoch")
    columns = pd.DataFrame(np.nan, index=run.index, columns=list(DISTANCES))
    if search.empty or not run["finished"].iloc[0]:
        return columns
    distance = logit_distance(np.stack(search["logits"].to_list()))
    columns.loc[search.index, "distance"] = distance
    if search["epoch"].iloc[0] == 0 and distance[0] > 0:
        columns.loc[search.index, "distance_relative"] = distance / distance[0]
    if search["mixing"].notna().all():
        columns.loc[search.index, "distance_simplex"] = logit_distance(np.stack(search["mixing"].to_list()))
    return columns


def logit_distance(logits: Float[np.ndarray, "epochs logits"]) -> Float[np.ndarray, " epochs"]:
    """Return the Euclidean distance of every row to the last; NaN where a logit is not finite."""
    with np.errstate(invalid="ignore"):
        distance = np.linalg.norm(logits - logits[-1], axis=1)
    return np.where(np.isfinite(distance), distance, np.nan)


def mean_path(
    x: Float[np.ndarray, "seeds epochs"], y: Float[np.ndarray, "seeds epochs"]
) -> tuple[Float[np.ndarray, " drawn"], Float[np.ndarray, " drawn"]] | None:
    """Return the mean of both coordinates at every epoch that enough seeds have; None where there is no such epoch."""
    seen = np.isfinite(x) & np.isfinite(y)
    n = seen.sum(axis=0)
    enough = n >= FEWEST_SEEDS
    if not enough.any():
        return None
    sums = (np.where(seen, values, 0.0).sum(axis=0)[enough] for values in (x, y))
    mean_x, mean_y = (total / n[enough] for total in sums)
    return mean_x, mean_y


def linear_threshold(values: Float[np.ndarray, "..."]) -> float | None:
    """Return where a symmetric logarithmic axis turns linear, a power of ten; None where a linear axis serves.

    A linear axis serves magnitudes that span less than a factor of thirty (small ones up to one in twenty aside).
    """
    magnitudes = np.abs(values[np.isfinite(values) & (values != 0)])
    if magnitudes.size == 0:
        return None
    low, high = np.percentile(magnitudes, [5, 100])
    return float(10.0 ** np.ceil(np.log10(max(low, high / 1e4)))) if high / low > 30 else None
