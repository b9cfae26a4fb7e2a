"""A made-up table with several training budgets, to run multi-fidelity methods where no real one is at hand.

No number in it says anything about architectures. A cell's quality is a sum of one draw an option and one a pair of
options of neighbouring decisions; accuracy rises with the budget towards it, better cells more slowly, so that cheap
budgets mislead; each of three runs adds noise. Seconds of training are proportional to the budget and to the drawn cost
of the options.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from bench.rng import numpy_stream
from bench.spaces.base import Space, k_hot
from bench.tables.arrow import write
from bench.tables.data import Measurement, Slot, TableData

RUNS = 3


def write_synthetic(path: Path, space: Space, budgets: tuple[int, ...] = (4, 12, 36, 108), seed: int = 0) -> Path:
    """Write the table of a space, dataset "synthetic"; return its path."""
    counts = space.multiplicities()
    cells = {space.key(genotype): genotype for genotype in space.cells()}
    hot = np.stack([np.concatenate([v.ravel() for v in k_hot(space.groups, cells[key]).values()]) for key in counts])
    draw = numpy_stream(seed, "synthetic table", 0)
    quality = _standard(hot @ draw.normal(size=hot.shape[1]) + 0.7 * _pairs(hot, draw))
    seconds = 0.5 + hot @ draw.uniform(size=hot.shape[1])
    measurements = {}
    for budget in budgets:
        for split in ("val", "test"):
            noise = draw.normal(scale=0.004, size=(len(hot), RUNS))
            runs = np.clip(_accuracy(quality, budget, max(budgets))[:, None] + noise, 0.0, 1.0)
            measurements[Slot("synthetic", "val" if split == "val" else "test", budget)] = Measurement(
                runs, tuple(map(str, range(RUNS)))
            )
    data = TableData(
        space=space.name,
        keys=tuple(counts),
        cells=("",) * len(counts),
        multiplicities=np.array(list(counts.values()), dtype=np.int64),
        measurements=measurements,
        scalars={f"synthetic/train_time_s/{budget}": budget * seconds for budget in budgets},
        total_encodings=space.size(),
        source="made up by bench.tables.synthetic",
        provenance=("no accuracy in this table was measured",),
    )
    write(path, data)
    return path


def _accuracy(quality: Float[np.ndarray, " cells"], budget: int, most: int) -> Float[np.ndarray, " cells"]:
    """Return accuracies: 90 % ± 3 % at the full budget; better cells lose more where training is short."""
    return 0.9 + 0.03 * quality - (0.05 + 0.01 * quality) * np.log(most / budget)


def _pairs(hot: Float[np.ndarray, "cells options"], draw: np.random.Generator) -> Float[np.ndarray, " cells"]:
    weights = draw.normal(size=(hot.shape[1], hot.shape[1]))
    return _standard(np.einsum("ni,ij,nj->n", hot, np.triu(weights, 1), hot))


def _standard(values: Float[np.ndarray, " cells"]) -> Float[np.ndarray, " cells"]:
    return (values - values.mean()) / values.std()
