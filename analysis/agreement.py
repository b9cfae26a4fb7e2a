"""How far the seeds of a method decide alike: whole cells, and decisions one by one."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

AGREEMENT = ("cells", "agreement", "modal", "same_decisions", "same_by_chance")


def same_decisions(runs: pd.DataFrame) -> dict[str, float]:
    """Return the share of decisions on which pairs of seeds agree, and that of uniform draws.

    Decisions with one option (thresholds, weights of edges), or with several strongest ones in any seed, are left out.
    """
    known = runs[runs["strongest"].notna()]
    nothing = {"same_decisions": np.nan, "same_by_chance": np.nan}
    if len(known) < 2:
        return nothing
    options, strongest = known["options"].iloc[0], np.stack(known["strongest"].to_list())
    made = (options > 1) & (strongest != TIED).all(0)
    if not made.any():
        return nothing
    pairs = [(strongest[i] == strongest[j])[made].mean() for i in range(len(known)) for j in range(i)]
    return {"same_decisions": float(np.mean(pairs)), "same_by_chance": float((1 / options[made]).mean())}


def agreement(keys: Sequence[str]) -> dict[str, float]:
    """Return how many cells there are, how often two seeds share one, and the share of the most frequent."""
    counts = np.array(list(Counter(keys).values()), dtype=np.float64)
    n = counts.sum()
    pairs = n * (n - 1)
    return {
        "cells": float(len(counts)),
        "agreement": float((counts * (counts - 1)).sum() / pairs) if pairs else np.nan,
        "modal": float(counts.max() / n) if n else np.nan,
    }


TIED = -1
"""Stands for the strongest option where several logits are the largest."""


def strongest(run: pd.DataFrame) -> dict[str, Int[np.ndarray, " decisions"] | None]:
    """Return the option with the largest logit of every decision, and how many options the decisions have."""
    known = run[run["logits"].notna()].sort_values("epoch", kind="stable")
    if known.empty:
        return {"strongest": None, "options": None}
    options = np.array(known["options"].iloc[-1].split(","), dtype=np.int64)
    rows = np.split(known["logits"].iloc[-1], np.cumsum(options)[:-1])
    return {"strongest": np.array([_largest(row) for row in rows]), "options": options}


def _largest(row: Float[np.ndarray, " options"]) -> int:
    return int(row.argmax()) if (row == row.max()).sum() == 1 else TIED
