"""One record: everything measured at one instant of one run. The schema is in results/README.md."""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class EpochRecord:
    """What was measured at the end of an epoch; epoch 0 is before any step."""

    epoch: int
    stage: Literal["search", "final"]
    genotype: str | None
    key: str | None
    no_genotype: str | None
    table: dict[str, Any] | None
    miss: bool | None
    regret_val: float | None
    regret_test: float | None
    elsewhere: dict[str, dict[str, float] | None] | None
    train_loss: float | None
    val_loss: float | None
    supernet: dict[str, float] | None
    curvature: dict[str, Any] | None
    no_curvature: str | None
    ranking: dict[str, Any] | None
    no_ranking: str | None
    landscape: dict[str, Any] | None
    no_landscape: str | None
    discretisation: dict[str, Any] | None
    no_discretisation: str | None
    diagnostics: dict[str, float] | None
    logits: dict[str, list[list[float]]] | None
    weights: dict[str, list[list[float]]] | None
    entropy: dict[str, float] | None

    def line(self) -> str:
        """Return the record as one line of JSON; a number that is not finite is null."""
        return json.dumps(plain(dataclasses.asdict(self)), allow_nan=False) + "\n"


@dataclass(frozen=True)
class Timing:
    """What an instant cost; never the same twice, so it stands in a file of its own.

    Attributes:
        peak_bytes: on a GPU what torch had allocated in this instant at most; on a CPU the most that the process had
            until then, whatever it searched before.
    """

    epoch: int
    stage: str
    wall_s: float
    search_s: float
    measure_s: float
    curvature_s: float
    images_per_s: float | None
    peak_bytes: int

    def line(self) -> str:
        return json.dumps(dataclasses.asdict(self), allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
