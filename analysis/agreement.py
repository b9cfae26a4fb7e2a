"""How far the seeds of a method decide alike: whole cells, and decisions one by one."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

AGREEMENT = ("cells", "agreement", "modal", "same_decisions", "same_by_chance")


def same_decisions(runs: pd.DataFrame) -> dict[str, float]:
    """Return the share of decisions on which pairs of seeds agree, and that of uniform draws.

    Decisions with one option (thresholds, weights of edges) are left out.
    """
    known = runs[runs["strongest"].notna()]
    options = known["options"].iloc[0] if len(known) > 1 else np.zeros(0, dtype=np.int64)
    choice = options > 1
    if not choice.any():
        return {"same_decisions": np.nan, "same_by_chance": np.nan}
    strongest = np.stack(known["strongest"].to_list())[:, choice]
    pairs = [(strongest[i] == strongest[j]).mean() for i in range(len(known)) for j in range(i)]
    return {"same_decisions": float(np.mean(pairs)), "same_by_chance": float((1 / options[choice]).mean())}


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


def strongest(run: pd.DataFrame) -> dict[str, Int[np.ndarray, " decisions"] | None]:
    """Return the option with the largest logit of every decision, and how many options the decisions have."""
    known = run[run["logits"].notna()].sort_values("epoch", kind="stable")
    if known.empty:
        return {"strongest": None, "options": None}
    options = np.array(known["options"].iloc[-1].split(","), dtype=np.int64)
    rows = np.split(known["logits"].iloc[-1], np.cumsum(options)[:-1])
    return {"strongest": np.array([row.argmax() for row in rows]), "options": options}
