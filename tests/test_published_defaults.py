"""Settings are the published numbers unless told otherwise; what a method's own tests rely on is not repeated."""

import dataclasses
from functools import reduce
from typing import Any

import pytest

from searchers.registry import METHODS

PUBLISHED: dict[str, dict[str, Any]] = {
    "beta_darts": {"weight": 50.0, "arch.lr": 3e-4, "arch.weight_decay": 1e-3},
    "entrannas": {"engine.tau_start": 1.0, "engine.tau_end": 0.1, "share_features": True, "arch.lr": 3e-4},
    "entrannas_dst": {"engine.tau_start": 1.0, "engine.tau_end": 0.1, "pressure": 0.1, "threshold": 0.0},
    "zero_cost_pt": {"proxy": "naswot", "proposals": 10, "validation": 100, "batch_size": 256},
    "pi_nas": {"paths": 2, "momentum": 0.999, "consistency": 1.0},
    "dsnas": {"arch.lr": 1e-3, "arch.betas": (0.5, 0.999), "arch.weight_decay": 0.0, "gap": 0.3, "mean": 1.0,
              "spread": 0.01, "warm_up": 15 / 240},
    "dso_nas": {"scale.lr": 0.1, "scale.gamma": 1e-3, "scale.momentum": 0.9, "weights.weight_decay": 1e-4,
                "weights.nesterov": True, "batch_size": 128},
    "opp_darts": {"add_every": 2 / 50, "choice": "max", "batch_size": 64},
    "pdarts": {"arch.lr": 6e-4, "arch.betas": (0.5, 0.999), "arch.weight_decay": 1e-3, "arch_clip": 5.0,
               "dropout": (0.0, 0.4, 0.7), "warm_up": 10 / 25, "weights.lr": 0.025, "weights.lr_min": 0.0,
               "skip_cap": None, "batch_size": 96},
    "sgas": {"schedule.first": 9, "schedule.every": 5, "schedule.tail": 6, "schedule.rows": None},
    "sgas_2": {"history": 4},
    "da2s": {"weights.lr": 0.05, "weights.lr_min": 0.001, "arch.lr": 3e-3, "arch.weight_decay": 1e-3,
             "arch_momentum": 0.9, "arch_every": 5, "warm_up": 15 / 50, "entropy": 0.5, "batch_size": 256},
}  # fmt: skip


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_settings_are_the_published_ones(name: str) -> None:
    settings = METHODS[name].settings()
    found = {path: reduce(getattr, path.split("."), settings) for path in PUBLISHED[name]}
    assert found == PUBLISHED[name]


@pytest.mark.parametrize("name", ["da2s", "dso_nas", "opp_darts", "pdarts"])
def test_the_published_batch_size_is_the_policy_s(name: str) -> None:
    """None takes the benchmark's."""
    method = METHODS[name]
    settings = method.settings()
    assert method.policy(settings).batch_size(3, 32) == PUBLISHED[name]["batch_size"]
    assert method.policy(dataclasses.replace(settings, batch_size=None)).batch_size(3, 32) == 32
