"""When a run has diverged: no number that comes after means anything."""

import math
from typing import Any

from bench.record import EpochRecord

EXPLODED_NATS = 1e4
"""Chance is 2.3 nats on ten classes; a mean cross-entropy of this size is on its way to infinity."""


def divergence(record: EpochRecord) -> str | None:
    """Return why the run of a record has diverged, None where it has not."""
    supernet = record.supernet or {}
    losses = {
        "train_loss": record.train_loss,
        "val_loss": record.val_loss,
        "supernet val_loss": supernet.get("val_loss"),
    }
    for name, value in losses.items():
        if value is not None and not abs(value) < EXPLODED_NATS:
            return f"{name} is {value:g}" + ("" if not math.isfinite(value) else f", over {EXPLODED_NATS:g} nats")
    for name, rows in (record.logits or {}).items():
        if any(map(math.isnan, _flat(rows))):
            return f"logits {name} are nan"
    return None


def _flat(rows: Any) -> list[float]:
    """Return all numbers of nested lists; an infinite one is a choice that was ruled out, not a divergence."""
    return [value for row in rows for value in _flat(row)] if isinstance(rows, list) else [rows]
